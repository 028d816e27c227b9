"""The pages say what the code does."""

from __future__ import annotations

import re

import numpy as np

from volseg.cli.exit_codes import ExitCode
from volseg.prompts import PromptKind, PromptSet


def test_the_prompt_file_of_the_docs_is_read(repository):
    text = (repository / "docs" / "prompts.md").read_text()
    prompts = PromptSet.loads(re.search(r"```json\n(.*?)```", text, re.DOTALL).group(1))
    assert [item.name for item in prompts.objects] == ["liver", "left kidney"]
    assert prompts.kinds == frozenset(PromptKind) - {PromptKind.BOX_3D}
    on_image = prompts.on_grid(prompts.grid)
    np.testing.assert_array_equal(
        on_image.objects[1].prompts[0].voxels_ijk(prompts.grid), [(100, 100, 60), (101, 100, 60), (102, 100, 60)]
    )


def test_the_exit_statuses_of_the_docs_are_all(repository):
    text = (repository / "docs" / "cli.md").read_text()
    listed = [int(number) for number in re.findall(r"^\| (\d+) \|", text, re.MULTILINE)]
    assert listed == [code.value for code in ExitCode]

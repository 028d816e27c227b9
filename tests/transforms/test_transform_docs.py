from __future__ import annotations

import re
from pathlib import Path

import pytest
from monai.bundle import ConfigParser
from monai.transforms import Compose

import volseg.transforms
from volseg.transforms.windows import CT_PRESETS


@pytest.fixture(scope="module")
def page(repository: Path) -> str:
    return (repository / "docs" / "transforms.md").read_text(encoding="utf-8")


def test_the_example_runs(page: str) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    exec(compile(example, "docs/transforms.md", "exec"), {})


def test_the_bundle_configuration_is_one(page: str, tmp_path: Path) -> None:
    (config,) = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    path = tmp_path / "inference.yaml"
    path.write_text(config, encoding="utf-8")
    parser = ConfigParser()
    parser.read_config(str(path))
    assert isinstance(parser.get_parsed_content("preprocessing"), Compose)


def test_every_transform_is_on_the_page_and_every_picture_is_there(page: str, repository: Path) -> None:
    for name in volseg.transforms.__all__:
        if name[0].isupper() and name.endswith("d"):
            assert f"| `{name}` |" in page
    pictures = re.findall(r"!\[.+?\]\((.+?)\)", page)
    assert len(pictures) == 6
    for picture in pictures:
        size = (repository / "docs" / picture).stat().st_size
        assert 1000 < size < 150_000


def test_the_table_of_presets_is_the_code_s(page: str) -> None:
    rows = re.findall(r"\| ([a-z ]+) \| (-?\d+) \| (\d+) (?=\|)", page)
    assert {name: (float(level), float(width)) for name, level, width in rows} == {
        name: (preset.level, preset.width) for name, preset in CT_PRESETS.items()
    }

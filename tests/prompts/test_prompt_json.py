"""The prompt file: exact round trips, and nothing but ``PromptError`` from hostile ones."""

from __future__ import annotations

import base64
import copy
import json
import tracemalloc
import zlib
from typing import Any

import numpy as np
import pytest
from grid_strategies import CUBIC, all_voxels, grids
from hypothesis import given
from hypothesis import strategies as st

from volseg.errors import PromptError
from volseg.geometry import Frame, Grid
from volseg.prompts import Box, Lasso, MaskPrompt, Point, PromptedObject, PromptSet, Scribble, Text

NUMBER = st.floats(-1e9, 1e9)
POSITION = st.tuples(NUMBER, NUMBER, NUMBER)
FRAME = st.sampled_from(Frame)
SIGN = st.booleans()


def is_box(corners: tuple[Any, Any]) -> bool:
    return bool((np.abs(np.subtract(*corners)) > 1e-3).sum() >= 2)


@st.composite
def masks(draw: st.DrawFn) -> MaskPrompt:
    grid = draw(grids(largest=4))
    bits = draw(st.integers(1, 2 ** min(len(all_voxels(grid)), 60) - 1))
    mask = np.array([bool(bits >> n & 1) for n in range(len(all_voxels(grid)))]).reshape(grid.shape)
    return MaskPrompt(mask, grid, draw(SIGN))


PROMPT = st.one_of(
    st.builds(Point, POSITION, FRAME, SIGN),
    st.tuples(POSITION, POSITION).filter(is_box).flatmap(lambda c: st.builds(Box, st.just(c[0]), st.just(c[1]), FRAME)),
    st.builds(Scribble, st.lists(POSITION, min_size=2, max_size=4), FRAME, SIGN, st.floats(0, 100)),
    st.builds(Lasso, st.lists(POSITION, min_size=3, max_size=5), FRAME, SIGN),
    st.builds(Text, st.text(min_size=1).filter(str.strip), SIGN),
    masks(),
)


@given(grids(), st.lists(st.tuples(st.text(), st.lists(PROMPT, max_size=4)), min_size=1, max_size=3))
def test_prompts_survive_json_exactly(grid: Grid, objects: list[tuple[str, list[Any]]]) -> None:
    prompts = PromptSet(
        grid, tuple(PromptedObject(3 * n + 1, tuple(items), name) for n, (name, items) in enumerate(objects))
    )
    again = PromptSet.loads(prompts.dumps())
    assert again == prompts
    assert hash(again) == hash(prompts)
    assert again.dumps() == prompts.dumps()


def valid() -> dict[str, Any]:
    mask = np.zeros(CUBIC.shape, dtype=bool)
    mask[1:4, 2, 3] = True
    return PromptSet(
        CUBIC,
        (
            PromptedObject(
                2,
                (
                    Point((1, 2, 3), Frame.IJK),
                    Box((1, 2, 3), (4, 5, 6), Frame.RAS),
                    Scribble([(1, 2, 3), (4, 5, 6)], Frame.LPS, radius_mm=2.0),
                    Lasso([(1, 2, 3), (4, 5, 3), (1, 5, 3)], Frame.IJK, positive=False),
                    MaskPrompt(mask, CUBIC),
                    Text("spleen"),
                ),
                "spleen",
            ),
        ),
    ).to_json()


def prompt(index: int) -> Any:
    return lambda data: data["objects"][0]["prompts"][index]


def changed(at: Any, key: str, value: Any) -> Any:
    def change() -> dict[str, Any]:
        data = copy.deepcopy(valid())
        at(data)[key] = value
        return data

    return change


def missing(at: Any, key: str) -> Any:
    def change() -> dict[str, Any]:
        data = copy.deepcopy(valid())
        del at(data)[key]
        return data

    return change


def bomb() -> str:
    """A gigabyte of zeros in a megabyte."""
    packer = zlib.compressobj(9)
    return base64.b64encode(b"".join([packer.compress(bytes(2**20)) for _ in range(256)] + [packer.flush()])).decode()


def root(data: Any) -> Any:
    return data


def first(data: Any) -> Any:
    return data["objects"][0]


def mask_grid(data: Any) -> Any:
    return data["objects"][0]["prompts"][4]["grid"]


HOSTILE: list[tuple[Any, str]] = [
    (changed(root, "schema", "other"), 'expected {"schema": "volseg.prompts", "version": 1, ...}'),
    (missing(root, "schema"), "expected"),
    (changed(root, "version", 2), "prompts of schema version 2 cannot be read here, only 1; update volseg or the file"),
    (changed(root, "version", True), "prompts of schema version True cannot be read"),
    (changed(root, "version", "1"), "prompts of schema version '1' cannot be read"),
    (missing(root, "version"), "prompts of schema version None cannot be read"),
    (changed(root, "grid", None), "the prompts' grid: a grid is {shape, affine_ras}, got None"),
    (changed(root, "grid", {"shape": [1, 2, 3], "affine_ras": 5}), "the prompts' grid: an affine is a 4x4 matrix"),
    (missing(root, "grid"), "the prompts have no grid and none was given"),
    (changed(root, "objects", {}), "the prompts hold no object"),
    (changed(root, "objects", []), "the prompts hold no object"),
    (changed(root, "objects", [None]), "object 1 is {id, name, prompts}, got None"),
    (changed(first, "prompts", "no"), "object 1 is {id, name, prompts}"),
    (changed(first, "name", 7), "object 1: an object's name is a text, got 7"),
    (changed(first, "id", True), "object 1: an object's id is a whole number, got True"),
    (changed(first, "id", 0), "object 1: an object's id lies in 1.."),
    (changed(first, "id", 1e300), "object 1: an object's id is a whole number"),
    (changed(first, "prompts", [17]), "prompt 1 of spleen: type is one of point, box, scribble, lasso, mask, text"),
    (changed(prompt(0), "type", "tap"), "prompt 1 of spleen: type is one of"),
    (changed(prompt(0), "type", ["point"]), "prompt 1 of spleen: type is one of"),
    (changed(prompt(0), "type", {}), "prompt 1 of spleen: type is one of"),
    (missing(prompt(0), "position"), "prompt 1 of spleen (point): a point has a position"),
    (changed(prompt(0), "position", None), "prompt 1 of spleen (point): a point takes positions"),
    (changed(prompt(0), "position", {"x": 1}), "prompt 1 of spleen (point): a point takes positions"),
    (changed(prompt(0), "position", [1, "2", 3]), "prompt 1 of spleen (point): a point takes positions"),
    (changed(prompt(0), "position", [True, 2, 3]), "prompt 1 of spleen (point): a point takes positions"),
    (changed(prompt(0), "position", [float("nan"), 2, 3]), "prompt 1 of spleen (point): a point takes finite"),
    (changed(prompt(0), "position", [1e300, 2, 3]), "prompt 1 of spleen (point): a point takes coordinates up to"),
    (changed(prompt(0), "position", [10**400, 2, 3]), "prompt 1 of spleen (point): a point takes positions"),
    (missing(prompt(0), "frame"), "prompt 1 of spleen (point): the frame is one of ijk, ras, lps, got None"),
    (changed(prompt(0), "frame", "world"), "prompt 1 of spleen (point): the frame is one of"),
    (changed(prompt(0), "frame", ["ras"]), "prompt 1 of spleen (point): the frame is one of"),
    (changed(prompt(0), "positive", "false"), "prompt 1 of spleen (point): positive of a point is true or false"),
    (changed(prompt(0), "positive", 0), "prompt 1 of spleen (point): positive of a point is true or false"),
    (changed(prompt(0), "positive", None), "prompt 1 of spleen (point): positive of a point is true or false"),
    (missing(prompt(1), "high"), "prompt 2 of spleen (box): a box has low and high corners"),
    (changed(prompt(1), "low", [1]), "prompt 2 of spleen (box): a box takes positions"),
    (missing(prompt(2), "points"), "prompt 3 of spleen (scribble): a scribble has points"),
    (changed(prompt(2), "points", []), "prompt 3 of spleen (scribble): a scribble with no position is empty"),
    (changed(prompt(2), "radius_mm", "3"), "prompt 3 of spleen (scribble): the radius of a scribble is a number"),
    (changed(prompt(2), "radius_mm", None), "prompt 3 of spleen (scribble): the radius of a scribble is a number"),
    (changed(prompt(2), "radius_mm", 10**400), "prompt 3 of spleen (scribble): the radius of a scribble is 0 mm"),
    (missing(prompt(3), "points"), "prompt 4 of spleen (lasso): a lasso has points"),
    (changed(prompt(4), "bits", "?"), "prompt 5 of spleen (mask): a mask's bits are zlib in base64"),
    (changed(prompt(4), "bits", [1]), "prompt 5 of spleen (mask): a mask's bits are zlib in base64"),
    (changed(prompt(4), "bits", ""), "prompt 5 of spleen (mask): a mask of shape"),
    (changed(prompt(4), "bits", bomb()), "prompt 5 of spleen (mask): a mask of shape (3, 1, 1) has 1 bytes of bits"),
    (missing(prompt(4), "grid"), "prompt 5 of spleen (mask): a mask has a grid and bits"),
    (changed(mask_grid, "shape", [10000] * 3), "prompt 5 of spleen (mask): a mask has at most 2147483648 voxels"),
    (changed(mask_grid, "shape", [2**32, 2**32, 1]), "prompt 5 of spleen (mask): the mask's grid: a grid has at most"),
    (changed(mask_grid, "shape", [2**70, 1, 1]), "prompt 5 of spleen (mask): the mask's grid"),
    (changed(mask_grid, "shape", [1000, 1000, 1000]), "has 125000000 bytes of bits, got 1"),
    (changed(mask_grid, "shape", [3.0, 1, 1]), "prompt 5 of spleen (mask): the mask's grid: a grid has three positive"),
    (changed(prompt(5), "text", " "), "prompt 6 of spleen (text): a text prompt has words"),
    (changed(prompt(5), "text", None), "prompt 6 of spleen (text): a text prompt has words, got None"),
]


@pytest.mark.parametrize(("make", "message"), HOSTILE, ids=[f"{n}" for n in range(len(HOSTILE))])
def test_hostile_files_are_refused_by_name(make: Any, message: str) -> None:
    data = make()
    tracemalloc.start()
    with pytest.raises(PromptError) as error:
        PromptSet.from_json(data)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert message in str(error.value)
    assert len(str(error.value)) < 500
    assert peak < 20e6


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, "1" * 10_000, "null", "[]", "NaN", '{"schema": NaN}'])
def test_what_is_no_prompt_file_is_refused(text: str) -> None:
    with pytest.raises(PromptError):
        PromptSet.loads(text)


@pytest.mark.parametrize("depth", [40, 100, 800])
def test_deep_nesting_is_refused(depth: int) -> None:
    deep: Any = 1.0
    for _ in range(depth):
        deep = [deep]
    for at, key in ((root, "schema"), (root, "version"), (root, "grid"), (prompt(0), "position"), (prompt(0), "frame")):
        with pytest.raises(PromptError):
            PromptSet.from_json(changed(at, key, None)() | ({key: deep} if at is root else {"objects": [
                {"prompts": [{"type": "point", "position": [1, 2, 3], "frame": "ijk"} | {key: deep}]}
            ]}))  # fmt: skip


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.just(10**400),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)


@given(st.data())
def test_no_file_raises_anything_else(data: st.DataObject) -> None:
    document = valid()
    places = [(root, key) for key in document] + [(first, key) for key in first(document)]
    for index in range(6):
        places += [(prompt(index), key) for key in prompt(index)(document)]
    places += [(mask_grid, key) for key in ("shape", "affine_ras")]
    at, key = data.draw(st.sampled_from(places))
    at(document)[key] = data.draw(ANYTHING)
    try:
        prompts = PromptSet.from_json(document)
        prompts.on_grid(CUBIC)
    except PromptError:
        return
    assert PromptSet.from_json(prompts.to_json()) == prompts


def test_a_file_by_hand_may_leave_out_grid_id_name_and_sign() -> None:
    data = {
        "schema": "volseg.prompts",
        "version": 1,
        "objects": [{"prompts": [{"type": "point", "position": [1, 2, 3], "frame": "ras"}]}, {"prompts": []}],
    }
    prompts = PromptSet.from_json(data, CUBIC)
    assert prompts.grid is CUBIC
    assert [item.object_id for item in prompts.objects] == [1, 2]
    assert [item.title for item in prompts.objects] == ["object 1", "object 2"]
    assert prompts.objects[0].prompts == (Point((1, 2, 3), Frame.RAS, True),)


def test_numpy_values_are_written_as_plain_json() -> None:
    written = PromptSet.of(CUBIC, [Point(np.array([1, 2, 3]), Frame.IJK, np.True_)]).dumps()  # type: ignore[arg-type]
    assert json.loads(written)["objects"][0]["prompts"][0] == {
        "type": "point",
        "position": [1.0, 2.0, 3.0],
        "frame": "ijk",
        "positive": True,
    }

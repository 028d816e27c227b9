from __future__ import annotations

import numpy as np
from scipy.ndimage import binary_dilation, binary_erosion, label

from volseg.training import bodies
from volseg.training.bodies import random_bodies

SHAPE = (56, 56, 56)


def _scenes(count: int = 24) -> list[tuple[np.ndarray, bodies.Bodies]]:
    found = []
    for seed in range(count):
        rng = np.random.default_rng(seed)
        tissues = rng.integers(1, 4, SHAPE).astype(np.uint8)
        found.append((tissues, random_bodies(rng, tissues)))
    return found


def test_bodies_lie_in_the_tissues_and_leave_the_rest_alone() -> None:
    for tissues, scene in _scenes():
        assert scene.labels.shape == SHAPE
        assert scene.labels.max() < len(scene.classes)
        ours = scene.labels > tissues.max()
        np.testing.assert_array_equal(scene.labels[~ours], tissues[~ours])
        named = {one for ids in scene.objects for one in ids}
        assert len(named) == 2 * len(scene.objects), "no id belongs to two bodies"
        for ids in scene.objects:
            assert np.isin(scene.labels, ids).any()


def test_a_row_looks_alike_and_rinds_cover_their_bodies() -> None:
    rows = rinds = 0
    for _, scene in _scenes():
        cores = {int(scene.classes[ids[0]]) for ids in scene.objects}
        skins = {int(scene.classes[ids[1]]) for ids in scene.objects}
        assert len(cores) <= 1 >= len(skins), "bodies of a row have the same tissues"
        rows += len(scene.objects) > 1
        for core, skin in scene.objects:
            inside, rind = scene.labels == core, scene.labels == skin
            if rind.any() and inside.any():
                rinds += 1
                # What is inside touches nothing of the outside but where another body lies over its rind.
                others = np.isin(scene.labels, [one for ids in scene.objects for one in ids])
                bare = binary_dilation(inside) & ~others
                assert bare.sum() < 0.1 * inside.sum() + 10
    assert rows >= 8
    assert rinds >= 5


def test_some_bodies_have_holes() -> None:
    """A ring leaves a hole in some section across its axis: background that is cut off from the border."""
    holes = 0
    for _, scene in _scenes():
        for ids in scene.objects:
            mask = np.isin(scene.labels, ids)
            for axis in range(3):
                for section in np.moveaxis(mask, axis, 0):
                    parts, count = label(~section)
                    border = set(np.unique(parts[binary_erosion(np.ones_like(section)) == 0]))
                    holes += any(one not in border and (parts == one).sum() > 4 for one in range(1, count + 1))
    assert holes > 10

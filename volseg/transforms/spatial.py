"""Moving an image, its label maps and its prompts together."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Hashable, Iterable, Mapping
from hashlib import sha256
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import InvertibleTransform, MapTransform
from monai.utils import ensure_tuple
from monai.utils.enums import TraceKeys

from volseg.errors import GeometryError, PromptError
from volseg.geometry import Grid
from volseg.prompts import PromptSet
from volseg.transforms.trace import rewrapped

IMAGE_MODE, LABEL_MODE = "bilinear", "nearest"
"""How values between voxels are found, in MONAI's words; its ``Invertd`` rewrites the one into the other."""


class SpatialWithPromptsd(MapTransform, InvertibleTransform):  # type: ignore[misc]
    """Moves images, label maps and prompts to another grid that a subclass chooses.

    All images and label maps of one call lie on the same grid; the first key's is taken, and all end on exactly the
    same new one. Prompts end on it too, in voxel indices (``PromptSet.moved``), in the form they came in: a
    ``PromptSet``, or its JSON string, which a ``DataLoader`` can collate.

    ``inverse`` restores grids exactly. Prompts are restored exactly if they are still those that the transform made;
    others (a click was added) are moved back. What becomes of values is said by each subclass.

    Args:
        keys: the images, ``MetaTensor`` [C, I, J, K].
        label_keys: label maps on the same grid, ``MetaTensor`` [C, I, J, K]; they keep their dtype and ids.
        prompts_key: where the prompts are, if there are any.
        allow_missing_keys: whether data without some of the keys is passed over.

    Raises:
        GeometryError: (when called) the images and label maps do not lie on the same grid, or have no affine.
        PromptError: (when called) the prompts cannot be read or do not fit the image.
    """

    def __init__(
        self,
        keys: Hashable | Iterable[Hashable],
        label_keys: Hashable | Iterable[Hashable] | None = None,
        prompts_key: Hashable | None = None,
        allow_missing_keys: bool = False,
    ) -> None:
        image_keys = ensure_tuple(keys)
        self.label_keys: tuple[Hashable, ...] = () if label_keys is None else ensure_tuple(label_keys)
        MapTransform.__init__(self, (*image_keys, *self.label_keys), allow_missing_keys)
        self.prompts_key = prompts_key

    @abstractmethod
    def target(self, grid: Grid, prompts: PromptSet | None) -> Grid:
        """The grid to move to, from the images' ``grid`` and the prompts, if there are any."""

    @staticmethod
    @abstractmethod
    def carry(values: torch.Tensor, source: Grid, target: Grid, mode: str) -> torch.Tensor:
        """Values [C, *source.shape] on ``target``, [C, *target.shape]; called with the grids exchanged to go back.

        ``mode`` is ``IMAGE_MODE`` or ``LABEL_MODE``.
        """

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Moves ``data[key]`` for each key, and the prompts; the rest of ``data`` is passed on."""
        results = dict(data)
        keys = list(self.key_iterator(results))
        if not keys:
            return results
        source = _common_grid(results, keys)
        has_prompts = self.prompts_key is not None and (self.prompts_key in results or not self.allow_missing_keys)
        prompts = _read(results, self.prompts_key, source) if has_prompts else None
        target = self.target(source, prompts)
        record: dict[str, Any] = {"grid_before": source.to_json(), "grid_after": target.to_json()}
        if prompts is not None:
            record["prompts_before"] = results[self.prompts_key]
            results[self.prompts_key] = _in_form_of(results[self.prompts_key], prompts.moved(target))
            record["prompts_after"] = _digest(results[self.prompts_key])
        for key in keys:
            mode = LABEL_MODE if key in self.label_keys else IMAGE_MODE
            extra_info = {**record, "affine_before": Grid.of(results[key]).affine_ras.tolist(), "mode": mode}
            values = self.carry(results[key].as_tensor(), source, target, mode)
            moved = rewrapped(values, results[key], target)
            results[key] = self.push_transform(moved, orig_size=source.shape, extra_info=extra_info)
        return results

    def inverse(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Moves everything back to the grid it came from."""
        results = dict(data)
        record: Mapping[str, Any] = {}
        for key in self.key_iterator(results):
            image = rewrapped(results[key].as_tensor(), results[key])
            record = self.pop_transform(image)[TraceKeys.EXTRA_INFO]
            before, after = Grid.from_json(record["grid_before"]), Grid.from_json(record["grid_after"])
            _require_same(Grid.of(image), after, f"cannot undo {type(self).__name__}: {key!r}")
            values = self.carry(image.as_tensor(), after, before, record["mode"])
            own = Grid(before.shape, np.array(record["affine_before"]))
            results[key] = rewrapped(values, image, own)
        if "prompts_before" in record and self.prompts_key in results:
            current = results[self.prompts_key]
            if _digest(current) == record["prompts_after"]:
                results[self.prompts_key] = record["prompts_before"]
            else:
                after = Grid.from_json(record["grid_after"])
                moved = _read(results, self.prompts_key, after).moved(Grid.from_json(record["grid_before"]))
                results[self.prompts_key] = _in_form_of(current, moved)
        return results

    @classmethod
    def replayed(cls, image: MetaTensor, operation: Mapping[Hashable, Any]) -> MetaTensor:
        """Applies a recorded operation; see ``volseg.transforms.replay``."""
        recorded = operation[TraceKeys.EXTRA_INFO]
        before, after = Grid.from_json(recorded["grid_before"]), Grid.from_json(recorded["grid_after"])
        own = Grid.of(image)
        _require_same(own, before, f"cannot replay {cls.__name__}: the image")
        extra_info = {**recorded, "affine_before": own.affine_ras.tolist()}
        result = rewrapped(cls.carry(image.as_tensor(), before, after, recorded["mode"]), image, after)
        result.push_applied_operation({**operation, TraceKeys.EXTRA_INFO: extra_info})
        return result


def _common_grid(data: Mapping[Hashable, Any], keys: list[Hashable]) -> Grid:
    grid = Grid.of(data[keys[0]])
    for key in keys[1:]:
        _require_same(Grid.of(data[key]), grid, f"{key!r} does not go with {keys[0]!r}")
    return grid


def _require_same(grid: Grid, expected: Grid, what: str) -> None:
    if not grid.same_as(expected):
        raise GeometryError(
            f"{what} lies on a grid of {grid.shape} voxels of {np.round(grid.spacing_mm, 4).tolist()} mm, "
            f"{grid.axcodes}, from {grid.affine_ras[:3, 3].round(3).tolist()}, and not on that of {expected.shape} "
            f"voxels of {np.round(expected.spacing_mm, 4).tolist()} mm, {expected.axcodes}, "
            f"from {expected.affine_ras[:3, 3].round(3).tolist()}; resample it there first"
        )


def _read(data: Mapping[Hashable, Any], key: Hashable, grid: Grid) -> PromptSet:
    value = data.get(key)
    if isinstance(value, PromptSet):
        return value
    if isinstance(value, str):
        return PromptSet.loads(value, grid)
    raise PromptError(
        f"{key!r} holds a PromptSet or its JSON string (PromptSet.dumps), got {type(value).__name__}; "
        "a batch is decollated first"
    )


def _in_form_of(value: PromptSet | str, prompts: PromptSet) -> PromptSet | str:
    return prompts.dumps() if isinstance(value, str) else prompts


def _digest(value: Any) -> str:
    text = value.dumps() if isinstance(value, PromptSet) else str(value)
    return sha256(text.encode()).hexdigest()

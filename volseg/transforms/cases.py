"""Cases of a MONAI workflow from files and back, with volseg's own readers and writers.

With MONAI's ``LoadImaged`` a bundle would see float32 where ``volseg segment`` sees the file's integers; these give
both the same voxels.
"""

from __future__ import annotations

import json
from collections.abc import Hashable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import MapTransform
from numpy.typing import NDArray

from volseg.data import Modality, read_image, read_labelmap, write_labelmap
from volseg.data.labelmap import Label, LabelMap, default_color_rgb, smallest_dtype
from volseg.errors import GeometryError, PromptError
from volseg.geometry import Frame, Grid
from volseg.prompts import Box, PromptedObject, PromptSet

FILE_KEY = "filename_or_obj"
"""MONAI's name for an image's file in its ``meta``; only its stem is used, to name the output."""

PROMPTS_KEY = "volseg_prompts"
"""An image's prompts in its ``meta``, as JSON, for programs that hand nothing but the image to an inferer."""

VOLUME_SUFFIXES = (".nii.gz", ".seg.nrrd", ".nii", ".nrrd", ".mha", ".mhd")


class ReadImaged(MapTransform):  # type: ignore[misc]
    """Reads images, as ``volseg.data.read_image`` does: [1, I, J, K] in the file's own type and order.

    Args:
        keys: where the paths are.
        modality: how the images were acquired, where the files do not say.
        allow_missing_keys: whether data without some of the keys is passed over.

    Raises:
        ImageReadError: (when called) see ``read_image``.
    """

    def __init__(
        self,
        keys: Hashable | Iterable[Hashable] = "image",
        modality: Modality | str | None = None,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.modality = None if modality is None else Modality(modality)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Reads the files."""
        case = dict(data)
        for key in self.key_iterator(case):
            image = read_image(case[key], modality=self.modality)
            image.meta[FILE_KEY] = str(case[key])
            case[key] = image
        return case


class ReadLabelMapd(MapTransform):  # type: ignore[misc]
    """Reads label maps as float tensors [1, I, J, K] of label values.

    Args:
        keys: where the paths are.
        image_key: the image, already read, on whose grid they must lie; None does not check.
        allow_missing_keys: whether data without some of the keys is passed over.

    Raises:
        GeometryError: (when called) label map and image lie on different grids.
        ImageReadError: (when called) see ``read_labelmap``.
    """

    def __init__(
        self,
        keys: Hashable | Iterable[Hashable] = "label",
        image_key: Hashable | None = "image",
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.image_key = image_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Reads the files."""
        case = dict(data)
        for key in self.key_iterator(case):
            labelmap = read_labelmap(case[key])
            if self.image_key is not None:
                grid = Grid.of(case[self.image_key])
                if not grid.same_as(labelmap.grid):
                    raise GeometryError(
                        f"{case[key]} lies on {labelmap.grid!r}, its image on {grid!r}; resample it first"
                    )
            values = torch.from_numpy(labelmap.array.astype(np.float32))[None]
            case[key] = MetaTensor(values, affine=torch.from_numpy(labelmap.grid.affine_ras.copy()))
        return case


class ReadPromptsd(MapTransform):  # type: ignore[misc]
    """Makes prompts one JSON string with the image's grid, which a ``DataLoader`` can collate.

    The image's ``meta`` gets them too (`PROMPTS_KEY`).

    Args:
        keys: where the prompts are: a path, JSON of the prompt schema as text, or the parsed JSON.
        image_key: the image, already read.
        base_dir: relative paths lie here; None takes the working directory.
        allow_missing_keys: whether data without some of the keys is passed over.

    Raises:
        PromptError: (when called) the prompts cannot be read, or lie outside the image.
    """

    def __init__(
        self,
        keys: Hashable | Iterable[Hashable] = "prompts",
        image_key: Hashable = "image",
        base_dir: str | Path | None = None,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.image_key = image_key
        self.base_dir = Path(base_dir or "")

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Reads the prompts."""
        case = dict(data)
        grid = Grid.of(case[self.image_key])
        for key in self.key_iterator(case):
            case[key] = self._prompts(case[key], grid).on_grid(grid).dumps()
            case[self.image_key].meta[PROMPTS_KEY] = case[key]
        return case

    def _prompts(self, given: Any, grid: Grid) -> PromptSet:
        if isinstance(given, Mapping):
            return PromptSet.from_json(_from_command_line(given), grid)
        text = str(given).strip()
        if not text:
            raise PromptError("there are no prompts; give a file or JSON of the schema volseg.prompts")
        if not text.startswith("{"):
            try:
                text = (self.base_dir / text).read_text(encoding="utf-8")
            except OSError as error:
                raise PromptError(f"the prompts {given} cannot be read: {error.strerror or error}") from error
        return PromptSet.loads(text, grid)


class BoxOnMiddleSliced(MapTransform):  # type: ignore[misc]
    """Simulates prompts from a label map: for every label a box around it on its middle slice.

    The middle slice is the one in the acquisition plane that halves the label's voxels.

    Args:
        label_key: the label map, a tensor [1, I, J, K] of label values.
        prompts_key: where the JSON string goes.

    Raises:
        PromptError: (when called) the label map is empty.
    """

    def __init__(self, label_key: Hashable = "label", prompts_key: Hashable = "prompts") -> None:
        super().__init__(label_key)
        self.label_key = label_key
        self.prompts_key = prompts_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Adds the prompts."""
        case = dict(data)
        label = case[self.label_key]
        grid = Grid.of(label)
        axis = grid.axis_of(grid.acquisition_plane())
        values = np.asarray(label[0])
        objects = []
        for value in np.unique(values[values > 0]).astype(int).tolist():
            voxels = np.argwhere(values == value)
            middle = np.sort(voxels[:, axis])[len(voxels) // 2]
            on_slice = voxels[voxels[:, axis] == middle]
            objects.append(PromptedObject(value, (_box(on_slice, axis),), f"label {value}"))
        if not objects:
            raise PromptError("the label map is empty, so there is nothing to prompt")
        case[self.prompts_key] = PromptSet(grid, tuple(objects)).dumps()
        return case


class WriteLabelMapd(MapTransform):  # type: ignore[misc]
    """Writes predicted labels on the image's grid, as ``volseg.data.write_labelmap`` does: whole or not at all.

    The file is called after the image's: ``ct.nii.gz`` gives ``ct_seg.nii.gz``.

    Args:
        keys: the predictions, [1, I, J, K] of label values.
        output_dir: the folder; made if it is missing.
        image_key: the image that was read with ``ReadImaged``.
        prompts_key: the prompts, for the objects' names; None names them by their values.
        postfix: appended to the image's name.
        extension: decides the format.
    """

    def __init__(
        self,
        keys: Hashable | Iterable[Hashable] = "pred",
        output_dir: str | Path = ".",
        image_key: Hashable = "image",
        prompts_key: Hashable | None = "prompts",
        postfix: str = "seg",
        extension: str = ".nii.gz",
    ) -> None:
        super().__init__(keys)
        self.output_dir = Path(output_dir)
        self.image_key = image_key
        self.prompts_key = prompts_key
        self.postfix = postfix
        self.extension = extension

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Writes the files."""
        case = dict(data)
        image = case[self.image_key]
        stem = volume_stem(image.meta.get(FILE_KEY, "image"))
        for key in self.key_iterator(case):
            values = np.asarray(case[key][0].cpu())
            names = self._names(case)
            found = sorted({*names, *(int(value) for value in np.unique(values) if value)})
            labels = tuple(
                Label(value, names.get(value, f"label {value}"), default_color_rgb(value)) for value in found
            )
            array = values.astype(smallest_dtype(max(found, default=0)))
            self.output_dir.mkdir(parents=True, exist_ok=True)
            target = self.output_dir / f"{stem}_{self.postfix}{self.extension}"
            write_labelmap(LabelMap(Grid.of(image), (array,), labels), target)
        return case

    def _names(self, case: Mapping[Hashable, Any]) -> dict[int, str]:
        if self.prompts_key is None or self.prompts_key not in case:
            return {}
        objects = json.loads(case[self.prompts_key])["objects"]
        return {item["id"]: item["name"] or f"object {item['id']}" for item in objects}


_JSON_WORDS = {"true": True, "false": False, "null": None}


def _from_command_line(value: Any) -> Any:
    """JSON as it was written: MONAI's command line parses it as Python, where ``true`` is taken for a text."""
    if isinstance(value, Mapping):
        return {key: one if key == "name" else _from_command_line(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_from_command_line(one) for one in value]
    return _JSON_WORDS.get(value, value) if isinstance(value, str) else value


def _box(voxels_ijk: NDArray[np.int64], axis: int) -> Box:
    low, high = voxels_ijk.min(axis=0).astype(float), voxels_ijk.max(axis=0).astype(float)
    for other in set(range(3)) - {axis}:
        if low[other] == high[other]:  # a box is flat along one axis only
            low[other], high[other] = low[other] - 0.25, high[other] + 0.25
    return Box(tuple(low.tolist()), tuple(high.tolist()), frame=Frame.IJK)


def volume_stem(path: str | Path) -> str:
    """A volume's file name without its suffixes."""
    name = Path(path).name
    suffix = next((one for one in VOLUME_SUFFIXES if name.lower().endswith(one)), "")
    return name[: len(name) - len(suffix)] if suffix else name

"""Labels layers to files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from napari_volseg.geometry import LayerVolume
from napari_volseg.keys import FILE_AXCODES_KEY, LABELS_KEY


def write_nifti(path: str, data: Any, attributes: dict[str, Any]) -> list[str]:
    """Napari's hook for NIfTI: as ``write_label_layer``; a name without an ending gets .nii.gz."""
    return write_label_layer(_with_ending(path, ".nii.gz"), data, attributes)


def write_segments(path: str, data: Any, attributes: dict[str, Any]) -> list[str]:
    """Napari's hook for .seg.nrrd files: as ``write_label_layer``; a name without an ending gets .seg.nrrd."""
    return write_label_layer(_with_ending(path, ".seg.nrrd"), data, attributes)


def write_label_layer(path: str, data: Any, attributes: dict[str, Any]) -> list[str]:
    """Writes a Labels layer as a label map: NIfTI or a 3D Slicer segmentation, by the name of the file.

    Args:
        path: ends in .nii, .nii.gz or .seg.nrrd.
        data: the layer's.
        attributes: the layer's; its transforms and what our readers noted say where the voxels are.

    Raises:
        WriteError: see ``volseg.write_labelmap``.
        GeometryError: the layer is no volume.
    """
    from napari.layers import Labels

    from volseg.data import Label, LabelMap, default_color_rgb, smallest_dtype, write_labelmap
    from volseg.errors import GeometryError

    metadata = attributes.get("metadata", {})
    keys = ("scale", "translate", "rotate", "shear", "affine", "units", "axis_labels", "name")
    layer = Labels(data, metadata=metadata, **{key: attributes[key] for key in keys if attributes.get(key) is not None})
    volume = LayerVolume.of(layer)
    values = volume.read(layer)[0].numpy()
    if values.min(initial=0) < 0:
        raise GeometryError(f"{layer.name} holds {values.min()}; label values are whole numbers from 0")
    array = values.astype(smallest_dtype(int(values.max(initial=1))))
    known = {label.value: label for label in metadata.get(LABELS_KEY, ())}
    present = [int(value) for value in np.unique(array) if value]
    labels = tuple(
        known.get(value, Label(value, f"label {value}", default_color_rgb(value))) for value in {*known, *present}
    )
    labelmap = LabelMap(volume.grid, (array,), tuple(_in_first_layer(label) for label in labels))
    axcodes = metadata.get(FILE_AXCODES_KEY)
    write_labelmap(labelmap if axcodes is None else labelmap.reoriented(axcodes), path)
    return [path]


def _with_ending(path: str, ending: str) -> str:
    """The path; napari's dialog offers the layer's name and leaves it to the writer to add what its format needs."""
    from volseg.data.formats import file_suffix

    return path if file_suffix(Path(path)) else path + ending


def _in_first_layer(label: Any) -> Any:
    from dataclasses import replace

    return replace(label, layer=0)

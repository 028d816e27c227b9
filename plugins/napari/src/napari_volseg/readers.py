"""Files to layers that know where they are in the patient."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from napari_volseg.geometry import AFFINE_KEY, MODALITY_KEY
from napari_volseg.keys import FILE_AXCODES_KEY, LABELS_KEY, PATH_KEY
from volseg.geometry import Grid

if TYPE_CHECKING:
    from monai.data import MetaTensor

LayerData: TypeAlias = tuple[Any, dict[str, Any], str]
Reader: TypeAlias = Callable[[Any], list[LayerData]]


def dicom_reader(path: Any) -> Reader | None:
    """Napari's hook for folders of DICOM slices."""
    from volseg.sessions.desk import holds_dicom

    if not isinstance(path, str) or not Path(path).is_dir() or not holds_dicom(Path(path)):
        return None
    return read_volume


def volume_reader(path: Any) -> Reader | None:
    """Napari's hook for NIfTI, NRRD, MetaImage and single DICOM files.

    Also for 3D Slicer's segmentations, which are NRRD files, too: of two readers of one plugin that take a file, napari
    calls either.
    """
    if not isinstance(path, str):
        return None
    return read_labels if path.lower().endswith(".seg.nrrd") else read_volume


def read_volume(path: Any) -> list[LayerData]:
    """Reads an image, or every series of a DICOM folder.

    The data is turned to the radiologist's view: slices along the acquisition axis, the patient's right on the left of
    axial slices. Its place in the patient is in the metadata, so prompts and masks are right in mm; the layer's scale
    is the spacing.

    Raises:
        ImageReadError: see ``volseg.read_image``.
    """
    from volseg.data import list_series, read_image

    source = Path(path)
    if source.is_dir():
        series = list_series(source)
        return [
            _image_layer(
                read_image(source, series_uid=one.uid),
                one.description or source.name if len(series) > 1 else source.name,
                source,
            )
            for one in series
        ]
    return [_image_layer(read_image(source), _stem(source), source)]


def read_labels(path: Any) -> list[LayerData]:
    """Reads a label map with its names and colours; overlapping objects become several layers.

    Raises:
        ImageReadError: see ``volseg.read_labelmap``.
    """
    from napari.utils.colormaps import DirectLabelColormap

    from volseg.data import read_labelmap

    labelmap = read_labelmap(path)
    turned, axcodes = labelmap.reoriented(_view_axcodes(labelmap.grid)), labelmap.grid.axcodes
    result: list[LayerData] = []
    for index, layer in enumerate(turned.layers):
        labels = [label for label in turned.labels if label.layer == index]
        colors: dict[int | None, Any] = {None: np.zeros(4), 0: np.zeros(4)}
        colors |= {label.value: np.array([*(part / 255 for part in label.color_rgb), 1.0]) for label in labels}
        result.append(
            (
                np.ascontiguousarray(layer),
                {
                    "name": _stem(Path(path)) + (f" {index + 1}" if len(turned.layers) > 1 else ""),
                    **_placed(turned.grid),
                    "colormap": DirectLabelColormap(color_dict=colors),
                    "metadata": {
                        AFFINE_KEY: turned.grid.affine_ras,
                        FILE_AXCODES_KEY: axcodes,
                        LABELS_KEY: tuple(labels),
                        PATH_KEY: str(path),
                    },
                },
                "labels",
            )
        )
    return result


def _image_layer(image: MetaTensor, name: str, source: Path) -> LayerData:
    from volseg.transforms.windows import choose_window

    grid = Grid.of(image)
    axcodes = _view_axcodes(grid)
    matrix = grid.reorientation(axcodes)[:3, :3]
    order = np.abs(matrix).argmax(axis=0)
    flips = tuple(axis for axis in range(3) if matrix[order[axis], axis] < 0)
    window = choose_window(image)
    array = np.ascontiguousarray(np.flip(image[0].numpy().transpose(*order), flips))
    shown = grid.reoriented(axcodes)
    metadata = {AFFINE_KEY: shown.affine_ras, FILE_AXCODES_KEY: grid.axcodes, PATH_KEY: str(source)}
    modality = image.meta.get("modality")
    if modality is not None:
        metadata[MODALITY_KEY] = str(modality)
    attributes = {
        "name": name,
        **_placed(shown),
        "contrast_limits": (window.low, window.high),
        "colormap": "gray",
        "metadata": metadata,
    }
    return array, attributes, "image"


def _placed(grid: Grid) -> dict[str, Any]:
    """Scale and translation, so that files of one patient lie over each other on the screen.

    An oblique grid is shown upright, as slices across voxels would blur it; its true place is in the metadata.
    """
    origin = grid.affine_ras[:3, 3]
    translate = [sign * origin[axis] for axis, sign in zip(grid.axis_order, grid.axis_signs, strict=True)]
    return {"scale": grid.spacing_mm, "translate": translate, "units": ("mm",) * 3}


def _view_axcodes(grid: Grid) -> str:
    """Directions of (slice, row, column) in the radiologist's view of the acquired slices."""
    from volseg.inferers.slices.view import DISPLAY_AXCODES

    return DISPLAY_AXCODES[grid.acquisition_plane()]


def _stem(path: Path) -> str:
    name = path.name
    for suffix in (".seg.nrrd", ".nii.gz", ".nii", ".nrrd", ".nhdr", ".mha", ".mhd", ".dcm"):
        if name.lower().endswith(suffix):
            return name[: -len(suffix)]
    return name

"""Draws the pictures of docs/transforms.md.

    python docs/figures/transforms.py VERTEBRA_CT VERTEBRA_MR BODY_CT

The pictures in the repository were drawn from TPTBox's CT and T2w sample (one vertebra each) and TotalSegmentator's
``example_ct``, all Apache-2.0.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from monai.data import MetaTensor

from volseg.data import read_image
from volseg.geometry import Frame, Grid
from volseg.prompts import Box, Point, PromptSet, Scribble
from volseg.transforms import (
    AutoWindowd,
    CropAroundPromptsd,
    PercentileScaled,
    ReorientWithPromptsd,
    ResampleWithPromptsd,
    WindowIntensityd,
)

matplotlib.use("Agg")
from matplotlib import pyplot as plt

FOLDER = Path(__file__).parents[1] / "images" / "transforms"
LETTERS = dict(zip("RLAPSI", "LRPAIS", strict=True))


def prompts_of(grid: Grid, centre_ijk: np.ndarray) -> PromptSet:
    """A click, a box and a scribble around a place, in mm so that they mean the same on every grid."""
    centre = grid.to_ras_mm(centre_ijk)
    return PromptSet.of(
        grid,
        [
            Point(tuple(centre), Frame.RAS),
            Box(tuple(np.subtract(centre, (24, 26, 12))), tuple(np.add(centre, (24, 12, 12))), Frame.RAS),
            Scribble([tuple(np.add(centre, (x, abs(x) / 2 - 18, 0))) for x in (-16, -8, 0, 8, 16)], Frame.RAS),
        ],
    ).moved(grid)


def show(axes: Any, image: MetaTensor, axis: int, index: int, prompts: PromptSet | None = None) -> None:
    """One slice as the voxels are stored: first in-plane axis down, second to the right, square millimetres."""
    grid = Grid.of(image)
    down, right = (a for a in range(3) if a != axis)
    values = image[0].as_tensor().float().numpy().take(index, axis=axis)
    aspect = grid.spacing_mm[down] / grid.spacing_mm[right]
    axes.imshow(values, cmap="gray", aspect=aspect, interpolation="nearest")
    codes = grid.axcodes
    style = {"transform": axes.transAxes, "color": "gold", "ha": "center", "va": "center", "fontsize": 9}
    for x, y, letter in (
        (0.5, 0.04, codes[down]),
        (0.5, 0.96, LETTERS[codes[down]]),
        (0.96, 0.5, codes[right]),
        (0.04, 0.5, LETTERS[codes[right]]),
    ):
        axes.text(x, y, letter, **style)
    for prompt in prompts.objects[0].prompts if prompts else ():
        match prompt:
            case Point():
                axes.plot(prompt.position[right], prompt.position[down], "o", color="lime", markersize=5)
            case Box():
                low, high = np.array(prompt.low), np.array(prompt.high)
                size = (high - low)[right], (high - low)[down]
                axes.add_patch(plt.Rectangle((low[right], low[down]), *size, fill=False, color="deepskyblue"))
            case Scribble():
                points = np.array(prompt.points)
                axes.plot(points[:, right], points[:, down], color="tomato")
    axes.set(xlim=(-0.5, values.shape[1] - 0.5), ylim=(values.shape[0] - 0.5, -0.5))
    axes.set_xticks([])
    axes.set_yticks([])


def save(figure: Any, name: str) -> None:
    """Writes one picture."""
    figure.tight_layout()
    figure.savefig(FOLDER / f"{name}.png", dpi=80)
    plt.close(figure)


def axial(image: MetaTensor) -> int:
    """The voxel axis that axial slices are stacked along."""
    return Grid.of(image).axis_order.index(2)


def upright(image: MetaTensor) -> MetaTensor:
    """Stored so that ``show`` draws axial slices as radiologists see them: anterior up, the patient's right at left."""
    return ReorientWithPromptsd("image", "PLS")({"image": image})["image"]


def draw(vertebra_ct: str, vertebra_mr: str, body_ct: str) -> None:
    """All pictures, from three files."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    ct, mr, body = read_image(vertebra_ct), read_image(vertebra_mr), upright(read_image(body_ct))

    figure, axes = plt.subplots(1, 4, figsize=(11, 3))
    for panel, name in zip(axes, ("soft tissue", "lung", "bone", "liver"), strict=True):
        scaled = WindowIntensityd("image", name)({"image": body})["image"]
        window = scaled.meta["intensity_window"]
        show(panel, scaled, 2, int(body.shape[3] * 0.92))
        panel.set_title(f"{name}: {window['low']:g} to {window['high']:g} HU", fontsize=9)
    save(figure, "window")

    figure, axes = plt.subplots(1, 2, figsize=(6.4, 3))
    mr_up = upright(mr)
    scaled = PercentileScaled("image")({"image": mr_up})["image"]
    window = scaled.meta["intensity_window"]
    whole = WindowIntensityd("image", (0, float(mr_up.max())))({"image": mr_up})["image"]
    for panel, image, title in (
        (axes[0], whole, f"0 to the maximum, {int(mr_up.max())}"),
        (axes[1], scaled, f"percentiles: {window['low']:g} to {window['high']:g}"),
    ):
        show(panel, image, 2, mr_up.shape[3] // 2)
        panel.set_title(title, fontsize=9)
    save(figure, "percentile")

    figure, axes = plt.subplots(1, 2, figsize=(8, 3.4))
    for panel, image in zip(axes, (upright(ct), mr_up), strict=True):
        scaled = AutoWindowd("image")({"image": image})["image"]
        window = scaled.meta["intensity_window"]
        show(panel, scaled, 2, image.shape[3] // 2)
        reason = window["reason"].replace(" (", "\n(", 1).replace("; ", "\n", 1)
        panel.set_title(f"{window['name']}\n{reason}", fontsize=7)
    save(figure, "auto")

    grid = Grid.of(ct)
    centre = np.array(grid.shape) / 2
    centre[axial(ct)] = np.round(centre[axial(ct)])
    data = {"image": WindowIntensityd("image", "bone")({"image": ct})["image"], "prompts": prompts_of(grid, centre)}
    centre_ras_mm = grid.to_ras_mm(centre)

    def compare(name: str, results: list[tuple[str, dict[str, Any]]]) -> None:
        figure, axes = plt.subplots(1, len(results), figsize=(3.6 * len(results), 3.6))
        for panel, (title, result) in zip(axes, results, strict=True):
            image = result["image"]
            index = int(np.round(Grid.of(image).to_ijk(centre_ras_mm)[axial(image)]))
            show(panel, image, axial(image), index, result["prompts"])
            panel.set_title(title, fontsize=9)
        save(figure, name)

    keys = {"keys": "image", "prompts_key": "prompts"}
    compare(
        "reorient",
        [("stored as PIR", data)]
        + [(f"reoriented to {code}", ReorientWithPromptsd(**keys, axcodes=code)(data)) for code in ("PLS", "RAS")],
    )
    upright_data = ReorientWithPromptsd(**keys, axcodes="PLS")(data)
    compare(
        "resample",
        [("1.5 mm", upright_data)]
        + [(f"{mm} mm", ResampleWithPromptsd(**keys, spacing_mm=mm)(upright_data)) for mm in (4, (6, 2, 3))],
    )
    compare(
        "crop",
        [("whole image", upright_data)]
        + [(f"margin {mm} mm", CropAroundPromptsd(**keys, margin_mm=mm)(upright_data)) for mm in (12, 0)],
    )


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    draw(*sys.argv[1:])

"""What the demo segments: samples that other packages carry, and what a person who looks at them would say."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from volseg.prompts import Prompt

Position = tuple[float, float, float]


@dataclass(frozen=True)
class Sample:
    """A file within an installed package."""

    package: str
    path: str

    def find(self) -> Path | None:
        """Where it is, found without running any of the package's code; None where it is not installed."""
        from importlib.util import find_spec

        spec = find_spec(self.package)
        for folder in (spec.submodule_search_locations or ()) if spec is not None else ():
            if (Path(folder) / self.path).is_file():
                return Path(folder) / self.path
        return None


@dataclass(frozen=True)
class Stroke:
    """A brush stroke: positions in RAS mm, the brush's radius, and whether it is on the object or beside it."""

    points_ras_mm: tuple[Position, ...]
    radius_mm: float
    positive: bool = True


@dataclass(frozen=True)
class Truth:
    """A sample's own label map, and the object's value there."""

    sample: Sample
    value: int


@dataclass(frozen=True)
class DemoCase:
    """One sample and what is said about it.

    Attributes:
        name: of the output files.
        title: for people.
        structure: what is segmented.
        image: where the sample is.
        truth: to compare with; None where the sample has no labels.
        box_ras_mm: corners of a box drawn around the structure.
        strokes: after it.
        what: box and strokes in words.
    """

    name: str
    title: str
    structure: str
    image: Sample
    truth: Truth | None
    box_ras_mm: tuple[Position, Position]
    strokes: tuple[Stroke, ...]
    what: str

    @property
    def samples(self) -> tuple[Sample, ...]:
        """All files that are needed."""
        return (self.image,) if self.truth is None else (self.image, self.truth.sample)

    def prompts(self) -> list[Prompt]:
        """The box, then the strokes."""
        from volseg.geometry import Frame
        from volseg.prompts import Box, Scribble

        strokes = (Scribble(one.points_ras_mm, Frame.RAS, one.positive, one.radius_mm) for one in self.strokes)
        return [Box(*self.box_ras_mm, Frame.RAS), *strokes]


CASES = (
    DemoCase(
        name="ct",
        title="CT, lumbar vertebra",
        structure="vertebra",
        image=Sample("TPTBox", "tests/sample_ct/sub-ct_label-22_ct.nii.gz"),
        truth=Truth(Sample("TPTBox", "tests/sample_ct/sub-ct_seg-vert_label-22_msk.nii.gz"), 22),
        box_ras_mm=((-72, -237, -97), (24, -141, -40)),
        strokes=(
            Stroke(((-36, -158, -64), (-18, -158, -64)), 9.0),
            Stroke(((-42, -172, -59), (-43, -180, -58)), 3.0),
            Stroke(((-8, -180, -60), (-7, -189, -58)), 3.0),
            Stroke(((-22, -202, -69), (-22, -216, -77)), 3.0),
            Stroke(((-44, -188, -63), (-60, -198, -61)), 2.0),
            Stroke(((2, -189, -63), (14, -196, -63)), 2.0),
            Stroke(((-36, -204, -48), (-36, -200, -53)), 3.0, positive=False),
            Stroke(((-12, -203, -46), (-12, -200, -50)), 3.0, positive=False),
            Stroke(((-39, -191, -86), (-46, -201, -81)), 3.0, positive=False),
            Stroke(((-9, -189, -86), (-2, -198, -80)), 3.0, positive=False),
        ),
        what="a 3D box; a thick stroke through the body, thin ones through pedicles, spinous and transverse processes; "
        "strokes on the joints of both neighbours, which do not belong to it",
    ),
    DemoCase(
        name="mr",
        title="T2-weighted MR, lumbar vertebra",
        structure="vertebra",
        image=Sample("TPTBox", "tests/sample_mri/sub-mri_label-6_T2w.nii.gz"),
        truth=Truth(Sample("TPTBox", "tests/sample_mri/sub-mri_seg-vert_label-6_msk.nii.gz"), 6),
        box_ras_mm=((-46, 26, 86), (33, 107, 142)),
        strokes=(
            Stroke(((-16, 88, 124), (2, 88, 124)), 9.0),
            Stroke(((-22, 72, 125), (-24, 60, 124)), 3.0),
            Stroke(((9, 72, 125), (10, 56, 125)), 3.0),
            Stroke(((-8, 50, 104), (-8, 36, 100)), 3.0),
            Stroke(((6, 57, 104), (6, 57, 98)), 3.0),
            Stroke(((-17, 57, 104), (-17, 57, 97)), 3.0),
            Stroke(((-16, 88, 103), (4, 84, 103)), 6.0, positive=False),
            Stroke(((-28, 72, 116), (-21, 66, 112)), 3.0, positive=False),
            Stroke(((19, 70, 116), (9, 67, 112)), 3.0, positive=False),
            Stroke(((-3, 65, 128), (-5, 66, 112)), 2.0, positive=False),
        ),
        what="a 3D box; a thick stroke through the body, thin ones through pedicles, spinous process and lower joints; "
        "strokes on the disc below, beside both pedicles and in the canal, which do not belong to it",
    ),
    DemoCase(
        name="brain",
        title="T1-weighted MR (MNI152), left thalamus",
        structure="left thalamus",
        image=Sample("nilearn", "datasets/data/mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz"),
        truth=None,
        box_ras_mm=((-24, -32, -4), (0, 0, 18)),
        strokes=(),
        what="a 3D box",
    ),
)

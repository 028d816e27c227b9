"""Whether a text model tells what is in an image from what is not: structures of brain and abdomen, asked anywhere.

    python benchmarks/presence.py --data ../shared/data
    python benchmarks/presence.py --data ../shared/data --groups "limb CT,neck MR"

Nothing here was trained on but what a row says. Structures of the brain are present in the held-out hippocampus crops
and in Colin27 and MNI152 as whole heads; those of the abdomen in a CT and in an MR (trained on). Both are absent from
the limbs of the held-out sarcoma patients in CT and MR and from necks in MR, either from where the other one is.
Vertebrae in CT and MR may show an abdomen, but no brain.
Blocks of Colin27 ask for the field of view: a structure is present where the AAL atlas has at least half of it in the
block, absent where the atlas has none of it within 10 mm; others are not asked for. The area under the ROC curve (AUC)
is that of presence over present and absent structures; of a group without present ones, against the hippocampus crops.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from monai.data import MetaTensor

from volseg.data import Modality, read_image
from volseg.geometry import Grid
from volseg.models.options import EncodeOptions
from volseg.models.registry import load_model
from volseg.models.text_query import TextQueryModel
from volseg.prompts import PromptedObject, PromptSet, Text
from volseg.text.vocabulary import load_vocabulary
from volseg.training.cases import find_cases
from volseg.training.text_query.config import NANO_CONFIG, read_text_config
from volseg.training.text_query.run import split_groups
from volseg.training.text_query.validate import CaseScore, presence_auc

CROPS = "hippocampus"
IN_CROPS = ("hippocampus", "hippocampus_anterior", "hippocampus_posterior")
IN_HEADS = (
    "hippocampus",
    "lateral_ventricle",
    "thalamus",
    "caudate_nucleus",
    "putamen",
    "globus_pallidus",
    "amygdala",
    "brain_stem",
    "cerebellum",
)
"""Without the parts of the hippocampus, which take minutes for a head."""

BRAIN = tuple(dict.fromkeys((*IN_CROPS, *IN_HEADS)))
ABDOMEN = ("liver", "spleen", "kidney", "gallbladder", "stomach", "pancreas", "duodenum")
NEAR_MM = 10.0
BLOCKS = {
    "upper": (2, 0.72, 1.0),
    "front": (1, 0.78, 1.0),
    "back": (1, 0.0, 0.2),
    "lower": (2, 0.0, 0.28),
    "left": (0, 0.0, 0.3),
}
"""Blocks of Colin27: axis of RAS, and the part of the volume from where to where."""

IN_ATLAS = {
    "hippocampus": (37, 38),
    "amygdala": (41, 42),
    "caudate_nucleus": (71, 72),
    "putamen": (73, 74),
    "thalamus": (77, 78),
}


@dataclass(frozen=True, eq=False)
class Asked:
    """One image, and the concepts that are in it and that are not."""

    group: str
    name: str
    image: Any
    present: tuple[str, ...]
    absent: tuple[str, ...]


def images(data: Path) -> Iterator[Asked]:
    """All images, read when they are needed."""
    yield from heads(data / "small" / "debian_colin27")
    yield from patients(data)
    small = data / "small"
    for path in ("sct/t1w.nii.gz", "sct/t2.nii.gz"):
        # The brain stem may reach into a neck.
        absent = tuple(one for one in (*BRAIN, *ABDOMEN) if one not in ("brain_stem", "cerebellum"))
        yield Asked("neck MR", path, read(small / path, Modality.MR), ("spinal_cord",), absent)
    for path, kind in (("sub-ct_label-22_ct", Modality.CT), ("sub-mri_label-6_T2w", Modality.MR)):
        yield Asked(f"vertebra {kind}", path, read(small / f"tptbox/{path}.nii.gz", kind), (), BRAIN)
    yield from blocks(small / "debian_colin27")


def heads(folder: Path) -> Iterator[Asked]:
    """Whole heads; MNI152 where nilearn is installed, which carries it."""
    yield Asked("whole head MR", "Colin27", read(folder / "ch2.nii.gz", Modality.MR), IN_HEADS, ABDOMEN)
    try:
        from nilearn.datasets import load_mni152_template
    except ImportError:
        return
    yield Asked("whole head MR", "MNI152", tensor(load_mni152_template(resolution=1)), IN_HEADS, ABDOMEN)


def patients(data: Path) -> Iterator[Asked]:
    """Held-out patients, and the two abdomens."""
    limbs = {"sarcoma_ct": "limb CT", "sarcoma_mr": "limb MR"}
    abdomens = {"body_ct": "abdomen CT, trained on", "body_mr": "abdomen MR, trained on"}
    config = read_text_config(NANO_CONFIG)
    for group, cases in split_groups(config, data, training=False):
        name, modality = group.source.group, group.source.modality
        for case in cases:
            if name == CROPS:
                yield Asked(CROPS, case.name, read(case.image, modality), IN_CROPS, ABDOMEN)
            elif name in limbs:
                yield Asked(limbs[name], case.name, read(case.image, modality), (), (*BRAIN, *ABDOMEN))
    for group in config.groups:
        for case in find_cases(data, group.source) if group.source.group in abdomens else ():
            name, there = abdomens[group.source.group], tuple(group.source.objects)
            yield Asked(name, case.name, read(case.image, group.source.modality), there, BRAIN)


def blocks(folder: Path) -> Iterator[Asked]:
    """Blocks of Colin27."""
    from scipy.ndimage import distance_transform_edt

    image = nibabel.as_closest_canonical(nibabel.load(folder / "ch2.nii.gz"))
    atlas = nibabel.as_closest_canonical(nibabel.load(folder / "aal.nii.gz"))
    labels = np.asarray(atlas.dataobj).astype(np.int32)
    assert labels.shape == image.shape[:3]
    assert np.allclose(atlas.affine, image.affine)
    for name, (axis, first, last) in BLOCKS.items():
        n = labels.shape[axis]
        cut = [slice(None)] * 3
        cut[axis] = slice(round(first * n), round(last * n))
        inside = np.zeros(labels.shape, dtype=bool)
        inside[tuple(cut)] = True
        present, absent = [], []
        for concept, ids in IN_ATLAS.items():
            where = np.isin(labels, ids)
            if (where & inside).sum() >= 0.5 * where.sum():
                present.append(concept)
            elif distance_transform_edt(~where, sampling=image.header.get_zooms()[:3])[inside].min() > NEAR_MM:
                absent.append(concept)
        yield Asked("block of a head MR", name, tensor(image.slicer[tuple(cut)]), tuple(present), tuple(absent))


def read(path: str | Path, modality: Modality) -> MetaTensor:
    return read_image(Path(path), modality=modality)


def tensor(image: Any) -> MetaTensor:
    import torch

    values = np.ascontiguousarray(image.get_fdata(dtype=np.float32))
    return MetaTensor(torch.from_numpy(values)[None], affine=torch.from_numpy(image.affine), meta={"modality": "MR"})


def ask(model: TextQueryModel, asked: Asked) -> Iterator[CaseScore]:
    """Presence of every concept."""
    vocabulary = load_vocabulary()
    concepts = [one for one in (*asked.present, *asked.absent) if one in model.offered]
    names = [vocabulary.by_id(one).name for one in concepts]
    objects = tuple(PromptedObject(n, (Text(name),), name) for n, name in enumerate(names, 1))
    if not objects:
        return
    with model.encode(asked.image, EncodeOptions()) as encoding:
        result = model.segment(encoding, PromptSet(Grid.of(asked.image), objects))
    for concept, mask in zip(concepts, result.masks, strict=True):
        here = concept in asked.present
        yield CaseScore(asked.group, asked.name, concept, here, mask.presence or 0.0, None, False)


def line(group: str, scores: Sequence[CaseScore], present: Sequence[CaseScore]) -> str:
    """One row of the table: how many of the present ones were called present, of the absent ones absent."""
    here, gone = [s for s in scores if s.present], [s for s in scores if not s.present]
    area, _, _ = presence_auc([*(here or present), *gone])
    found, right = sum(s.presence >= 0.5 for s in here), sum(s.presence < 0.5 for s in gone)
    area_text = "" if np.isnan(area) else f"{area:.3f}"
    cases = len({s.case for s in scores})
    return f"{group:22} {cases:6} {found:5} of {len(here):<5} {right:5} of {len(gone):<5} {area_text:>6}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", default="text-nano")
    parser.add_argument("--groups", default="", help="only these, beside the hippocampus crops")
    parser.add_argument("--verbose", action="store_true")
    given = parser.parse_args()
    model = load_model(given.model, device="cpu")
    assert isinstance(model, TextQueryModel)
    chosen = {name.strip() for name in given.groups.split(",") if name.strip()}
    scores: list[CaseScore] = []
    for asked in images(given.data):
        if chosen and asked.group not in {*chosen, CROPS}:
            continue
        found = list(ask(model, asked))
        scores += found
        if given.verbose:
            listed = ", ".join(f"{s.concept}{'' if s.present else ' (absent)'} {s.presence:.2f}" for s in found)
            print(f"{asked.group}, {asked.name}: {listed}", flush=True)
    crops = [s for s in scores if s.group == CROPS]
    print(f"{'group':22} {'images':>6} {'present found':>14} {'absent refused':>14} {'AUC':>6}")
    for group in dict.fromkeys(s.group for s in scores):
        print(line(group, [s for s in scores if s.group == group], crops))
    print(line("all", scores, crops))


if __name__ == "__main__":
    main()

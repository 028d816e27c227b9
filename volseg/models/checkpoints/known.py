"""The public checkpoints that volseg knows by name.

Revisions, sizes and hashes are those of the public files, as other public projects have recorded them: several for SAM
2.1 and MedSAM2, a single one for SAM 2.0, whose revision nobody recorded. None has been tried against the hub itself; a
file that does not match is refused. A file whose hash nobody published has ``sha256=""``: its first download is held to
the pinned revision only, and the hash that arrived is written into the converted bundle.
"""

from __future__ import annotations

from dataclasses import dataclass

from volseg.data.modality import Modality
from volseg.models.card import License
from volseg.networks.sam2.config import Sam2Spec, Sam2Variant, Sam2Version

META_LICENSE = License("Apache-2.0", commercial=True, attribution="SAM 2, Meta Platforms, Inc., arXiv 2408.00714")

MEDSAM2_LICENSE = License(
    "CC-BY-SA-4.0",
    commercial=False,
    attribution="MedSAM2, Ma et al., arXiv 2504.03600; its card says CC BY-SA 4.0 and also research and "
    "education only, so commercial use is taken as not allowed",
)

MEDSAM2_REVISION = "e4a6f35edd7e091619cbc0750f462f1574e23955"


@dataclass(frozen=True)
class KnownModel:
    """A public checkpoint file.

    Attributes:
        name: as given to ``volseg models download`` and ``load_model``.
        summary: one sentence for people.
        repository: owner/name on the Hugging Face hub.
        file: path in the repository.
        revision: commit of the repository; ``main`` only where ``sha256`` pins the content.
        sha256: of the file; empty where none is published.
        size_bytes: of the file; 0 where unknown.
        spec: the network it is for.
        license: terms of the weights.
        modalities: what it was made for.
    """

    name: str
    summary: str
    repository: str
    file: str
    revision: str
    sha256: str
    size_bytes: int
    spec: Sam2Spec
    license: License = META_LICENSE
    modalities: frozenset[Modality] = frozenset(Modality)


def _sam2(variant: Sam2Variant, version: Sam2Version, revision: str, sha256: str, size_bytes: int) -> KnownModel:
    dash = variant.replace("_", "-")
    stem = "sam2.1" if version is Sam2Version.V2_1 else "sam2"
    return KnownModel(
        name=f"{stem}-{dash}",
        summary=f"SAM {version} {dash.replace('-', ' ')} by Meta, trained on photographs and videos.",
        repository=f"facebook/{stem}-hiera-{dash}",
        file=f"{stem}_hiera_{variant}.pt",
        revision=revision,
        sha256=sha256,
        size_bytes=size_bytes,
        spec=Sam2Spec(variant, version),
    )


def _medsam2(name: str, file: str, what: str, modalities: frozenset[Modality], sha256: str, size: int) -> KnownModel:
    return KnownModel(
        name=name,
        summary=f"MedSAM2 (SAM 2.1 tiny at 512 pixels), {what}.",
        repository="wanglab/MedSAM2",
        file=file,
        revision=MEDSAM2_REVISION,
        sha256=sha256,
        size_bytes=size,
        spec=Sam2Spec(Sam2Variant.TINY, image_size=512),
        license=MEDSAM2_LICENSE,
        modalities=modalities,
    )


_ALL = frozenset(Modality)

KNOWN_MODELS: tuple[KnownModel, ...] = (
    _sam2(
        Sam2Variant.TINY,
        Sam2Version.V2_1,
        "de431c4043854a71d8101e17995dfe596bf101a5",
        "7402e0d864fa82708a20fbd15bc84245c2f26dff0eb43a4b5b93452deb34be69",
        156_008_466,
    ),
    _sam2(
        Sam2Variant.SMALL,
        Sam2Version.V2_1,
        "ee5bba1d82bb8749febdf90f45e84b687142ba03",
        "6d1aa6f30de5c92224f8172114de081d104bbd23dd9dc5c58996f0cad5dc4d38",
        184_416_285,
    ),
    _sam2(
        Sam2Variant.BASE_PLUS,
        Sam2Version.V2_1,
        "b7320756a13354e7530a63935656d35b2f91a290",
        "a2345aede8715ab1d5d31b4a509fb160c5a4af1970f199d9054ccfb746c004c5",
        323_606_802,
    ),
    _sam2(
        Sam2Variant.LARGE,
        Sam2Version.V2_1,
        "665f8e2ad61cf5f53d65644ff27c8ee525124610",
        "2647878d5dfa5098f2f8649825738a9345572bae2d4350a2468587ece47dd318",
        898_083_611,
    ),
    _sam2(
        Sam2Variant.TINY,
        Sam2Version.V2_0,
        "main",
        "65b50056e05bcb13694174f51bb6da89c894b57b75ccdf0ba6352c597c5d1125",
        0,
    ),
    _sam2(
        Sam2Variant.SMALL,
        Sam2Version.V2_0,
        "main",
        "95949964d4e548409021d47b22712d5f1abf2564cc0c3c765ba599a24ac7dce3",
        0,
    ),
    _sam2(
        Sam2Variant.BASE_PLUS,
        Sam2Version.V2_0,
        "main",
        "d0bb7f236400a49669ffdd1be617959a8b1d1065081789d7bbff88eded3a8071",
        0,
    ),
    _sam2(
        Sam2Variant.LARGE,
        Sam2Version.V2_0,
        "main",
        "7442e4e9b732a508f80e141e7c2913437a3610ee0c77381a66658c3a445df87b",
        0,
    ),
    _medsam2(
        "medsam2",
        "MedSAM2_latest.pt",
        "the latest training on all its data",
        _ALL,
        "c92743b99f00d078bf32a3afcc38aaa9faf1c1692dffe3eaa7a90938c1991060",
        156_040_129,
    ),
    _medsam2("medsam2-2411", "MedSAM2_2411.pt", "the first training of November 2024", _ALL, "", 0),
    _medsam2("medsam2-ct-lesion", "MedSAM2_CTLesion.pt", "tuned on CT lesions", frozenset({Modality.CT}), "", 0),
    _medsam2(
        "medsam2-mr-liver-lesion",
        "MedSAM2_MRI_LiverLesion.pt",
        "tuned on liver lesions in MR",
        frozenset({Modality.MR}),
        "",
        0,
    ),
    _medsam2(
        "medsam2-us-heart",
        "MedSAM2_US_Heart.pt",
        "tuned on heart ultrasound",
        frozenset({Modality.OTHER}),
        "",
        0,
    ),
)


def known_model(name: str) -> KnownModel | None:
    """The checkpoint of that name."""
    return next((known for known in KNOWN_MODELS if known.name == name), None)


def known_by_hash(sha256: str) -> KnownModel | None:
    """The checkpoint whose file has that hash."""
    return next((known for known in KNOWN_MODELS if known.sha256 == sha256), None)

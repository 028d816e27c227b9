"""The vocabulary's files: whole, consistent, and true to the tables they name as their source."""

from __future__ import annotations

import csv
import re

import numpy as np
import pytest

from volseg.errors import PromptError
from volseg.text.query import Recipe, recipe
from volseg.text.vocabulary import (
    ConceptKind,
    Laterality,
    list_datasets,
    load_dataset_labels,
    load_vocabulary,
)


@pytest.fixture(scope="module")
def vocabulary():
    return load_vocabulary()


def test_ids_are_stable_words_and_differ(vocabulary):
    ids = [concept.id for concept in vocabulary]
    assert len(set(ids)) == len(ids) == len(vocabulary)
    assert all(re.fullmatch(r"[a-z][a-z0-9_]*", one) for one in ids)
    assert {"kidney", "kidney_left", "hippocampus_left", "soft_tissue_sarcoma", "vertebra_l3"} <= set(ids)


def test_relations_name_concepts_and_have_no_circles(vocabulary):
    for concept in vocabulary:
        assert concept.base in vocabulary
        for other in (*concept.parents, *(part for parts in concept.parts for part in parts)):
            assert other in vocabulary, concept.id
        assert concept.id not in vocabulary.ancestors(concept.id)
        for parts in concept.parts:
            assert concept.id not in parts


def test_pairs_mirror_one_another(vocabulary):
    for concept in vocabulary:
        if concept.base == concept.id:
            continue
        left, right = (vocabulary.by_id(f"{concept.base}_{side}") for side in ("left", "right"))
        assert (left.laterality, right.laterality) == (Laterality.LEFT, Laterality.RIGHT)
        assert left.snomed == right.snomed
        assert left.name == f"left {vocabulary.by_id(concept.base).name}"
        assert vocabulary.sided(left.id, Laterality.RIGHT) is right
        assert vocabulary.by_id(concept.base).laterality is Laterality.BOTH


def test_colors_kinds_and_codes_are_valid(vocabulary):
    for concept in vocabulary:
        assert all(0 <= part <= 255 for part in concept.color_rgb)
        assert concept.kind in ConceptKind
        assert concept.modalities
        assert concept.source
        assert concept.snomed is None or concept.snomed.code.isdigit()


def test_an_unknown_id_is_refused(vocabulary):
    with pytest.raises(PromptError, match="no_such"):
        vocabulary.by_id("no_such")


def test_the_tables_have_the_size_their_sources_state():
    sizes = {name: len(load_dataset_labels(name)) for name in list_datasets()}
    assert sizes == {
        "totalsegmentator_ct": 117, "totalsegmentator_mr": 50, "aal116": 116, "freesurfer_aseg": 45,
        "msd_hippocampus": 2, "sct_spinal_cord": 1, "sts_sarcoma": 1,
    }  # fmt: skip


@pytest.mark.parametrize("dataset", list_datasets())
def test_each_label_is_a_concept_of_its_own(dataset, vocabulary):
    labels = load_dataset_labels(dataset)
    assert len(set(labels.values())) == len(labels)
    assert all(concept_id in vocabulary for concept_id in labels.values())


def test_some_labels_known_by_heart():
    assert load_dataset_labels("totalsegmentator_ct")[3] == "kidney_left"
    assert load_dataset_labels("totalsegmentator_ct")[92] == "rib_1_left"
    assert load_dataset_labels("freesurfer_aseg")[17] == "hippocampus_left"
    assert load_dataset_labels("freesurfer_aseg")[53] == "hippocampus_right"
    assert load_dataset_labels("aal116")[37] == "hippocampus_left"
    assert load_dataset_labels("msd_hippocampus")[1] == "hippocampus_anterior"
    with pytest.raises(PromptError, match="aal116"):
        load_dataset_labels("nothing")


def test_codes_are_those_of_the_source_table(shared_data, vocabulary):
    path = shared_data / "small" / "ts_example" / "totalsegmentator_snomed_mapping.csv"
    with path.open() as file:
        table = {row["Structure"]: row for row in csv.DictReader(file)}
    names = {row["dataset_name"]: row["concept"] for row in _dataset_rows("totalsegmentator_ct")}
    compared = 0
    for name, concept_id in names.items():
        code = table[name]["SegmentedPropertyTypeCodeSequence.CodeValue"] if name in table else None
        snomed = vocabulary.by_id(concept_id).snomed
        if code is None or snomed is None or table[name]["AnatomicRegionSequence.CodeValue"]:
            continue
        assert snomed.code == code, name
        compared += 1
    assert compared >= 110


def test_left_regions_of_the_atlas_lie_on_the_left(shared_data, vocabulary):
    """Colin27's AAL regions: the file's affine says where left is, the table says which regions are left."""
    import nibabel

    image = nibabel.load(shared_data / "small" / "debian_colin27" / "aal.nii.gz")
    values = np.asanyarray(image.dataobj).astype(np.int64)
    labels, x_mm_of_each = values[values > 0], np.argwhere(values > 0) @ image.affine[0, :3] + image.affine[0, 3]
    sums_mm, voxels = np.bincount(labels, x_mm_of_each), np.bincount(labels)
    for value, concept_id in load_dataset_labels("aal116").items():
        assert voxels[value]
        x_mm = sums_mm[value] / voxels[value]
        side = vocabulary.by_id(concept_id).laterality
        if side is not Laterality.NONE:
            assert (x_mm < 0) == (side is Laterality.LEFT), concept_id


def test_a_model_that_offers_parts_offers_the_whole(vocabulary):
    lobes = {concept.id for concept in vocabulary if re.fullmatch(r"lung_\w+_lobe_(left|right)", concept.id)}
    assert recipe("lung_left", lobes) == Recipe(("lung_upper_lobe_left", "lung_lower_lobe_left"))
    assert set(recipe("lung", lobes).parts) == lobes
    assert recipe("lung", lobes - {"lung_middle_lobe_right"}) is None
    assert recipe("kidney", {"kidney_left"}) is None
    assert recipe("kidney", {"kidney_left", "kidney_right"}) == Recipe(("kidney_left", "kidney_right"))
    assert recipe("hippocampus", {"hippocampus_anterior", "hippocampus_posterior"}).parts == (
        "hippocampus_anterior", "hippocampus_posterior",
    )  # fmt: skip
    assert recipe("hippocampus_anterior_left", {"hippocampus_anterior"}) == Recipe(
        ("hippocampus_anterior",), Laterality.LEFT
    )
    assert recipe("spleen", {"liver"}) is None


def _dataset_rows(dataset):
    from volseg.text.tables import rows

    return [row for row in rows("dataset_labels.csv") if row["dataset"] == dataset]

"""Which cases there are, and what they are called."""

from __future__ import annotations

import json
import re
from pathlib import PurePath

import pytest
from batch_cases import make_case, phantom
from dicom_files import write_series
from hypothesis import given
from hypothesis import strategies as st
from pydicom.uid import CTImageStorage

from volseg.batch import FindSettings, IdStyle, SeriesFilter, SeriesSource, find_cases
from volseg.batch.ids import file_case_id
from volseg.errors import ImageReadError, PromptError, WriteError
from volseg.geometry import Frame, Grid

GRID = Grid((12, 10, 8), phantom().affine_ras)


def ids(found):
    return [case.case_id for case in found.cases]


def test_files_folders_and_globs_give_the_same_cases(tmp_path):
    for number, (name, kind) in enumerate((("a", ".nii.gz"), ("b", ".nrrd"), ("c", ".mha"))):
        make_case(tmp_path, name, kind, number)
    named = find_cases([tmp_path / "a.nii.gz", tmp_path / "b.nrrd", tmp_path / "c.mha"], FindSettings())
    assert ids(named) == ["a", "b", "c"]
    assert find_cases([tmp_path], FindSettings()) == named
    assert ids(find_cases([f"{tmp_path}/[ab].n*"], FindSettings())) == ["a", "b"]
    assert [case.prompts.path.name for case in named.cases] == ["a.json", "b.json", "c.json"]


def test_folder_names_never_enter_a_case_id(tmp_path):
    for name in ("Doe^Jane", "4711"):
        (tmp_path / name).mkdir()
        make_case(tmp_path / name, "ct", ".nii.gz")
        make_case(tmp_path / name, "series", "dicom", int(name == "4711"))
    names = FindSettings(ids=IdStyle.NAMES)
    found = find_cases([tmp_path], names)
    assert len(set(ids(found))) == 4
    assert not re.search("doe|jane|4711", " ".join(ids(found)), re.IGNORECASE)
    again = find_cases([f"{tmp_path}/*/ct.nii.gz"], names)
    assert set(ids(again)) < set(ids(found))
    hashed = find_cases([tmp_path], FindSettings(ids=IdStyle.HASHED))
    assert all(re.fullmatch(r"(case|dicom)-[0-9a-f]{12}", name) for name in ids(hashed))


def test_files_in_an_archive_are_not_called_by_their_names_unless_asked(tmp_path):
    """Files beside DICOM are of patients; those in a folder of volumes are called as their owner called them."""
    archive, volumes = tmp_path / "archive", tmp_path / "volumes"
    for folder in (archive, volumes):
        folder.mkdir()
        make_case(folder, "Doe_Jane", ".nii.gz")
    make_case(archive, "series", "dicom")
    found = find_cases([archive, volumes], FindSettings())
    assert found.renamed == 1
    assert [re.sub("[0-9a-f]{12}", "#", name) for name in ids(found)] == ["Doe_Jane", "case-#", "dicom-#"]
    named = find_cases([archive], FindSettings(ids=IdStyle.NAMES))
    assert (named.renamed, ids(named)[0]) == (0, "Doe_Jane")
    # Nor is a DICOM file that is so damaged that only its name remains.
    (archive / "Doe_John.dcm").write_bytes(b"broken")
    (case,) = find_cases([archive / "Doe_John.dcm"], FindSettings()).cases
    assert re.fullmatch("case-[0-9a-f]{12}", case.case_id)


@pytest.mark.parametrize("given", ["folder", "file"])
def test_results_do_not_go_among_the_images(tmp_path, given):
    path = make_case(tmp_path, "a", ".nii.gz")
    with pytest.raises(WriteError, match="an image lies in the output folder"):
        find_cases([tmp_path if given == "folder" else path], FindSettings(leave_out=tmp_path))


def test_an_id_does_not_depend_on_other_cases(tmp_path):
    (tmp_path / "x").mkdir()
    make_case(tmp_path / "x", "ct", ".nii.gz")
    before = ids(find_cases([tmp_path], FindSettings()))
    (tmp_path / "y").mkdir()
    make_case(tmp_path / "y", "ct", ".nii.gz")
    assert set(before) < set(ids(find_cases([tmp_path], FindSettings())))


def test_names_that_are_equal_become_different(tmp_path):
    make_case(tmp_path, "ct", ".nii.gz")
    make_case(tmp_path, "CT", ".nrrd")
    found = ids(find_cases([tmp_path, tmp_path / "ct.nii.gz"], FindSettings()))
    assert len(found) == 2
    assert len({name.lower() for name in found}) == 2


@given(st.text(min_size=1, max_size=200).filter(lambda text: "/" not in text and text not in (".", "..")))
def test_every_file_name_becomes_a_name_that_every_system_takes(name):
    made = file_case_id(PurePath(name), IdStyle.NAMES)
    assert re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}", made)


def test_an_archive_in_any_layout(tmp_path):
    made = phantom()
    flat, nested = tmp_path / "flat", tmp_path / "Roe^Rick" / "1999" / "s1"
    for uid, modality in (("1.1", "CT"), ("1.2", "MR")):
        write_series(tmp_path / "tmp", made.array, made.affine_ras, uid=uid, Modality=modality,
                     SeriesDescription=f"{modality} axial")  # fmt: skip
        flat.mkdir(exist_ok=True)
        for number, path in enumerate(sorted((tmp_path / "tmp").iterdir())):
            path.rename(flat / f"{uid}-{number}")  # no ending, two series in one folder
    write_series(nested / "a", made.array[:, :, :4], made.affine_ras, uid="1.3", SeriesDescription="scout")
    (tmp_path / "notes.txt").write_text("no image")
    found = find_cases([tmp_path], FindSettings())
    sources = {case.source.uid: case.source for case in found.cases}
    assert {uid: (item.modality, item.shape) for uid, item in sources.items()} == {
        "1.1": ("CT", (12, 10, 8)),
        "1.2": ("MR", (12, 10, 8)),
        "1.3": ("CT", (12, 10, 4)),
    }
    assert all(len(item.files) == item.shape[2] for item in sources.values())

    def wanted(**choice):
        found = find_cases([tmp_path], FindSettings(series=SeriesFilter(**choice)))
        return sorted(case.source.uid for case in found.cases), dict(found.passed_over)

    assert wanted(modalities=frozenset({"CT"})) == (["1.1", "1.3"], {"another modality": 1})
    assert wanted(description=re.compile("AXIAL", re.IGNORECASE)) == (["1.1", "1.2"], {"another description": 1})
    assert wanted(min_slices=5) == (["1.1", "1.2"], {"fewer than 5 slices": 1})
    assert wanted(max_slices=5) == (["1.3"], {"more than 5 slices": 2})


def test_a_damaged_slice_marks_the_series_beside_it(tmp_path):
    path = make_case(tmp_path, "series", "dicom")
    (path / "0001.dcm").write_bytes((path / "0001.dcm").read_bytes()[:150] + b"\xff" * 30)
    (case,) = find_cases([tmp_path], FindSettings()).cases
    assert case.source.damaged == 1
    assert len(case.source.files) == 7


def test_segmentations_in_an_archive_are_no_images(tmp_path):
    made = phantom()
    write_series(tmp_path / "ct", made.array, made.affine_ras, uid="1.1")
    write_series(tmp_path / "seg", made.array, made.affine_ras, uid="1.2", Modality="SEG",
                 SOPClassUID=CTImageStorage)  # fmt: skip
    found = find_cases([tmp_path], FindSettings())
    assert [case.source.uid for case in found.cases] == ["1.1"]
    assert found.passed_over == {"no image": 1}


def test_one_slice_stands_for_its_series(tmp_path):
    path = make_case(tmp_path, "series", "dicom")
    (case,) = find_cases([path / "0003.dcm"], FindSettings()).cases
    assert isinstance(case.source, SeriesSource)
    assert len(case.source.files) == 8


def test_a_listed_slice_stands_for_its_series(tmp_path):
    make_case(tmp_path, "series", "dicom")
    (tmp_path / "list.csv").write_text("id,image\none,series/0003.dcm\n")
    (case,) = find_cases([tmp_path / "list.csv"], FindSettings()).cases
    assert (case.case_id, case.format, len(case.sources)) == ("one", "DICOM", 8)


def test_the_output_is_not_searched(tmp_path):
    make_case(tmp_path, "a", ".nii.gz")
    (tmp_path / "out").mkdir()
    make_case(tmp_path / "out", "a_seg", ".nii.gz")
    assert ids(find_cases([tmp_path], FindSettings(leave_out=tmp_path / "out"))) == ["a"]


def test_a_csv_list_with_boxes(tmp_path):
    make_case(tmp_path, "a", ".nii.gz")
    make_case(tmp_path, "b", ".nrrd")
    (tmp_path / "list.csv").write_text(
        "id,image,object,frame,box,point,text\n"
        'pat1,a.nii.gz,low,ijk,"1,1,2,3,4,5",,\n'
        'pat1,a.nii.gz,high,ijk,,"8 6 3; 7 6 3",\n'
        "second,b.nrrd,,,,,liver\n"
    )
    first, second = find_cases([tmp_path / "list.csv"], FindSettings()).cases
    assert (first.case_id, second.case_id) == ("pat1", "second")
    low, high = first.prompts.read(GRID).objects
    assert (low.object_id, low.name, low.prompts[0].low, low.prompts[0].high) == (1, "low", (1, 1, 2), (3, 4, 5))
    assert (high.object_id, [point.position for point in high.prompts]) == (2, [(8, 6, 3), (7, 6, 3)])
    assert low.prompts[0].frame is Frame.IJK
    assert second.prompts.read(GRID).objects[0].prompts[0].text == "liver"


def test_a_json_list_of_either_kind(tmp_path):
    path = make_case(tmp_path, "a", ".nii.gz")
    inline = json.loads((tmp_path / "a.json").read_text())
    rows = [
        {"image": path.name, "id": "one", "prompts": inline},
        {"image": path.name, "id": "two", "prompts": "a.json"},
    ]
    (tmp_path / "list.json").write_text(json.dumps(rows))
    one, two = find_cases([tmp_path / "list.json"], FindSettings()).cases
    assert one.prompts.read(GRID) == two.prompts.read(GRID)
    (tmp_path / "dataset.json").write_text(json.dumps({"test": ["./a.nii.gz"], "training": []}))
    (case,) = find_cases([tmp_path / "dataset.json"], FindSettings()).cases
    assert case.case_id == "a"


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ("image,box\na.nii.gz,1;2\n", "row 1: a box is 6 numbers, got 1"),
        ("image,box\na.nii.gz,x\n", "row 1: a box is 6 numbers"),
        ("image,frame,point\na.nii.gz,xyz,1 2 3\n", "row 1: the frame is one of"),
        ("id,image\n../x,a.nii.gz\n", "row 1: a case's id"),
        ("path\na.nii.gz\n", "no column 'image'"),
        ("image\n\n,\n", "no image"),
    ],
)
def test_a_malformed_list_names_the_row(tmp_path, rows, said):
    (tmp_path / "list.csv").write_text(rows)
    with pytest.raises((PromptError, ImageReadError), match=re.escape(said)):
        find_cases([tmp_path / "list.csv"], FindSettings())


def test_prompts_come_from_the_list_then_a_file_then_the_texts(tmp_path):
    make_case(tmp_path, "a", ".nii.gz")
    make_case(tmp_path, "b", ".nii.gz", 1)
    (tmp_path / "b.json").unlink()
    said = tmp_path / "said"
    said.mkdir()
    (said / "a.prompts.json").write_text("{}")
    make_case(tmp_path, "c", ".nii.gz", 2)
    (tmp_path / "c.json").unlink()
    (said / "c.nii.gz").write_bytes((tmp_path / "c.nii.gz").read_bytes())
    a, b, c = find_cases([tmp_path], FindSettings(prompts_folder=said, texts=("liver", "spleen"))).cases
    assert c.prompts.path == said / "c.nii.gz"
    # An image is never its own prompt.
    assert find_cases([tmp_path / "c.nii.gz"], FindSettings(prompts_folder=tmp_path)).cases[0].prompts is None
    assert a.prompts.path == said / "a.prompts.json"
    assert [(item.name, item.object_id) for item in b.prompts.read(GRID).objects] == [("liver", 1), ("spleen", 2)]


def test_what_is_not_there_is_not_repeated(tmp_path):
    with pytest.raises(ImageReadError) as error:
        find_cases([tmp_path / "Doe^Jane"], FindSettings())
    assert str(error.value) == "input 1: there is no such file or folder"
    (tmp_path / "empty").mkdir()
    with pytest.raises(ImageReadError, match="no image was found"):
        find_cases([tmp_path / "empty"], FindSettings())

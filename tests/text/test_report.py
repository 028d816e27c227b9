"""Reports to findings, against answers written by hand."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from volseg.text.assertions import Assertion
from volseg.text.query import SelectorKind
from volseg.text.report import read_report
from volseg.text.vocabulary import load_vocabulary

SENTENCES = (
    # (text, ((what, where or "", assertion), ...))
    ("There is a nodule in the right lung.", (("lung_nodule_right", "", "present"),)),
    ("No pleural effusion.", (("pleural_effusion", "", "absent"),)),
    ("No evidence of pulmonary embolism.", (("pulmonary_embolism", "", "absent"),)),
    ("No mass, nodule or pleural effusion.",
     (("mass", "", "absent"), ("nodule", "", "absent"), ("pleural_effusion", "", "absent"))),
    ("No pleural effusion, but a nodule in the left lung.",
     (("pleural_effusion", "", "absent"), ("lung_nodule_left", "", "present"))),
    ("No pleural effusion, a 5 mm nodule in the right lung.",
     (("pleural_effusion", "", "absent"), ("lung_nodule_right", "", "present"))),
    ("No pleural effusion; nodule in the right lung.",
     (("pleural_effusion", "", "absent"), ("lung_nodule_right", "", "present"))),
    ("Pleural effusion is not seen.", (("pleural_effusion", "", "absent"),)),
    ("Ascites has resolved.", (("ascites", "", "absent"),)),
    ("Metastasis cannot be excluded.", (("metastasis", "", "uncertain"),)),
    ("Possible cyst in the left kidney.", (("kidney_cyst_left", "", "uncertain"),)),
    ("Findings are suspicious for liver metastasis.", (("metastasis", "liver", "uncertain"),)),
    ("No change in the known lung nodule.", (("lung_nodule", "", "present"),)),
    ("The spleen is enlarged.", (("spleen", "", "present"),)),
    ("Liver, spleen and pancreas are unremarkable.",
     (("liver", "", "present"), ("spleen", "", "present"), ("pancreas", "", "present"))),
    ("Both kidneys are normal without hydronephrosis.",
     (("kidney", "", "present"), ("hydronephrosis", "", "absent"))),
    ("Tumour of the prostate.", (("tumor", "prostate", "present"),)),
    ("Prostate: no focal lesion.", (("lesion", "prostate", "absent"),)),
    ("Left kidney shows a simple cyst.", (("kidney_cyst_left", "", "present"),)),
    ("Cysts in the liver and in the left kidney.",
     (("liver_cyst", "", "present"), ("kidney_cyst_left", "", "present"))),
    ("A mass in the right lower lobe.", (("mass", "lung_lower_lobe_right", "present"),)),
    ("Pleural effusion on the left.", (("pleural_effusion_left", "", "present"),)),
    ("Right-sided pneumothorax.", (("pneumothorax_right", "", "present"),)),
    ("The gallbladder is absent.", (("gallbladder", "", "absent"),)),
    ("Absent spleen.", (("spleen", "", "absent"),)),
    ("No dilatation of the aorta.", ()),
    ("The patient was comfortable.", ()),
    ("Kein Nachweis von Aszites.", (("ascites", "", "absent"),)),
    ("Verdacht auf Lebertumor.", (("liver_tumor", "", "uncertain"),)),
    ("Zyste in der linken Niere.", (("kidney_cyst_left", "", "present"),)),
)  # fmt: skip


def read(text):
    found = []
    for finding in read_report(text).findings:
        regions = [one.region.include[0] for one in finding.query.selectors if one.kind is SelectorKind.WITHIN]
        found.append((finding.query.include[0], regions[0] if regions else "", str(finding.assertion)))
    return tuple(found)


@pytest.mark.parametrize(("text", "expected"), SENTENCES, ids=[text for text, _ in SENTENCES])
def test_sentence(text, expected):
    assert read(text) == expected


def test_descriptions_go_to_what_they_describe():
    report = read_report(
        "There is a spiculated 3 cm mass in the left lower lobe and a small pleural effusion, no large cyst."
    )
    assert [finding.query.attributes for finding in report.findings] == [("spiculated", "3 cm"), ("small",), ("large",)]
    normal = read_report("Both kidneys are normal without hydronephrosis.").findings
    assert [finding.query.attributes for finding in normal] == [("normal",), ()]


def test_the_largest_is_the_largest():
    finding = read_report("The largest cyst in the liver measures 12 x 9 mm.").findings[0]
    assert [one.kind for one in finding.query.selectors] == [SelectorKind.LARGEST]
    assert finding.query.attributes == ("12 x 9 mm",)


def test_abbreviations_count_in_capitals_only():
    assert read("GB is normal.") == (("gallbladder", "", "present"),)
    assert read("In la vida, pe.") == ()


def test_ambiguous_words_are_reported_and_the_rest_is_read():
    report = read_report("The left ventricle is dilated. The spleen is normal.")
    assert [problem.phrase for problem in report.problems] == ["left ventricle"]
    assert [finding.query.include for finding in report.findings] == [("spleen",)]


def test_sentences_are_cut_at_their_ends_only():
    report = read_report("Liver: 2.3 cm cyst. Approx. 1.5 cm nodule in the spleen.\n- No ascites.\nWell tolerated.")
    assert [finding.sentence for finding in report.findings] == [
        "2.3 cm cyst.", "Approx. 1.5 cm nodule in the spleen.", "- No ascites.",
    ]  # fmt: skip
    assert [finding.query.include[0] for finding in report.findings] == ["liver_cyst", "nodule", "ascites"]
    assert report.unread == ("Well tolerated.",)


def test_positions_point_into_the_text():
    text = "FINDINGS:\n  The spleen is enlarged. No ascites. No ascites.\n\nLiver: cyst."
    findings = read_report(text).findings
    assert len(findings) == 4
    for finding in findings:
        assert text[finding.start :].lstrip().startswith(finding.sentence)
    assert len({finding.start for finding in findings}) == 4


@given(st.text(max_size=200))
def test_no_text_breaks_the_reader(text):
    report = read_report(text)
    for finding in report.findings:
        assert finding.assertion in tuple(Assertion)
        assert all(one in load_vocabulary() for one in finding.query.concept_ids)


PARTS = [
    "no",
    "cyst",
    "in",
    "the",
    "liver",
    ",",
    "left kidney",
    "and",
    "possible",
    "spleen",
    "is",
    "enlarged",
    "not seen",
]
PARTS += [".", "\n", "Liver:", "5 mm", "largest", "without", "SMA", "left"]


@given(st.lists(st.sampled_from(PARTS), max_size=25))
def test_no_mixture_of_words_breaks_the_reader(parts):
    for finding in read_report(" ".join(parts)).findings:
        assert finding.query.describe()


def test_a_long_report_takes_no_time():
    text = "\n".join(text for text, _ in SENTENCES) * 10
    read_report("liver")
    start = time.perf_counter()
    assert len(read_report(text).findings) > 300
    assert time.perf_counter() - start < 10.0

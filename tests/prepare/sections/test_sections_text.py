"""Sections and sentences: found where a reader sees them, with spans that round-trip."""

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from glint.prepare.sections.headers import canonical_section, find_sections
from glint.prepare.sections.sentences import sentence_spans


def sectioned(text: str) -> list[tuple[str, str]]:
    return [(s.section, text[s.start : s.end]) for s in find_sections(text)]


def sentences(text: str) -> list[str]:
    return [text[a:b] for a, b in sentence_spans(text)]


def test_a_plain_report_is_cut_at_its_headers():
    text = "CLINICAL INFORMATION: Cough.\n\nTECHNIQUE:\nNo contrast.\n\nFINDINGS:\nClear.\n\nIMPRESSION: Normal.\n"
    assert sectioned(text) == [
        ("clinical_information", "Cough."),
        ("technique", "No contrast."),
        ("findings", "Clear."),
        ("impression", "Normal."),
    ]


@pytest.mark.parametrize(
    ("header", "canonical"),
    [
        ("FINDINGS", "findings"),
        ("Findings", "findings"),
        ("CONCLUSION", "impression"),
        ("Opinion", "impression"),
        ("Reason for exam", "clinical_information"),
        ("FINDINGS AND IMPRESSION", "findings_impression"),
        ("Findings/Impression", "findings_impression"),
        ("Addendum #1", "addendum"),
        ("IMPRESION", "impression"),
        ("Fidnings", "findings"),
        ("Comparison", "comparison"),
        ("Heart", None),
        ("Lungs and pleura", None),
    ],
)
def test_header_wordings_map_to_one_name(header, canonical):
    assert canonical_section(header) == canonical
    text = f"Some words first.\n{header}:\nNo nodule seen."
    assert (canonical in [name for name, _ in sectioned(text)]) == (canonical is not None)


def test_sole_lines_numbered_headers_and_run_in_headers_count():
    assert sectioned("Findings\nA.\n\nImpression\nB.") == [("findings", "A."), ("impression", "B.")]
    assert sectioned("1. FINDINGS:\nA.\n2. IMPRESSION:\nB.") == [("findings", "A."), ("impression", "B.")]
    assert sectioned("FINDINGS: A nodule. IMPRESSION: Nodule.") == [
        ("findings", "A nodule."),
        ("impression", "Nodule."),
    ]


def test_organ_headings_stay_inside_findings():
    text = "FINDINGS:\nLungs: Clear.\nHeart: Normal in size.\nIMPRESSION: Normal."
    assert sectioned(text)[0] == ("findings", "Lungs: Clear.\nHeart: Normal in size.")


def test_repeated_sections_are_all_kept_with_addenda_last():
    text = "FINDINGS: A.\nIMPRESSION: B.\nIMPRESSION: C.\nADDENDUM: D."
    assert [name for name, _ in sectioned(text)] == ["findings", "impression", "impression", "addendum"]


def test_a_report_without_headers_is_unsectioned_and_never_findings():
    assert sectioned("CT of the chest. No nodule.") == [("unsectioned", "CT of the chest. No nodule.")]
    assert sectioned("No nodule is seen.\n\nIMPRESSION: Normal.")[0] == ("unsectioned", "No nodule is seen.")
    assert sectioned("CT CHEST\n\nFINDINGS: Clear.")[0] == ("examination", "CT CHEST")


def test_lines_of_a_letterhead_do_not_swallow_the_report():
    text = "Patient: [NAME]\nAccession: [ID]\n\nCT chest without contrast. There is a nodule."
    assert sectioned(text)[-1] == ("unsectioned", "CT chest without contrast. There is a nodule.")


def test_an_empty_section_vanishes():
    assert sectioned("FINDINGS:\n\nIMPRESSION:\nNormal.") == [("impression", "Normal.")]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Seen by Dr. Smith. No effusion.", ["Seen by Dr. Smith.", "No effusion."]),
        ("Atelectasis vs. consolidation. Normal heart.", ["Atelectasis vs. consolidation.", "Normal heart."]),
        ("A 3.5 cm mass. No nodule.", ["A 3.5 cm mass.", "No nodule."]),
        ("It measures 3 cm. No nodule.", ["It measures 3 cm.", "No nodule."]),
        ("It is 3 cm. in length. No nodule.", ["It is 3 cm. in length.", "No nodule."]),
        ("1. Nodule. 2. Effusion.", ["Nodule.", "Effusion."]),
        ("1. Nodule\n2. Effusion\n3. Normal heart", ["Nodule", "Effusion", "Normal heart"]),
        ("- Nodule\n- Effusion", ["Nodule", "Effusion"]),
        ("• Hiatal hernia. • Atelectasis", ["Hiatal hernia.", "Atelectasis"]),
        ("XXXX XXXX. No effusion.", ["XXXX XXXX.", "No effusion."]),
        ("Compared to [DATE]. Stable nodule.", ["Compared to [DATE].", "Stable nodule."]),
        (
            "Mosaic pattern (airway disease? vessel disease?). Normal.",
            ["Mosaic pattern (airway disease? vessel disease?).", "Normal."],
        ),
        ("Is it pneumonia? Clear lungs.", ["Is it pneumonia?", "Clear lungs."]),
        ("Pleural effusion.No pneumothorax.", ["Pleural effusion.", "No pneumothorax."]),
        ("Open bronchi. mosaic pattern is seen.", ["Open bronchi.", "mosaic pattern is seen."]),
        ("Small effusion\nNo pneumothorax", ["Small effusion", "No pneumothorax"]),
        ("Nodule e.g. in the lung. End.", ["Nodule e.g. in the lung.", "End."]),
    ],
)
def test_sentences_end_where_they_end(text, expected):
    assert sentences(text) == expected


def test_a_wrapped_line_goes_on_and_a_short_one_ends():
    text = (
        "There is a small right pleural effusion with adjacent compressive atelectasis of the\n"
        "Right lower lobe. The heart is normal in size and the mediastinum is unremarkable\nand midline.\nNo nodule"
    )
    assert sentences(text) == [
        "There is a small right pleural effusion with adjacent compressive atelectasis of the\nRight lower lobe.",
        "The heart is normal in size and the mediastinum is unremarkable\nand midline.",
        "No nodule",
    ]


PIECES = st.sampled_from(
    [
        "FINDINGS:",
        "IMPRESSION:\n",
        "Dr. ",
        "3.5 cm. ",
        "\n\n",
        "\n",
        "1. ",
        "• ",
        "No nodule. ",
        "(a? b?) ",
        '"',
        "XXXX. ",
        "é\xa0",
    ]
)


@given(st.one_of(st.text(max_size=120), st.lists(PIECES, max_size=20).map("".join)))
@settings(max_examples=200, deadline=None)
def test_spans_are_ordered_disjoint_trimmed_and_lose_no_letter(text):
    sections = find_sections(text)
    assert all(0 <= s.start < s.end <= len(text) for s in sections)
    assert all(a.end <= b.start for a, b in pairwise(sections))
    assert all(text[s.start : s.end] == text[s.start : s.end].strip() for s in sections)
    for section in sections:
        spans = sentence_spans(text, section.start, section.end)
        assert all(section.start <= a < b <= section.end for a, b in spans)
        assert all(b <= c for (_, b), (c, _) in pairwise(spans))
        covered = "".join(text[a:b] for a, b in spans)
        letters = [c for c in text[section.start : section.end] if c.isalpha()]
        assert [c for c in covered if c.isalpha()] == letters

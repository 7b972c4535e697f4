"""Public label sets: each maps onto the lexicon and is answered from what a report states."""

import pytest

from glint.core.config.sections import SectionsConfig
from glint.demo.catalogue import FINDINGS
from glint.prepare.sections.label_sets import load_label_sets, report_labels
from glint.prepare.sections.lexicon import load_lexicon
from glint.prepare.sections.shard import parse_report

SIZES = {"ct_rate": 18, "chexpert": 14, "nih": 14, "iu_mesh": 14, "chestx_det": 13, "demo": len(FINDINGS)}


def labels_of(text: str, name: str) -> set[str]:
    _, sentences, findings = parse_report("s", text, SectionsConfig())
    return {label for label, held in report_labels(sentences, findings, load_label_sets()[name]).items() if held}


@pytest.mark.parametrize(("name", "size"), SIZES.items())
def test_every_label_of_every_set_maps_onto_findings_of_the_lexicon(name, size):
    labels = load_label_sets()[name].labels
    assert len(labels) == size
    known = set(load_lexicon().findings)
    assert all((label.findings or label.none_of) <= known for label in labels.values())
    assert all(label.findings or label.none_of for label in labels.values())


def test_the_demo_set_names_the_findings_of_the_demo():
    assert set(load_label_sets()["demo"].labels) == set(FINDINGS)


def test_a_consolidation_is_a_lung_opacity_too_and_a_denied_one_is_neither():
    assert labels_of("FINDINGS: Consolidation in the left lung.", "ct_rate") == {"Consolidation", "Lung opacity"}
    assert labels_of("FINDINGS: No consolidation in the left lung.", "ct_rate") == set()


def test_narrow_labels_look_at_the_words():
    assert "Infiltration" in labels_of("FINDINGS: Infiltrate in the left lung.", "nih")
    assert "Infiltration" not in labels_of("FINDINGS: Opacity in the left lung.", "nih")
    assert {"Diffuse Nodule", "Nodule"} == labels_of("FINDINGS: Multiple small nodules in both lungs.", "chestx_det")
    assert labels_of("FINDINGS: Solitary nodule in the left lung.", "chestx_det") == {"Nodule"}
    assert labels_of("FINDINGS: Scattered calcified granulomas are seen.", "chestx_det") == {"Calcification"}


def test_a_hedged_finding_counts_only_where_the_set_says_so():
    text = "FINDINGS: Probable atelectasis in the left lung base."
    assert labels_of(text, "iu_mesh") == {"Atelectasis"}
    assert labels_of(text, "nih") == set()


def test_a_hedge_that_a_set_calls_too_weak_does_not_count_and_a_plain_statement_beside_it_does():
    assert labels_of("FINDINGS: Possible atelectasis in the left lung base.", "iu_mesh") == set()
    assert labels_of("FINDINGS: Atelectasis which may be chronic.", "iu_mesh") == {"Atelectasis"}
    assert labels_of("FINDINGS: Atelectasis or consolidation.", "iu_mesh") == {"Atelectasis", "Consolidation"}


def test_no_finding_holds_where_nothing_is_present():
    assert "No Finding" in labels_of("FINDINGS: The lungs are clear. No effusion.", "chexpert")
    assert "No Finding" not in labels_of("FINDINGS: Small left effusion is seen.", "chexpert")
    assert "Enlarged Cardiomediastinum" in labels_of("FINDINGS: The mediastinum is widened.", "chexpert")

"""What the readers write, checked with plain string search."""

import re

import pytest

from glint.core.config.demo import DemoConfig
from glint.demo import phrases
from glint.demo.catalogue import FINDINGS, PlacedFinding
from glint.demo.people import make_patient, make_visitation
from glint.demo.radiologist import Report, site_of, write_report

CONFIG = DemoConfig(typo_fraction=0.0)
SAMPLE = {
    "nodule": ("left", "middle", None),
    "mass": ("right", "upper", None),
    "consolidation": ("right", "lower", None),
    "ground_glass_opacity": ("bilateral", None, None),
    "pleural_effusion": ("left", None, "large"),
    "pneumothorax": ("right", None, "small"),
    "emphysema": ("bilateral", "upper", "moderate"),
    "atelectasis": ("left", "lower", None),
    "cardiomegaly": (None, None, None),
    "hiatal_hernia": (None, None, None),
}


def _placed(name: str, **changes: object) -> PlacedFinding:
    side, region, grade = SAMPLE[name]
    values = {
        "finding": name,
        "laterality": side,
        "region": region,
        "size_mm": 31.0,
        "grade": grade,
        "volume_cm3": 50.0,
    }
    return PlacedFinding(**{**values, **changes})


def _report(number: int, findings: tuple[PlacedFinding, ...], prior=None) -> Report:
    patient = make_patient(4, number)
    return write_report(
        4, number, CONFIG, patient, make_visitation(4, number, patient), findings, "without intravenous contrast", prior
    )


def _names(text: str, name: str) -> bool:
    wordings = [*phrases.TERMS[name], "heart is enlarged", "heart size is increased"]
    wordings = wordings if name == "cardiomegaly" else wordings[:-2]
    return any(wording.lower() in text.lower() for wording in wordings)


@pytest.mark.parametrize("name", FINDINGS)
def test_a_present_finding_is_named_and_never_denied(name: str):
    for number in range(25):
        text = _report(number, (_placed(name),)).text
        assert _names(text, name), text
        for denial in phrases.NEGATIONS[name]:
            assert denial not in text


@pytest.mark.parametrize("name", FINDINGS)
def test_each_finding_has_at_least_six_wordings_and_several_occur(name: str):
    assert len(set(phrases.TERMS[name])) >= 6
    texts = " ".join(_report(number, (_placed(name),)).text for number in range(60)).lower()
    assert sum(term.lower() in texts for term in phrases.TERMS[name]) >= 5


def test_side_and_lobe_are_told_for_findings_of_the_lung():
    told = [_report(number, (_placed("mass"),)).text.lower() for number in range(20)]
    assert all("right upper lobe" in text or "rul" in text for text in told)
    assert site_of(_placed("nodule")) == "lingula"
    assert site_of(_placed("emphysema")) == "both upper lobes"


def test_uncertain_findings_are_hedged_and_missed_ones_left_unsaid():
    hedge = re.compile(r"possible|suspicious for|probable|excluded|may represent|questionable", re.IGNORECASE)
    assert all(hedge.search(_report(n, (_placed("consolidation", certain=False),)).text) for n in range(20))
    missed = [_report(n, (_placed("nodule", reported=False),)).text.lower() for n in range(20)]
    assert not any("nodul" in text for text in missed)


def test_normal_studies_deny_some_findings_and_leave_most_unsaid():
    denied = [_denials(_report(number, ()).text) for number in range(40)]
    assert 0.5 < sum(denied) / 40 < 6


def _denials(text: str) -> int:
    lines = [line for wordings in phrases.NEGATIONS.values() for line in wordings]
    lines += [line for wordings in phrases.NEGATED_PAIRS.values() for line in wordings]
    return sum(line in text for line in lines)


def test_identities_named_in_a_report_are_listed_as_written():
    reports = [_report(number, ()) for number in range(30)]
    for number, report in enumerate(reports):
        assert all(value in report.text for _, value in report.planted)
        if make_patient(4, number).surname in report.text:
            assert any(make_patient(4, number).surname in value for _, value in report.planted)
    assert {"physician", "study_date", "patient_name", "birth_date"} <= {kind for r in reports for kind, _ in r.planted}


def test_no_name_is_part_of_anything_a_reader_says_of_a_chest():
    from glint.demo import names

    said = repr(vars(phrases)).lower()
    for name in (*names.SURNAMES, *names.GIVEN_FEMALE, *names.GIVEN_MALE):
        assert len(name) >= 5
        assert name.lower() not in said

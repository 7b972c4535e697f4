"""Polarity and side over a suite of sentences written for it: frames filled with findings."""

import tomllib
from pathlib import Path

import pytest

from glint.prepare.sections.findings import read_findings

SUITE = tomllib.loads((Path(__file__).parent / "data" / "polarity_suite.toml").read_text("utf-8"))
POLARITIES = ("absent", "present", "uncertain", "silent")


def capitalised(text: str) -> str:
    return text[0].upper() + text[1:]


def polarity_cases() -> list[tuple[str, str, str]]:
    """(sentence, finding, polarity), `silent` where nothing is stated of the finding."""
    return [
        (capitalised(frame.format(f=word)), name, polarity)
        for polarity in POLARITIES
        for frame in SUITE[polarity]
        for name, word in SUITE["findings"]
    ]


def laterality_cases() -> list[tuple[str, str, str]]:
    return [
        (capitalised(frame.format(f=word, s=side, o=other)), name, side)
        for frame in SUITE["laterality"]["frames"]
        for name, word in SUITE["laterality"]["findings"]
        for side, other in (("left", "right"), ("right", "left"))
    ]


def polarity_of(sentence: str, finding: str) -> str:
    read = {f.polarity for f in read_findings(sentence) if f.finding == finding}
    return "+".join(sorted(read)) or "silent"


def wrong_polarities() -> list[tuple[str, str, str]]:
    return [(s, want, polarity_of(s, f)) for s, f, want in polarity_cases() if polarity_of(s, f) != want]


def wrong_sides() -> list[tuple[str, str, set[str | None]]]:
    read = [
        (s, side, {f.laterality for f in read_findings(s) if f.finding == name}) for s, name, side in laterality_cases()
    ]
    return [row for row in read if row[2] != {row[1]}]


def test_the_suite_has_three_hundred_sentences_and_more():
    assert len({s for s, _, _ in polarity_cases()}) >= 300
    assert len({s for s, _, _ in laterality_cases()}) >= 100


def test_polarity_is_right_in_98_of_100_sentences():
    wrong = wrong_polarities()
    assert len(wrong) <= 0.02 * len(polarity_cases()), wrong


def test_the_side_is_right_in_99_of_100_sentences():
    wrong = wrong_sides()
    assert len(wrong) <= 0.01 * len(laterality_cases()), wrong


@pytest.mark.parametrize("polarity", POLARITIES)
def test_no_polarity_hides_behind_the_others(polarity):
    cases = [s for s, _, want in polarity_cases() if want == polarity]
    assert sum(want == polarity for _, want, _ in wrong_polarities()) <= 0.05 * len(cases)

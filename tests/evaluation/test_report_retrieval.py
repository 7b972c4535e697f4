"""A report finds its study and a study its report, when the scores know them."""

import numpy as np
import pytest

from glint.evaluation.retrieval import Reports, read_reports, report_recall
from glint.formats.manifest import manifest_frame, write_manifest


def report_of(num):
    """Study b says sentences b and b + 1."""
    holds = np.zeros((num + 1, num), bool)
    holds[np.arange(num), np.arange(num)] = holds[np.arange(1, num + 1), np.arange(num)] = True
    return Reports(sentences=tuple(f"s{k}" for k in range(num + 1)), holds_TB=holds)


def recall(score, reports, **changes):
    settings = {"resamples": 50, "level": 0.95, "rng": np.random.default_rng(0)} | changes
    return report_recall(score, reports, [f"p{k}" for k in range(score.shape[1])], **settings)


def test_scores_that_know_the_report_rank_it_first_both_ways():
    reports = report_of(20)
    found = recall(reports.holds_TB.astype(np.float32), reports)
    for direction in ("report_to_study", "study_to_report"):
        assert found[direction].value == {1: 1.0, 5: 1.0, 10: 1.0}
        assert found[direction].median_rank == 1.0
        assert found[direction].chance[5] == pytest.approx(5 / 20)


def test_scores_that_know_nothing_are_at_chance():
    found = recall(np.zeros((41, 40), np.float32), report_of(40))
    assert found["report_to_study"].median_rank == 20.5
    rng = np.random.default_rng(1)
    random = recall(rng.normal(size=(41, 40)), report_of(40))["report_to_study"]
    assert random.value[10] == pytest.approx(random.chance[10], abs=0.25)


def test_equal_reports_are_both_right():
    holds = np.array([[True, True, False], [False, False, True]])
    found = recall(np.array([[0.0, 1.0, 0.5], [0.0, 0.0, 1.0]]), Reports(sentences=("a", "b"), holds_TB=holds))
    assert found["report_to_study"].value[1] == 1.0


def test_sentences_come_from_findings_and_impression_of_the_asked_studies(tmp_path):
    rows = [
        {"study_id": study, "sentence_index": k, "section": section, "text": text}
        for study, k, section, text in (
            ("a", 0, "technique", "CT with contrast."),
            ("a", 1, "findings", "Clear lungs."),
            ("b", 0, "impression", "Clear lungs."),
            ("b", 1, "findings", "A mass."),
            ("x", 0, "findings", "Another study."),
        )
    ]
    write_manifest(tmp_path / "sentences.parquet", manifest_frame(rows, "sentences"), "sentences")
    reports = read_reports([tmp_path / "manifest.parquet"], ["b", "a", "silent"])
    assert reports.sentences == ("A mass.", "Clear lungs.")
    assert reports.holds_TB.tolist() == [[True, False, False], [True, True, False]]
    assert len(reports.questions()) == 2 and not reports.questions()[0].mapped

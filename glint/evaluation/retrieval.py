"""Which study belongs to a report, and which report to a study?"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from glint.evaluation.zero_shot import Question
from glint.formats.manifest import read_manifest
from glint.metrics.bootstrap import patient_weights, percentile_interval, weighted_means
from glint.metrics.retrieval import match_ranks, random_recall_score

Floats = NDArray[np.float64]
PLACES = (1, 5, 10)
DIRECTIONS = ("report_to_study", "study_to_report")


@dataclass(frozen=True, kw_only=True)
class Reports:
    """Unique sentences of the measured studies' reports, and which study's report holds which: (T, B)."""

    sentences: tuple[str, ...]
    holds_TB: NDArray[np.bool_]

    def questions(self) -> list[Question]:
        """One per sentence; no map is kept."""
        return [Question(sentences=(sentence,)) for sentence in self.sentences]


def read_reports(sections: Sequence[Path], study_ids: Sequence[str]) -> Reports:
    """Sentences of findings and impression of the studies, from the tables of stage 05; a study may have none."""
    files = [path.parent / "sentences.parquet" for path in sections]
    tables = [read_manifest(file, "sentences") for file in files if file.is_file()]
    if not tables:
        return Reports(sentences=(), holds_TB=np.zeros((0, len(study_ids)), np.bool_))
    wanted = pl.col("study_id").is_in(list(study_ids)) & pl.col("section").is_in(["findings", "impression"])
    said = pl.concat(tables).filter(wanted).select("study_id", "text").unique().sort("text", "study_id")
    sentences = tuple(dict.fromkeys(said["text"].to_list()))
    row, column = {text: k for k, text in enumerate(sentences)}, {name: k for k, name in enumerate(study_ids)}
    holds = np.zeros((len(sentences), len(study_ids)), np.bool_)
    for study_id, text in said.iter_rows():
        holds[row[text], column[study_id]] = True
    return Reports(sentences=sentences, holds_TB=holds)


@dataclass(frozen=True, kw_only=True)
class Recall:
    """R@k of one direction with its interval and the share that a random order reaches, and the median rank."""

    value: Mapping[int, float]
    interval: Mapping[int, tuple[float, float]]
    chance: Mapping[int, float]
    median_rank: float
    candidates: int


def report_recall(
    score_TB: NDArray[np.floating],
    reports: Reports,
    patient_B: Sequence[str],
    *,
    resamples: int,
    level: float,
    rng: np.random.Generator,
) -> dict[str, Recall]:
    """Both directions: a report's score on a study is the mean over its sentences; only its own study is right.

    Studies whose report is word for word the same all count as right. Empty where fewer than two studies have sentences.
    """
    told = reports.holds_TB.any(axis=0)
    if told.sum() < 2:
        return {}
    holds_TB = reports.holds_TB[:, told]
    share_TR = holds_TB / holds_TB.sum(axis=0)
    score_RB = share_TR.T @ np.asarray(score_TB, np.float64)[:, told]
    same_RB = (holds_TB[:, :, None] == holds_TB[:, None, :]).all(axis=0)
    patients = np.asarray(patient_B, dtype=str)[told].tolist()
    weight_RN = patient_weights(patients, resamples=resamples, rng=rng)
    weight_RN = np.concatenate([np.ones((1, len(patients)), weight_RN.dtype), weight_RN])
    found = {}
    for direction, scores in zip(DIRECTIONS, (score_RB, score_RB.T), strict=True):
        rank_Q = match_ranks(scores, same_RB)
        values = {k: weighted_means((rank_Q <= k).astype(np.float64), weight_RN) for k in PLACES}
        chances = {
            k: float(np.mean([random_recall_score(len(rank_Q), int(n), k) for n in same_RB.sum(axis=1)]))
            for k in PLACES
        }
        found[direction] = Recall(
            value={k: float(one[0]) for k, one in values.items()},
            interval={k: percentile_interval(one[1:], level=level) for k, one in values.items()},
            chance=chances,
            median_rank=float(np.median(rank_Q)),
            candidates=len(rank_Q),
        )
    return found

"""What generated reports are worth beside the written ones and beside reports that need no image."""

import importlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from glint.core.config.evaluate import EvaluateConfig
from glint.core.errors import InputError
from glint.core.seeds import generator
from glint.metrics.bootstrap import patient_weights, percentile_interval, weighted_means
from glint.metrics.captions import (
    bleu_score,
    cider_scores,
    finding_f1_scores,
    meteor_scores,
    rouge_l_scores,
)
from glint.prepare.sections.findings import read_findings
from glint.prepare.sections.sentences import sentence_spans

Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]
Score = Callable[[Sequence[str], Sequence[str]], Floats]
"""Generated and written reports → a value of each."""


def findings_of(text: str) -> frozenset[str]:
    """Findings that a report states as present, as stage 05 reads it."""
    said = (read_findings(text[start:end]) for start, end in sentence_spans(text))
    return frozenset(one.finding for statements in said for one in statements if one.polarity == "present")


def stated_table(stated: Sequence[frozenset[str]], names: Sequence[str]) -> Bools:
    """(N, F)."""
    return np.array([[name in one for name in names] for one in stated], dtype=np.bool_).reshape(
        len(stated), len(names)
    )


def best_constant(training: Sequence[frozenset[str]]) -> int:
    """The training report whose findings, said of every training study, reach the highest micro F1."""
    names = sorted(frozenset().union(*training))
    written = stated_table(training, names)
    ones = np.ones((1, len(training)))
    choices = {said: row for row, said in reversed(list(enumerate(training)))}

    def quality(said: frozenset[str]) -> float:
        constant = np.broadcast_to(stated_table([said], names), written.shape)
        return float(np.nan_to_num(finding_f1_scores(constant, written, ones)[0][0]))

    return choices[max(sorted(choices, key=sorted), key=quality)]


def radgraph_scores(generated: Sequence[str], reference: Sequence[str]) -> Floats:
    """(N,) RadGraph-XL F1, entities and whether they have relations ("partial").

    Raises:
        InputError: the package is not installed.
    """
    measure = _package("radgraph", "radgraph").F1RadGraph(reward_level="partial", model_type="radgraph-xl")
    return np.asarray(measure(hyps=list(generated), refs=list(reference))[1], dtype=np.float64)


def green_scores(generated: Sequence[str], reference: Sequence[str]) -> Floats:
    """(N,) GREEN (arXiv 2405.03595), by its own language model of 7 billion weights.

    Raises:
        InputError: the package is not installed.
    """
    measure = _package("green_score", "green-score").GREEN("StanfordAIMI/GREEN-radllama2-7b", output_dir=".")
    return np.asarray(measure(list(reference), list(generated))[2], dtype=np.float64)


def _package(module: str, distribution: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise InputError(
            f"evaluate.downstream.report.extra_metrics: package {distribution} is not installed; run `pip install {distribution}` "
            "in an environment of its own, as docs/downstream.md says, or leave the metric out"
        ) from error


NAMES = {
    "meteor_without_synonyms": "METEOR (exact and stem matches only)",
    "rouge_l": "ROUGE-L",
    "cider": "CIDEr-D",
    "bleu_1": "BLEU-1",
    "bleu_4": "BLEU-4",
    "radgraph": "RadGraph F1",
    "green": "GREEN",
}
EXTRA_METRICS: dict[str, Score] = {
    "radgraph": radgraph_scores,
    "green": green_scores,
}
MODULES = {"radgraph": ("radgraph", "radgraph"), "green": ("green_score", "green-score")}


def check_extra_metrics(names: Sequence[str]) -> None:
    """Raise InputError before any training where a package is absent."""
    for name in names:
        _package(*MODULES[name])


def measure_reports(
    written: dict[str, list[str]], reference: Sequence[str], patients: Sequence[str], config: EvaluateConfig
) -> list[dict[str, Any]]:
    """Rows of arm and metric; intervals by patient, none for BLEU, which is one number of all reports together."""
    weight = patient_weights(patients, resamples=config.resamples, rng=generator(config.seed, "report bootstrap"))
    weight = np.concatenate([np.ones((1, len(patients)), weight.dtype), weight])
    said = [findings_of(text) for text in reference]
    rows: list[dict[str, Any]] = []
    for arm, texts in written.items():
        mine = [findings_of(text) for text in texts]
        names = sorted(frozenset().union(*said, *mine))
        micro, macro = finding_f1_scores(stated_table(mine, names), stated_table(said, names), weight)
        values = {"finding_f1_micro": micro, "finding_f1_macro": macro}
        single: dict[str, Score] = {
            "rouge_l": rouge_l_scores,
            "meteor_without_synonyms": meteor_scores,
            "cider": cider_scores,
        }
        single |= {name: EXTRA_METRICS[name] for name in config.downstream.report.extra_metrics}
        values |= {name: weighted_means(score(texts, reference), weight) for name, score in single.items()}
        for metric, value_R in values.items():
            low, high = percentile_interval(value_R[1:], level=config.interval)
            rows.append({"arm": arm, "metric": metric, "value": float(value_R[0]), "low": low, "high": high})
        for order in (1, 4):
            value = bleu_score(texts, reference, order=order)
            rows.append({"arm": arm, "metric": f"bleu_{order}", "value": value, "low": None, "high": None})
    return rows


def report_table_text(rows: Sequence[dict[str, Any]]) -> str:
    """Markdown, a row per metric and a column per arm."""
    arms, metrics = (list(dict.fromkeys(row[key] for row in rows)) for key in ("arm", "metric"))
    found = {(row["arm"], row["metric"]): row for row in rows}
    lines = [f"| measure | {' | '.join(arms)} |", "|---|" + "---|" * len(arms)]
    for metric in metrics:
        cells = []
        for arm in arms:
            row = found[arm, metric]
            interval = f" ({row['low']:.3f} to {row['high']:.3f})" if row["low"] is not None else ""
            cells.append(f"{row['value']:.3f}{interval}")
        lines.append(f"| {NAMES.get(metric, metric.replace('_', ' '))} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"

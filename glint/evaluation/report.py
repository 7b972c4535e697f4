"""The report: metrics as JSON and CSV, and one HTML file that needs nothing else."""

import base64
import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from glint.core.config.evaluate import EvaluateConfig
from glint.evaluation.figures import colour, label, words
from glint.evaluation.measure import Cases
from glint.evaluation.probability import Trust
from glint.evaluation.protocols import protocol_rows
from glint.evaluation.report_text import READING, ends, interval, limits_text, number, rules_text
from glint.evaluation.retrieval import Recall
from glint.evaluation.sentence_report import section_of, sentences_tree
from glint.evaluation.sentences import SentenceCases
from glint.evaluation.summary import CHANCE, MACRO, METRICS, Estimate, Summary
from glint.evaluation.zero_shot import Prompts

CARDS = {"auroc": "Macro AUROC", "pointing": "Pointing accuracy", "dice_fixed": "Dice, fixed threshold"}
FINDING_TABLES = ("auroc", "pointing", "dice_fixed", "dice_calibrated", "dice_oracle")
SUPERVISED = ("probe", "location_prior", CHANCE)


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """All that the report shows."""

    summary: Summary
    cases: Cases
    findings: tuple[str, ...]
    prompts: Prompts
    config: EvaluateConfig
    stated: Mapping[str, int]
    pooled: Mapping[str, int]
    left_out: int
    provenance: Mapping[str, str]
    trust: Mapping[str, Trust] = field(default_factory=dict)
    recall: Mapping[str, Mapping[str, Recall]] = field(default_factory=dict)
    images: Mapping[str, bytes | None] = field(default_factory=dict)
    overlays: Mapping[str, bytes] = field(default_factory=dict)
    sentences: SentenceCases | None = None
    sentence_overlay: bytes | None = None

    @property
    def arms(self) -> tuple[str, ...]:
        """Every arm, chance last."""
        return (*self.cases.arms, CHANCE)


def metrics_tree(evaluation: Evaluation) -> dict[str, Any]:
    """Arm → metric → macro, its interval, and every finding; what DVC compares. NaN becomes null."""
    tree: dict[str, Any] = {}
    for one in evaluation.summary.estimates:
        held = tree.setdefault(one.arm, {}).setdefault(one.metric, {})
        held[one.finding] = _plain(one.value)
        if one.finding == MACRO:
            held |= {"macro_low": _plain(one.low), "macro_high": _plain(one.high)}
    tree["difference"] = {
        f"{one.first}_minus_{one.second}": {
            other.metric: _plain(other.value) for other in evaluation.summary.differences if other.second == one.second
        }
        for one in evaluation.summary.differences
    }
    positive = evaluation.cases.positive_FB
    tree["cohort"] = {
        "studies": positive.shape[1],
        "patients": len(set(evaluation.cases.patient_B)),
        "studies_left_out": evaluation.left_out,
        "positives": {name: int(row.sum()) for name, row in zip(evaluation.findings, positive, strict=True)},
    }
    tree["calibration"] = {arm: _trust_tree(one, evaluation.findings) for arm, one in evaluation.trust.items()}
    protocols: dict[str, Any] = {}
    for row in protocol_rows(evaluation.cases):
        values = {arm: _plain(value) for arm, value in row.values.items()}
        protocols.setdefault(row.protocol, {})[row.quantity] = values
    tree["protocols"] = protocols
    tree["retrieval"] = {
        arm: {direction: _recall_tree(one) for direction, one in directions.items()}
        for arm, directions in evaluation.recall.items()
    }
    if evaluation.sentences is not None:
        tree["sentences"] = sentences_tree(evaluation.sentences)
    tree["seed"] = evaluation.config.seed
    return tree


def _trust_tree(trust: Trust, findings: Sequence[str]) -> dict[str, Any]:
    coverage, cutoffs = trust.coverage, trust.cutoffs
    return {
        "expected_calibration_error": _plain(trust.reliability.expected_calibration_error),
        "false_positive_rate_promised": coverage.rate,
        "false_positive_rate_resplit_mean": _plain(coverage.mean),
        "false_positive_rate_resplit_standard_error": _plain(coverage.standard_error),
        "promise_holds": coverage.holds,
        "cutoff": {name: _plain(float(value)) for name, value in zip(findings, cutoffs.cutoff_F, strict=True)},
        "platt": {
            name: {"scale": _plain(float(a)), "offset": _plain(float(b)), "own": bool(own)}
            for name, (a, b), own in zip(findings, cutoffs.platt_F2, cutoffs.own_F, strict=True)
        },
    }


def _recall_tree(one: Recall) -> dict[str, Any]:
    held: dict[str, Any] = {"median_rank": _plain(one.median_rank), "candidates": one.candidates}
    for k, value in one.value.items():
        low, high = one.interval[k]
        held |= {
            f"recall_at_{k}": _plain(value),
            f"recall_at_{k}_low": _plain(low),
            f"recall_at_{k}_high": _plain(high),
        }
        held[f"recall_at_{k}_chance"] = _plain(one.chance[k])
    return held


def cases_frame(evaluation: Evaluation) -> pl.DataFrame:
    """A row per arm, finding and study with every value measured; what `glint compare` joins two runs by."""
    cases = evaluation.cases
    tables = []
    for arm, held in cases.arms.items():
        values: dict[str, Any] = {
            "score": held.answers.score_FB,
            "contrast": held.answers.contrast_FB,
            "gate_mass": held.answers.mass_FB,
            "pointing": held.pointing_FB,
            "dice_fixed": held.dice_FB,
            "has_mask": held.nonempty_FB,
        } | held.more_FB
        num_findings, num_studies = cases.positive_FB.shape
        rows: dict[str, Any] = {
            "arm": [arm] * (num_findings * num_studies),
            "finding": np.repeat(evaluation.findings, num_studies).tolist(),
            "study_id": list(cases.study_B) * num_findings,
            "patient_id": list(cases.patient_B) * num_findings,
            "positive": cases.positive_FB.ravel(),
        }
        tables.append(pl.DataFrame(rows | {name: value.ravel() for name, value in values.items()}))
    return pl.concat(tables, how="diagonal_relaxed")


def _plain(value: float) -> float | None:
    return round(value, 6) if math.isfinite(value) else None


def zero_shot_csv(evaluation: Evaluation) -> str:
    """A row per finding (and macro) and arm: every metric with the ends of its interval; empty where undefined."""
    text = io.StringIO()
    columns = [f"{metric}{end}" for metric in METRICS for end in ("", "_low", "_high")]
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["finding", "arm", "positives", "studies", *columns])
    counts = dict(zip(evaluation.findings, evaluation.cases.positive_FB.sum(axis=1).tolist(), strict=True))
    for finding in (*evaluation.findings, MACRO):
        for arm in evaluation.arms:
            cells = []
            for metric in METRICS:
                one = evaluation.summary.find(arm, metric, finding)
                values = (one.value, one.low, one.high) if one else (math.nan,) * 3
                cells += ["" if math.isnan(value) else f"{value:.6f}" for value in values]
            writer.writerow([finding, arm, counts.get(finding, ""), len(evaluation.cases.patient_B), *cells])
    return text.getvalue()


def _arm(arm: str) -> dict[str, str]:
    return {"label": label(arm), "colour": colour(arm)}


def _cell(one: Estimate | None) -> dict[str, Any]:
    return {"value": number(one.value if one else None), "interval": interval(one), "best": False}


def _cards(evaluation: Evaluation) -> list[dict[str, Any]]:
    first, *others = evaluation.arms
    cards = []
    for metric, title in CARDS.items():
        rows = [_arm(arm) | _cell(evaluation.summary.find(arm, metric)) for arm in others]
        cards.append({"title": title, "rows": rows} | _cell(evaluation.summary.find(first, metric)))
    return cards


def _finding_table(evaluation: Evaluation, metric: str) -> dict[str, Any] | None:
    arms = [arm for arm in evaluation.arms if evaluation.summary.find(arm, metric) is not None]
    if not arms:
        return None
    counts = dict(zip(evaluation.findings, evaluation.cases.positive_FB.sum(axis=1).tolist(), strict=True))
    rows = []
    for finding in (MACRO, *evaluation.findings):
        found = [evaluation.summary.find(arm, metric, finding) for arm in arms]
        cells = [_cell(one) for one in found]
        fair = [(one.value, place) for place, one in enumerate(found) if one and one.arm not in SUPERVISED]
        fair = [pair for pair in fair if not math.isnan(pair[0])]
        highest = max((value for value, _ in fair), default=0.0)
        for value, place in fair:
            cells[place]["best"] = value == highest > 0
        name = {"finding": words(finding), "positives": counts.get(finding, ""), "macro": finding == MACRO}
        rows.append(name | {"cells": cells})
    title, _, note = METRICS[metric].partition(":")
    return {"title": title, "note": note.strip().capitalize(), "arms": [_arm(arm) for arm in arms], "rows": rows}


def _macro_table(evaluation: Evaluation) -> dict[str, Any]:
    rows = [
        {
            "metric": metric,
            "meaning": meaning,
            "cells": [_cell(evaluation.summary.find(arm, metric)) for arm in evaluation.arms],
        }
        for metric, meaning in METRICS.items()
    ]
    return {"arms": [_arm(arm) for arm in evaluation.arms], "rows": rows}


def _differences(evaluation: Evaluation) -> list[dict[str, str]]:
    return [
        {
            "metric": METRICS[one.metric].partition(":")[0],
            "second": label(one.second),
            "colour": colour(one.second),
            "value": f"{one.value:+z.2f}".replace("-", "\N{MINUS SIGN}"),
            "interval": interval(one),
            "share": "" if math.isnan(one.share_above) else f"{100 * one.share_above:.0f} %",
        }
        for one in evaluation.summary.differences
        if one.metric in FINDING_TABLES and one.metric != "dice_oracle" and one.second != CHANCE
    ]


CHECKS = ("side_moves", "side_score", "erasure_excess", "erasure_faithful", "auroc_negated")


def _trust_rows(evaluation: Evaluation) -> list[dict[str, Any]]:
    """A row per arm: calibration error, promise and what was kept of it."""
    rows = []
    for arm, one in evaluation.trust.items():
        called, caught = (
            evaluation.summary.find(arm, metric) for metric in ("conformal_false_positives", "conformal_sensitivity")
        )
        brier = evaluation.summary.find(arm, "brier")
        told: dict[str, Any] = dict(_arm(arm))
        rows.append(
            told
            | {
                "error": number(one.reliability.expected_calibration_error),
                "brier": _cell(brier),
                "called": _cell(called),
                "caught": _cell(caught),
                "resplit": f"{one.coverage.mean:.3f} ± {one.coverage.standard_error:.3f}",
                "holds": "kept" if one.coverage.holds else "broken",
            }
        )
    return rows


def _recall_rows(evaluation: Evaluation) -> list[dict[str, Any]]:
    rows = []
    for arm, directions in evaluation.recall.items():
        for direction, one in directions.items():
            cells = [
                {"value": number(one.value[k]), "interval": ends(*one.interval[k]), "chance": number(one.chance[k])}
                for k in one.value
            ]
            rows.append(
                _arm(arm)
                | {"direction": words(direction), "cells": cells, "median": f"{one.median_rank:g} of {one.candidates}"}
            )
    return rows


def _data_uri(image: bytes | None) -> str | None:
    return None if image is None else "data:image/png;base64," + base64.b64encode(image).decode("ascii")


def render_report(evaluation: Evaluation) -> str:
    """The HTML page; every value is escaped, every image inlined."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    folder = Path(__file__).parent / "templates"
    environment = Environment(
        loader=FileSystemLoader(folder), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    positive, config = evaluation.cases.positive_FB.sum(axis=1), evaluation.config
    counts = dict(zip(evaluation.findings, positive.tolist(), strict=True))
    prompts = [
        {"finding": words(name), "positive": yes, "negative": no, "stated": evaluation.stated.get(name, 0)}
        for name, yes, no in zip(
            evaluation.findings, evaluation.prompts.positive_FT, evaluation.prompts.negative_FT, strict=True
        )
    ]
    overlays = [
        {"finding": words(name), "note": f"{counts[name]} positives", "image": _data_uri(image)}
        for name, image in evaluation.overlays.items()
    ]
    return environment.get_template("report.html.jinja").render(
        title=f"{label(evaluation.arms[0])} on the {config.split} split",
        split=config.split,
        studies=len(evaluation.cases.patient_B),
        patients=len(set(evaluation.cases.patient_B)),
        findings=evaluation.findings,
        first=label(evaluation.arms[0]),
        level=f"{100 * config.interval:g}",
        resamples=config.resamples,
        seed=config.seed,
        cards=_cards(evaluation),
        tables=[table for metric in FINDING_TABLES if (table := _finding_table(evaluation, metric))],
        macro=_macro_table(evaluation),
        differences=_differences(evaluation),
        promised=f"{100 * config.false_positive_rate:g}",
        trust=_trust_rows(evaluation),
        recall=_recall_rows(evaluation),
        protocols=[
            {"protocol": row.protocol, "quantity": row.quantity, "how": row.how}
            | {"cells": [number(row.values[arm]) for arm in evaluation.cases.arms]}
            for row in protocol_rows(evaluation.cases)
        ],
        measured_arms=[_arm(arm) for arm in evaluation.cases.arms],
        sentences=section_of(evaluation.sentences, config, _data_uri(evaluation.sentence_overlay)),
        checks=[table for metric in CHECKS if (table := _finding_table(evaluation, metric))],
        images={name: _data_uri(image) for name, image in evaluation.images.items()},
        overlays=overlays,
        prompts=prompts,
        rules=rules_text(evaluation),
        reading=READING,
        limits=limits_text(evaluation),
        provenance=[{"name": name, "value": value} for name, value in evaluation.provenance.items()],
        version=version("glint"),
    )

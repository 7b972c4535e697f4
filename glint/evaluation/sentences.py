"""Grounding from free text: every sentence is asked of its own study and measured against what it describes.

A sentence is a case of its own, so that the protocols that count cases count sentences here. Beside the sentence stands what the prompt
of its finding reaches on the same mask: the difference is what the words besides the finding's name are worth.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from glint.core.config.evaluate import EvaluateConfig
from glint.core.progress import track
from glint.evaluation.arms import LoadedArm
from glint.evaluation.cohort import Study
from glint.evaluation.maps import extend_over_padding
from glint.evaluation.measure import ArmCases, Cases, ChanceCases, Thresholds, measure
from glint.evaluation.queries import read_queries
from glint.evaluation.summary import Summary, summarise
from glint.evaluation.zero_shot import Answers, Floats, MaskRule
from glint.formats.model_image import Bits
from glint.prepare.resample import window_channels

ALL = "all sentences"
BY_FINDING = "_by_finding"
"""Suffix of an arm that was asked the prompt of the sentence's finding."""
MEASURED = (
    "pointing",
    "box_pointing",
    "dice_fixed",
    "iou_fixed",
    "hit",
    "instance_f1",
    "mean_iou",
    "contrast_to_noise",
    "surface_dice",
)
"""Metrics that a positive case has; ranking needs negatives, and none are published."""


@dataclass(frozen=True, kw_only=True)
class SentenceStudy(Study):
    """A study of which one sentence is asked: bit `query` of its masks, and nothing else, is what the sentence describes."""

    query: int
    finding: str
    sentence: str

    def bits(self) -> Bits:
        """1 where the sentence's finding is."""
        return (super().bits() >> self.query & 1).astype(np.uint16)


@dataclass(frozen=True, kw_only=True)
class SentenceCases:
    """What was measured: one row (F = 1), a column per sentence; and the numbers over all and by finding."""

    cases: Cases
    studies: tuple[SentenceStudy, ...]
    overall: Summary
    by_finding: Summary
    findings: tuple[str, ...]


def sentence_studies(truth: Path, studies: Sequence[Study]) -> tuple[SentenceStudy, ...]:
    """A case per sentence of these studies, in order of study and number."""
    known = {study.study_id: study for study in studies}
    found = []
    for row in read_queries(truth).to_dicts():
        if row["study_id"] not in known:
            continue
        base = known[row["study_id"]]
        shared = {one.name: getattr(base, one.name) for one in dataclasses.fields(Study)}
        shared |= {"truth_path": truth.parent / row["path"], "findings": frozenset([ALL])}
        found.append(SentenceStudy(**shared, **{name: row[name] for name in ("query", "finding", "sentence")}))
    return tuple(found)


def ask_sentences(
    arm: LoadedArm,
    cases: Sequence[SentenceStudy],
    valid_BP: Mapping[str, NDArray[np.bool_]],
    *,
    batch_size: int,
    mask_rule: MaskRule,
    description: str,
) -> Answers:
    """The map of every sentence on its own study, (1, Q, P); each study passes the encoder once.

    Args:
        valid_BP: Study → patches that hold scan, (P,).
    """
    import torch

    order = list(dict.fromkeys(case.study_id for case in cases))
    score, mass, logits = (dict[int, Any](), dict[int, Any](), dict[int, Any]())
    for start in track(range(0, len(order), batch_size), description):
        names = order[start : start + batch_size]
        asked = [(place, case) for place, case in enumerate(cases) if case.study_id in names]
        first = {case.study_id: case for _, case in reversed(asked)}
        channels = np.stack([window_channels(first[name].volume()[0], arm.windows) for name in names])
        valid = np.stack([valid_BP[name] for name in names])
        with torch.inference_mode():
            tokens = arm.model.encode_volume(torch.from_numpy(channels))
            queries = arm.model.encode_text([case.sentence for _, case in asked])
            aligned = arm.model.score(tokens, queries, torch.from_numpy(valid.astype(np.float32)))
            map_TBP = (
                (aligned.gate_logits_TBP - (aligned.bias if mask_rule == "likelihood" else 0)).float().cpu().numpy()
            )
            scores, masses = (one.float().cpu().numpy() for one in (aligned.score_TB, aligned.gate_mass_TB))
        for row, (place, case) in enumerate(asked):
            column = names.index(case.study_id)
            score[place], mass[place], logits[place] = scores[row, column], masses[row, column], map_TBP[row, column]
    order_of = range(len(cases))
    logits_QP = np.stack([logits[place] for place in order_of]).astype(np.float32)
    valid_QP = np.stack([valid_BP[case.study_id] for case in cases])
    score_1Q = np.array([[score[place] for place in order_of]], np.float32)
    return Answers(
        score_FB=score_1Q,
        contrast_FB=np.zeros_like(score_1Q),  # no sentence denies it
        logits_FBP=extend_over_padding(logits_QP[None], valid_QP, arm.grid),
        mass_FB=np.array([[mass[place] for place in order_of]], np.float32),
        grid=arm.grid,
    )


def finding_answers(
    answers: Answers, cases: Sequence[SentenceStudy], studies: Sequence[Study], findings: Sequence[str]
) -> Answers:
    """What the prompt of each sentence's finding says of its study; a map of zeros where the finding has no prompt."""
    column = {study.study_id: place for place, study in enumerate(studies)}
    places = [
        (findings.index(case.finding) if case.finding in findings else -1, column[case.study_id]) for case in cases
    ]
    known = np.array([row >= 0 for row, _ in places])

    def taken(values: Floats) -> Floats:
        picked = np.stack([values[row, place] for row, place in places])
        picked[~known] = 0
        return np.asarray(picked[None], np.float32)

    return Answers(
        score_FB=taken(answers.score_FB),
        contrast_FB=taken(answers.contrast_FB),
        logits_FBP=taken(answers.logits_FBP),
        mass_FB=taken(answers.mass_FB),
        grid=answers.grid,
    )


def _without(arm: ArmCases, hidden_Q: NDArray[np.bool_]) -> ArmCases:
    """The arm with nothing measured in some columns."""

    def blank(values: NDArray[Any]) -> NDArray[Any]:
        return np.where(hidden_Q.reshape(1, -1, *[1] * (values.ndim - 2)), np.nan, values)

    counts: dict[str, Any] = {
        name: np.where(hidden_Q[None, :, None], 0, getattr(arm, name)) for name in ("boxes_FB3", "instances_FB3")
    }
    return dataclasses.replace(
        arm,
        pointing_FB=blank(arm.pointing_FB),
        dice_FB=blank(arm.dice_FB),
        dice_FBK=blank(arm.dice_FBK),
        more_FB={name: blank(values) for name, values in arm.more_FB.items()},
        **counts,
    )


def split_by_finding(cases: Cases, finding_Q: Sequence[str], findings: Sequence[str]) -> Cases:
    """The cases with a row per finding, in which only its own sentences count."""
    own_FQ = np.array([[one == name for one in finding_Q] for name in findings], np.bool_)

    def spread(values: NDArray[Any], empty: Any) -> NDArray[Any]:
        own = own_FQ.reshape(*own_FQ.shape, *[1] * (values.ndim - 2))
        return np.where(own, np.broadcast_to(values, (len(findings), *values.shape[1:])), empty)

    def arm(one: ArmCases) -> ArmCases:
        tiled: dict[str, Any] = {
            name: np.repeat(getattr(one.answers, name), len(findings), axis=0)
            for name in ("score_FB", "contrast_FB", "mass_FB")
        }
        # Maps were measured already: a row per finding of all of them would be copies.
        tiled["logits_FBP"] = one.answers.logits_FBP[:, :, :0]
        parts: dict[str, Any] = {
            name: spread(getattr(one, name), np.nan) for name in ("pointing_FB", "dice_FB", "dice_FBK", "peak_FB")
        }
        parts |= {name: spread(getattr(one, name), False) for name in ("nonempty_FB", "withdrawn_FB")}
        parts |= {name: spread(getattr(one, name), 0) for name in ("boxes_FB3", "instances_FB3")}
        more = {name: spread(values, np.nan) for name, values in one.more_FB.items()}
        return dataclasses.replace(one, answers=dataclasses.replace(one.answers, **tiled), more_FB=more, **parts)

    chance = {one.name: spread(getattr(cases.chance, one.name), np.nan) for one in dataclasses.fields(ChanceCases)}
    return dataclasses.replace(
        cases,
        positive_FB=own_FQ,
        arms={name: arm(one) for name, one in cases.arms.items()},
        chance=ChanceCases(**chance),
    )


def _kept(summary: Summary) -> Summary:
    return dataclasses.replace(
        summary,
        estimates=tuple(one for one in summary.estimates if one.metric in MEASURED),
        differences=tuple(one for one in summary.differences if one.metric in MEASURED),
    )


def measure_sentences(
    truth: Path,
    arms: Mapping[str, LoadedArm],
    answers: Mapping[str, Answers],
    studies: Sequence[Study],
    valid_BP: NDArray[np.bool_],
    findings: Sequence[str],
    config: EvaluateConfig,
) -> SentenceCases | None:
    """Ask and measure every sentence of these studies; None where the truth lists none.

    Args:
        answers: Every arm's, the yardsticks' too, to the prompts of the findings; column b is studies[b].
    """
    asked = sentence_studies(truth, studies)
    if not asked:
        return None
    valid = {study.study_id: valid_BP[place] for place, study in enumerate(studies)}
    said = {
        name: ask_sentences(
            arm,
            asked,
            valid,
            batch_size=config.batch_size,
            mask_rule=config.mask_rule,
            description=f"sentences {name}",
        )
        for name, arm in arms.items()
    }
    prompted = {
        name if name not in arms else f"{name}{BY_FINDING}": finding_answers(given, asked, studies, findings)
        for name, given in answers.items()
    }
    levels = dict.fromkeys((*said, *prompted), Thresholds(lowest=-config.mask_offset, step=1.0, num=1))
    cases = measure(asked, said | prompted, levels, (ALL,), config, description="measure sentences")
    unknown_Q = np.array([case.finding not in findings for case in asked])
    measured = {name: _without(arm, unknown_Q) if name in prompted else arm for name, arm in cases.arms.items()}
    cases = dataclasses.replace(cases, arms=measured)
    named = tuple(dict.fromkeys(case.finding for case in asked if case.finding))
    parts = split_by_finding(cases, [case.finding for case in asked], named) if named else cases
    overall, by_finding = (
        _kept(
            summarise(
                one,
                names,
                calibrated=None,
                resamples=config.resamples,
                level=config.interval,
                seed=config.seed,
            )
        )
        for one, names in ((cases, (ALL,)), (parts, named or (ALL,)))
    )
    return SentenceCases(cases=cases, studies=asked, overall=overall, by_finding=by_finding, findings=named)


def sentences_frame(found: SentenceCases) -> pl.DataFrame:
    """A row per arm and sentence with every value measured."""
    tables = []
    for arm, held in found.cases.arms.items():
        rows: dict[str, Any] = {
            "arm": [arm] * len(found.studies),
            "study_id": [case.study_id for case in found.studies],
            "patient_id": [case.patient_id for case in found.studies],
            "query": [case.query for case in found.studies],
            "finding": [case.finding for case in found.studies],
            "sentence": [case.sentence for case in found.studies],
            "score": held.answers.score_FB[0],
            "pointing": held.pointing_FB[0],
            "dice_fixed": held.dice_FB[0],
        }
        tables.append(pl.DataFrame(rows | {name: values[0] for name, values in held.more_FB.items()}))
    return pl.concat(tables)

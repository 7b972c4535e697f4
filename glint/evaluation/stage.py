"""Stage 10 from files to files: arms answer, cases are measured, numbers and pictures are written."""

import dataclasses
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from glint.core.atomic import atomic_directory, write_json, write_text
from glint.core.config.evaluate import EvaluateConfig
from glint.core.errors import InputError
from glint.core.progress import log, track
from glint.core.provenance import digest, sha256_file
from glint.core.seeds import generator
from glint.evaluation.arms import LoadedArm, check_made_from, load_arm
from glint.evaluation.cohort import Cohort, Study, positive_labels, read_cohort, require_studies
from glint.evaluation.erasure import erasure_values
from glint.evaluation.figures import bars_figure, curves_figure, reliability_figure, roc_figure
from glint.evaluation.maps import patch_fractions
from glint.evaluation.measure import best_threshold, measure, threshold_range
from glint.evaluation.overlays import overlay_figure
from glint.evaluation.probability import trust_of
from glint.evaluation.probe import Marked, fit_probe, location_answers
from glint.evaluation.report import CARDS, Evaluation, cases_frame, metrics_tree, render_report, zero_shot_csv
from glint.evaluation.retrieval import Reports, read_reports, report_recall
from glint.evaluation.sentences import ALL, BY_FINDING, measure_sentences, sentences_frame
from glint.evaluation.sides import side_questions, side_values
from glint.evaluation.summary import METRICS, summarise
from glint.evaluation.tokens import teacher_tokens
from glint.evaluation.zero_shot import (
    Answers,
    Prompts,
    Replies,
    answers_of,
    ask,
    encoded_batches,
    make_prompts,
    prompt_questions,
)
from glint.formats.manifest import read_manifest
from glint.model.alignment import valid_patches

ReadTokens = Callable[[Sequence[Path], Sequence[str]], NDArray[np.floating]]


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """Files that stage 10 reads."""

    checkpoints: tuple[Path, ...]
    resampled: tuple[Path, ...]
    sections: tuple[Path, ...]
    split: Path
    features: tuple[Path, ...]
    truth: Path

    def digests(self) -> dict[str, str]:
        """What training must have read too, as its fingerprint names it."""
        return {
            "resampled": digest([sha256_file(path) for path in self.resampled]),
            "split": sha256_file(self.split),
            "features": digest([sha256_file(path) for path in self.features]),
        }


def columns_of(answers: Answers, columns: slice) -> Answers:
    """The answers on some of the studies."""
    return Answers(
        score_FB=answers.score_FB[:, columns],
        contrast_FB=answers.contrast_FB[:, columns],
        logits_FBP=answers.logits_FBP[:, columns],
        mass_FB=answers.mass_FB[:, columns],
        grid=answers.grid,
    )


def valid_of(studies: Sequence[Study], arm: LoadedArm) -> NDArray[np.bool_]:
    """(B, P) patches that hold scan."""
    patch = (arm.volume_zyx[0] // arm.grid[0], arm.volume_zyx[1] // arm.grid[1], arm.volume_zyx[2] // arm.grid[2])
    return np.stack([valid_patches(study.valid_box, arm.volume_zyx, patch) for study in studies])


def mark(studies: Sequence[Study], cohort: Cohort, arm: LoadedArm, tokens_BPD: NDArray[np.floating]) -> Marked:
    """What the probe sees of studies with masks."""
    seen = [patch_fractions(one.bits(), arm.grid, len(cohort.findings)) for one in track(studies, "patch labels")]
    return Marked(
        tokens_BPD=tokens_BPD,
        fraction_FBP=np.stack(seen, axis=1),
        valid_BP=valid_of(studies, arm),
        positive_FB=positive_labels(studies, cohort.findings),
    )


def yardsticks(
    cohort: Cohort, arm: LoadedArm, inputs: Inputs, config: EvaluateConfig, read_tokens: ReadTokens
) -> tuple[dict[str, Answers], dict[str, int]]:
    """Supervised probe and location prior, fitted on training masks, answering for the measured and the calibration
    studies; and the probe's pooling. Nothing where the training split has no masks.

    Raises:
        InputError: the cached tokens are of another grid than the model's.
    """
    training = [one for one in cohort.studies["train"] if one.truth_path is not None]
    measured, fitted_on = asked_studies(cohort, config)
    if not training:
        return {}, {}
    limit = config.probe.max_studies
    if len(training) > limit:
        drawn = generator(config.seed, "probe studies").choice(len(training), limit, replace=False)
        training = [training[place] for place in np.sort(drawn)]
    tokens = read_tokens(inputs.features, [one.study_id for one in (*training, *measured, *fitted_on)])
    if tokens.shape[1] != math.prod(arm.grid):
        raise InputError(
            f"{next(iter(inputs.features), 'the teacher')}: {tokens.shape[1]} tokens per study, the model has {math.prod(arm.grid)} patches; "
            "teacher and checkpoint must share one grid: run stages 08 and 09 again"
        )
    num, end = len(training), len(training) + len(measured)
    seen = mark(training, cohort, arm, tokens[:num])
    with_masks = [place for place, one in enumerate(fitted_on) if one.truth_path is not None]
    marked = [fitted_on[place] for place in with_masks]
    held_out = mark(marked, cohort, arm, tokens[end:][with_masks]) if marked else None
    probe = fit_probe(seen, held_out, config.probe, seed=config.seed)
    asked_valid = valid_of((*measured, *fitted_on), arm)
    answers = {
        "probe": probe.answers(tokens[num:], asked_valid, arm.grid),
        "location_prior": location_answers(seen.fraction_FBP, asked_valid, arm.grid),
    }
    return answers, dict(zip(cohort.findings, probe.pooled_F, strict=True))


def asked_studies(cohort: Cohort, config: EvaluateConfig) -> tuple[tuple[Study, ...], tuple[Study, ...]]:
    """The studies to measure, and the validation studies on which thresholds may be fitted."""
    return cohort.studies[config.split], cohort.studies["validation"] if config.split != "validation" else ()


def stated_counts(sections: Sequence[Path], split: Path) -> dict[str, int]:
    """Finding → training reports that state it as present."""
    training = read_manifest(split, "split").filter(pl.col("split") == "train")["study_id"]
    tables = [read_manifest(path.parent / "findings.parquet", "findings") for path in sections]
    stated = pl.concat(tables).filter(pl.col("study_id").is_in(training.implode()), pl.col("polarity") == "present")
    counted = stated.unique(["study_id", "finding"]).group_by("finding").len().sort("finding")
    return {str(name): int(count) for name, count in counted.iter_rows()}


def read_curves(checkpoints: Sequence[Path]) -> dict[str, dict[str, list[float | None]]]:
    """Arm → column → values of the `curves.csv` that training left, where it did."""
    files = {folder.name: folder / "curves.csv" for folder in checkpoints}
    return {
        name: pl.read_csv(file, infer_schema_length=None).to_dict(as_series=False)
        for name, file in files.items()
        if file.is_file()
    }


def provenance_of(inputs: Inputs, config: EvaluateConfig) -> dict[str, str]:
    """What was measured with what, by SHA-256."""
    rows: dict[str, str] = {}
    for folder in inputs.checkpoints:
        for name in ("model.safetensors", "fingerprint.json"):
            if (folder / name).is_file():
                rows[f"{folder.name} / {name}"] = sha256_file(folder / name)
    rows |= {f"manifests of {name}": value for name, value in inputs.digests().items()}
    rows["manifest of truth"] = sha256_file(inputs.truth)
    rows["configuration"] = json.dumps(config.model_dump(mode="json", exclude={"prompts", "truth_dir"}), sort_keys=True)
    return rows


@dataclass(frozen=True, kw_only=True)
class Heard:
    """One trained arm's replies: to the prompts of every finding, to those that name a side, to the reports' sentences."""

    answers: Answers
    sides: Replies
    report_score_TB: NDArray[np.floating]


def ask_arms(
    arms: Mapping[str, LoadedArm],
    studies: Sequence[Study],
    prompts: Prompts,
    config: EvaluateConfig,
    *,
    findings: Sequence[str],
    reports: Reports,
) -> dict[str, Heard]:
    """Every trained arm's replies on every study; each study passes each encoder once."""
    import torch

    num = len(findings)
    questions = [*prompt_questions(prompts), *side_questions(findings, config.prompts), *reports.questions()]
    heard = {}
    for name, arm in arms.items():
        with torch.inference_mode():
            batches = encoded_batches(
                arm.model, studies, arm.windows, batch_size=config.batch_size, description=f"zero-shot {name}"
            )
            replies = ask(
                arm.model,
                batches,
                questions,
                grid=arm.grid,
                weight_BP=valid_of(studies, arm).astype(np.float32),
                batch_size=config.batch_size,
                mask_rule=config.mask_rule,
            )
        sides = Replies(
            score_QB=replies.score_QB[2 * num : 4 * num],
            mass_QB=replies.mass_QB[2 * num : 4 * num],
            logits_QBP=replies.logits_QBP[num:],
        )
        heard[name] = Heard(
            answers=answers_of(replies, num, arm.grid), sides=sides, report_score_TB=replies.score_QB[4 * num :]
        )
    return heard


def further_values(
    arm: LoadedArm,
    heard: Heard,
    studies: Sequence[Study],
    prompts: Prompts,
    positive_FB: NDArray[np.bool_],
    config: EvaluateConfig,
) -> dict[str, NDArray[np.float64]]:
    """(F, B) values of the tests that ask the model again: another side, erased patches."""
    valid_BP, num = valid_of(studies, arm), len(studies)
    sides = Replies(
        score_QB=heard.sides.score_QB[:, :num],
        mass_QB=heard.sides.mass_QB[:, :num],
        logits_QBP=heard.sides.logits_QBP[:, :num],
    )
    values = side_values(
        studies, sides, arm.grid, valid_BP, num_findings=len(positive_FB), body_above=config.body_above
    )
    if config.erased_cases:
        answers = columns_of(heard.answers, slice(num))
        values |= erasure_values(arm, studies, answers, prompts, valid_BP, positive_FB, config)
    return values


def evaluate_models(
    inputs: Inputs,
    config: EvaluateConfig,
    *,
    load: Callable[[Path], LoadedArm] = load_arm,
    read_tokens: ReadTokens = teacher_tokens,
) -> tuple[Evaluation, tuple[Study, ...]]:
    """Measure every checkpoint, the yardsticks and chance on one split.

    Returns:
        The evaluation without pictures, and the studies that it measured.

    Raises:
        InputError: an input is absent or the split has no study with masks.
    """
    cohort = read_cohort(resampled=inputs.resampled, split=inputs.split, truth=inputs.truth, features=inputs.features)
    if not config.foreign_checkpoint:
        for folder in inputs.checkpoints:
            check_made_from(folder, inputs.digests())
    measured, fitted_on = asked_studies(cohort, config)
    require_studies(measured, config.split)
    asked, num = (*measured, *fitted_on), len(measured)
    arms = {folder.name: load(folder) for folder in inputs.checkpoints}
    prompts = make_prompts(cohort.findings, config.prompts)
    no_reports = Reports(sentences=(), holds_TB=np.zeros((0, num), np.bool_))
    reports = read_reports(inputs.sections, [one.study_id for one in measured]) if config.retrieval else no_reports
    heard = ask_arms(arms, asked, prompts, config, findings=cohort.findings, reports=reports)
    answers = {name: one.answers for name, one in heard.items()}
    more, pooled = yardsticks(cohort, next(iter(arms.values())), inputs, config, read_tokens)
    answers |= more
    thresholds = {name: threshold_range(given.logits_FBP, config.thresholds) for name, given in answers.items()}
    held = {name: columns_of(given, slice(num, None)) for name, given in answers.items()}
    calibrated = None
    if any(study.findings for study in fitted_on if study.truth_path is not None):
        fitting = measure(fitted_on, held, thresholds, cohort.findings, config, details=False, description="calibrate")
        calibrated = {name: best_threshold(arm.dice_FBK) for name, arm in fitting.arms.items()}
    cases = measure(
        measured,
        {name: columns_of(given, slice(num)) for name, given in answers.items()},
        thresholds,
        cohort.findings,
        config,
    )
    for name, arm in arms.items():
        further = further_values(arm, heard[name], measured, prompts, cases.positive_FB, config)
        cases.arms[name].more_FB.update(further)
    trust = {}
    for name, given in held.items():
        fitted = trust_of(cases, name, given, fitted_on, cohort.findings, config)
        if fitted is not None:
            trust[name], values = fitted
            cases.arms[name].more_FB.update(values)
    sentences = measure_sentences(
        inputs.truth,
        arms,
        {name: columns_of(given, slice(num)) for name, given in answers.items()},
        measured,
        valid_of(measured, next(iter(arms.values()))),
        cohort.findings,
        config,
    )
    recall = {
        name: report_recall(
            one.report_score_TB[:, :num],
            reports,
            cases.patient_B,
            resamples=config.resamples,
            level=config.interval,
            rng=generator(config.seed, "retrieval"),
        )
        for name, one in heard.items()
    }
    evaluation = Evaluation(
        summary=summarise(
            cases,
            cohort.findings,
            calibrated=calibrated,
            resamples=config.resamples,
            level=config.interval,
            seed=config.seed,
        ),
        cases=cases,
        findings=cohort.findings,
        prompts=prompts,
        config=config,
        stated=stated_counts(inputs.sections, inputs.split),
        pooled=pooled,
        left_out=cohort.left_out[config.split],
        provenance=provenance_of(inputs, config),
        trust=trust,
        recall={name: one for name, one in recall.items() if one},
        sentences=sentences,
    )
    return evaluation, measured


def with_pictures(evaluation: Evaluation, studies: Sequence[Study], checkpoints: Sequence[Path]) -> Evaluation:
    """The evaluation with its figures drawn."""
    cases, findings, config = evaluation.cases, evaluation.findings, evaluation.config
    panels = {metric: METRICS[metric] for metric in CARDS}
    images = {
        "bars": bars_figure(evaluation.summary, evaluation.arms, findings, panels),
        "roc": roc_figure(cases, findings),
        "curves": curves_figure(read_curves(checkpoints)),
        "reliability": reliability_figure(
            {arm: one.reliability for arm, one in evaluation.trust.items() if arm != "location_prior"}
        ),
    }
    others = [name for name in cases.arms if name != "location_prior"][1:3]
    overlays = {}
    for row, finding in enumerate(track(findings, "overlays")):
        drawn = overlay_figure(studies, cases, findings, row, others, config)
        if drawn is not None:
            overlays[finding] = drawn
    asked = evaluation.sentences
    sentence_overlay = None
    if asked is not None:
        beside = [arm for arm in asked.cases.arms if arm.endswith(BY_FINDING)][:1]
        sentence_overlay = overlay_figure(asked.studies, asked.cases, (ALL,), 0, beside, config)
    return dataclasses.replace(evaluation, images=images, overlays=overlays, sentence_overlay=sentence_overlay)


def write_evaluation(evaluation: Evaluation, out: Path) -> None:
    """figures/, tables/, report.html and, last, metrics.json, which says that all is there."""
    with atomic_directory(out / "figures") as folder:
        for name, image in {**evaluation.images, **{f"overlay_{k}": v for k, v in evaluation.overlays.items()}}.items():
            if image is not None:
                (folder / f"{name}.png").write_bytes(image)
    with atomic_directory(out / "tables") as folder:
        (folder / "zero_shot.csv").write_text(zero_shot_csv(evaluation), encoding="utf-8")
        cases_frame(evaluation).write_parquet(folder / "cases.parquet")
        if evaluation.sentences is not None:
            sentences_frame(evaluation.sentences).write_parquet(folder / "sentences.parquet")
    write_text(out / "report.html", render_report(evaluation))
    write_json(out / "metrics.json", metrics_tree(evaluation))
    log(f"evaluate: {len(evaluation.cases.patient_B)} studies, {len(evaluation.cases.arms)} arms")

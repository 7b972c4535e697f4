"""The method against its baselines and ablations over seeds: a table with intervals, and every claim shown true or false."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from glint.core.atomic import atomic_file, write_json, write_text
from glint.core.config.evaluate import EvaluateConfig
from glint.core.config.experiments import METRICS, Experiment, run_of
from glint.core.errors import InputError
from glint.core.progress import log
from glint.core.seeds import generator
from glint.evaluation.arms import check_made_from, load_arm
from glint.evaluation.cohort import read_cohort, require_studies
from glint.evaluation.figures import FAINT, INK, colour, label, new_figure, png_bytes
from glint.evaluation.measure import measure, threshold_range
from glint.evaluation.stage import Inputs, valid_of
from glint.evaluation.tokens import teacher_tokens
from glint.evaluation.zero_shot import answers_of, ask, encoded_batches, make_prompts, prompt_questions
from glint.metrics.bootstrap import macro_means, patient_weights, percentile_interval, weighted_means
from glint.metrics.classification import auroc_scores, average_precision_scores
from glint.metrics.segmentation import false_positive_image_errors

Floats = NDArray[np.float64]
KEYS = ["finding", "study_id"]
LOWER_IS_BETTER = ("false_positive_images", "false_positive_images_withdrawn")
TITLES = {
    "auroc": "AUROC",
    "average_precision": "AUPRC",
    "dice_fixed": "Dice, fixed threshold",
    "pointing": "pointing",
    "false_positive_images": "false-positive images",
    "false_positive_images_withdrawn": "false-positive images, withdrawn",
    "teacher_cosine": "cosine to the teacher",
}
GAINS = ("pointing", "dice_fixed")
"""Where the paper's abstract places the largest gains: grounding and segmentation; AUROC is what they are compared with."""


def measure_run(
    checkpoint: Path,
    *,
    resampled: Sequence[Path],
    split: Path,
    features: Sequence[Path],
    truth: Path,
    config: EvaluateConfig,
    out: Path,
) -> None:
    """One checkpoint on the measured split: a row per finding and study, as Parquet.

    `teacher_cosine` is the mean over a study's valid patches of the cosine between the student's and the teacher's last block.

    Raises:
        InputError: an input is absent or the split has no study with masks.
        FingerprintError: the checkpoint was trained on other tables.
    """
    import torch

    from glint.losses.dense_feature import patch_cosine

    cohort = read_cohort(resampled=resampled, split=split, truth=truth, features=features)
    inputs = Inputs(
        checkpoints=(checkpoint,),
        resampled=tuple(resampled),
        sections=(),
        split=split,
        features=tuple(features),
        truth=truth,
    )
    if not config.foreign_checkpoint:
        check_made_from(checkpoint, inputs.digests())
    studies = cohort.studies[config.split]
    require_studies(studies, config.split)
    arm, name = load_arm(checkpoint), checkpoint.name
    model: Any = arm.model
    last = model.student.encoder.depth - 1
    taught = teacher_tokens(features, [study.study_id for study in studies], block=last)
    valid_BP = valid_of(studies, arm)
    cosines: list[Floats] = []

    def watched() -> Iterator[Any]:
        """Token batches on their way to the questions, compared with the teacher's."""
        batches = encoded_batches(
            _WithBlock(model, last), studies, arm.windows, batch_size=config.batch_size, description=name
        )
        for start, tokens in zip(range(0, len(studies), config.batch_size), batches, strict=True):
            rows = slice(start, start + config.batch_size)
            cosine_BP = patch_cosine(tokens.hidden[last], torch.from_numpy(np.asarray(taught[rows], np.float32)))
            weight_BP = torch.from_numpy(valid_BP[rows]).float()
            mean_B = (cosine_BP * weight_BP).sum(dim=1) / weight_BP.sum(dim=1).clamp_min(1)
            cosines.append(mean_B.double().numpy())
            yield tokens

    prompts = make_prompts(cohort.findings, config.prompts)
    with torch.inference_mode():
        replies = ask(
            model,
            watched(),
            prompt_questions(prompts),
            grid=arm.grid,
            weight_BP=valid_BP.astype(np.float32),
            batch_size=config.batch_size,
            mask_rule=config.mask_rule,
        )
    answers = answers_of(replies, len(cohort.findings), arm.grid)
    levels = {name: threshold_range(answers.logits_FBP, 2)}
    cases = measure(studies, {name: answers}, levels, cohort.findings, config, details=False)
    found = cases.arms[name]
    num_findings, num_studies = cases.positive_FB.shape
    table = pl.DataFrame(
        {
            "finding": np.repeat(cohort.findings, num_studies).tolist(),
            "study_id": list(cases.study_B) * num_findings,
            "patient_id": list(cases.patient_B) * num_findings,
            "positive": cases.positive_FB.ravel(),
            "score": answers.score_FB.ravel().astype(np.float64),
            "pointing": found.pointing_FB.ravel(),
            "dice_fixed": found.dice_FB.ravel(),
            "nonempty": found.nonempty_FB.ravel(),
            "kept": (found.nonempty_FB & ~found.withdrawn_FB).ravel(),
            "teacher_cosine": np.tile(np.concatenate(cosines), num_findings),
        }
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(out) as path:
        table.write_parquet(path)


class _WithBlock:
    """The model, its patch tokens with the output of one encoder block beside them."""

    def __init__(self, model: Any, block: int) -> None:
        self.model, self.block = model, block
        self.encode_text, self.score = model.encode_text, model.score

    def encode_volume(self, volume_BCZYX: Any) -> Any:
        """Patch tokens."""
        return self.model.encode_volume(volume_BCZYX, layers=[self.block])


@dataclass(frozen=True, kw_only=True)
class Value:
    """A number and its interval over seeds and patients."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """A claim and what became of it: `true`, `false` (its opposite is shown), `not shown`; `numbers` are GLINT's gains."""

    experiment: str
    claim: str
    verdict: str
    numbers: Mapping[str, Value]


@dataclass(frozen=True, kw_only=True)
class Ablation:
    """`values` and `gains`: experiment → metric. A gain is GLINT minus the experiment, signed so that above 0 GLINT is better."""

    values: Mapping[str, Mapping[str, Value]]
    gains: Mapping[str, Mapping[str, Value]]
    verdicts: tuple[Verdict, ...]
    seeds: Mapping[str, tuple[int, ...]]
    by_seed: Mapping[str, Mapping[str, tuple[float, ...]]]
    studies: int
    patients: int
    level: float


def run_metrics(table: pl.DataFrame, findings: Sequence[str], weight_RB: NDArray[np.generic]) -> dict[str, Floats]:
    """Metric → (R,) macro means of one run under every resample's weights."""
    rows: dict[str, list[Floats]] = {metric: [] for metric in METRICS}
    for finding in findings:
        one = table.filter(pl.col("finding") == finding).sort("study_id")
        positive_B = one["positive"].to_numpy()
        score_B = one["score"].to_numpy()
        rows["auroc"].append(auroc_scores(score_B, positive_B, weight_RB))
        rows["average_precision"].append(average_precision_scores(score_B, positive_B, weight_RB))
        for metric in ("pointing", "dice_fixed", "teacher_cosine"):
            rows[metric].append(weighted_means(one[metric].to_numpy(), weight_RB))
        for metric, column in zip(LOWER_IS_BETTER, ("nonempty", "kept"), strict=True):
            rows[metric].append(false_positive_image_errors(one[column].to_numpy(), positive_B, weight_RB))
    return {metric: macro_means(np.stack(found)) for metric, found in rows.items()}


def over_seeds(value_SR: Floats, drawn_RS: NDArray[np.int64]) -> Floats:
    """(R,) mean over the seeds of each resample; row 0 of the resamples holds every seed once."""
    return np.asarray(np.take_along_axis(value_SR.T, drawn_RS, axis=1).mean(axis=1))


def compare_runs(paths: Sequence[Path], experiments: Mapping[str, Experiment], config: EvaluateConfig) -> Ablation:
    """Every run's table into values, gains and verdicts. Patients and seeds are both resampled, for all experiments alike.

    Args:
        paths: `…/<experiment>-s<seed>/cases.parquet`.

    Raises:
        InputError: runs measured different studies or seeds, or the method is not among them.
    """
    tables: dict[str, dict[int, pl.DataFrame]] = {}
    for path in paths:
        name, seed = run_of(path.parent.name)
        tables.setdefault(name, {})[seed or 0] = pl.read_parquet(path).sort(KEYS)
    method = next((name for name, one in experiments.items() if one.kind == "method" and name in tables), None)
    if method is None:
        raise InputError(f"{paths[0]}: no run of the method; evaluate.ablation.experiments must hold it")
    first = next(iter(tables[method].values()))
    seeds = tuple(sorted(tables[method]))
    for name, runs in tables.items():
        if tuple(sorted(runs)) != seeds:
            raise InputError(f"{name}: seeds {sorted(runs)}, {method} has {list(seeds)}; run ablate again")
        for seed, table in runs.items():
            if not table.select(*KEYS, "positive").equals(first.select(*KEYS, "positive")):
                raise InputError(f"{name}-s{seed}: measured other studies than {method}; run ablate again")
    findings = first["finding"].unique(maintain_order=True).to_list()
    one = first.filter(pl.col("finding") == findings[0])
    rng = generator(config.seed, "ablation")
    weights = patient_weights(one["patient_id"].to_list(), resamples=config.resamples, rng=rng)
    weight_RB = np.concatenate([np.ones((1, len(one)), weights.dtype), weights])
    drawn_RS = rng.integers(0, len(seeds), (len(weight_RB), len(seeds)))
    drawn_RS[0] = np.arange(len(seeds))
    raw = {name: [run_metrics(runs[seed], findings, weight_RB) for seed in seeds] for name, runs in tables.items()}
    resampled = {
        name: {metric: over_seeds(np.stack([run[metric] for run in runs]), drawn_RS) for metric in METRICS}
        for name, runs in raw.items()
    }

    def interval(value_R: Floats) -> Value:
        low, high = percentile_interval(value_R[1:], level=config.interval)
        return Value(value=float(value_R[0]), low=low, high=high)

    def gain(name: str, metric: str) -> Floats:
        sign = -1 if metric in LOWER_IS_BETTER else 1
        return sign * (resampled[method][metric] - resampled[name][metric])

    others = [name for name in tables if name != method]
    return Ablation(
        values={name: {metric: interval(found[metric]) for metric in METRICS} for name, found in resampled.items()},
        gains={name: {metric: interval(gain(name, metric)) for metric in METRICS} for name in others},
        verdicts=(
            *_paper(others, experiments, gain, interval),
            *(
                _judge(name, experiments[name].claim, {m: interval(gain(name, m)) for m in experiments[name].metrics})
                for name in others
                if experiments[name].metrics
            ),
        ),
        seeds=dict.fromkeys(tables, seeds),
        by_seed={
            name: {metric: tuple(float(run[metric][0]) for run in runs) for metric in METRICS}
            for name, runs in raw.items()
        },
        studies=len(one),
        patients=one["patient_id"].n_unique(),
        level=config.interval,
    )


def _judge(name: str, claim: str, numbers: Mapping[str, Value]) -> Verdict:
    verdict = "not shown"
    if all(one.low > 0 for one in numbers.values()):
        verdict = "true"
    elif any(one.high < 0 for one in numbers.values()):
        verdict = "false"
    return Verdict(experiment=name, claim=claim, verdict=verdict, numbers=numbers)


def _paper(others: Sequence[str], experiments: Mapping[str, Experiment], gain: Any, interval: Any) -> Iterator[Verdict]:
    """The abstract's claims: against every baseline, gains in grounding and segmentation exceed the one in classification."""
    for name in others:
        if experiments[name].kind == "baseline":
            numbers = {
                f"gain in {TITLES[metric]} beyond the gain in AUROC": interval(gain(name, metric) - gain(name, "auroc"))
                for metric in GAINS
            }
            claim = f"The largest gains over {label(name)} are in grounding and segmentation."
            yield _judge(name, claim, numbers)


def _cell(one: Value) -> str:
    if np.isnan(one.value):
        return "–"
    return f"{one.value:z.2f} ({one.low:z.2f} to {one.high:z.2f})".replace("-", "\N{MINUS SIGN}")


def markdown(ablation: Ablation) -> str:
    """The table of values, the table of gains, and the claims."""
    seeds = next(iter(ablation.seeds.values()))
    head = "| | " + " | ".join(TITLES[metric] for metric in METRICS) + " |\n|---|" + "--:|" * len(METRICS)
    lines = [
        f"Seeds {', '.join(map(str, seeds))}; {ablation.studies} studies of {ablation.patients} patients, zero-shot, macro over findings; "
        f"{100 * ablation.level:g} % intervals over seeds and patients, both resampled. GLINT {version('glint')}.",
        "",
        head,
    ]
    lines += [
        f"| {label(name)} | " + " | ".join(_cell(found[metric]) for metric in METRICS) + " |"
        for name, found in ablation.values.items()
    ]
    lines += ["", "GLINT's gain over each, paired on the same resamples; above 0 GLINT is better:", "", head]
    lines += [
        f"| {label(name)} | " + " | ".join(_cell(found[metric]) for metric in METRICS) + " |"
        for name, found in ablation.gains.items()
    ]
    lines += ["", "| claim | shown | by |", "|---|---|---|"]
    for one in ablation.verdicts:
        numbers = "; ".join(f"{TITLES.get(metric, metric)} {_cell(value)}" for metric, value in one.numbers.items())
        lines.append(f"| {one.claim} (`{one.experiment}`) | **{one.verdict}** | {numbers} |")
    lines += [
        "",
        "True: every gain's interval lies above 0. False: one lies below. Otherwise the runs can't tell. "
        "Few seeds make the intervals rather too narrow.",
    ]
    return "\n".join(lines) + "\n"


def ablation_figure(ablation: Ablation) -> bytes:
    """One panel per metric: experiments from top to bottom, mean and interval, a point per seed."""
    names = list(ablation.values)
    figure = new_figure(2.0 * len(METRICS) + 1.6, 0.32 * len(names) + 1.2)
    for place, (axes, metric) in enumerate(zip(figure.subplots(1, len(METRICS), sharey=True), METRICS, strict=True)):
        for row, name in enumerate(names):
            one, paint = ablation.values[name][metric], colour("glint") if row == 0 else INK
            axes.plot([one.low, one.high], [row, row], color=paint, linewidth=1.2)
            axes.plot([one.value], [row], "o", color=paint, markersize=5)
            axes.plot(ablation.by_seed[name][metric], [row] * len(ablation.by_seed[name][metric]), "|", color=paint)
        axes.axvline(ablation.values[names[0]][metric].value, color=colour("glint"), linewidth=0.7, linestyle=":")
        arrow = " (lower is better)" if metric in LOWER_IS_BETTER else ""
        axes.set_title(f"{TITLES[metric]}{arrow}".replace(", ", ",\n").replace(" (", "\n("), fontsize=8, color=INK)
        axes.tick_params(labelsize=7, length=0)
        axes.locator_params(axis="x", nbins=4)
        axes.grid(color=FAINT, linewidth=0.6)
        for side in ("top", "right", "left"):
            axes.spines[side].set_visible(False)
        if place == 0:
            axes.set_yticks(range(len(names)), [label(name) for name in names], fontsize=8)
            axes.set_ylim(len(names) - 0.5, -0.5)
    return png_bytes(figure, dpi=110)


def write_ablation(ablation: Ablation, out: Path) -> None:
    """ablation.md, ablation.png and, last, ablation.json."""
    out.mkdir(parents=True, exist_ok=True)
    write_text(out / "ablation.md", markdown(ablation))
    with atomic_file(out / "ablation.png") as path:
        path.write_bytes(ablation_figure(ablation))
    write_json(out / "ablation.json", json.loads(json.dumps(asdict(ablation)).replace("NaN", "null")))
    log(f"ablation: {len(ablation.values)} experiments; {out / 'ablation.md'}")

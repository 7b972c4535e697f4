"""Probes over shares of the labels and over few shots: who is trained on, what is measured, what is written."""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from glint.core.atomic import atomic_directory, write_json, write_text
from glint.core.config.downstream import ProbeTaskConfig
from glint.core.config.evaluate import EvaluateConfig
from glint.core.errors import InputError
from glint.core.progress import log, track
from glint.core.seeds import generator
from glint.evaluation.cohort import ImagedStudy
from glint.evaluation.downstream.probes import attentive_scores, linear_scores, pooled_tokens
from glint.evaluation.figures import FAINT, INK, new_figure, png_bytes
from glint.metrics.bootstrap import macro_means, patient_weights, percentile_interval
from glint.metrics.classification import auroc_scores, average_precision_scores

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
MACRO = "macro"
PROBES = ("linear", "attentive")
METRICS = {"auroc": auroc_scores, "ap": average_precision_scores}


def fraction_of_patients(patient_N: Sequence[str], fraction: float, *, seed: int) -> NDArray[np.intp]:
    """Rows of the first ceil(fraction · patients) patients of the seed's order, so that a larger share holds a smaller one."""
    patients = np.unique(np.asarray(patient_N, dtype=str))
    order = generator(seed, "label fraction").permutation(len(patients))
    taken = patients[order[: int(np.ceil(fraction * len(patients) - 1e-9))]]
    return np.flatnonzero(np.isin(np.asarray(patient_N, dtype=str), taken))


def few_shot_rows(positive_N: Bools, patient_N: Sequence[str], shots: int, *, seed: int, finding: str) -> Bools:
    """(N,) `shots` studies with the finding and as many without, no patient twice, fewer where there are no more.

    More shots hold the fewer ones of the same seed.
    """
    order = generator(seed, "few shots", finding).permutation(len(positive_N))
    used, seen = np.zeros(len(positive_N), np.bool_), set[str]()
    left = {True: shots, False: shots}
    # Alternating classes keep few shots inside more shots although no patient may serve twice.
    queues = {kind: [row for row in order if bool(positive_N[row]) is kind] for kind in (True, False)}
    while any(left[kind] and queues[kind] for kind in queues):
        for kind in queues:
            while left[kind] and queues[kind]:
                row = queues[kind].pop(0)
                if patient_N[row] not in seen:
                    seen.add(patient_N[row])
                    used[row], left[kind] = True, left[kind] - 1
                    break
    return used


@dataclass(frozen=True, kw_only=True)
class Labelled:
    """Frozen tokens of training and test studies in one array, rows of each, and their labels."""

    tokens_BPD: NDArray[np.floating]
    valid_BP: Bools
    training: NDArray[np.intp]
    asked: NDArray[np.intp]
    training_patients: tuple[str, ...]
    asked_patients: tuple[str, ...]
    target_NF: Bools
    truth_MF: Bools
    findings: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One amount of labels: a share of the training patients, or shots per class."""

    kind: str
    amount: float

    @property
    def name(self) -> str:
        """As tables say it."""
        return f"{100 * self.amount:g} %" if self.kind == "fraction" else f"{self.amount:g} per class"


def settings_of(config: ProbeTaskConfig) -> list[Setting]:
    """Shares in rising order, then shots."""
    shares = [Setting(kind="fraction", amount=one) for one in sorted(config.fractions)]
    return shares + [Setting(kind="shots", amount=one) for one in sorted(config.shots)]


def used_rows(data: Labelled, setting: Setting, *, seed: int) -> Bools:
    """(N, F) which training studies each finding's probe may see."""
    if setting.kind == "fraction":
        used = np.zeros_like(data.target_NF)
        used[fraction_of_patients(data.training_patients, setting.amount, seed=seed)] = True
        return used
    columns = [
        few_shot_rows(data.target_NF[:, f], data.training_patients, int(setting.amount), seed=seed, finding=finding)
        for f, finding in enumerate(data.findings)
    ]
    return np.stack(columns, axis=1)


def probe_scores(data: Labelled, config: ProbeTaskConfig) -> dict[tuple[str, Setting], tuple[Floats, Floats]]:
    """Probe and setting → scores (S, M, F) of every seed, and the mean number of training studies and positives per
    finding (2, F).
    """
    pooled = pooled_tokens(data.tokens_BPD, data.valid_BP, config.pooling)
    settings = settings_of(config)
    found: dict[tuple[str, Setting], tuple[Floats, Floats]] = {}
    for setting in track(settings, "probes"):
        scores: dict[str, list[NDArray[np.float32]]] = {name: [] for name in PROBES}
        counts = []
        for seed in config.seeds:
            used = used_rows(data, setting, seed=seed)
            counts.append([used.sum(axis=0), (used & data.target_NF).sum(axis=0)])
            scores["linear"].append(
                linear_scores(pooled[data.training], data.target_NF, used, pooled[data.asked], config)
            )
            scores["attentive"].append(
                attentive_scores(
                    data.tokens_BPD,
                    data.valid_BP,
                    training=data.training,
                    target_NF=data.target_NF,
                    used_NF=used,
                    asked=data.asked,
                    config=config,
                    seed=seed,
                )
            )
        for name in PROBES:
            found[name, setting] = np.stack(scores[name]).astype(np.float64), np.mean(counts, axis=0)
    return found


def summarise_probes(
    data: Labelled,
    scored: Mapping[tuple[str, Setting], tuple[Floats, Floats]],
    *,
    resamples: int,
    level: float,
    seed: int,
) -> list[dict[str, Any]]:
    """Rows of probe, setting, finding (macro last) and metric: the mean over seeds, its interval, the seeds' deviation, chance.

    Patients and seeds are resampled together. A finding of which the test studies hold one class is left out of the macro.
    """
    rng = generator(seed, "probe bootstrap")
    weight_RM = patient_weights(data.asked_patients, resamples=resamples, rng=rng)
    weight_RM = np.concatenate([np.ones((1, len(data.asked)), weight_RM.dtype), weight_RM])
    rows = []
    for (probe, setting), (score_SMF, counts) in scored.items():
        num_seeds = len(score_SMF)
        drawn_RS = rng.integers(0, num_seeds, size=(resamples, num_seeds))
        for metric, measure in METRICS.items():
            value_SFR = np.array(
                [
                    [measure(score_MF[:, f], data.truth_MF[:, f], weight_RM) for f in range(len(data.findings))]
                    for score_MF in score_SMF
                ]
            )
            value_SFR = np.where(one_class_of(data.truth_MF)[None, :, None], np.nan, value_SFR)
            value_SGR = np.concatenate([value_SFR, np.stack([macro_means(one) for one in value_SFR])[:, None]], axis=1)
            prevalence = data.truth_MF.mean(axis=0)
            chance = np.full(len(data.findings), 0.5) if metric == "auroc" else prevalence
            chance = np.where(one_class_of(data.truth_MF), np.nan, chance)
            chances = [*chance, float(macro_means(chance[:, None])[0])]
            for g, finding in enumerate((*data.findings, MACRO)):
                value_SR = value_SGR[:, g]
                resampled = value_SR[drawn_RS.T, np.arange(1, resamples + 1)].mean(axis=0)
                low, high = percentile_interval(resampled, level=level)
                macro = finding == MACRO
                rows.append(
                    {
                        "probe": probe,
                        "kind": setting.kind,
                        "amount": setting.amount,
                        "finding": finding,
                        "metric": metric,
                        "value": float(value_SR[:, 0].mean()),
                        "low": low,
                        "high": high,
                        "seed_deviation": float(value_SR[:, 0].std(ddof=1)) if num_seeds > 1 else 0.0,
                        "chance": float(chances[g]),
                        "studies": float(counts[0].mean() if macro else counts[0][g]),
                        "positives": float(counts[1].mean() if macro else counts[1][g]),
                        "test_positives": int(data.truth_MF.sum() if macro else data.truth_MF[:, g].sum()),
                    }
                )
    return rows


def one_class_of(truth_MF: Bools) -> Bools:
    """(F,) findings that no measure can rank."""
    return np.asarray(truth_MF.all(axis=0) | ~truth_MF.any(axis=0))


def probe_figure(rows: Sequence[Mapping[str, Any]]) -> bytes:
    """Macro AUROC over the share of labelled patients, and over shots, with intervals."""
    macro = [row for row in rows if row["finding"] == MACRO and row["metric"] == "auroc"]
    figure = new_figure(7.6, 3.4)
    panels = figure.subplots(1, 2, sharey=True)
    for axes, kind, name in zip(
        panels, ("fraction", "shots"), ("training patients with labels, %", "studies per class"), strict=True
    ):
        for probe, tint, shift in (("linear", "#1f5fbf", 0.97), ("attentive", "#e08214", 1.03)):
            mine = [row for row in macro if row["kind"] == kind and row["probe"] == probe]
            if not mine:
                continue
            x = np.array([row["amount"] * (100 if kind == "fraction" else 1) for row in mine]) * shift
            y = np.array([row["value"] for row in mine])
            spread = np.abs(np.array([[row["low"], row["high"]] for row in mine]).T - y)
            axes.errorbar(x, y, yerr=spread, color=tint, marker="o", markersize=4, capsize=3, label=probe)
        axes.axhline(0.5, color="#9aa0a6", linestyle="--", linewidth=1, label="chance")
        axes.set_xscale("log")
        ticks = sorted({row["amount"] * (100 if kind == "fraction" else 1) for row in macro if row["kind"] == kind})
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.minorticks_off()
        axes.set_xlabel(name, fontsize=9, color=INK)
        axes.grid(axis="y", color=FAINT, linewidth=0.6)
        axes.tick_params(labelsize=8, colors=INK)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
    panels[0].set_ylabel("AUROC, mean over findings", fontsize=9, color=INK)
    panels[0].legend(fontsize=8, frameon=False, loc="upper left")
    return png_bytes(figure, dpi=130)


def probe_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Markdown of the macro values."""
    lines = ["| probe | labels | studies | AUROC | AP | AP by chance |", "|---|---|---:|---|---|---:|"]
    macro = {(row["probe"], row["kind"], row["amount"], row["metric"]): row for row in rows if row["finding"] == MACRO}
    for (probe, kind, amount, metric), row in macro.items():
        if metric == "auroc":
            precision = macro[probe, kind, amount, "ap"]
            shown = [f"{one['value']:.3f} ({one['low']:.3f} to {one['high']:.3f})" for one in (row, precision)]
            lines.append(
                f"| {probe} | {Setting(kind=kind, amount=amount).name} | {row['studies']:.0f} | {shown[0]} | {shown[1]} "
                f"| {precision['chance']:.3f} |"
            )
    return "\n".join(lines) + "\n"


def csv_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows as CSV."""
    content = io.StringIO()
    writer = csv.DictWriter(content, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return content.getvalue()


def measure_probes(data: Labelled, config: EvaluateConfig) -> list[dict[str, Any]]:
    """Train and measure every probe of `config.downstream.probe`.

    Raises:
        InputError: no finding has both classes among the test studies.
    """
    if one_class_of(data.truth_MF).all():
        raise InputError("the test studies hold one class of every finding: nothing can be ranked")
    scored = probe_scores(data, config.downstream.probe)
    return summarise_probes(data, scored, resamples=config.resamples, level=config.interval, seed=config.seed)


def write_probes(rows: Sequence[Mapping[str, Any]], *, about: Mapping[str, Any], out: Path) -> None:
    """probe.csv, probe.md, probe.png and probe.json, a folder made whole."""
    with atomic_directory(out) as folder:
        write_text(folder / "probe.csv", csv_text(rows))
        write_text(folder / "probe.md", probe_table(rows))
        (folder / "probe.png").write_bytes(probe_figure(rows))
        clean = [{key: None if value != value else value for key, value in row.items()} for row in rows]
        write_json(folder / "probe.json", {**about, "rows": clean})
    log(f"probe: {out / 'probe.md'}\n{probe_table(rows)}")


def patients(studies: Sequence[ImagedStudy]) -> tuple[str, ...]:
    """Whose each study is."""
    return tuple(study.patient_id for study in studies)

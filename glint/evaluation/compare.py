"""Two evaluations side by side on the studies that both measured: differences with intervals and p values."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from glint.core.atomic import write_json, write_text
from glint.core.errors import InputError
from glint.core.seeds import generator
from glint.evaluation.figures import INK, new_figure, png_bytes, words
from glint.evaluation.summary import MACRO, METRICS
from glint.metrics.bootstrap import macro_means, patient_weights, percentile_interval, weighted_means
from glint.metrics.classification import auroc_scores, average_precision_scores
from glint.metrics.paired import sign_flip_p

Floats = NDArray[np.float64]
CASES_FILE = Path("tables", "cases.parquet")
RANKED: dict[str, Callable[..., Floats]] = {"auroc": auroc_scores, "average_precision": average_precision_scores}
MEASURED = (
    "pointing",
    "dice_fixed",
    "hit",
    "surface_dice",
    "contrast_to_noise",
    "side_moves",
    "erasure_excess",
    "brier",
)
KEYS = ["finding", "study_id"]


@dataclass(frozen=True, kw_only=True)
class Contrast:
    """One metric of one finding (or `macro`): both values, first minus second, its interval, and p where cases are paired."""

    metric: str
    finding: str
    first: float
    second: float
    low: float
    high: float
    p: float

    @property
    def difference(self) -> float:
        """First minus second."""
        return self.first - self.second


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What two evaluations share, and how they differ on it."""

    names: tuple[str, str]
    studies: int
    patients: int
    only_first: int
    only_second: int
    contrasts: tuple[Contrast, ...]


def read_cases(folder: Path, arm: str) -> pl.DataFrame:
    """One arm's cases of a stage-10 folder, sorted by finding and study.

    Raises:
        InputError: no such table, or no such arm in it.
    """
    file = folder / CASES_FILE
    if not file.is_file():
        raise InputError(f"{file}: no such file; {folder} must be the folder of an evaluation (stage 10)")
    table = pl.read_parquet(file)
    if arm not in (known := table["arm"].unique(maintain_order=True).to_list()):
        raise InputError(f"{file}: no arm {arm!r}; it holds {', '.join(known)}")
    return table.filter(pl.col("arm") == arm).sort(KEYS)


def compare_cases(
    first: pl.DataFrame,
    second: pl.DataFrame,
    *,
    names: tuple[str, str],
    resamples: int = 2000,
    flips: int = 5000,
    level: float = 0.95,
    seed: int = 0,
) -> Comparison:
    """Compare on the findings and studies that both hold, patients resampled together, differences paired.

    Raises:
        InputError: nothing is shared, or the two disagree about who has a finding.
    """
    shared = first.select(KEYS).join(second.select(KEYS), on=KEYS, how="semi").unique().sort(KEYS)
    if shared.is_empty():
        raise InputError(f"{names[0]} and {names[1]} share no finding of any study; nothing to compare")
    one, two = (table.join(shared, on=KEYS, how="semi").sort(KEYS) for table in (first, second))
    if disagree := int((one["positive"] != two["positive"]).sum()):
        raise InputError(
            f"{names[0]} and {names[1]} disagree in {disagree} cases about who has a finding; measure both with one truth"
        )
    patient_S = one.unique("study_id", keep="first").sort("study_id")
    weights_RS = patient_weights(
        patient_S["patient_id"].to_list(), resamples=resamples, rng=generator(seed, "comparison")
    )
    weights_RS = np.concatenate([np.ones((1, weights_RS.shape[1]), weights_RS.dtype), weights_RS])
    place = {name: k for k, name in enumerate(patient_S["study_id"].to_list())}
    contrasts: list[Contrast] = []
    for metric in (*RANKED, *MEASURED):
        if metric in MEASURED and not (metric in one.columns and metric in two.columns):
            continue
        rows: list[tuple[str, Floats, Floats, float]] = []
        kept: list[tuple[Floats, Floats, list[str]]] = []
        for finding in one["finding"].unique(maintain_order=True).to_list():
            pair = [table.filter(pl.col("finding") == finding) for table in (one, two)]
            weight_RN = weights_RS[:, [place[name] for name in pair[0]["study_id"].to_list()]]
            if metric in RANKED:
                positive = pair[0]["positive"].to_numpy()
                values = [RANKED[metric](table["score"].to_numpy(), positive, weight_RN) for table in pair]
                rows.append((finding, *values, float("nan")))
                continue
            case = [table[metric].cast(pl.Float64).to_numpy() for table in pair]
            both = ~np.isnan(case[0]) & ~np.isnan(case[1])
            case = [np.where(both, value, np.nan) for value in case]
            patients = pair[0]["patient_id"].to_list()
            p = sign_flip_p(case[0], case[1], patients, flips=flips, seed=seed)
            kept.append((case[0], case[1], patients))
            rows.append((finding, *(weighted_means(value, weight_RN) for value in case), p))
        means = [macro_means(np.stack([row[side] for row in rows])) for side in (1, 2)]
        # Each finding weighs alike in the macro mean, whatever the number of its cases.
        p = float("nan")
        if kept:
            scaled = [
                (a / (~np.isnan(a)).sum(), b / (~np.isnan(b)).sum(), who) for a, b, who in kept if (~np.isnan(a)).any()
            ]
            if scaled:
                p = sign_flip_p(
                    np.concatenate([a for a, _, _ in scaled]),
                    np.concatenate([b for _, b, _ in scaled]),
                    [name for _, _, who in scaled for name in who],
                    flips=flips,
                    seed=seed,
                )
        for finding, left, right, chance in (*rows, (MACRO, means[0], means[1], p)):
            low, high = percentile_interval((left - right)[1:], level=level)
            contrasts.append(
                Contrast(
                    metric=metric,
                    finding=finding,
                    first=float(left[0]),
                    second=float(right[0]),
                    low=low,
                    high=high,
                    p=chance,
                )
            )
    return Comparison(
        names=names,
        studies=len(place),
        patients=patient_S["patient_id"].n_unique(),
        only_first=first["study_id"].n_unique() - len(place),
        only_second=second["study_id"].n_unique() - len(place),
        contrasts=tuple(contrasts),
    )


def comparison_tree(comparison: Comparison) -> dict[str, Any]:
    """Metric → finding → both values, difference, interval, p; NaN becomes null."""

    def plain(value: float) -> float | None:
        return round(value, 6) if np.isfinite(value) else None

    tree: dict[str, Any] = {
        "first": comparison.names[0],
        "second": comparison.names[1],
        "studies": comparison.studies,
        "patients": comparison.patients,
        "studies_of_first_only": comparison.only_first,
        "studies_of_second_only": comparison.only_second,
    }
    for one in comparison.contrasts:
        values = {name: plain(getattr(one, name)) for name in ("first", "second", "difference", "low", "high", "p")}
        tree.setdefault("metrics", {}).setdefault(one.metric, {})[one.finding] = values
    return tree


def differences_figure(comparison: Comparison, metrics: tuple[str, ...] = ("auroc", "pointing", "dice_fixed")) -> bytes:
    """Differences by finding with their intervals, one panel per metric; right of the line the first is better."""
    shown = [metric for metric in metrics if any(one.metric == metric for one in comparison.contrasts)]
    held = {metric: [one for one in comparison.contrasts if one.metric == metric] for metric in shown}
    num = max(len(rows) for rows in held.values())
    figure = new_figure(3.9 * len(shown), 0.32 * num + 1.1)
    for axes, (metric, rows) in zip(figure.subplots(1, len(shown), squeeze=False).ravel(), held.items(), strict=True):
        ordered = [one for one in rows if one.finding != MACRO] + [one for one in rows if one.finding == MACRO]
        for place, one in enumerate(ordered):
            better = one.low > 0 or one.high < 0
            shade = ("#1f5fbf" if one.difference > 0 else "#c2410c") if better else "#7b8694"
            axes.hlines(place, one.low, one.high, color=shade, linewidth=3 if one.finding == MACRO else 1.6)
            axes.plot(one.difference, place, "D" if one.finding == MACRO else "o", color=shade, markersize=6)
        axes.axvline(0, color=INK, linewidth=0.8)
        axes.set_yticks(range(len(ordered)), [words(one.finding) for one in ordered], fontsize=8)
        axes.invert_yaxis()
        axes.set_title(METRICS[metric].partition(":")[0], loc="left", fontsize=9, color=INK, weight="bold")
        axes.tick_params(labelsize=8, length=0)
        for side in ("top", "right", "left"):
            axes.spines[side].set_visible(False)
    return png_bytes(figure, dpi=100)


def write_comparison(comparison: Comparison, out: Path) -> None:
    """compare.html, one file that needs nothing else, and compare.json beside it."""
    import base64

    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    folder = Path(__file__).parent / "templates"
    environment = Environment(
        loader=FileSystemLoader(folder), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    image = base64.b64encode(differences_figure(comparison)).decode("ascii")
    tables = [
        {
            "title": METRICS[metric],
            "rows": [
                {
                    "finding": words(one.finding),
                    "macro": one.finding == MACRO,
                    "first": _number(one.first),
                    "second": _number(one.second),
                    "difference": _number(one.difference, sign=True),
                    "interval": f"{_number(one.low)} to {_number(one.high)}" if np.isfinite(one.low) else "",
                    "p": f"{one.p:.3f}" if np.isfinite(one.p) else "",
                    "better": "first" if one.low > 0 else "second" if one.high < 0 else "",
                }
                for one in comparison.contrasts
                if one.metric == metric
            ],
        }
        for metric in dict.fromkeys(one.metric for one in comparison.contrasts)
    ]
    page = environment.get_template("compare.html.jinja").render(
        comparison=comparison, tables=tables, image=f"data:image/png;base64,{image}", version=version("glint")
    )
    write_text(out / "compare.html", page)
    write_json(out / "compare.json", comparison_tree(comparison))


def _number(value: float, *, sign: bool = False) -> str:
    if not np.isfinite(value):
        return "–"
    return f"{value:{'+' if sign else ''}z.3f}".replace("-", "\N{MINUS SIGN}")

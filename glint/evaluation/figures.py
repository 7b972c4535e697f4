"""Figures of the report as PNG bytes: ROC curves, bars with intervals, training curves. Equal input, equal bytes."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from glint.evaluation.measure import Cases
from glint.evaluation.summary import CHANCE, MACRO, Summary
from glint.metrics.calibration import Reliability
from glint.metrics.classification import auroc_score, roc_points

LABELS = {
    "glint": "GLINT",
    "global_pooling": "global pooling (CLIP-style)",
    "probe": "probe (saw masks)",
    "location_prior": "location prior (saw masks)",
    CHANCE: "chance",
}
COLOURS = {
    "glint": "#1f5fbf",
    "global_pooling": "#e08214",
    "probe": "#4d9a5b",
    "location_prior": "#8c6bb1",
    CHANCE: "#9aa0a6",
}
SPARE_COLOURS = ("#c2185b", "#00838f", "#6d4c41", "#5e35b1")
INK, FAINT = "#202733", "#d9dde3"


def label(arm: str) -> str:
    """What a reader calls an arm."""
    return LABELS.get(arm, arm.replace("_", " "))


def colour(arm: str) -> str:
    """The arm's colour, the same in every figure."""
    return COLOURS.get(arm) or SPARE_COLOURS[sum(map(ord, arm)) % len(SPARE_COLOURS)]


def words(finding: str) -> str:
    """A registry name as words."""
    return finding.replace("_", " ")


def new_figure(width_in: float, height_in: float) -> Any:
    """A matplotlib figure that draws without a screen."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width_in, height_in), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def png_bytes(figure: Any, *, dpi: int) -> bytes:
    """The figure as PNG without date or software tag."""
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=dpi, metadata={"Software": None})
    return content.getvalue()


def _tidy(axes: Any) -> None:
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(FAINT)
    axes.tick_params(colors=INK, labelsize=8, length=0)
    axes.grid(axis="y", color=FAINT, linewidth=0.6)
    axes.set_axisbelow(True)


def roc_figure(cases: Cases, findings: Sequence[str]) -> bytes:
    """One panel per finding, one curve per arm; a finding with one class only says so."""
    columns = min(5, len(findings))
    rows = -(-len(findings) // columns)
    figure = new_figure(2.5 * columns, 2.6 * rows + 0.4)
    panels = np.atleast_1d(figure.subplots(rows, columns, squeeze=False)).ravel()
    arms = [name for name, arm in cases.arms.items() if np.ptp(arm.answers.score_FB) > 0]
    for row, (axes, finding) in enumerate(zip(panels, findings, strict=False)):
        positive = cases.positive_FB[row]
        axes.set_title(f"{words(finding)}  {int(positive.sum())}/{len(positive)}", fontsize=9, color=INK)
        axes.plot([0, 1], [0, 1], color=colour(CHANCE), linewidth=0.8, linestyle=":")
        if not 0 < positive.sum() < len(positive):
            axes.text(0.5, 0.4, "one class only", ha="center", fontsize=8, color=INK)
        else:
            for place, name in enumerate(arms):
                score = cases.arms[name].answers.score_FB[row]
                axes.plot(*roc_points(score, positive), color=colour(name), linewidth=1.6, alpha=0.9)
                text = f"{auroc_score(score, positive):.2f}"
                axes.text(0.97, 0.04 + 0.1 * place, text, ha="right", fontsize=8, color=colour(name), weight="bold")
        _tidy(axes)
        axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), aspect="equal", xticks=(0, 0.5, 1), yticks=(0, 0.5, 1))
    for axes in panels[len(findings) :]:
        axes.set_axis_off()
    for axes in panels[(rows - 1) * columns :]:
        axes.set_xlabel("false positive rate", fontsize=8)
    handles = [panels[0].plot([], [], color=colour(name), label=label(name))[0] for name in arms]
    figure.legend(handles=handles, loc="outside upper center", ncols=len(arms), frameon=False, fontsize=9)
    return png_bytes(figure, dpi=100)


def bars_figure(summary: Summary, arms: Sequence[str], findings: Sequence[str], panels: Mapping[str, str]) -> bytes:
    """One panel per metric (name → title): macro and findings side by side, a bar per arm with its interval."""
    names = (MACRO, *findings)
    figure = new_figure(12.5, 2.35 * len(panels) + 0.4)
    width = 0.84 / len(arms)
    for axes, (metric, title) in zip(
        figure.subplots(len(panels), 1, squeeze=False).ravel(), panels.items(), strict=True
    ):
        for place, arm in enumerate(arms):
            found = [summary.find(arm, metric, name) for name in names]
            value = np.array([one.value if one else np.nan for one in found])
            ends = np.array([(one.low, one.high) if one else (np.nan, np.nan) for one in found]).T
            x = np.arange(len(names)) + (place - (len(arms) - 1) / 2) * width
            axes.bar(x, value, width * 0.92, color=colour(arm), label=label(arm), alpha=0.55 if arm == CHANCE else 0.95)
            axes.vlines(x, *ends, color=INK, linewidth=0.9)
        axes.axvline(0.5, color=INK, linewidth=0.6)
        axes.set_xticks(range(len(names)), [words(name) for name in names], rotation=0)
        axes.set_xticklabels([words(name).replace(" ", "\n", 1) for name in names])
        axes.set_title(title, loc="left", fontsize=10, color=INK, weight="bold")
        axes.set(xlim=(-0.5, len(names) - 0.5), ylim=(0, 1.02))
        _tidy(axes)
    handles, texts = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, texts, loc="outside upper center", ncols=len(arms), frameon=False, fontsize=9)
    return png_bytes(figure, dpi=100)


def curves_figure(curves: Mapping[str, Mapping[str, Sequence[float | None]]]) -> bytes | None:
    """Training loss and validation AUROC of every arm over the steps; None where no arm left curves."""
    wanted = {"loss": "training loss", "auroc_macro": "zero-shot AUROC on validation reports"}
    held = {column: title for column, title in wanted.items() if any(column in table for table in curves.values())}
    if not held:
        return None
    figure = new_figure(5.2 * len(held), 3.0)
    for axes, (column, title) in zip(figure.subplots(1, len(held), squeeze=False).ravel(), held.items(), strict=True):
        for arm, table in curves.items():
            points = [(s, v) for s, v in zip(table["step"], table.get(column, ()), strict=False) if v is not None]
            if points:
                marker = "o" if len(points) < 30 else None
                axes.plot(*zip(*points, strict=True), color=colour(arm), label=label(arm), marker=marker, markersize=3)
        axes.set_title(title, loc="left", fontsize=10, color=INK)
        axes.set_xlabel("step", fontsize=8)
        axes.legend(frameon=False, fontsize=8)
        _tidy(axes)
    return png_bytes(figure, dpi=100)


def reliability_figure(bins: Mapping[str, Reliability]) -> bytes | None:
    """Share of positives over the probability that was told, one curve per arm; dots as large as their bins are full."""
    if not bins:
        return None
    figure = new_figure(5.2, 4.2)
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color=colour(CHANCE), linewidth=0.8, linestyle=":")
    for arm, one in bins.items():
        size = 12 + 160 * np.sqrt(one.cases_K / one.cases_K.sum())
        axes.plot(one.probability_K, one.positive_share_K, color=colour(arm), linewidth=1.2, label=label(arm))
        axes.scatter(one.probability_K, one.positive_share_K, s=size, color=colour(arm), alpha=0.6, linewidths=0)
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), xlabel="probability told", ylabel="share of positives")
    axes.legend(frameon=False, fontsize=8)
    _tidy(axes)
    return png_bytes(figure, dpi=100)

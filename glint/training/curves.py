"""Curves of a run: one row per step as CSV, one page as PNG."""

import csv
import io
from collections.abc import Mapping, Sequence

Row = Mapping[str, float]


def curve_columns(rows: Sequence[Row]) -> list[str]:
    """Every column in the order of first appearance."""
    return list(dict.fromkeys(name for row in rows for name in row))


def curves_csv(rows: Sequence[Row]) -> bytes:
    """CSV with a header; a value that a step does not have is empty."""
    text = io.StringIO()
    writer = csv.DictWriter(text, curve_columns(rows), restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: f"{value:.6g}" for name, value in row.items()} for row in rows)
    return text.getvalue().encode()


def curves_png(rows: Sequence[Row]) -> bytes:
    """Four panels over the steps: loss terms, gate density, cosine to the teacher, validation AUROC."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = curve_columns(rows)
    panels = {
        "loss terms": [name for name in columns if name in ("loss", "contrastive", "sigmoid", "area", "dense")],
        "mean gate": [name for name in columns if name.startswith("gate_density")],
        "cosine to the teacher": [name for name in columns if name.startswith("teacher_cosine")],
        "zero-shot AUROC on validation reports": [name for name in columns if name.startswith("auroc_macro")],
    }
    figure = Figure(figsize=(11, 7), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, (title, names) in zip(figure.subplots(2, 2).flat, panels.items(), strict=True):
        for name in names:
            points = [(row["step"], row[name]) for row in rows if name in row]
            axes.plot(*zip(*points, strict=True), label=name, marker="o" if len(points) < 30 else None)
        axes.set_title(title)
        axes.set_xlabel("step")
        if names:
            axes.legend(fontsize=7)
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=100, metadata={"Software": None})
    return content.getvalue()

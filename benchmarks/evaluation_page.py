"""Write a page of results from a run's own files: the tables of stage 10 and what each stage cost.

`python benchmarks/evaluation_page.py --run . --modality cxr --title "The demo's films" --out benchmarks/results/demo_films.md`
"""

import argparse
import csv
import json
import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ARMS = {
    "glint": "GLINT",
    "global_pooling": "global pooling (CLIP-style)",
    "probe": "supervised patch probe (saw masks)",
    "location_prior": "location prior (saw masks, blind to the image)",
    "chance": "chance",
}
METRICS = {
    "auroc": "AUROC",
    "pointing": "pointing",
    "dice_fixed": "Dice, fixed threshold",
    "dice_calibrated": "Dice, threshold from validation masks",
}


def number(values: Mapping[str, float | None], name: str = "macro", *, interval: bool = False) -> str:
    """.680 (.620-.735), or a dash where nothing was measured."""
    if values.get(name) is None:
        return "-"
    told = f"{values[name]:.3f}"
    low, high = values.get(f"{name}_low"), values.get(f"{name}_high")
    return f"{told} ({low:.3f}-{high:.3f})" if interval and low is not None and high is not None else told


def macro_table(metrics: Mapping[str, Any]) -> list[str]:
    """A row per arm."""
    rows = [f"| | {' | '.join(METRICS.values())} |", "|---|" + "--:|" * len(METRICS)]
    for arm, name in ARMS.items():
        if arm in metrics:
            cells = (number(metrics[arm].get(metric, {}), interval=True) for metric in METRICS)
            rows.append(f"| {name} | {' | '.join(cells)} |")
    return rows


def finding_table(metrics: Mapping[str, Any], arm: str = "glint") -> list[str]:
    """A row per finding."""
    rows = [f"| finding | positives | {' | '.join(METRICS.values())} |", "|---|--:|" + "--:|" * len(METRICS)]
    for finding, positives in metrics["cohort"]["positives"].items():
        cells = (number(metrics[arm].get(metric, {}), finding) for metric in METRICS)
        rows.append(f"| {finding.replace('_', ' ')} | {positives} | {' | '.join(cells)} |")
    return rows


def cost_table(logs: Path) -> list[str]:
    """Jobs, seconds by the clock and of processor time per stage, from the benchmark files that Snakemake left."""
    rows = ["| stage | jobs | s, longest job | s of processor time, all jobs |", "|---|--:|--:|--:|"]
    total = 0.0
    for stage in sorted(path for path in logs.iterdir() if path.is_dir()):
        jobs = []
        for file in sorted(stage.glob("*.benchmark.tsv")):
            with file.open(encoding="utf-8") as handle:
                jobs += list(csv.DictReader(handle, delimiter="\t"))
        if jobs:
            cpu = sum(float(job["cpu_time"]) for job in jobs)
            total += cpu
            rows.append(f"| {stage.name} | {len(jobs)} | {max(float(job['s']) for job in jobs):.0f} | {cpu:.0f} |")
    return [*rows, f"| all | | | {total:.0f} |"]


def device() -> str:
    """Processor cores, Python and torch."""
    import torch

    return f"{os.cpu_count()} processor cores ({platform.machine()}), Python {platform.python_version()}, torch {torch.__version__}"


def main() -> None:
    """Read the run, write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, default=Path(), help="workspace with results/ and logs/")
    parser.add_argument("--modality", default="cxr")
    parser.add_argument("--title", required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    evaluated = args.run / "results" / args.modality / "10_evaluate"
    metrics = json.loads((evaluated / "metrics.json").read_text(encoding="utf-8"))
    cohort = metrics["cohort"]
    lines = [
        f"# {args.title}",
        "",
        f"{cohort['studies']} measured studies of {cohort['patients']} patients. {device()}.",
        "",
        "Zero-shot, macro over findings, 95 % interval over patients:",
        "",
        *macro_table(metrics),
        "",
        "GLINT by finding:",
        "",
        *finding_table(metrics),
    ]
    logs = args.run / "logs" / args.modality
    if (logs / "10_evaluate").is_dir():
        told = "What it cost. Two jobs ran at a time; seconds by the clock are this machine's, whatever else it did:"
        lines += ["", told, "", *cost_table(logs)]
    args.out.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(f"{args.out}: {cohort['studies']} studies")


if __name__ == "__main__":
    main()

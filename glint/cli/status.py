"""`glint status`: how far a run has come, what was set aside and why, and the hours that are left."""

import argparse
import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from glint.core.config.schema import MODALITIES, read_config
from glint.core.errors import ConfigError
from glint.formats.workspace import StageState, read_workspace

HELP = "how far each stage has come, what was set aside and why, hours left"
SHOWN_REASONS = 4


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare where to look and how to print."""
    parser.add_argument("--modality", choices=MODALITIES, default="ct", help="default ct")
    parser.add_argument("--cores", type=int, default=os.cpu_count() or 1, help="for the hours left; default: all here")
    parser.add_argument("--directory", type=Path, default=Path(), help="workspace that holds results/; default: here")
    parser.add_argument(
        "--config-dir", type=Path, default=Path("config"), help="folder of config.yaml (default config)"
    )
    parser.add_argument("--cohort", help="read this overlay instead of the one that config.yaml names")
    parser.add_argument("--json", action="store_true", help="print JSON for other programs")


def run(args: argparse.Namespace) -> None:
    """Print the state of one workspace; nothing is written."""
    if args.cores < 1:
        raise ConfigError(f"--cores {args.cores}: give at least 1")
    config = read_config(args.config_dir, {"cohort": args.cohort} if args.cohort else None)
    states = read_workspace(args.directory, config, args.modality)
    if args.json:
        print(json.dumps(as_plain(states, args.cores), indent=2))
    else:
        _print_table(states, args.cores, f"{args.modality}, cohort {config.cohort}, {args.cores} cores")


def as_plain(states: Sequence[StageState], cores: int) -> dict[str, object]:
    """The same numbers for other programs; null where nothing was measured."""
    stages = [{**asdict(state), "hours_left": state.hours_left(cores)} for state in states]
    hours, complete = total_hours(states, cores)
    return {"cores": cores, "stages": stages, "hours_left": hours, "every_stage_measured": complete}


def total_hours(states: Sequence[StageState], cores: int) -> tuple[float, bool]:
    """Sum of the hours that can be told, and whether that is all of them."""
    hours = [state.hours_left(cores) for state in states]
    return sum(value for value in hours if value is not None), None not in hours


def duration(hours: float | None) -> str:
    """`-`, `0`, `<0.1` or hours with one decimal."""
    if hours is None:
        return "-"
    return "0" if hours == 0 else "<0.1" if hours < 0.1 else f"{hours:.1f}"


def reasons_text(reasons: dict[str, int]) -> str:
    """`12 localizer, 3 truncated, 5 more`: the most frequent first."""
    shown = list(reasons.items())[:SHOWN_REASONS]
    rest = sum(reasons.values()) - sum(count for _, count in shown)
    return ", ".join([f"{count} {reason}" for reason, count in shown] + ([f"{rest} more"] if rest else []))


def _print_table(states: Sequence[StageState], cores: int, title: str) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, title_justify="left", box=box.SIMPLE, padding=(0, 1), pad_edge=False)
    table.add_column("stage", no_wrap=True)
    for heading in ("jobs", "ok", "s/job", "h left"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("set aside")
    for state in states:
        seconds = "-" if state.mean_job_s is None else f"{state.mean_job_s:.1f}"
        table.add_row(
            f"{state.stage} {state.part}".strip(),
            f"{state.jobs_done}/{state.jobs_expected}",
            "-" if state.studies_ok is None else f"{state.studies_ok}",
            seconds,
            duration(state.hours_left(cores)),
            reasons_text(state.reasons),
        )
    console = Console()
    console.print(table)
    hours, complete = total_hours(states, cores)
    known = duration(hours) if complete else f"{duration(hours)}, and what the stages marked - take: not measured yet"
    for line in (
        f"hours left: {known}",
        "ok counts studies, set aside series in 02 images and 03, else studies",
        "this is what exists; `snakemake --dry-run` says what is stale",
    ):
        console.print(line, highlight=False, soft_wrap=True)

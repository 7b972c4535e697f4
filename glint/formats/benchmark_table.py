"""Snakemake's benchmark tables: how long a job took, measured by the workflow engine."""

import csv
from pathlib import Path


def read_seconds(path: Path | str) -> float | None:
    """Wall seconds of the last run in a benchmark table; None where it is absent, empty or half written."""
    try:
        with Path(path).open(encoding="utf-8", newline="") as handle:
            rows = list(csv.DictReader(handle, delimiter="\t"))
        return float(rows[-1]["s"])
    except (OSError, UnicodeDecodeError, IndexError, KeyError, TypeError, ValueError):
        return None

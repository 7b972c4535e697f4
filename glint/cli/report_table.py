"""`glint report-table`: a public, already sectioned report collection → the report table that stage 01 reads."""

import argparse
from pathlib import Path

from glint.core.atomic import atomic_file
from glint.formats.sectioned_reports import LAYOUTS, sectioned_report_table

HELP = "CT-RATE, IU or MIMIC reports to a report table (columns id, text)"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare source, layout and output."""
    parser.add_argument("--layout", choices=tuple(LAYOUTS), required=True, help="how the source is laid out")
    parser.add_argument("--source", type=Path, required=True, help="table, archive or folder as downloaded")
    parser.add_argument("--out", type=Path, required=True, help="CSV to write")


def run(args: argparse.Namespace) -> None:
    """Write the table."""
    table = sectioned_report_table(args.source, args.layout)
    with atomic_file(args.out) as part:
        table.write_csv(part)
    print(f"report-table: {table.height} reports -> {args.out}")

"""`glint report-view`: stage 05 on one page: reports with their findings, prevalence, what was set aside."""

import argparse
from pathlib import Path

from glint.core.atomic import write_text
from glint.prepare.sections.view import read_tables, render_page

HELP = "a page of reports with sections, sentences and findings by polarity, and tables of the cohort"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare inputs, output and what to show."""
    parser.add_argument("--sections", type=Path, nargs="+", required=True, help="manifests of stage 05, one per shard")
    parser.add_argument("--out", type=Path, required=True, help="HTML file to write; it holds report text")
    parser.add_argument("--study", nargs="*", default=[], help="study_ids to show; default: the first ones")
    parser.add_argument("--max-reports", type=int, default=20, help="reports to show (default 20)")


def run(args: argparse.Namespace) -> None:
    """Write the page."""
    page = render_page(read_tables(args.sections), study_ids=args.study, max_reports=args.max_reports)
    write_text(args.out, page)
    print(f"report-view: {args.out}")

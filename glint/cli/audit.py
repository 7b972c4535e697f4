"""`glint audit`: what a de-identification run did, what remains, and what it scores."""

import argparse
from pathlib import Path

from glint.core.errors import PrivacyError

HELP = "audit the de-identified images of a run: score, values that remain, contact sheets"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the folders that are compared and written."""
    parser.add_argument("--results", type=Path, required=True, help="results/ct/02_deidentify/images")
    parser.add_argument("--index", type=Path, required=True, help="restricted/ct/01_index/images")
    parser.add_argument("--out", type=Path, required=True, help="folder of the page and tables, no identifiers")
    parser.add_argument("--restricted", type=Path, required=True, help="folder of the page with identifiers")


def run(args: argparse.Namespace) -> None:
    """Write both pages and print the score.

    Raises:
        PrivacyError: the page with identifiers would not lie under a folder `restricted`.
    """
    from glint.prepare.deidentify.audit import audit_run

    if "restricted" not in args.restricted.resolve().parts:
        raise PrivacyError("--restricted must lie below a folder named restricted: it will show identifiers")
    for row in audit_run(args.results, args.index, args.out, args.restricted):
        print(f"{row['action']:20} {row['passed']:6} of {row['total']:6}  {row['failed_on']}")

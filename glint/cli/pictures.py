"""`glint pictures`: PNG and JPEG films given DICOM headers, for stage 01 to read."""

import argparse
import csv
from collections import Counter
from pathlib import Path

from glint.core.atomic import atomic_file
from glint.core.errors import ConfigError
from glint.core.progress import log
from glint.prepare.pictures import (
    BY_STEM,
    LAYOUTS,
    REPORT_COLUMNS,
    path_pattern,
    read_table,
    report_rows,
    wrap_pictures,
)

HELP = "wrap PNG and JPEG films as DICOM: study and patient from the path, views and reports from a table"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare inputs, outputs and options."""
    parser.add_argument("--folder", type=Path, required=True, help="folder with .png, .jpg or .jpeg films, any depth")
    parser.add_argument("--out", type=Path, required=True, help="folder for DICOM files, below restricted/")
    parser.add_argument("--layout", choices=tuple(LAYOUTS), help="a public collection's paths and columns; others win")
    parser.add_argument(
        "--pattern",
        help="regular expression on the path below --folder with (?P<study>…) and, if known, (?P<patient>…); "
        "default: the file's name is its study",
    )
    parser.add_argument("--table", type=Path, help="CSV with a row per picture")
    parser.add_argument("--file-column", help="its column with the file name (default filename)")
    parser.add_argument("--patient-column", help="its column with the patient; wins over the path")
    parser.add_argument("--view-column", help="its column with the view (PA, AP, lateral)")
    parser.add_argument("--text-column", help="its column with notes or a report")
    parser.add_argument("--reports", type=Path, help="CSV to write for index.cxr.report_table, below restricted/")
    parser.add_argument("--accept-color", action="store_true", help="turn coloured pictures to grey; default: refuse")
    parser.add_argument("--workers", type=int, default=1, help="processes")


def run(args: argparse.Namespace) -> None:
    """Wrap every picture of a folder."""
    given = {
        "file": args.file_column,
        "patient": args.patient_column,
        "view": args.view_column,
        "text": args.text_column,
    }
    layout = LAYOUTS.get(args.layout)
    columns = {"file": "filename", **(layout.columns if layout else {}), **{k: v for k, v in given.items() if v}}
    pattern = path_pattern(args.pattern or (layout.pattern if layout else BY_STEM))
    table = read_table(args.table, columns) if args.table else {}
    if args.reports and "text" not in columns:
        raise ConfigError("--reports needs --text-column, the table's column with notes or a report")
    pictures, refused = wrap_pictures(
        args.folder,
        args.out,
        pattern=pattern,
        table=table,
        accept_color=args.accept_color,
        workers=args.workers,
    )
    studies = len({(picture.patient, picture.study) for picture in pictures})
    log(f"pictures: {len(pictures)} of {studies} studies, {len(refused)} refused")
    for reason, count in Counter(refused.values()).most_common():
        log(f"refused:  {count} {reason}; each in {args.out / 'refused.json'}")
    if args.reports:
        rows = report_rows(args.folder, pattern, table)
        args.reports.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with atomic_file(args.reports) as part, part.open("w", newline="", encoding="utf-8") as handle:
            writer = csv.DictWriter(handle, REPORT_COLUMNS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
        log(f"reports:  {len(rows)} in {args.reports}; index.cxr.report_table")
    log(f"next: index.cxr.raw_dirs [{args.out}] and index.cxr.accept_secondary_capture true, then resample_cxr")

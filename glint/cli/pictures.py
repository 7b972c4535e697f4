"""`glint pictures`: PNG and JPEG films given DICOM headers, for stage 01 to read."""

import argparse
from collections import Counter
from pathlib import Path

from glint.core.progress import log
from glint.prepare.pictures import BY_STEM, path_pattern, read_table, wrap_pictures

HELP = "wrap PNG and JPEG films as DICOM: study and patient from the path, views from a table"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare inputs, outputs and options."""
    parser.add_argument("--folder", type=Path, required=True, help="folder with .png, .jpg or .jpeg films, any depth")
    parser.add_argument("--out", type=Path, required=True, help="folder for DICOM files, below restricted/")
    parser.add_argument(
        "--pattern",
        default=BY_STEM,
        help="regular expression on the path below --folder with (?P<study>…) and, if known, (?P<patient>…); "
        "default: the file's name is its study",
    )
    parser.add_argument("--table", type=Path, help="CSV with a row per picture")
    parser.add_argument("--file-column", default="filename", help="its column with the file name (default filename)")
    parser.add_argument("--patient-column", help="its column with the patient; wins over the path")
    parser.add_argument("--view-column", help="its column with the view (PA, AP, lateral)")
    parser.add_argument("--accept-color", action="store_true", help="turn coloured pictures to grey; default: refuse")
    parser.add_argument("--workers", type=int, default=1, help="processes")


def run(args: argparse.Namespace) -> None:
    """Wrap every picture of a folder."""
    columns = {"file": args.file_column, "patient": args.patient_column, "view": args.view_column}
    table = read_table(args.table, {name: column for name, column in columns.items() if column}) if args.table else {}
    pictures, refused = wrap_pictures(
        args.folder,
        args.out,
        pattern=path_pattern(args.pattern),
        table=table,
        accept_color=args.accept_color,
        workers=args.workers,
    )
    studies = len({(picture.patient, picture.study) for picture in pictures})
    log(f"pictures: {len(pictures)} of {studies} studies, {len(refused)} refused")
    for reason, count in Counter(refused.values()).most_common():
        log(f"refused:  {count} {reason}; each in {args.out / 'refused.json'}")
    log(f"next: index.cxr.raw_dirs [{args.out}] and index.cxr.accept_secondary_capture true, then resample_cxr")

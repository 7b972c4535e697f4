"""`glint truth-table`: a published annotation folder → the truth that stage 10 reads."""

import argparse
from pathlib import Path

from glint.core.config.benchmarks import load_benchmarks

HELP = "published annotations (CT-RATE, MS-CXR, NIH …) to stage 10's truth: labels, masks, splits"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the set, its folder and what is made of it."""
    parser.add_argument("name", help="annotation set; `list` prints them with their files, sources and benchmarks")
    parser.add_argument("folder", type=Path, nargs="?", help="folder with the annotation files as downloaded")
    parser.add_argument("--out", type=Path, help="folder to write, evaluate.truth_dir of stage 10")
    parser.add_argument(
        "--benchmark", choices=sorted(load_benchmarks()), help="findings that a benchmark asks (default: all)"
    )
    parser.add_argument(
        "--split", default="published", help="published (default), mgca, or a CSV with columns id, split"
    )
    parser.add_argument(
        "--uncertain",
        choices=("drop", "absent", "present"),
        default="drop",
        help="what an uncertain label counts as (default: the image's labels are left out)",
    )
    parser.add_argument(
        "--index",
        type=Path,
        nargs="+",
        default=[],
        help="folders of stage 01 with studies and instances; names by pseudonym",
    )
    parser.add_argument("--images", type=Path, help="scans (NIfTI) whose affine masks without one take")
    parser.add_argument(
        "--exclude",
        nargs="+",
        default=[],
        choices=("train", "validation", "test", "all"),
        help="splits that must not be trained on, or all: `excluded` in splits.csv, for split.assigned",
    )


def run(args: argparse.Namespace) -> None:
    """List the sets, or write one."""
    from glint.core.errors import InputError
    from glint.evaluation.annotations.registry import ANNOTATIONS
    from glint.evaluation.annotations.truth_table import TruthTableOptions, make_truth_table

    if args.name == "list":
        for name, one in ANNOTATIONS.items():
            asked = ", ".join(each.name for each in load_benchmarks().values() if each.annotations == name) or "none"
            print(
                f"{name}: {one.holds}\n  files: {'; '.join(one.files)}\n  source: {one.source}\n  benchmarks: {asked}"
            )
        return
    if args.folder is None or args.out is None:
        raise InputError("glint truth-table NAME FOLDER --out DIR; `glint truth-table list` names the sets")
    options = TruthTableOptions(
        benchmark=args.benchmark,
        split=args.split,
        uncertain=args.uncertain,
        index=tuple(args.index),
        images=args.images,
        exclude=tuple(args.exclude),
    )
    summary = make_truth_table(args.name, args.folder, args.out, options)
    print(f"truth-table: {summary['labelled']} labelled, {summary['masks']} masks -> {args.out}")

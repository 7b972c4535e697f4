"""`glint index`: the inventory of raw DICOM folders and of a report table."""

import argparse
from collections import Counter
from pathlib import Path

import polars as pl

from glint.cli.arguments import add_config_argument, add_modality_argument, stage_config_from_args
from glint.cli.key_arguments import add_key_arguments, pseudonyms_from_args
from glint.core.config.index import FilmIndexConfig, IndexConfig
from glint.core.errors import ConfigError
from glint.core.progress import log
from glint.prepare.index.images import IndexedImages, index_images
from glint.prepare.index.reports import index_reports

CONFIGS = {"ct": IndexConfig, "cxr": FilmIndexConfig}
HELP = "list studies, series and reports, and what can't be used and why (01)"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add `glint index images …` and `glint index reports …`."""
    kinds = parser.add_subparsers(dest="kind", required=True, metavar="images|reports")
    images = kinds.add_parser("images", help="read DICOM headers below the raw folders")
    images.add_argument(
        "--raw", nargs="+", type=Path, help="folders or archives with raw DICOM files; default: raw_dirs"
    )
    images.add_argument("--previous", type=Path, help="studies.parquet whose shards are kept; default: those in --out")
    images.add_argument("--out", type=Path, required=True, help="folder for the tables (restricted)")
    images.add_argument("--workers", type=int, default=1, help="processes")
    add_key_arguments(images)
    reports = kinds.add_parser("reports", help="join a report table to indexed studies")
    reports.add_argument("--images", type=Path, required=True, help="the --out folder of `glint index images`")
    reports.add_argument("--table", type=Path, help="CSV or Parquet with one report per row; default: report_table")
    reports.add_argument("--out", type=Path, required=True, help="folder for the tables (restricted)")
    for kind in (images, reports):
        add_modality_argument(kind, CONFIGS)
        add_config_argument(kind)


def run(args: argparse.Namespace) -> None:
    """Run one of the two."""
    config = stage_config_from_args(args, CONFIGS[args.modality])
    if args.kind == "images":
        _run_images(args, config)
    else:
        _run_reports(args, config)


def _run_images(args: argparse.Namespace, config: IndexConfig) -> None:
    pseudonyms = pseudonyms_from_args(args)
    folders = args.raw or [Path(folder) for folder in config.raw_dirs]
    if not folders:
        raise ConfigError(
            "config: index.raw_dirs is empty and --raw was not given; name the folders with raw DICOM files"
        )
    found = index_images(folders, args.out, config, pseudonyms, workers=args.workers, previous=args.previous)
    _summarize_images(found, args.out)


def _counted(values: pl.Series) -> str:
    counts = Counter(sorted(str(value) for value in values if value is not None))
    return ", ".join(f"{number} {name}" for name, number in counts.most_common())


def _summarize_images(found: IndexedImages, out: Path) -> None:
    studies, series = found.studies, found.series
    archives = f" ({found.num_archives} archives read)" if found.num_archives else ""
    log(f"files:   {found.num_dicom} DICOM{archives}, {found.num_unreadable} unreadable, {found.others.height} other")
    if found.others.height:
        log(f"other:   {_counted(found.others['kind'])}; no error, listed in {out / 'other_files.parquet'}")
    log(f"studies: {studies.height}, {(studies['status'] == 'ok').sum()} with a usable volume")
    log(f"series:  {series.height}: {_counted(series['kind'])}; {(series['status'] == 'ok').sum()} usable")
    for level in ("file", "instance", "series"):
        reasons = found.quarantine.filter(pl.col("level") == level)["reason"]
        if len(reasons):
            log(f"set aside, by {level}: {_counted(reasons)}")
    if found.quarantine.height:
        log(f"each with its reason: {out / 'quarantine.parquet'}")
    log(f"tables made anew: {len(found.shards_made)} shards")


def _run_reports(args: argparse.Namespace, config: IndexConfig) -> None:
    images, out = args.images / "studies.parquet", args.out
    path = args.table or config.report_table
    if not path:
        raise ConfigError("config: index.report_table is null and --table was not given; name the table of reports")
    index = index_reports(images, Path(path), out, config)
    ok = (index.reports["status"] == "ok").sum()
    log(f"reports: {index.num_rows} rows for {index.reports.height} studies; {ok} joined")
    if index.quarantine.height:
        log(f"set aside: {_counted(index.quarantine['reason'])}; each in {out / 'quarantine.parquet'}")

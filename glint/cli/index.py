"""`glint index`: the inventory of raw DICOM folders and of a report table."""

import argparse
import shutil
from collections import Counter
from pathlib import Path

import polars as pl

from glint.cli.arguments import add_config_argument, stage_config_from_args
from glint.cli.key_arguments import add_key_arguments, pseudonyms_from_args
from glint.core.config.index import IndexConfig
from glint.core.errors import ConfigError, InputError
from glint.core.progress import log
from glint.formats.manifest import read_manifest, read_manifests, write_manifest
from glint.formats.report_table import read_report_table
from glint.prepare.index.inventory import Inventory, build_inventory
from glint.prepare.index.reports import join_reports, report_columns
from glint.prepare.index.scan import Scan, scan_folders
from glint.prepare.index.shards import shard_names

HELP = "list studies, series and reports, and what can't be used and why (01)"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add `glint index images …` and `glint index reports …`."""
    kinds = parser.add_subparsers(dest="kind", required=True, metavar="images|reports")
    images = kinds.add_parser("images", help="read DICOM headers below the raw folders")
    images.add_argument("--raw", nargs="+", type=Path, help="folders with raw DICOM files; default: raw_dirs")
    images.add_argument("--previous", type=Path, help="studies.parquet whose shards are kept; default: those in --out")
    images.add_argument("--out", type=Path, required=True, help="folder for the tables (restricted)")
    images.add_argument("--workers", type=int, default=1, help="processes")
    add_key_arguments(images)
    add_config_argument(images)
    reports = kinds.add_parser("reports", help="join a report table to indexed studies")
    reports.add_argument("--images", type=Path, required=True, help="the --out folder of `glint index images`")
    reports.add_argument("--table", type=Path, help="CSV or Parquet with one report per row; default: report_table")
    reports.add_argument("--out", type=Path, required=True, help="folder for the tables (restricted)")
    add_config_argument(reports)


def run(args: argparse.Namespace) -> None:
    """Run one of the two."""
    config = stage_config_from_args(args, IndexConfig)
    if args.kind == "images":
        _run_images(args, config)
    else:
        _run_reports(args, config)


def _write_if_changed(path: Path, frame: pl.DataFrame, schema: str) -> None:
    """Leave an equal table as it is, so that nothing downstream of it looks stale."""
    try:
        unchanged = read_manifest(path, schema).equals(frame)
    except InputError:
        unchanged = False
    if not unchanged:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_manifest(path, frame, schema)


def _write_shards(out: Path, frames: dict[str, pl.DataFrame], schemas: dict[str, str], num_shards: int) -> None:
    """Write `<out>/<shard>/<table>.parquet` for every shard, empty ones too, and remove shards that are no more."""
    for name in shard_names(num_shards):
        for table, frame in frames.items():
            _write_if_changed(out / name / f"{table}.parquet", frame.filter(pl.col("shard") == name), schemas[table])
    for folder in out.glob("shard-*"):
        if folder.name not in shard_names(num_shards):
            shutil.rmtree(folder)


def _known_shards(tables: list[Path]) -> dict[str, str]:
    """Study → shard as an earlier run assigned them."""
    studies = read_manifests(tables, "index_studies")
    return dict(zip(studies["study_id"], studies["shard"], strict=True))


def _run_images(args: argparse.Namespace, config: IndexConfig) -> None:
    out: Path = args.out
    pseudonyms = pseudonyms_from_args(args)
    folders = args.raw or [Path(folder) for folder in config.raw_dirs]
    if not folders:
        raise ConfigError(
            "config: index.raw_dirs is empty and --raw was not given; name the folders with raw DICOM files"
        )
    known = _known_shards([args.previous] if args.previous else sorted(out.glob("shard-*/studies.parquet")))
    scan = scan_folders(folders, workers=args.workers)
    inventory = build_inventory(
        scan,
        pseudonyms,
        known_shards=known,
        num_shards=config.num_shards,
        non_chest_body_parts=config.non_chest_body_parts,
    )
    out.mkdir(parents=True, exist_ok=True, mode=0o700)
    sharded = {"instances": inventory.instances, "series": inventory.series, "studies": inventory.studies}
    _write_shards(out, sharded, {name: f"index_{name}" for name in sharded}, config.num_shards)
    _write_if_changed(out / "series.parquet", inventory.series, "index_series")
    _write_if_changed(out / "quarantine.parquet", inventory.quarantine, "index_quarantine")
    _write_if_changed(out / "studies.parquet", inventory.studies, "index_studies")
    _summarize_images(scan, inventory, out)


def _counted(values: pl.Series) -> str:
    counts = Counter(sorted(str(value) for value in values if value is not None))
    return ", ".join(f"{number} {name}" for name, number in counts.most_common())


def _summarize_images(scan: Scan, inventory: Inventory, out: Path) -> None:
    studies, series = inventory.studies, inventory.series
    log(f"files:   {len(scan.headers)} DICOM, {len(scan.unreadable)} unreadable, {scan.num_other_files} other")
    log(f"studies: {studies.height}, {(studies['status'] == 'ok').sum()} with a usable volume")
    log(f"series:  {series.height}: {_counted(series['kind'])}; {(series['status'] == 'ok').sum()} usable")
    for level in ("file", "instance", "series"):
        reasons = inventory.quarantine.filter(pl.col("level") == level)["reason"]
        if len(reasons):
            log(f"set aside, by {level}: {_counted(reasons)}")
    if inventory.quarantine.height:
        log(f"each with its reason: {out / 'quarantine.parquet'}")


def _run_reports(args: argparse.Namespace, config: IndexConfig) -> None:
    out: Path = args.out
    studies = read_manifest(args.images / "studies.parquet", "index_studies")
    path = args.table or config.report_table
    if not path:
        raise ConfigError("config: index.report_table is null and --table was not given; name the table of reports")
    table = read_report_table(path, report_columns(config))
    index = join_reports(studies, table, config)
    out.mkdir(parents=True, exist_ok=True, mode=0o700)
    _write_shards(out, {"reports": index.reports}, {"reports": "index_reports"}, config.num_shards)
    _write_if_changed(out / "quarantine.parquet", index.quarantine, "index_quarantine")
    _write_if_changed(out / "reports.parquet", index.reports, "index_reports")
    ok = (index.reports["status"] == "ok").sum()
    log(f"reports: {table.height} rows for {studies.height} studies; {ok} joined")
    if index.quarantine.height:
        log(f"set aside: {_counted(index.quarantine['reason'])}; each in {out / 'quarantine.parquet'}")

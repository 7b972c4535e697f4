"""Stage 01 for images: raw folders → tables by shard, doing again only what new, changed or vanished files ask for."""

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import polars as pl

from glint.core.atomic import write_json
from glint.core.config.index import FilmIndexConfig, IndexConfig
from glint.core.errors import InputError
from glint.core.ids import Pseudonyms
from glint.core.parallel import parallel_map
from glint.core.provenance import code_digest, digest, sha256_file
from glint.formats.header_cache import ARCHIVE, HEADER, headers_of, raw_roots, record_folders
from glint.formats.manifest import empty_manifest, read_manifest, read_manifests, write_manifest_if_changed
from glint.prepare.index.classify import classify_series
from glint.prepare.index.classify_films import classify_films
from glint.prepare.index.header_store import NO_STUDY, HeaderStore
from glint.prepare.index.inventory import Classify, build_inventory, files_without_study, other_files, sort_quarantine
from glint.prepare.index.scan import scan_folders
from glint.prepare.index.shards import assign_shards, shard_names
from glint.prepare.index.suspects import Suspects, find_suspects

TABLES = ("studies", "series", "instances", "quarantine")


@dataclass(frozen=True, kw_only=True)
class IndexedImages:
    """Counts of files (`others` lists those that are no DICOM), the tables of the whole cohort, and the shards whose tables were made anew."""

    num_dicom: int
    num_unreadable: int
    num_archives: int
    others: pl.DataFrame
    studies: pl.DataFrame
    series: pl.DataFrame
    quarantine: pl.DataFrame
    shards_made: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class _Task:
    """What one shard's tables are made from."""

    shard: str
    suspects: Suspects
    made_from: str


def index_images(
    folders: Sequence[Path],
    out: Path,
    config: IndexConfig,
    pseudonyms: Pseudonyms,
    *,
    workers: int,
    previous: Path | None = None,
) -> IndexedImages:
    """Write `<out>/<shard>/{studies,series,instances,quarantine}.parquet` and the tables of the whole cohort.

    Headers are kept under `<out>/headers/`: a file is opened once, then again only when its size or time changes.
    A known study keeps its shard, told by its tables or, where these were lost, by its headers. Shards of which
    nothing changed are left as they are.

    Raises:
        InputError: a folder does not exist, or none holds a DICOM file.
    """
    roots = raw_roots(folders)
    out.mkdir(parents=True, exist_ok=True, mode=0o700)
    store = HeaderStore.open(out / "headers")
    seen = scan_folders(roots, store, workers=workers)
    homes, claims = store.studies(seen)
    if not claims:
        names = ", ".join(str(folder) for folder in folders)
        raise InputError(f"{names}: no DICOM file among {len(seen)} files; name the folder with the raw DICOM files")
    ids = {uid: pseudonyms.study_id(uid) for uid in homes}
    known = {ids[uid]: home for uid, home in homes.items() if home}
    known |= _known_shards([previous] if previous else sorted(out.glob("shard-*/studies.parquet")))
    shards = assign_shards(ids.values(), known, num_shards=config.num_shards)
    store.settle(seen, {uid: shards[study_id] for uid, study_id in ids.items()})
    made = _make_tables(store, roots, out, config, pseudonyms, workers=workers)
    for folder in out.glob("shard-*"):
        if folder.name not in shard_names(config.num_shards):
            shutil.rmtree(folder)
    record_folders(out, roots)
    return _whole_cohort(store, out, config, made)


def _known_shards(tables: list[Path]) -> dict[str, str]:
    """Study → shard as an earlier run assigned them."""
    studies = read_manifests(tables, "index_studies")
    return dict(zip(studies["study_id"], studies["shard"], strict=True))


def _make_tables(
    store: HeaderStore, roots: Sequence[Path], out: Path, config: IndexConfig, pseudonyms: Pseudonyms, *, workers: int
) -> tuple[str, ...]:
    """Make the tables of every shard whose headers, suspects, configuration, key or code changed."""
    suspects = find_suspects(store, roots)
    common = [
        config.model_dump(mode="json", exclude={"raw_dirs", "num_shards", "report_table"}),
        pseudonyms.study_id("the key these tables were made under"),
        code_digest("glint.prepare.index.images"),
    ]
    tasks = []
    for shard in shard_names(config.num_shards):
        about = suspects.get(shard, Suspects())
        part = store.part(shard)
        headers = sha256_file(part) if part.is_file() else None
        across = [sorted(about.copies), sorted(about.conflicts), sorted(about.split_series)]
        task = _Task(shard=shard, suspects=about, made_from=digest([common, shard, headers, across]))
        if _record(store, shard) != _record_of(task, out):
            tasks.append(task)
    make = partial(_make_shard, store=store, roots=roots, out=out, config=config, pseudonyms=pseudonyms)
    parallel_map(make, tasks, workers=workers, description="shards")
    return tuple(task.shard for task in tasks)


def _record(store: HeaderStore, shard: str) -> object:
    try:
        return json.loads((store.folder / f"{shard}.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _record_of(task: _Task, out: Path) -> Mapping[str, str | None]:
    """What a shard's tables were made from, and their bytes: a table that was lost or replaced is made again."""
    paths = {name: out / task.shard / f"{name}.parquet" for name in TABLES}
    tables = {name: sha256_file(path) if path.is_file() else None for name, path in paths.items()}
    return {"made_from": task.made_from, **tables}


def _classifier(config: IndexConfig) -> Classify:
    """What tells the usable series of a modality: the configuration's type says which one it is."""
    if isinstance(config, FilmIndexConfig):
        return partial(classify_films, config=config)
    return partial(classify_series, non_chest_body_parts=frozenset(config.non_chest_body_parts))


def _make_shard(
    task: _Task, *, store: HeaderStore, roots: Sequence[Path], out: Path, config: IndexConfig, pseudonyms: Pseudonyms
) -> None:
    inventory = build_inventory(
        headers_of(store.rows(task.shard)),
        pseudonyms,
        roots=roots,
        shard=task.shard,
        suspects=task.suspects,
        classify=_classifier(config),
    )
    for name in TABLES:
        write_manifest_if_changed(out / task.shard / f"{name}.parquet", getattr(inventory, name), f"index_{name}")
    write_json(store.folder / f"{task.shard}.json", _record_of(task, out))


def _whole_cohort(store: HeaderStore, out: Path, config: IndexConfig, made: tuple[str, ...]) -> IndexedImages:
    """Join the shards' tables and write those that people and later stages read as a whole."""
    names = shard_names(config.num_shards)
    whole = {
        table: pl.concat([read_manifest(out / name / f"{table}.parquet", f"index_{table}") for name in names])
        for table in ("studies", "series", "quarantine")
    }
    without_study = store.rows(NO_STUDY)
    lost = files_without_study(without_study)
    whole["studies"] = whole["studies"].sort("study_id")
    whole["series"] = whole["series"].sort("study_id", "series_id")
    whole["quarantine"] = sort_quarantine(pl.concat([empty_manifest("index_quarantine"), lost, whole["quarantine"]]))
    for table, frame in whole.items():
        write_manifest_if_changed(out / f"{table}.parquet", frame, f"index_{table}")
    states = dict(without_study.group_by("state").len().iter_rows())
    num_files = sum(_height(path) for path in store.parts().values())
    others = other_files(without_study)
    write_manifest_if_changed(out / "other_files.parquet", others, "index_other_files")
    num_other = others.height + states.get(ARCHIVE, 0)
    num_unreadable = without_study.height - num_other - states.get(HEADER, 0)
    return IndexedImages(
        num_dicom=num_files - num_other - num_unreadable,
        num_unreadable=num_unreadable,
        others=others,
        num_archives=states.get(ARCHIVE, 0),
        shards_made=made,
        **whole,
    )


def _height(path: Path) -> int:
    count: int = pl.scan_parquet(path).select(pl.len()).collect().item()
    return count

"""What only looking across all files can find: copies, conflicting copies, series that two studies claim."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import polars as pl

from glint.core.provenance import sha256_bytes, sha256_file
from glint.formats.archives import raw_bytes, split_member
from glint.formats.header_cache import source_path
from glint.formats.manifest import manifest_frame, write_manifest_if_changed
from glint.prepare.index.header_store import NO_STUDY, HeaderStore

_SCHEMA = {
    "part": pl.String,
    "stamp": pl.UInt64,
    "source": pl.String,
    "file_size": pl.Int64,
    "sop_instance_uid": pl.String,
    "series_uid": pl.String,
}


@dataclass(frozen=True, kw_only=True)
class Suspects:
    """Of one shard: copies to drop (file → reason), series in conflict, series claimed by two studies."""

    copies: dict[str, str] = field(default_factory=dict)
    conflicts: frozenset[str] = frozenset()
    split_series: frozenset[str] = frozenset()


def find_suspects(store: HeaderStore, roots: Sequence[Path]) -> dict[str, Suspects]:
    """Suspects by shard, for shards that have some. Holds eight bytes per file, and the rows of copies."""
    parts = [name for name in store.parts() if name != NO_STUDY]
    repeated, split_series = _repeated(store, parts)
    rows = pl.concat([pl.DataFrame(schema=_SCHEMA), *(_matching(store, name, repeated) for name in parts)])
    copies, in_conflict = _compared(rows.sort("source"), store, roots)
    found = {}
    for name in parts:
        series = set(pl.read_parquet(store.part(name), columns=["series_uid"])["series_uid"]) if split_series else set()
        suspects = Suspects(
            copies=copies.get(name, {}),
            conflicts=frozenset(rows.filter(pl.col("part") == name)["series_uid"]) & in_conflict,
            split_series=frozenset(series & split_series),
        )
        if suspects != Suspects():
            found[name] = suspects
    return found


def _repeated(store: HeaderStore, parts: Sequence[str]) -> tuple[pl.Series, set[str]]:
    """Hashes of SOP Instance UIDs that occur more than once, and series in more than one study."""
    hashes = []
    claims = [pl.DataFrame(schema={"series_uid": pl.String, "study_uid": pl.String})]
    for name in parts:
        rows = pl.read_parquet(store.part(name), columns=["sop_instance_uid", "series_uid", "study_uid"])
        hashes.append(rows["sop_instance_uid"].hash().to_numpy())
        claims.append(rows.select("series_uid", "study_uid").unique())
    everything = np.sort(np.concatenate(hashes)) if hashes else np.empty(0, dtype=np.uint64)
    again = np.unique(everything[1:][everything[1:] == everything[:-1]])
    per_series = pl.concat(claims).unique().group_by("series_uid").len().filter(pl.col("len") > 1)
    return pl.Series(again, dtype=pl.UInt64), set(per_series["series_uid"])


def _matching(store: HeaderStore, name: str, hashes: pl.Series) -> pl.DataFrame:
    if hashes.is_empty():
        return pl.DataFrame(schema=_SCHEMA)
    rows = pl.read_parquet(store.part(name), columns=[column for column in _SCHEMA if column != "part"])
    rows = rows.filter(pl.col("sop_instance_uid").hash().is_in(hashes.implode()))
    return rows.select(pl.lit(name).alias("part"), *(column for column in _SCHEMA if column != "part"))


def _compared(
    rows: pl.DataFrame, store: HeaderStore, roots: Sequence[Path]
) -> tuple[dict[str, dict[str, str]], set[str]]:
    """Copies by part, and series UIDs in which one SOP Instance UID stands for different files.

    Files of equal size are compared by their SHA-256, which is kept for the next run.
    """
    known = store.contents()
    used: dict[int, str] = {}
    copies: dict[str, dict[str, str]] = {}
    conflicts: set[str] = set()
    for group in rows.partition_by("sop_instance_uid", maintain_order=True):
        if group.height == 1:
            continue
        same = group["file_size"].n_unique() == 1
        if same:
            for stamp, source in group.select("stamp", "source").iter_rows():
                used[stamp] = known.get(stamp) or _content_digest(source_path(source, roots))
            same = len({used[stamp] for stamp in group["stamp"]}) == 1
        if same:
            for part, source in group[1:].select("part", "source").iter_rows():
                copies.setdefault(part, {})[source] = "duplicate"
        else:
            conflicts.update(group["series_uid"])
    if used or known:
        contents = [{"stamp": stamp, "sha256": value} for stamp, value in sorted(used.items())]
        write_manifest_if_changed(store.part("contents"), manifest_frame(contents, "index_contents"), "index_contents")
    return copies, conflicts


def _content_digest(file: str) -> str:
    return sha256_file(file) if split_member(file)[1] is None else sha256_bytes(raw_bytes(file))

"""The cache of headers on disk: one part per shard, one for files without a study, and what was just read.

Parts are written only when their rows change, so that the work after them knows which shards to make anew. Rows that
were read but not yet sorted into a part lie under `new/`; they survive a killed run.
"""

import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from glint.core.errors import InputError
from glint.formats.header_cache import HEADER, NO_DICOM, reader_version
from glint.formats.manifest import empty_manifest, read_manifest, write_manifest

NO_STUDY = "no-study"
ROWS_AT_A_TIME = 1_000_000
UIDS = ("study_uid", "series_uid", "sop_instance_uid", "sop_class_uid")
_KEYS = ("stamp", "state", *UIDS)


def identified() -> pl.Expr:
    """Rows that belong to a study: a header with every UID."""
    return (pl.col("state") == HEADER) & pl.all_horizontal(pl.col(*UIDS).fill_null("") != "")


@dataclass(frozen=True)
class HeaderStore:
    """Headers by shard below `folder`; `folder` carries the version of the code that reads them."""

    folder: Path

    @classmethod
    def open(cls, parent: Path) -> "HeaderStore":
        """The store below `parent`; what an older reader has left there is removed."""
        store = cls(parent / reader_version())
        for entry in parent.glob("*") if parent.is_dir() else ():
            if entry != store.folder:
                shutil.rmtree(entry)
        store._new.mkdir(parents=True, exist_ok=True, mode=0o700)
        return store

    @property
    def _new(self) -> Path:
        return self.folder / "new"

    def part(self, name: str) -> Path:
        """The file of one shard, or of `NO_STUDY`."""
        return self.folder / f"{name}.parquet"

    def parts(self) -> dict[str, Path]:
        """Every part there is, by name; one that can't be read is dropped, its files are read again."""
        found = {}
        for path in sorted(self.folder.glob("*.parquet")):
            try:
                pl.read_parquet_schema(path)
            except (pl.exceptions.PolarsError, OSError):
                path.unlink()
                continue
            if path.stem != "contents":
                found[path.stem] = path
        return found

    def _just_read(self) -> list[Path]:
        return sorted(self._new.glob("*.parquet"))

    def stamps(self) -> NDArray[np.uint64]:
        """Sorted stamps of all files that were read."""
        columns = [pl.read_parquet(path, columns=["stamp"])["stamp"].to_numpy() for path in self._everything()]
        return np.sort(np.concatenate(columns)) if columns else np.empty(0, dtype=np.uint64)

    def with_members(self, seen: NDArray[np.uint64]) -> NDArray[np.uint64]:
        """Sorted stamps of the files in `seen` (sorted) and of what was read from the archives among them."""
        found = [seen]
        for path in self._everything():
            rows = pl.read_parquet(path, columns=["stamp", "archive"]).drop_nulls("archive")
            found.append(_among(rows, "archive", seen)["stamp"].to_numpy())
        return np.unique(np.concatenate(found))

    def _everything(self) -> list[Path]:
        return [*self.parts().values(), *self._just_read()]

    def add(self, frame: pl.DataFrame) -> None:
        """Keep rows that were just read (schema `index_headers`)."""
        last = max((int(path.stem) for path in self._just_read()), default=0)
        write_manifest(self._new / f"{last + 1:06d}.parquet", frame, "index_headers")

    def studies(self, seen: NDArray[np.uint64]) -> tuple[dict[str, str | None], int]:
        """Study Instance UID → the part it lies in, None for a new one; and how many files claim to be DICOM.

        Only files that are still there count.
        """
        homes: dict[str, str | None] = {}
        claims = 0
        for path in self._everything():
            rows = _present(pl.read_parquet(path, columns=list(_KEYS)), seen)
            home = None if path.parent == self._new else path.stem
            for uid in rows.filter(identified())["study_uid"].unique():
                homes[uid] = homes.get(uid) or home
            claims += rows.filter(~pl.col("state").is_in(NO_DICOM)).height
        return dict(sorted(homes.items())), claims

    def settle(self, seen: NDArray[np.uint64], shard_of: Mapping[str, str]) -> None:
        """Sort every row into the part of its study's shard and forget files that are gone; equal parts stay untouched."""
        homes = pl.DataFrame({"study_uid": list(shard_of), "home": list(shard_of.values())}, schema_overrides=_TEXT)
        leaving = set()
        for name, path in self.parts().items():
            keys = pl.read_parquet(path, columns=list(_KEYS))
            if _homed(_present(keys, seen), homes).filter(pl.col("home") == name).height == keys.height:
                continue
            leaving.add(name)
            moved = _homed(_present(read_manifest(path, "index_headers"), seen), homes).filter(pl.col("home") != name)
            if moved.height:
                self.add(moved.drop("home"))
        arriving = pl.concat(
            [
                pl.DataFrame(schema={"home": pl.String, "len": pl.UInt32}),
                *(
                    _homed(_present(pl.read_parquet(path, columns=list(_KEYS)), seen), homes).group_by("home").len()
                    for path in self._just_read()
                ),
            ],
            how="vertical_relaxed",
        )
        counts = dict.fromkeys(leaving, 0) | dict(arriving.group_by("home").agg(pl.col("len").sum()).iter_rows())
        for names in _batches(counts):
            self._rewrite(names, seen, homes)
        shutil.rmtree(self._new)
        self._new.mkdir(mode=0o700)

    def _rewrite(self, names: list[str], seen: NDArray[np.uint64], homes: pl.DataFrame) -> None:
        arriving = [
            _homed(_present(read_manifest(path, "index_headers"), seen), homes).filter(pl.col("home").is_in(names))
            for path in self._just_read()
        ]
        by_home = pl.concat(arriving).partition_by("home", as_dict=True) if arriving else {}
        for name in names:
            staying = empty_manifest("index_headers")
            if self.part(name).is_file():
                staying = _present(read_manifest(self.part(name), "index_headers"), seen)
                staying = _homed(staying, homes).filter(pl.col("home") == name).drop("home")
            new = by_home.get((name,))
            frame = pl.concat([staying, new.drop("home")]) if new is not None else staying
            frame = frame.unique("stamp", keep="first").sort("source")
            if frame.is_empty():
                self.part(name).unlink(missing_ok=True)
            else:
                write_manifest(self.part(name), frame, "index_headers")

    def rows(self, name: str) -> pl.DataFrame:
        """One part, sorted by source; empty where no file belongs there."""
        path = self.part(name)
        return read_manifest(path, "index_headers") if path.is_file() else empty_manifest("index_headers")

    def contents(self) -> dict[int, str]:
        """Stamp → SHA-256 of files whose whole content was compared before."""
        try:
            return dict(read_manifest(self.part("contents"), "index_contents").iter_rows())
        except InputError:
            return {}


_TEXT = {"study_uid": pl.String, "home": pl.String}


def _present(rows: pl.DataFrame, seen: NDArray[np.uint64]) -> pl.DataFrame:
    """The rows whose file is still there; `seen` is sorted."""
    return _among(rows, "stamp", seen)


def _among(rows: pl.DataFrame, column: str, seen: NDArray[np.uint64]) -> pl.DataFrame:
    if not len(seen):
        return rows.clear()
    stamps = rows[column].to_numpy()
    places = np.minimum(np.searchsorted(seen, stamps), len(seen) - 1)
    return rows.filter(pl.Series(seen[places] == stamps, dtype=pl.Boolean))


def _homed(rows: pl.DataFrame, homes: pl.DataFrame) -> pl.DataFrame:
    """The rows with the part they belong to, in column `home`."""
    joined = rows.join(homes, on="study_uid", how="left", maintain_order="left")
    return joined.with_columns(home=pl.when(identified()).then(pl.col("home")).otherwise(pl.lit(NO_STUDY)))


def _batches(counts: Mapping[str, int]) -> Iterator[list[str]]:
    """Names whose arriving rows fit into memory together."""
    names: list[str] = []
    total = 0
    for name, count in sorted(counts.items()):
        if names and total + count > ROWS_AT_A_TIME:
            yield names
            names, total = [], 0
        names.append(name)
        total += count
    if names:
        yield names

"""Parsed headers kept between runs, so that a file is read once: Parquet parts with a row per file, restricted.

A row's `stamp` names a file as it was: its path below the raw folders, its size and its modification time. A file that
was replaced has another stamp. A member of an archive carries the archive's stamp as well. `state` is `header`, `archive`
(its members have rows of their own), a kind of clutter, or why the file can't be read.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from functools import cache
from operator import attrgetter
from pathlib import Path

import polars as pl
import pydicom

from glint.core.atomic import write_json
from glint.core.errors import InputError
from glint.core.provenance import code_digest, digest
from glint.formats import archives, clutter
from glint.formats.dicom import InstanceHeader
from glint.formats.manifest import manifest_frame, schemas

HEADER, ARCHIVE = "header", "archive"
FOLDERS = "raw_folders.json"
NO_DICOM = clutter.KINDS | {ARCHIVE}
_FIELDS = [field.name for field in fields(InstanceHeader) if field.name != "file"]
_values = attrgetter(*_FIELDS)  # asdict copies every value, which takes a quarter as long as reading the header
_TUPLES = ("image_type", "patient_names", "other_persons", "identifiers", "institutions", "study_dates")
_NUMBERS = ("position", "orientation", "pixel_spacing")


@dataclass(frozen=True, kw_only=True, slots=True)
class RawFile:
    """One file below the raw folders; `source` is the folder's place in their list and the path below it.

    `archive` is the stamp of the archive that holds it, None for a file in a folder.
    """

    stamp: int
    source: str
    archive: int | None = None


def file_stamp(source: str, size: int, mtime_ns: int) -> int:
    """64 bits that name a file as it is: where it lies, how long it is, when it was written."""
    text = f"{source}\0{size}\0{mtime_ns}".encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little")


def member_of(archive: RawFile, member: archives.Member) -> RawFile:
    """One file in an archive; it is another one as soon as the archive is."""
    source = f"{archive.source}{archives.MEMBER}{member.name}"
    return RawFile(stamp=file_stamp(source, member.size, archive.stamp), source=source, archive=archive.stamp)


@cache
def reader_version() -> str:
    """Digest of the code that reads headers: what another reader has read is read again."""
    columns = {name: str(dtype) for name, dtype in schemas()["index_headers"].items()}
    return digest(
        [code_digest("glint.formats.dicom"), code_digest("glint.formats.archives"), pydicom.__version__, columns]
    )[:12]


def headers_frame(files: Sequence[RawFile], results: Iterable[InstanceHeader | str]) -> pl.DataFrame:
    """Rows of the cache: what reading each file gave, a header or its state."""
    rows = []
    for file, result in zip(files, results, strict=True):
        row = {"stamp": file.stamp, "source": file.source, "archive": file.archive}
        if isinstance(result, InstanceHeader):
            rows.append(row | {"state": HEADER} | dict(zip(_FIELDS, _values(result), strict=True)))
        else:
            rows.append(row | {"state": result})
    return manifest_frame(rows, "index_headers")


def raw_roots(folders: Sequence[Path]) -> tuple[Path, ...]:
    """The folders or archives, resolved, each once and without those that lie inside another.

    Raises:
        InputError: a folder does not exist.
    """
    for folder in folders:
        if not folder.exists():
            raise InputError(f"{folder}: no such folder or archive; name the folder with the raw DICOM files")
    resolved = list(dict.fromkeys(folder.resolve() for folder in folders))
    return tuple(folder for folder in resolved if not any(folder.is_relative_to(o) for o in resolved if o != folder))


def record_folders(images: Path, roots: Sequence[Path]) -> None:
    """Note beside the tables which folders were indexed; the tables themselves name none, so that they can move."""
    path = images / FOLDERS
    told = [str(root) for root in roots]
    if not path.is_file() or json.loads(path.read_text(encoding="utf-8")) != told:
        write_json(path, told)


def indexed_folders(images: Path) -> list[Path]:
    """The raw folders behind the tables in `images`; none where nothing was noted."""
    path = images / FOLDERS
    return [Path(folder) for folder in json.loads(path.read_text(encoding="utf-8"))] if path.is_file() else []


def located(instances: pl.DataFrame, folders: Sequence[Path]) -> pl.DataFrame:
    """`instances` (schema `index_instances`) with absolute paths in `file`; `folders` are the raw folders that were indexed.

    Raises:
        InputError: a folder is absent, or the index knows more folders than are named.
    """
    roots = raw_roots(folders)
    files = instances["file"].to_list()
    places = [int(file.partition("/")[0]) for file in files if not file.startswith("/")]
    if max(places, default=-1) >= len(roots):
        raise InputError(
            f"{len(roots)} raw folders named, the index has {max(places) + 1}: name with --raw those of `glint index`"
        )
    return instances.with_columns(file=pl.Series([source_path(file, roots) for file in files], dtype=pl.String))


def source_path(source: str, roots: Sequence[Path]) -> str:
    """Absolute path of a file below the raw folders; an absolute path stays as it is."""
    if source.startswith("/"):
        return source
    place, _, below = source.partition("/")
    root = str(roots[int(place)])
    if (not below or below.startswith(archives.MEMBER)) and os.path.isfile(root):  # an archive named by itself
        return root + below
    return f"{root}/{below}"


def headers_of(frame: pl.DataFrame) -> list[InstanceHeader]:
    """The headers among the rows of a cache part, in their order; `file` is the source."""
    headers = []
    for row in frame.filter(pl.col("state") == HEADER).select("source", *_FIELDS).iter_rows(named=True):
        file = row.pop("source")
        for name in _TUPLES:
            row[name] = tuple(row[name])
        for name in _NUMBERS:
            row[name] = None if row[name] is None else tuple(row[name])
        headers.append(InstanceHeader(file=file, **row))
    return headers

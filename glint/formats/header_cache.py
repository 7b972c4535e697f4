"""Parsed headers kept between runs, so that a file is read once: Parquet parts with a row per file, restricted.

A row's `stamp` names a file as it was: its path below the raw folders, its size and its modification time. A file that
was replaced has another stamp. `state` is `header`, `other` (no DICOM) or why the file can't be read.
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

import polars as pl
import pydicom

from glint.core.provenance import code_digest, digest
from glint.formats.dicom import InstanceHeader
from glint.formats.manifest import manifest_frame, schemas

HEADER, OTHER = "header", "other"
_TUPLES = ("image_type", "patient_names", "other_persons", "identifiers", "institutions", "study_dates")
_NUMBERS = ("position", "orientation", "pixel_spacing")


@dataclass(frozen=True, kw_only=True, slots=True)
class RawFile:
    """One file below the raw folders; `source` is the folder's place in their list and the path below it."""

    stamp: int
    source: str


def file_stamp(source: str, size: int, mtime_ns: int) -> int:
    """64 bits that name a file as it is: where it lies, how long it is, when it was written."""
    text = f"{source}\0{size}\0{mtime_ns}".encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little")


@cache
def reader_version() -> str:
    """Digest of the code that reads headers: what another reader has read is read again."""
    columns = {name: str(dtype) for name, dtype in schemas()["index_headers"].items()}
    return digest([code_digest("glint.formats.dicom"), pydicom.__version__, columns])[:12]


def headers_frame(files: Sequence[RawFile], results: Iterable[InstanceHeader | str | None]) -> pl.DataFrame:
    """Rows of the cache: what reading each file gave (a header, the reason why not, None for what is not DICOM)."""
    rows = []
    for file, result in zip(files, results, strict=True):
        row = {"stamp": file.stamp, "source": file.source}
        if isinstance(result, InstanceHeader):
            values = asdict(result)
            del values["file"]
            rows.append(row | {"state": HEADER} | values)
        else:
            rows.append(row | {"state": OTHER if result is None else result})
    return manifest_frame(rows, "index_headers")


def source_path(source: str, roots: Sequence[Path]) -> str:
    """Absolute path of a cached file."""
    place, _, below = source.partition("/")
    return f"{roots[int(place)]}/{below}"


def headers_of(frame: pl.DataFrame, roots: Sequence[Path]) -> list[InstanceHeader]:
    """The headers among the rows of a cache part, in their order."""
    fields = [name for name in schemas()["index_headers"] if name not in ("stamp", "source", "state")]
    headers = []
    for row in frame.filter(pl.col("state") == HEADER).select("source", *fields).iter_rows(named=True):
        file = source_path(row.pop("source"), roots)
        for name in _TUPLES:
            row[name] = tuple(row[name])
        for name in _NUMBERS:
            row[name] = None if row[name] is None else tuple(row[name])
        headers.append(InstanceHeader(file=file, **row))
    return headers

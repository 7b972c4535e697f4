"""Manifests: the Parquet tables by which stages hand over, checked on read and write."""

import importlib
import pkgutil
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import polars as pl

import glint.formats.schemas as schemas_package
from glint.core.atomic import atomic_file
from glint.core.errors import InputError

Schema = Mapping[str, pl.DataType | type[pl.DataType]]
STATUSES = ("ok", "quarantined")


@cache
def schemas() -> dict[str, Schema]:
    """Every schema by name, gathered from `glint.formats.schemas`, one file per stage."""
    found: dict[str, Schema] = {}
    for module in pkgutil.iter_modules(schemas_package.__path__):
        declared: dict[str, Schema] = importlib.import_module(f"{schemas_package.__name__}.{module.name}").SCHEMAS
        repeated = found.keys() & declared.keys()
        if repeated:
            raise ValueError(f"schema declared twice: {sorted(repeated)}")
        found.update(declared)
    return found


def _check(path: Path, frame: pl.DataFrame, schema: str) -> None:
    expected = {name: dtype() if isinstance(dtype, type) else dtype for name, dtype in schemas()[schema].items()}
    actual = dict(frame.schema)
    if actual != expected:
        problems = [f"lacks {name}" for name in expected if name not in actual]
        problems += [f"has unknown column {name}" for name in actual if name not in expected]
        problems += [
            f"{name} is {actual[name]}, not {expected[name]}"
            for name in expected
            if name in actual and actual[name] != expected[name]
        ]
        problems = problems or ["its columns stand in another order"]
        raise InputError(f"{path}: not a manifest of schema {schema}: {'; '.join(problems)}; make it again")
    if "status" in frame.columns:
        unknown = set(frame["status"].unique()) - set(STATUSES)
        if unknown:
            raise InputError(f"{path}: status {sorted(map(str, unknown))} is none of {STATUSES}")
        if "reason" in frame.columns:
            silent = frame.filter((pl.col("status") == "quarantined") & pl.col("reason").is_null()).height
            if silent:
                raise InputError(f"{path}: {silent} quarantined rows have no reason")


def empty_manifest(schema: str) -> pl.DataFrame:
    """A manifest without rows."""
    return pl.DataFrame(schema=dict(schemas()[schema]))


def manifest_frame(rows: list[dict[str, Any]], schema: str) -> pl.DataFrame:
    """A frame of `rows` with exactly the columns and types of `schema`; an absent value is null."""
    return pl.DataFrame(rows, schema=dict(schemas()[schema]), orient="row")


def write_manifest(path: Path | str, frame: pl.DataFrame, schema: str) -> None:
    """Check `frame` against `schema` and write it whole; equal frames give equal bytes."""
    _check(Path(path), frame, schema)
    with atomic_file(path) as temporary:
        frame.write_parquet(temporary, compression="zstd", statistics=False)


def read_manifest(path: Path | str, schema: str) -> pl.DataFrame:
    """Read a manifest and check it against `schema`.

    Raises:
        InputError: the file is absent, not Parquet, or of another schema.
    """
    file = Path(path)
    if not file.is_file():
        raise InputError(f"{file}: no such manifest; run the stage that makes it first")
    try:
        frame = pl.read_parquet(file)
    except pl.exceptions.PolarsError as error:
        raise InputError(f"{file}: not a readable Parquet file; remove it and run its stage again") from error
    _check(file, frame, schema)
    return frame


def write_manifest_if_changed(path: Path | str, frame: pl.DataFrame, schema: str) -> bool:
    """Write `frame` unless the file holds it already: an equal table keeps its bytes and its time, so nothing looks stale.

    Returns whether the file was written.
    """
    try:
        if read_manifest(path, schema).equals(frame):
            return False
    except InputError:
        pass
    Path(path).parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    write_manifest(path, frame, schema)
    return True


def read_manifests(paths: list[Path] | list[str], schema: str) -> pl.DataFrame:
    """All rows of several manifests, in the order given, with the folder each `path` column is relative to.

    The extra column `folder` holds the manifest's folder as text.
    """
    frames = [read_manifest(path, schema).with_columns(folder=pl.lit(str(Path(path).parent))) for path in paths]
    return pl.concat(frames) if frames else empty_manifest(schema).with_columns(folder=pl.lit(""))

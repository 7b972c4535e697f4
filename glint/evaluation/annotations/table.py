"""The common table of every reader, and how published CSV and JSON files are opened: with one clear error each.

One row per image, finding and region. Arrays and boxes are in pixels of the published image, (y, x).
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from glint.core.errors import InputError

SCHEMA: dict[str, pl.DataType | type[pl.DataType]] = {
    "image": pl.String,
    "study": pl.String,
    "patient": pl.String,
    "split": pl.String,
    "finding": pl.String,
    "label": pl.String,
    "sentence": pl.String,
    "box": pl.List(pl.Float64),
    "rle": pl.String,
    "polygon": pl.List(pl.List(pl.Float64)),
    "mask_file": pl.String,
    "mask_channel": pl.Int64,
    "height": pl.Int64,
    "width": pl.Int64,
}
"""image, study, patient: as published, without a file's suffix. split: train, validation, test or null. finding: null where an
image was looked at and nothing is listed. label: present, absent, uncertain, unknown. sentence: the finding in the radiologist's
words. box: (y0, y1, x0, x1), half-open. rle: starts and lengths, see `raster`. polygon: (y, x) corners. mask_channel: first axis of
the 4-D mask_file."""
LABELS = ("present", "absent", "uncertain", "unknown")
_REGION = ("box", "rle", "polygon", "mask_file")


def annotation_frame(rows: Iterable[Mapping[str, Any]]) -> pl.DataFrame:
    """Rows as the common table; a key that is left out is null."""
    frame = pl.DataFrame([{**dict.fromkeys(SCHEMA), **row} for row in rows], schema=SCHEMA)
    return frame


def complete(frame: pl.DataFrame) -> pl.DataFrame:
    """The frame with the columns it lacks, in the order of the schema."""
    lacking = [pl.lit(None, dtype=dtype).alias(name) for name, dtype in SCHEMA.items() if name not in frame.columns]
    return frame.with_columns(lacking).select(pl.col(name).cast(dtype) for name, dtype in SCHEMA.items())


def has_region(frame: pl.DataFrame) -> pl.Series:
    """Which rows carry a box, run lengths, a polygon or a mask file."""
    return frame.select(pl.any_horizontal(pl.col(name).is_not_null() for name in _REGION)).to_series()


def find_file(folder: Path, *patterns: str, optional: bool = False) -> Path | None:
    """The one file below `folder` that fits the first pattern with a hit.

    Raises:
        InputError: none or several fit; names the patterns.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; name the folder with the annotation files as downloaded")
    for pattern in patterns:
        found = sorted(path for path in folder.rglob(pattern) if path.is_file())
        if len(found) > 1:
            told = ", ".join(str(path.relative_to(folder)) for path in found[:3])
            raise InputError(f"{folder}: {len(found)} files fit {pattern} ({told}); leave one there")
        if found:
            return found[0]
    if optional:
        return None
    raise InputError(f"{folder}: no file {' or '.join(patterns)} in it; put the published file there, under its name")


def required_file(folder: Path, *patterns: str) -> Path:
    """`find_file` of a file that must be there."""
    found = find_file(folder, *patterns)
    assert found is not None
    return found


def read_csv(file: Path, columns: Sequence[str]) -> pl.DataFrame:
    """A CSV (gzip too) as text; names and values lose outer blanks, an empty value is null.

    Raises:
        InputError: the file is no CSV, has no rows, or lacks a column.
    """
    try:
        frame = pl.read_csv(file, infer_schema=False, truncate_ragged_lines=True)
    except (pl.exceptions.PolarsError, OSError, UnicodeError) as error:
        raise InputError(f"{file}: not a readable CSV table; put the published file there again") from error
    frame = frame.rename({name: name.strip() for name in frame.columns})
    for name in columns:
        if name not in frame.columns:
            raise InputError(
                f"{file}: no column {name!r}; it has {', '.join(frame.columns[:8])}; is it the published file?"
            )
    if frame.is_empty():
        raise InputError(f"{file}: no rows; put the published file there again")
    text = pl.all().str.strip_chars()
    return frame.with_columns(pl.when(text == "").then(None).otherwise(text).name.keep())


def read_json(file: Path) -> Any:
    """A JSON file.

    Raises:
        InputError: it is none.
    """
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise InputError(f"{file}: not readable JSON; put the published file there again") from error


def numbers(frame: pl.DataFrame, columns: Sequence[str], file: Path) -> pl.DataFrame:
    """Columns of text as float64; empty stays null.

    Raises:
        InputError: a value is no number; names the column and the row.
    """
    cast = frame.with_columns(pl.col(columns).cast(pl.Float64, strict=False))
    for name in columns:
        bad = (cast[name].is_null() & frame[name].is_not_null()).arg_true()
        if len(bad):
            value = frame[name][int(bad[0])]
            raise InputError(f"{file}: column {name!r}, row {int(bad[0]) + 2}: {value!r} is no number")
    return cast


def wide_labels(frame: pl.DataFrame, findings: Sequence[str], file: Path, *, empty: str = "unknown") -> pl.DataFrame:
    """One row per image and finding from a table with a column per finding: 1 present, 0 absent, -1 uncertain, `empty`.

    Raises:
        InputError: another value; names the column.
    """
    kept = [name for name in frame.columns if name not in findings]
    cast = numbers(frame, findings, file)
    for name in findings:
        odd = cast[name].drop_nulls().unique().to_list()
        if strange := [value for value in odd if value not in (-1, 0, 1)]:
            raise InputError(f"{file}: column {name!r} holds {strange[0]:g}; a label is 1, 0, -1 or empty")
    long = cast.unpivot(on=list(findings), index=kept, variable_name="finding", value_name="value")
    value = pl.col("value")
    label = pl.when(value == 1).then(pl.lit("present")).when(value == 0).then(pl.lit("absent"))
    return long.with_columns(label=label.when(value == -1).then(pl.lit("uncertain")).otherwise(pl.lit(empty))).drop(
        "value"
    )


def one_of(value: Any, key: str, file: Path, place: int) -> Any:
    """`value[key]` of a JSON entry.

    Raises:
        InputError: it isn't there; names the file, the entry and the key.
    """
    if not isinstance(value, Mapping) or key not in value:
        raise InputError(f"{file}: entry {place} has no {key!r}; is it the published file?")
    return value[key]

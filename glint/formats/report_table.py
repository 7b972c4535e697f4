"""The hospital's report table: CSV or Parquet with column names that the site chooses."""

from collections.abc import Sequence
from pathlib import Path

import polars as pl

from glint.core.errors import InputError


def _read_text_frame(file: Path) -> pl.DataFrame:
    """All columns as text: accession numbers keep their leading zeros."""
    if file.suffix.lower() in (".parquet", ".pq"):
        return pl.read_parquet(file).select(pl.all().cast(pl.String))
    separator = "\t" if file.suffix.lower() in (".tsv", ".tab") else ","
    return pl.read_csv(file, infer_schema=False, separator=separator)


def read_report_table(path: Path | str, columns: Sequence[str]) -> pl.DataFrame:
    """Read the named columns of a report table as text, in the order given; a missing value is "".

    Raises:
        InputError: the file is absent, unreadable, not UTF-8, without rows, or lacks a column.
    """
    file = Path(path)
    if not file.is_file():
        raise InputError(f"{file}: no such report table; name a CSV or Parquet file")
    try:
        frame = _read_text_frame(file)
    except (pl.exceptions.PolarsError, OSError) as error:
        # The reader's own words may quote a row, and rows hold patients.
        raise InputError(f"{file}: not a readable CSV or Parquet table; save it as UTF-8 CSV or Parquet") from error
    absent = [name for name in columns if name not in frame.columns]
    if absent:
        known = ", ".join(frame.columns[:20])
        raise InputError(f"{file}: no column {absent[0]!r}; it has: {known}; set the names under index in config")
    if frame.is_empty():
        raise InputError(f"{file}: the report table has no rows")
    return frame.select(columns).fill_null("")

"""Images of stage 04 for whoever feeds a model: volumes and films in one form, a film being a volume of one slice.

Arrays are (z, y, x). A volume holds int16 HU and has an affine in RAS mm; a film holds uint16 grey, 0 black, and its affine has
the pixel for a unit: a film shows its patient from the front, without a depth and often without a scale.
"""

import gzip
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import ArrayLike, NDArray

from glint.core.atomic import atomic_file
from glint.formats.image import read_film, read_film_bits, write_film_bits
from glint.formats.manifest import read_manifests
from glint.formats.nifti import load_model_volume, read_nifti, write_nifti

FILM_SUFFIX = ".png"
FILM_AFFINE = np.array([[-1.0, 0, 0, 0], [0, 0, 1.0, 0], [0, -1.0, 0, 0], [0, 0, 0, 1.0]])
"""Index (x, y, z) of a film to RAS: columns run to the patient's left, rows to the feet, one pixel a unit."""
VOLUMES, FILMS = "resample", "resample_films"
MASKS_PER_FILE = 32
"""Masks that one bit field holds."""
Bits = NDArray[np.uint16] | NDArray[np.uint32]
_COMMON = ["study_id", "patient_id", "status", "reason", "detail", "path", "valid_box", "input_digest", "folder"]
_FILMS_ONLY = ["instance_id", "view", "to_original"]


def blank_bits(shape: tuple[int, ...], num_masks: int) -> Bits:
    """A bit field without a bit set: uint16 where `num_masks` fit into it, uint32 up to `MASKS_PER_FILE`."""
    return np.zeros(shape, np.uint16) if num_masks <= 16 else np.zeros(shape, np.uint32)


def _is_of_films(path: Path) -> bool:
    try:
        return "to_original" in pl.read_parquet_schema(path)
    except (OSError, pl.exceptions.PolarsError):
        return False  # read_manifest says what is wrong


def read_image_rows(manifests: Sequence[Path]) -> pl.DataFrame:
    """All rows of some stage-04 manifests, of volumes or of films, in the order given.

    `affine` holds 16 numbers, `valid_box` (z0, z1, y0, y1, x0, x1); `instance_id`, `view` and `to_original` are null for
    volumes; paths are relative to `folder`.

    Raises:
        InputError: a manifest is absent or of another schema.
    """
    paths = [Path(path) for path in manifests]
    if any(_is_of_films(path) for path in paths):
        rows = read_manifests(paths, FILMS).with_columns(
            affine=pl.lit(FILM_AFFINE.ravel().tolist(), dtype=pl.List(pl.Float64)),
            valid_box=pl.concat_list(pl.lit([0, 1], dtype=pl.List(pl.Int64)), "valid_box"),
        )
        return rows.select(*_COMMON, "affine", *_FILMS_ONLY)
    rows = read_manifests(paths, VOLUMES).with_columns(
        instance_id=pl.lit(None, dtype=pl.String),
        view=pl.lit(None, dtype=pl.String),
        to_original=pl.lit(None, dtype=pl.List(pl.Float64)),
    )
    return rows.select(*_COMMON, "affine", *_FILMS_ONLY)


def load_model_image(path: Path | str) -> tuple[NDArray[Any], NDArray[np.float64]]:
    """An image of stage 04 on the model's grid, (Z, Y, X), and its affine.

    Raises:
        InputError: the file is absent, unreadable or of another kind.
    """
    if Path(path).suffix == FILM_SUFFIX:
        return read_film(path)[None], FILM_AFFINE
    return load_model_volume(path)


def read_mask_bits(path: Path | str) -> tuple[NDArray[Any], NDArray[np.float64]]:
    """A bit field (Z, Y, X) and its affine, from NIfTI or from PNG: unsigned 16 or 32 bits.

    Raises:
        InputError: the file is absent or unreadable.
    """
    if Path(path).suffix == FILM_SUFFIX:
        return read_film_bits(path)[None], FILM_AFFINE
    return read_nifti(path)


def write_mask_bits(path: Path, bits_ZYX: Bits, affine: ArrayLike) -> None:
    """Write a bit field, (Z, Y, X), as `.nii.gz`, or of a film, (1, Y, X), as `.png`; equal fields give equal bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == FILM_SUFFIX:
        write_film_bits(path, bits_ZYX[0])
        return
    with atomic_file(path) as temporary:
        plain = temporary.with_name(temporary.name + ".nii")
        try:
            write_nifti(plain, bits_ZYX, affine)
            temporary.write_bytes(gzip.compress(plain.read_bytes(), compresslevel=6, mtime=0))
        finally:
            plain.unlink(missing_ok=True)

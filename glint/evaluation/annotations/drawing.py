"""Published boxes, contours, run lengths and channel masks drawn as bit fields, by finding and by sentence.

A bit field by sentence, `queries/<id>`, belongs to the rows of `queries.csv`: bit k is the sentence of the image whose `query` is k.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from glint.core.errors import GlintError, InputError
from glint.core.progress import track
from glint.evaluation.annotations.raster import box_mask, polygon_mask, relative_rle_mask
from glint.evaluation.annotations.registry import AnnotationSet
from glint.evaluation.annotations.table import has_region
from glint.evaluation.mask_grid import SUFFIX
from glint.formats.model_image import FILM_AFFINE, FILM_SUFFIX, MASKS_PER_FILE, Bits, blank_bits, write_mask_bits
from glint.formats.nifti import open_nifti, read_channel_masks


def film_bits(rows: Sequence[Mapping[str, Any]], findings: Sequence[str]) -> Bits:
    """(Y, X) bit field of one film; a contour goes before the box round it.

    Raises:
        InputError: the film's size isn't known, or run lengths leave the film.
    """
    height, width = rows[0]["height"], rows[0]["width"]
    if not height or not width:
        raise InputError("a film's height and width are not published; its masks can't be drawn")
    size = int(height), int(width)
    bits = blank_bits(size, len(findings))
    for row in rows:
        if row["rle"] is not None:
            mask = relative_rle_mask(row["rle"], size)
        elif row["polygon"] is not None:
            mask = polygon_mask(row["polygon"], size)
        elif row["box"] is not None:
            mask = box_mask(row["box"], size)
        else:
            continue
        bits[mask] |= bits.dtype.type(1 << findings.index(row["finding"]))
    return bits


def volume_bits(
    rows: Sequence[Mapping[str, Any]], findings: Sequence[str], images: Path | None
) -> tuple[Bits, NDArray[np.float64]]:
    """(Z, Y, X) bit field of one scan and its affine. Masks that carry none (the identity) lie on the voxels of the scan of their
    name below `images`, whose affine they take.

    Raises:
        InputError: no such scan, or one of another size; a channel that the mask lacks.
    """
    try:
        masks_FZYX, affine = read_channel_masks(Path(rows[0]["mask_file"]))
    except GlintError:  # its words hold the file's name
        raise InputError("a mask file is not readable NIfTI; download it again") from None
    if np.array_equal(affine, np.eye(4)):
        name = Path(rows[0]["mask_file"]).name
        scan = next(iter(sorted(images.rglob(name))), None) if images else None
        if scan is None:
            raise InputError(
                "masks without an affine of their own need --images, the folder with the scans of their names"
            )
        try:
            volume = open_nifti(scan)
        except GlintError:
            raise InputError("a scan is not readable NIfTI or has no orientation; download it again") from None
        affine = volume.affine
        if volume.stored_ZYX.shape != masks_FZYX.shape[1:]:
            raise InputError(
                f"a mask of {masks_FZYX.shape[1:]} voxels on a scan of {volume.stored_ZYX.shape}; is it its scan?"
            )
    bits = blank_bits(masks_FZYX.shape[1:], len(findings))
    for row in rows:
        if row["finding"] is None or row["mask_file"] is None:
            continue
        if row["mask_channel"] >= len(masks_FZYX):
            raise InputError(
                f"channel {row['mask_channel']} of a mask with {len(masks_FZYX)}; is it the published file?"
            )
        bits[masks_FZYX[row["mask_channel"]] > 0] |= bits.dtype.type(1 << findings.index(row["finding"]))
    return bits, affine


def _file_stem(name: str) -> str:
    return name.replace("/", "_")


def _draw(
    rows: Sequence[Mapping[str, Any]], names: Sequence[str], source: AnnotationSet, stem: Path, images: Path | None
) -> None:
    """Write the bit field of one image; bit k is `names[k]`, which the rows carry as their finding."""
    if source.names_volumes:
        bits, affine = volume_bits(rows, names, images)
        write_mask_bits(stem.with_name(stem.name + SUFFIX), bits, affine)
    else:
        write_mask_bits(stem.with_name(stem.name + FILM_SUFFIX), film_bits(rows, names)[None], FILM_AFFINE)


def write_masks(
    frame: pl.DataFrame, findings: Sequence[str], source: AnnotationSet, folder: Path, images: Path | None
) -> tuple[int, dict[str, int]]:
    """Write a bit field per drawn image, named by `id`; how many, and how many images failed by reason."""
    drawn = frame.filter(has_region(frame)) if not source.drawn else frame.filter(pl.col("height").is_not_null())
    written, failed = 0, dict[str, int]()
    groups = drawn.partition_by("id", "image", maintain_order=True)
    for group in track(groups, "masks"):
        rows = group.to_dicts()
        try:
            _draw(rows, findings, source, folder / _file_stem(rows[0]["id"]), images)
        except GlintError as error:
            told = str(error)[:160]
            failed[told] = failed.get(told, 0) + 1
            continue
        written += 1
    return written, failed


def write_queries(
    frame: pl.DataFrame, source: AnnotationSet, folder: Path, images: Path | None
) -> tuple[pl.DataFrame, dict[str, int]]:
    """Write a bit field per image whose places were described by sentences, and list the sentences.

    The same sentence of the same finding, as of a film with two boxes, is one query. Of several images under one id the first counts.

    Returns:
        The rows of `queries.csv`: id, query, finding (empty where none is published) and sentence; and how many images failed by reason.
    """
    said = frame.filter(has_region(frame) & pl.col("sentence").is_not_null()).with_columns(
        pl.col("finding").fill_null("")
    )
    listed: list[dict[str, Any]] = []
    seen, failed = set[str](), dict[str, int]()
    for group in track(said.partition_by("id", "image", maintain_order=True), "sentences"):
        rows = group.to_dicts()
        name = rows[0]["id"]
        if name in seen:
            continue
        keys = [(row["finding"], row["sentence"], row["mask_channel"]) for row in rows]
        asked = list(dict.fromkeys(keys))
        numbers = [str(number) for number in range(len(asked))]
        try:
            if len(asked) > MASKS_PER_FILE:
                raise InputError(f"an image with {len(asked)} sentences, a mask file holds {MASKS_PER_FILE}")
            numbered = [{**row, "finding": str(asked.index(key))} for row, key in zip(rows, keys, strict=True)]
            _draw(numbered, numbers, source, folder / _file_stem(name), images)
        except GlintError as error:
            told = str(error)[:160]
            failed[told] = failed.get(told, 0) + 1
            continue
        seen.add(name)
        listed += [
            {"id": name, "query": number, "finding": finding, "sentence": sentence}
            for number, (finding, sentence, _) in zip(numbers, asked, strict=True)
        ]
    columns = dict.fromkeys(("id", "query", "finding", "sentence"), pl.String)
    return pl.DataFrame(listed, schema=columns), failed

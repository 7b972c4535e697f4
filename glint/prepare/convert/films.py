"""Stage 03 for films: de-identified X-rays → one 16-bit image each, or a reason why not.

Order, which matters: modality LUT, VOI LUT, polarity (MONOCHROME1, Presentation LUT), opening and border, recipe.
What was cut is recorded by its offset, so that boxes drawn on the original still find their place.
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from glint.core.atomic import atomic_directory
from glint.core.config.convert import FilmConvertConfig
from glint.core.errors import InputError, Quarantine
from glint.core.parallel import parallel_map
from glint.core.progress import log
from glint.core.provenance import digest, sha256_file
from glint.core.sums import check_sums, sums_by_folder
from glint.formats.dicom_film import FilmHeader, film_header, film_pixels, open_film
from glint.formats.image import read_picture, write_film
from glint.formats.manifest import manifest_frame, read_manifest, write_manifest
from glint.prepare.convert.film_values import (
    RECIPES,
    Box,
    border_box,
    check_view,
    grey_levels,
    is_inverted,
    opening_box,
    outside_circles,
)


@dataclass(frozen=True, kw_only=True)
class Film:
    """A converted film: uint16 (Y, X), 0 black; `facts` are the manifest's columns about it."""

    film_YX: NDArray[np.uint16]
    facts: dict[str, Any]


def convert_values(
    values_YX: NDArray[Any],
    header: FilmHeader | None,
    config: FilmConvertConfig,
    *,
    padding_YX: NDArray[np.bool_] | None = None,
    voi: str = "none",
) -> Film:
    """Grey values after the VOI LUT, of a film with or without a DICOM header → the image of stage 03.

    Raises:
        Quarantine: `too_small`, `blank_film`.
    """
    rows, columns = values_YX.shape
    if min(rows, columns) < config.min_edge:
        raise Quarantine("too_small", f"{rows} by {columns} pixels, {config.min_edge} wanted on each edge")
    inverted, found = is_inverted(header) if header else (False, [])
    values = -values_YX.astype(np.float64) if inverted else values_YX
    box: Box = (0, rows, 0, columns)
    hidden = padding_YX
    if header and config.crop_shutter:
        box, used, doubted = opening_box(header.openings, (rows, columns))
        found += doubted + [f"{source}_unreadable" for source in header.unreadable_openings]
        y0, y1, x0, x1 = box
        circles = outside_circles(used, box)
        values, hidden = values[y0:y1, x0:x1], None if hidden is None else hidden[y0:y1, x0:x1]
        hidden = circles if hidden is None else hidden if circles is None else hidden | circles
    if config.crop_border:
        y0, y1, x0, x1 = border_box(values, tolerance=config.border_tolerance, max_share=config.max_border_share)
        values, hidden = values[y0:y1, x0:x1], None if hidden is None else hidden[y0:y1, x0:x1]
        box = (box[0] + y0, box[0] + y1, box[2] + x0, box[2] + x1)
    if min(values.shape) < config.min_edge:
        raise Quarantine("too_small", f"{values.shape[0]} by {values.shape[1]} pixels within the border")
    film = RECIPES[config.recipe](values, hidden)
    verdict = check_view(header, film, config)
    spacing = list(header.spacing_mm_yx) if header and header.spacing_mm_yx else None
    return Film(
        film_YX=film,
        facts={
            "shape_yx": list(film.shape),
            "original_shape_yx": [rows, columns],
            "crop_origin_yx": [box[0], box[2]],
            "spacing_mm_yx": spacing,
            "spacing_source": header.spacing_source if header else "none",
            "view": verdict.view,
            "laterality": header.laterality if header else "",
            "mirror_correlation": verdict.mirror_correlation,
            "voi": voi,
            "inverted": inverted,
            "recipe": config.recipe,
            "warnings": [*found, *verdict.warnings],
        },
    )


def read_dicom_film(path: Path, config: FilmConvertConfig) -> Film:
    """One de-identified DICOM file as a film.

    Raises:
        Quarantine: with the reason of the first check that fails.
    """
    dataset = open_film(path)
    header = film_header(dataset)
    pixels = film_pixels(dataset, voi=config.recipe != "mimic_jpg")
    grey = grey_levels(pixels.values, accept_color=config.accept_color, tolerance=config.color_tolerance)
    return convert_values(grey, header, config, padding_YX=pixels.padding_YX, voi=pixels.voi)


def read_picture_film(path: Path, config: FilmConvertConfig) -> Film:
    """A PNG or JPEG as a film: bright is dense, no spacing, no view.

    Raises:
        Quarantine: with the reason of the first check that fails.
    """
    pixels = read_picture(path)
    grey = grey_levels(pixels, accept_color=config.accept_color, tolerance=config.color_tolerance)
    return convert_values(grey, None, config)


READERS = {".dcm": read_dicom_film, ".png": read_picture_film}


def _convert_series(
    item: tuple[dict[str, Any], dict[str, str]], *, source: Path, target: Path, config: FilmConvertConfig
) -> list[Any]:
    """Manifest rows of one series, a row per film; a series refused before keeps its reason.

    `item` is its row of stage 02 and what was noted of its files.
    """
    row, noted = item
    made = {key: row[key] for key in ("study_id", "patient_id", "series_id", "status", "reason")}
    made["params_digest"] = digest(config.model_dump(mode="json"))
    if row["status"] != "ok":
        return [{**made, "detail": "refused by an earlier stage", "input_digest": row["input_digest"]}]
    files = sorted(file for file in (source / row["path"]).glob("*") if file.suffix in READERS)
    if not files:
        raise InputError(f"{source / row['path']}: no film in it; run the de-identification stage again")
    found = {file.name: sha256_file(file) for file in files}
    check_sums(source / row["path"], noted, found)
    rows = []
    for file in files:
        about = {**made, "instance_id": file.stem, "input_digest": found[file.name]}
        try:
            film = READERS[file.suffix](file, config)
        except Quarantine as refusal:
            rows.append({**about, "status": "quarantined", "reason": refusal.reason, "detail": refusal.detail})
            continue
        path = Path("films", row["study_id"], row["series_id"], f"{file.stem}.png")
        write_film(target / path, film.film_YX)
        rows.append({**about, "path": str(path), **film.facts})
    return rows


def convert_films(manifest_path: Path, out_path: Path, config: FilmConvertConfig, *, workers: int = 1) -> None:
    """Convert every film of a stage-02 image manifest; `out_path` is the manifest of a folder made whole.

    Raises:
        InputError: the manifest is absent or of another schema, or a series it calls ok has no files or other files than
            stage 02 wrote.
    """
    rows = read_manifest(manifest_path, "deidentify_images").sort("study_id", "series_id").to_dicts()
    noted = sums_by_folder(manifest_path.parent)
    items = [(row, noted.get(row["path"], {})) for row in rows]
    with atomic_directory(out_path.parent) as target:
        convert = partial(_convert_series, source=manifest_path.parent, target=target, config=config)
        films = parallel_map(convert, items, workers=workers, description="convert films")
        made = [film for series in films for film in series]
        write_manifest(target / out_path.name, manifest_frame(made, "convert_films"), "convert_films")
    accepted = sum(row["status"] == "ok" for row in made)
    log(f"convert: {accepted} of {len(made)} films accepted, {len(made) - accepted} quarantined")

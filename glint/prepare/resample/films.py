"""Stage 04 for films: one image per study on the teacher's grid, its aspect kept, the rest marked as padding.

Film pixels are squares in a plane: the two axes share one scale. `FilmMap` takes a pixel of the model's grid to the
original film, as it was before stage 03 cut it, and back; images, masks and boxes all go through it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from glint.core.atomic import atomic_directory
from glint.core.config.resample import FilmResampleConfig
from glint.core.errors import GeometryError, InputError
from glint.core.parallel import parallel_map
from glint.core.progress import log
from glint.core.provenance import digest, sha256_file
from glint.formats.image import read_film, write_film
from glint.formats.manifest import manifest_frame, read_manifest, write_manifest
from glint.prepare.resample.kernels import area_weights, axis_weights, valid_range
from glint.prepare.resample.overlays import HALF

Sizes = Sequence[int]


@dataclass(frozen=True, kw_only=True)
class FilmMap:
    """original = `offset_yx` + `scale_yx` · model, both in pixels counted from the centre of the first one."""

    offset_yx: tuple[float, float]
    scale_yx: tuple[float, float]

    def to_original(self, points_yx: ArrayLike) -> NDArray[np.float64]:
        """Points (…, 2) of the model's grid on the original film."""
        return np.asarray(points_yx, dtype=np.float64) * self.scale_yx + self.offset_yx

    def to_model(self, points_yx: ArrayLike) -> NDArray[np.float64]:
        """Points (…, 2) of the original film on the model's grid."""
        return np.asarray((np.asarray(points_yx, dtype=np.float64) - self.offset_yx) / self.scale_yx)

    def box_to_model(self, box_yx: ArrayLike) -> NDArray[np.float64]:
        """A box (y0, y1, x0, x1) by its outer edges, where pixel i reaches from i to i + 1, on the model's grid."""
        box = np.asarray(box_yx, dtype=np.float64).reshape(2, 2).T - 0.5
        return self.to_model(box).T.ravel() + 0.5

    def box_to_original(self, box_yx: ArrayLike) -> NDArray[np.float64]:
        """The inverse of `box_to_model`."""
        box = np.asarray(box_yx, dtype=np.float64).reshape(2, 2).T - 0.5
        return self.to_original(box).T.ravel() + 0.5


@dataclass(frozen=True, kw_only=True)
class ResampledFilm:
    """`film_YX` uint16 on the grid; `valid_box` (y0, y1, x0, x1), half-open, the pixels whose centres lie on the film."""

    film_YX: NDArray[np.uint16]
    map: FilmMap
    valid_box: tuple[int, int, int, int]


def fit_map(
    shape_yx: Sizes,
    grid_yx: Sizes,
    *,
    fit: str,
    spacing_mm_yx: Sequence[float] | None = None,
    origin_yx: Sizes = (0, 0),
) -> FilmMap:
    """The map that lays a film in the middle of a grid, whole (`pad`) or filling it (`crop`).

    Args:
        spacing_mm_yx: Of the film's pixels; makes oblong pixels square. None: they are square.
        origin_yx: Pixel of the original film at which this one starts.
    """
    unit = np.array([1.0, 1.0]) if spacing_mm_yx is None else np.asarray(spacing_mm_yx) / min(spacing_mm_yx)
    ratios = np.asarray(shape_yx) * unit / np.asarray(grid_yx)
    scale = (ratios.max() if fit == "pad" else ratios.min()) / unit
    offset = (np.asarray(shape_yx) - 1) / 2 - scale * (np.asarray(grid_yx) - 1) / 2 + np.asarray(origin_yx)
    return FilmMap(offset_yx=(float(offset[0]), float(offset[1])), scale_yx=(float(scale[0]), float(scale[1])))


def _places(film_map: FilmMap, grid_yx: Sizes, origin_yx: Sizes) -> list[NDArray[np.float64]]:
    return [
        np.asarray(film_map.offset_yx[axis] - origin_yx[axis] + film_map.scale_yx[axis] * np.arange(grid_yx[axis]))
        for axis in range(2)
    ]


def resample_film(
    film_YX: NDArray[Any], film_map: FilmMap, grid_yx: Sizes, *, origin_yx: Sizes = (0, 0)
) -> ResampledFilm:
    """A film (Y, X) on the grid: antialiased where it shrinks, linear where it grows, 0 where there is no film.

    Raises:
        GeometryError: the array is not 2-D or is empty.
    """
    if film_YX.ndim != 2 or 0 in film_YX.shape:
        raise GeometryError(f"a film has two axes and at least one pixel, not {film_YX.shape}")
    places = _places(film_map, grid_yx, origin_yx)
    (y0, y1), (x0, x1) = (valid_range(place, size) for place, size in zip(places, film_YX.shape, strict=True))
    rows = axis_weights(film_YX.shape[0], places[0][y0:y1], film_map.scale_yx[0])
    columns = axis_weights(film_YX.shape[1], places[1][x0:x1], film_map.scale_yx[1])
    result = np.zeros(tuple(grid_yx), np.uint16)
    result[y0:y1, x0:x1] = np.rint(rows @ film_YX.astype(np.float32) @ columns.T)
    return ResampledFilm(film_YX=result, map=film_map, valid_box=(y0, y1, x0, x1))


def resample_film_mask(mask_YX: NDArray[Any], film_map: FilmMap, grid_yx: Sizes) -> NDArray[np.bool_]:
    """A mask drawn on the original film, on the model's grid: set where half of a pixel or more is.

    Raises:
        GeometryError: the mask is not 2-D.
    """
    if mask_YX.ndim != 2:
        raise GeometryError(f"a film's mask has two axes, not {mask_YX.shape}")
    places = _places(film_map, grid_yx, (0, 0))
    rows, columns = (
        area_weights(size, place, scale)
        for size, place, scale in zip(mask_YX.shape, places, film_map.scale_yx, strict=True)
    )
    filled: NDArray[np.bool_] = rows @ (mask_YX != 0).astype(np.float32) @ columns.T >= HALF
    return filled


def select_film(rows: Sequence[dict[str, Any]], view_order: Sequence[str]) -> dict[str, Any] | None:
    """The film that stands for a study: the first view of `view_order` that it has, the largest of several."""
    usable = [row for row in rows if row["view"] in view_order]
    if not usable:
        return None

    def rank(row: dict[str, Any]) -> tuple[int, int, str]:
        rows_, columns = row["shape_yx"]
        return view_order.index(row["view"]), -rows_ * columns, row["instance_id"]

    return min(usable, key=rank)


def _study_row(
    study: list[dict[str, Any]], *, source: Path, target: Path, config: FilmResampleConfig
) -> dict[str, Any]:
    """Manifest row of one study out of its stage-03 rows; its film is written below `target`."""
    made = {key: study[0][key] for key in ("study_id", "patient_id")}
    made["params_digest"] = digest(config.model_dump(mode="json"))
    usable = [row for row in study if row["status"] == "ok"]
    chosen = select_film(usable, config.view_order)
    if chosen is None:
        made |= {"status": "quarantined", "input_digest": digest([row["input_digest"] for row in study])}
        if usable:
            views = ", ".join(sorted({row["view"] for row in usable}))
            return {**made, "reason": "view_not_used", "detail": f"its films are {views}; resample.cxr.view_order"}
        reasons = sorted({row["reason"] for row in study})
        reason = reasons[0] if len(reasons) == 1 else "no_usable_film"
        return {**made, "reason": reason, "detail": f"no usable film: {', '.join(reasons)}"}
    path = source / chosen["path"]
    film_map = fit_map(
        chosen["shape_yx"],
        config.grid_yx,
        fit=config.fit,
        spacing_mm_yx=chosen["spacing_mm_yx"],
        origin_yx=chosen["crop_origin_yx"],
    )
    film = resample_film(read_film(path), film_map, config.grid_yx, origin_yx=chosen["crop_origin_yx"])
    relative = Path("films", f"{chosen['study_id']}.png")
    write_film(target / relative, film.film_YX)
    spacing = chosen["spacing_mm_yx"]
    (sy, sx), (oy, ox) = film_map.scale_yx, film_map.offset_yx
    return {
        **made,
        "series_id": chosen["series_id"],
        "instance_id": chosen["instance_id"],
        "status": "ok",
        "path": str(relative),
        "view": chosen["view"],
        "to_original": [sx, 0.0, ox, 0.0, sy, oy, 0.0, 0.0, 1.0],
        "valid_box": list(film.valid_box),
        "spacing_mm_yx": [spacing[0] * sy, spacing[1] * sx] if spacing else None,
        "not_selected": [row["instance_id"] for row in usable if row is not chosen],
        "input_digest": sha256_file(path),
    }


def resample_films(manifest_path: Path, out_path: Path, config: FilmResampleConfig, *, workers: int = 1) -> None:
    """Resample one film of every study of a stage-03 manifest; `out_path` is the manifest of a folder made whole.

    Raises:
        InputError: the manifest is absent or of another schema, or a film it calls ok is absent or unreadable.
    """
    rows = read_manifest(manifest_path, "convert_films").sort("study_id", "series_id", "instance_id").to_dicts()
    studies: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        studies.setdefault(row["study_id"], []).append(row)
    films = [row["path"] for row in rows if row["status"] == "ok"]
    absent = [path for path in films if not (manifest_path.parent / path).is_file()]
    if absent:
        raise InputError(f"{manifest_path}: lists {absent[0]}, which is not there; run the convert stage again")
    with atomic_directory(out_path.parent) as target:
        resample = partial(_study_row, source=manifest_path.parent, target=target, config=config)
        made = parallel_map(resample, list(studies.values()), workers=workers, description="resample films")
        write_manifest(target / out_path.name, manifest_frame(made, "resample_films"), "resample_films")
    accepted = sum(row["status"] == "ok" for row in made)
    log(f"resample: {accepted} of {len(made)} studies on the model's grid, {len(made) - accepted} quarantined")

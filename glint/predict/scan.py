"""One study as the model takes it: a DICOM folder, a NIfTI file or a film, through the very steps of stages 01 to 04."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from glint.core.config.convert import ConvertConfig, FilmConvertConfig
from glint.core.config.index import FilmIndexConfig, IndexConfig
from glint.core.config.resample import FilmResampleConfig, ResampleConfig
from glint.core.errors import GeometryError, InputError, Quarantine
from glint.core.geometry import reorient, spacing_mm_zyx
from glint.formats.checkpoint import Preprocessing
from glint.formats.dicom import InstanceHeader, read_header
from glint.formats.dicom_series import SliceHeader, slice_headers
from glint.formats.nifti import read_nifti, stored_affine
from glint.prepare.convert import Volume, read_stack
from glint.prepare.convert.films import Film, read_dicom_film, read_picture_film
from glint.prepare.convert.geometry_gate import pass_gate
from glint.prepare.convert.plausible_hu import require_plausible_hu
from glint.prepare.index.classify import classify_series
from glint.prepare.index.classify_films import classify_films
from glint.prepare.index.parts import split_series
from glint.prepare.resample import resample_volume, select_series, to_original
from glint.prepare.resample.films import FilmMap, fit_map, resample_film
from glint.prepare.resample.kernels import axis_weights, valid_range

NIFTI_SUFFIXES = (".nii", ".nii.gz")
PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg")


@dataclass(frozen=True, kw_only=True)
class Source:
    """The series that a volume was read from, for results that have to lie on its slices.

    `headers` are in slice order; `affine` takes the index (x, y, z) of that stack to RAS mm. `repaired`: the volume is no
    longer this stack (sheared or evened), so nothing can be laid on its slices.
    """

    headers: tuple[SliceHeader, ...]
    affine: NDArray[np.float64]
    shape_zyx: tuple[int, int, int]
    repaired: bool


@dataclass(frozen=True, kw_only=True)
class Scan:
    """A study on the model's grid, and the way back.

    `image_ZYX` holds HU, or grey values of a film as one slice; `valid_box` (z0, z1, y0, y1, x0, x1) is where the scan is.
    `original_ZYX` is what the user gave, in its own order of axes; `notes` say what a reader should know.
    """

    modality: str
    image_ZYX: NDArray[Any]
    affine: NDArray[np.float64]
    valid_box: tuple[int, ...]
    original_ZYX: NDArray[Any]
    original_affine: NDArray[np.float64]
    source: Source | None = None
    film_map: FilmMap | None = None
    notes: tuple[str, ...] = field(default=())

    def on_original(self, values_ZYX: NDArray[np.float32], *, outside: float) -> NDArray[np.float32]:
        """A map of the model's grid on the original voxels or pixels, by linear interpolation."""
        if self.film_map is not None:
            return _film_back(values_ZYX[0], self.film_map, self.original_ZYX.shape[1:], outside)[None]
        shape = self.original_ZYX.shape
        return to_original(
            values_ZYX, self.affine, self.original_affine, shape, interpolation="linear", outside=outside
        )


def read_scan(path: Path, preprocessing: Preprocessing) -> Scan:
    """Read a study for a model: a folder of DICOM files, one DICOM file, `.nii[.gz]` (CT, HU), `.png` or `.jpg` (film).

    Raises:
        InputError: nothing there, or of a kind that the model wasn't trained on.
        Quarantine: the study is refused, with the reason of stages 01 to 04.
    """
    if not path.exists():
        raise InputError(f"{path}: no such file or folder")
    name = path.name.lower()
    if preprocessing.modality == "ct":
        if name.endswith(PICTURE_SUFFIXES):
            raise InputError(
                f"{path}: a picture, but the model was trained on CT volumes; give a DICOM folder or NIfTI"
            )
        return _ct_nifti(path, preprocessing) if name.endswith(NIFTI_SUFFIXES) else _ct_series(path, preprocessing)
    if name.endswith(NIFTI_SUFFIXES):
        raise InputError(f"{path}: a volume, but the model was trained on films; give a DICOM, PNG or JPEG film")
    return _film(path, preprocessing)


def _instances(path: Path) -> list[InstanceHeader]:
    files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
    headers = []
    for file in files:
        try:
            header = read_header(file)
        except Quarantine:
            continue  # what is missing shows in the gate
        if header is not None:
            headers.append(header)
    if not headers:
        raise InputError(f"{path}: no DICOM file in it")
    return headers


def _ct_series(path: Path, preprocessing: Preprocessing) -> Scan:
    config = ConvertConfig.model_validate(preprocessing.convert, strict=False)
    known = IndexConfig().non_chest_body_parts
    series: dict[str, list[InstanceHeader]] = {}
    for header in _instances(path):
        series.setdefault(header.series_uid, []).append(header)
    read: list[tuple[Volume, Source]] = []
    refused: list[str] = []
    for slices in series.values():
        verdict = classify_series(slices, non_chest_body_parts=known)
        if verdict.reason is not None:
            refused.append(verdict.reason)
            continue
        kept = [header for header in slices if header.file not in verdict.dropped]
        for part in split_series(kept).values():
            try:
                read.append(_read_part(part, config))
            except Quarantine as refusal:
                refused.append(f"{refusal.reason} ({refusal.detail})" if refusal.detail else refusal.reason)
    if not read:
        raise Quarantine("no_usable_series", f"{len(refused)} series refused: {'; '.join(sorted(set(refused)))}")
    rows = [
        {
            "shape_zyx": list(volume.hu_ZYX.shape),
            "spacing_mm": list(spacing_mm_zyx(volume.affine)),
            "series_id": f"{number:06d}",
        }
        for number, (volume, _) in enumerate(read)
    ]
    resample = ResampleConfig.model_validate(preprocessing.resample, strict=False)
    volume, source = read[int(select_series(rows, resample.coverage_tolerance)["series_id"])]
    notes = [f"repaired: {', '.join(volume.repairs)}"] if volume.repairs else []
    if len(read) > 1:
        notes.append(f"{len(read)} usable series, the thinnest that covers the chest was taken")
    return _resampled(volume.hu_ZYX, volume.affine, resample, source=source, notes=notes)


def _read_part(part: Sequence[InstanceHeader], config: ConvertConfig) -> tuple[Volume, Source]:
    stack = pass_gate(slice_headers([Path(header.file) for header in part]), config)
    first = stack.headers[0]
    shape = len(stack.headers), first.rows, first.columns
    volume = read_stack(stack, config)
    return volume, Source(
        headers=tuple(stack.headers), affine=stack.affine, shape_zyx=shape, repaired=bool(stack.repairs)
    )


def _ct_nifti(path: Path, preprocessing: Preprocessing) -> Scan:
    config = ConvertConfig.model_validate(preprocessing.convert, strict=False)
    values, affine = read_nifti(path)
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise Quarantine("hu_implausible", "the volume holds values that are no numbers")
    upright, _ = reorient(values, affine)
    require_plausible_hu(upright, config)
    return _resampled(values, affine, ResampleConfig.model_validate(preprocessing.resample, strict=False))


def _resampled(
    values_ZYX: NDArray[Any],
    affine: NDArray[np.float64],
    config: ResampleConfig,
    *,
    source: Source | None = None,
    notes: Sequence[str] = (),
) -> Scan:
    try:
        made = resample_volume(
            values_ZYX,
            affine,
            spacing_mm=config.spacing_mm,
            grid=config.grid,
            clip_hu=config.clip_hu,
            pad_hu=config.pad_hu,
            antialias=config.antialias,
        )
    except GeometryError as error:
        raise Quarantine("unusable_volume", str(error)) from error
    extent_mm = np.multiply(reorient(values_ZYX, affine)[0].shape, spacing_mm_zyx(reorient(values_ZYX, affine)[1]))
    seen = np.minimum(1.0, np.multiply(config.grid, config.spacing_mm) / extent_mm).prod()
    told = [*notes] if seen > 0.995 else [*notes, f"the model's grid sees {seen:.0%} of the scan, about its centre"]
    return Scan(
        modality="ct",
        image_ZYX=made.volume_ZYX,
        affine=made.affine,
        valid_box=made.valid_box,
        original_ZYX=values_ZYX,
        original_affine=stored_affine(affine),
        source=source,
        notes=tuple(told),
    )


def _film(path: Path, preprocessing: Preprocessing) -> Scan:
    config = FilmConvertConfig.model_validate(preprocessing.convert, strict=False)
    resample = FilmResampleConfig.model_validate(preprocessing.resample, strict=False)
    if path.name.lower().endswith(PICTURE_SUFFIXES):
        film = read_picture_film(path, config)
    else:
        film = _dicom_film(path, config, resample)
    facts = film.facts
    film_map = fit_map(
        facts["shape_yx"],
        resample.grid_yx,
        fit=resample.fit,
        spacing_mm_yx=facts["spacing_mm_yx"],
        origin_yx=facts["crop_origin_yx"],
    )
    made = resample_film(film.film_YX, film_map, resample.grid_yx, origin_yx=facts["crop_origin_yx"])
    y0, y1, x0, x1 = made.valid_box
    original = np.zeros(facts["original_shape_yx"], np.uint16)
    top, left = facts["crop_origin_yx"]
    rows, columns = facts["shape_yx"]
    original[top : top + rows, left : left + columns] = film.film_YX
    return Scan(
        modality="cxr",
        image_ZYX=made.film_YX[None],
        affine=np.eye(4),
        valid_box=(0, 1, y0, y1, x0, x1),
        original_ZYX=original[None],
        original_affine=np.eye(4),
        film_map=film_map,
        notes=tuple(facts["warnings"]),
    )


def _dicom_film(path: Path, config: FilmConvertConfig, resample: FilmResampleConfig) -> Film:
    headers = _instances(path)
    # Who names one file wants it read, though an archive's captures are screenshots more often than films.
    verdict = classify_films(headers, FilmIndexConfig(accept_secondary_capture=True))
    kept = [header for header in headers if header.file not in verdict.dropped] if verdict.reason is None else []
    if not kept:
        raise Quarantine("no_usable_film", f"{len(headers)} files refused: {verdict.reason}")
    refused: list[str] = []
    films: list[Film] = []
    for header in kept:
        try:
            films.append(read_dicom_film(Path(header.file), config))
        except Quarantine as refusal:
            refused.append(refusal.reason)
    usable = [film for film in films if film.facts["view"] in resample.view_order]
    if not usable:
        views = ", ".join(sorted({film.facts["view"] for film in films}) + refused)
        raise Quarantine("no_usable_film", f"none of {len(kept)} films can be used: {views}")
    return min(usable, key=lambda film: (resample.view_order.index(film.facts["view"]), -film.film_YX.size))


def _film_back(
    map_YX: NDArray[np.float32], film_map: FilmMap, shape_yx: Sequence[int], outside: float
) -> NDArray[np.float32]:
    """A map of the model's grid on the pixels of the original film."""
    result = np.full(tuple(shape_yx), outside, np.float32)
    weights, boxes = [], []
    for axis in range(2):
        scale, offset = film_map.scale_yx[axis], film_map.offset_yx[axis]
        places = np.asarray((np.arange(shape_yx[axis]) - offset) / scale, dtype=np.float64)
        start, stop = valid_range(places, map_YX.shape[axis])
        weights.append(axis_weights(map_YX.shape[axis], places[start:stop], 1 / scale))
        boxes.append(slice(start, stop))
    result[boxes[0], boxes[1]] = weights[0] @ map_YX @ weights[1].T
    return result

"""Stage 04 for films: aspect, places, masks and boxes, forward and back."""

import csv
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from glint.core.config.convert import FilmConvertConfig
from glint.core.config.resample import FilmResampleConfig
from glint.core.errors import GeometryError, InputError
from glint.formats.image import read_film, write_film
from glint.formats.manifest import manifest_frame, read_manifest, write_manifest
from glint.prepare.convert.films import read_picture_film
from glint.prepare.resample.films import (
    FilmMap,
    fit_map,
    resample_film,
    resample_film_mask,
    resample_films,
    select_film,
)

SIZES = st.tuples(st.integers(40, 160), st.integers(40, 160))
GRIDS = st.tuples(st.integers(24, 96), st.integers(24, 96))


def blob(shape_yx: tuple[int, int], centre_yx: tuple[float, float], sigma: float) -> np.ndarray:
    y, x = np.mgrid[: shape_yx[0], : shape_yx[1]]
    return np.exp(-((y - centre_yx[0]) ** 2 + (x - centre_yx[1]) ** 2) / (2 * sigma**2))


def centre_of(image: np.ndarray) -> np.ndarray:
    y, x = np.mgrid[: image.shape[0], : image.shape[1]]
    weights = image.astype(float)
    return np.array([(y * weights).sum(), (x * weights).sum()]) / weights.sum()


@settings(max_examples=40, deadline=None)
@given(shape=SIZES, grid=GRIDS, place=st.tuples(st.floats(0.35, 0.65), st.floats(0.35, 0.65)))
def test_a_lesion_and_its_mask_keep_their_place_and_come_back(shape, grid, place):
    centre = (place[0] * (shape[0] - 1), place[1] * (shape[1] - 1))
    film_map = fit_map(shape, grid, fit="pad")
    sigma = max(2.0, 1.5 * max(film_map.scale_yx))
    lesion = blob(shape, centre, min(sigma, min(shape) / 14))
    film = resample_film(np.rint(lesion * 60000).astype(np.uint16), film_map, grid)
    expected = film_map.to_model(np.array(centre))
    assert np.abs(centre_of(film.film_YX) - expected).max() < 0.05
    assert np.abs(film_map.to_original(expected) - centre).max() < 1e-9


@settings(max_examples=40, deadline=None)
@given(shape=SIZES, grid=GRIDS, origin=st.tuples(st.integers(0, 30), st.integers(0, 30)))
def test_image_and_mask_agree_to_a_twentieth_of_a_pixel_even_after_a_crop(shape, grid, origin):
    """The mask is drawn on the film before it was cut; both are bars with soft or hard edges at the same place."""
    original = np.zeros((shape[0] + 30, shape[1] + 30))
    y0, x0 = origin
    box = (y0 + shape[0] // 4, y0 + 3 * shape[0] // 4, x0 + shape[1] // 4, x0 + 3 * shape[1] // 4)
    original[box[0] : box[1], box[2] : box[3]] = 1
    cut = original[y0 : y0 + shape[0], x0 : x0 + shape[1]]
    film_map = fit_map(shape, grid, fit="pad", origin_yx=origin)
    film = resample_film(np.rint(cut * 60000).astype(np.uint16), film_map, grid, origin_yx=origin).film_YX / 60000
    mask = resample_film_mask(original, film_map, grid)
    top, bottom, left, right = film_map.box_to_model(box)
    assert np.abs(centre_of(film) - [(top + bottom - 1) / 2, (left + right - 1) / 2]).max() < 0.05
    first_and_last = [np.flatnonzero(mask.any(axis=axis))[[0, -1]] for axis in (1, 0)]
    edges = np.add(first_and_last, [0, 1])
    assert np.abs(edges.ravel() - [top, bottom, left, right]).max() <= 0.5 + 1e-3


@given(
    shape=SIZES,
    grid=GRIDS,
    fit=st.sampled_from(["pad", "crop"]),
    spacing=st.sampled_from([None, (0.1, 0.2), (0.3, 0.15)]),
)
@settings(max_examples=60, deadline=None)
def test_boxes_return_and_the_film_keeps_its_aspect(shape, grid, fit, spacing):
    film_map = fit_map(shape, grid, fit=fit, spacing_mm_yx=spacing, origin_yx=(3, 5))
    box = np.array([7.0, 19.5, 8.0, 30.25])
    assert np.abs(film_map.box_to_original(film_map.box_to_model(box)) - box).max() < 1e-9
    mm = np.array(film_map.scale_yx) * (spacing or (1, 1))
    assert mm[0] == pytest.approx(mm[1])
    whole = film_map.box_to_model((3, 3 + shape[0], 5, 5 + shape[1]))
    sizes = np.array([whole[1] - whole[0], whole[3] - whole[2]])
    fills = np.isclose(sizes, grid)
    assert fills.any() and (
        (sizes <= np.array(grid) + 1e-9).all() if fit == "pad" else (sizes >= np.array(grid) - 1e-9).all()
    )


def test_what_is_no_film_is_black_and_marked(tmp_path):
    film = resample_film(np.full((40, 80), 5000, np.uint16), fit_map((40, 80), (64, 64), fit="pad"), (64, 64))
    y0, y1, x0, x1 = film.valid_box
    assert (y0, y1, x0, x1) == (16, 48, 0, 64)
    assert (film.film_YX[y0:y1, x0:x1] == 5000).all() and film.film_YX.sum() == 5000 * 32 * 64


def test_a_wave_too_fine_for_the_grid_does_not_alias():
    """Period of 3 pixels at a ratio of 2.5: plain linear sampling would turn it into a coarse wave."""
    wave = (30000 + 20000 * np.sin(2 * np.pi * np.arange(400) / 3))[None].repeat(400, axis=0).astype(np.uint16)
    film = resample_film(wave, fit_map((400, 400), (160, 160), fit="pad"), (160, 160)).film_YX.astype(float)
    assert np.ptp(film[20:-20, 20:-20]) / 2 < 0.15 * 20000


def test_no_value_leaves_the_range_of_the_film():
    random = np.random.default_rng(1).integers(100, 60000, (90, 70)).astype(np.uint16)
    for grid in ((32, 32), (200, 200)):
        film = resample_film(random, fit_map(random.shape, grid, fit="pad"), grid)
        y0, y1, x0, x1 = film.valid_box
        inside = film.film_YX[y0:y1, x0:x1]
        assert random.min() <= inside.min() and inside.max() <= random.max()


def test_a_stack_is_no_film():
    with pytest.raises(GeometryError, match="two axes"):
        resample_film(np.zeros((3, 4, 5), np.uint16), FilmMap(offset_yx=(0, 0), scale_yx=(1, 1)), (8, 8))


def film_row(instance: str, view: str, shape: tuple[int, int] = (60, 50), **more: object) -> dict[str, object]:
    row = {
        "study_id": "s1", "patient_id": "p1", "series_id": "r1", "instance_id": instance, "status": "ok", "view": view,
        "path": f"films/{instance}.png", "shape_yx": list(shape), "original_shape_yx": [80, 70], "crop_origin_yx": [4, 6],
        "spacing_mm_yx": [0.2, 0.2], "input_digest": "d", "params_digest": "q",
    }  # fmt: skip
    return row | more


def test_the_study_is_shown_by_its_most_wanted_view_and_then_by_its_largest_film():
    rows = [film_row("a", "lateral"), film_row("b", "AP"), film_row("c", "PA"), film_row("d", "PA", (90, 90))]
    assert select_film(rows, ("PA", "AP"))["instance_id"] == "d"
    assert select_film(rows[:2], ("PA", "AP"))["instance_id"] == "b"
    assert select_film(rows[:1], ("PA", "AP")) is None


def stage_03(folder: Path, rows: list[dict[str, object]]) -> Path:
    for row in rows:
        if row["status"] == "ok":
            write_film(folder / str(row["path"]), np.arange(3000, dtype=np.uint16).reshape(60, 50))
    write_manifest(folder / "manifest.parquet", manifest_frame(rows, "convert_films"), "convert_films")
    return folder / "manifest.parquet"


def test_a_shard_has_a_row_per_study_with_a_map_to_the_original(tmp_path):
    refused = film_row("x", "PA", study_id="s2", status="quarantined", reason="blank_film", path=None)
    side = film_row("y", "oblique", study_id="s3")
    source = stage_03(tmp_path / "in", [film_row("a", "lateral"), film_row("b", "PA"), refused, side])
    out = tmp_path / "out" / "manifest.parquet"
    resample_films(source, out, FilmResampleConfig(grid_yx=(30, 30)))
    one, two, three = read_manifest(out, "resample_films").to_dicts()
    assert (one["status"], one["instance_id"], one["not_selected"]) == ("ok", "b", ["a"])
    assert (two["reason"], three["reason"]) == ("blank_film", "view_not_used")
    to_original = np.array(one["to_original"]).reshape(3, 3)
    # the middle of the grid is the middle of the cut film, which began at (4, 6) of the original
    assert to_original @ [14.5, 14.5, 1] == pytest.approx([6 + 24.5, 4 + 29.5, 1])
    assert one["spacing_mm_yx"] == pytest.approx([0.4, 0.4]) and one["valid_box"] == [0, 30, 2, 28]
    assert read_film(out.parent / one["path"]).shape == (30, 30)


def test_a_lost_film_is_named_before_any_work(tmp_path):
    source = stage_03(tmp_path / "in", [film_row("a", "PA")])
    (tmp_path / "in" / "films" / "a.png").unlink()
    with pytest.raises(InputError, match="run the convert stage again"):
        resample_films(source, tmp_path / "out" / "manifest.parquet", FilmResampleConfig())


def drawn_masks(folder: Path) -> list[tuple[Path, np.ndarray, np.ndarray]]:
    """(film, lungs of one reader, lungs of another), for every film that two drew on; crops are pasted at their boxes."""
    with (folder / "structure.csv").open(encoding="utf-8") as handle:
        rows = [row for row in csv.DictReader(handle) if row["Class"].endswith(("Right Lung", "Left Lung"))]
    found = []
    for second_path in sorted((folder / "lung_masks_v7labs").iterdir()):
        with Image.open(second_path) as other:
            second = np.array(other.convert("L")) > 127
        first = np.zeros(second.shape, bool)
        for row in (row for row in rows if row["Filename"] == second_path.name):
            top, left, width, height = (int(float(row[key])) for key in ("Top", "Left", "Width", "Height"))
            with Image.open(folder / row["Mask"]) as crop:
                part = np.array(crop.convert("RGB")).any(axis=2)
            first[top : top + height, left : left + width] |= part[: first.shape[0] - top, : first.shape[1] - left]
        if first.any():
            found.append((folder / "images" / second_path.name, first, second))
    return found


def dice(one: np.ndarray, two: np.ndarray) -> float:
    return float(2 * (one & two).sum() / (one.sum() + two.sum()))


def test_real_lungs_drawn_by_two_land_on_the_dark_of_their_film_and_agree_as_before(real_data):
    """Every film with lungs by the set's readers and, independently, by v7labs; on the demo's grid and on the default one."""
    drawn = drawn_masks(real_data / "4_cxr_text_masks" / "generalblockchain_covid_cxr")
    assert len(drawn) == 7
    for path, first, second in drawn:
        film = read_picture_film(path, FilmConvertConfig(min_edge=160))  # one is a thumbnail
        assert film.facts["original_shape_yx"] == list(second.shape)
        origin, before = film.facts["crop_origin_yx"], dice(first, second)
        assert before > 0.6
        for edge in (224, 518):
            film_map = fit_map(film.film_YX.shape, (edge, edge), fit="pad", origin_yx=origin)
            small = resample_film(film.film_YX, film_map, (edge, edge), origin_yx=origin)
            masks = [resample_film_mask(mask, film_map, (edge, edge)) for mask in (first, second)]
            print(f"{path.name}: {before:.3f} on the film, {dice(*masks):.3f} on {edge} pixels")
            assert dice(*masks) == pytest.approx(before, abs=0.01)
            y0, y1, x0, x1 = small.valid_box
            box, lung = small.film_YX[y0:y1, x0:x1], masks[1][y0:y1, x0:x1]
            assert np.median(box[lung]) < np.median(box[~lung])
            assert masks[1].mean() * np.prod(film_map.scale_yx) * edge**2 == pytest.approx(second.sum(), rel=0.01)

"""PNG and JPEG films take the same road as DICOM, without what their files carry besides pixels."""

import io
import json
from pathlib import Path

import numpy as np
import pydicom
import pytest
from film_builder import CAPTURES, road
from PIL import Image, PngImagePlugin

from glint.cli.__main__ import main
from glint.core.errors import ConfigError, InputError
from glint.formats.image import read_picture
from glint.formats.manifest import read_manifest
from glint.prepare.pictures import list_pictures, path_pattern, read_table

PLANTED = "Quillfeather"


def picture(seed: int = 0, edge: int = 300) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (edge, edge), dtype=np.uint8)


def jpeg_with_exif(path: Path, grey: np.ndarray) -> None:
    exif = Image.Exif()
    exif[0x010E] = PLANTED  # image description
    exif[0x0112] = 6  # a quarter turn
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(grey).save(path, format="JPEG", quality=100, exif=exif, comment=PLANTED)


def png_with_text(path: Path, grey: np.ndarray) -> None:
    text = PngImagePlugin.PngInfo()
    text.add_text("Patient", PLANTED)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(grey).save(path, format="PNG", pnginfo=text)


def wrap(folder: Path, out: Path, *more: str) -> list[pydicom.Dataset]:
    assert main(["pictures", "--folder", str(folder), "--out", str(out), *more]) == 0
    return [pydicom.dcmread(path) for path in sorted(out.glob("*.dcm"))]


def test_pixels_are_kept_and_turned_upright_and_nothing_else_comes_along(tmp_path):
    jpeg_with_exif(tmp_path / "in/p1/a.jpg", picture(0))
    png_with_text(tmp_path / "in/p2/b.png", picture(1))
    films = {film.AccessionNumber: film for film in wrap(tmp_path / "in", tmp_path / "out")}
    assert np.array_equal(films["b"].pixel_array, picture(1))
    # EXIF orientation 6: rows of the file run down the right-hand side
    with Image.open(io.BytesIO((tmp_path / "in/p1/a.jpg").read_bytes())) as image:
        assert np.array_equal(films["a"].pixel_array, np.rot90(np.array(image), -1))
    assert all(PLANTED.encode() not in path.read_bytes() for path in (tmp_path / "out").glob("*.dcm"))


def test_sixteen_bits_stay_sixteen_bits(tmp_path):
    values = np.arange(90_000, dtype=np.uint16).reshape(300, 300)
    (tmp_path / "in").mkdir()
    Image.fromarray(values).save(tmp_path / "in" / "deep.png")
    (film,) = wrap(tmp_path / "in", tmp_path / "out")
    assert np.array_equal(film.pixel_array, values) and np.array_equal(read_picture(tmp_path / "in/deep.png"), values)


def test_patient_and_study_come_from_the_path_and_the_view_from_a_table(tmp_path):
    for name in ("p10/s1/x.png", "p10/s2/y.png", "loose.png"):
        png_with_text(tmp_path / "in" / name, picture())
    (tmp_path / "views.csv").write_text("dicom,ViewPosition\nx,\nx.png,PA\ny.png,lateral\n")
    pattern = r"(?P<patient>p\d+)/(?P<study>s\d+)/"
    table = ("--table", str(tmp_path / "views.csv"), "--file-column", "dicom", "--view-column", "ViewPosition")
    films = wrap(tmp_path / "in", tmp_path / "out", "--pattern", pattern, *table)
    assert {(film.PatientID, film.AccessionNumber, film.ViewPosition) for film in films} == {
        ("p10", "s1", "PA"),
        ("p10", "s2", "LL"),
    }
    assert len({film.StudyInstanceUID for film in films}) == 2
    assert json.loads((tmp_path / "out/refused.json").read_text()) == {"loose.png": "no_study_in_path"}


def test_a_second_run_reads_what_is_new_and_removes_what_is_gone(tmp_path):
    png_with_text(tmp_path / "in/a.png", picture(0))
    png_with_text(tmp_path / "in/b.png", picture(1))
    wrap(tmp_path / "in", tmp_path / "out")
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*.dcm")}
    (tmp_path / "in/b.png").unlink()
    png_with_text(tmp_path / "in/c.png", picture(2))
    wrap(tmp_path / "in", tmp_path / "out")
    after = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*.dcm")}
    assert len(after) == 2 and len(before.items() & after.items()) == 1


def test_coloured_and_broken_pictures_are_named_and_stop_nothing(tmp_path):
    png_with_text(tmp_path / "in/good.png", picture())
    Image.fromarray(np.stack([picture(1), picture(2), picture(3)], axis=2)).save(tmp_path / "in/colour.png")
    (tmp_path / "in/cut.png").write_bytes((tmp_path / "in/good.png").read_bytes()[:5000])
    films = wrap(tmp_path / "in", tmp_path / "out")
    assert [film.AccessionNumber for film in films] == ["good"]
    refused = json.loads((tmp_path / "out/refused.json").read_text())
    assert refused == {"colour.png": "coloured", "cut.png": "unreadable_pixels"}


def test_wrong_arguments_are_told(tmp_path):
    with pytest.raises(ConfigError, match="no group"):
        path_pattern("p10")
    (tmp_path / "t.csv").write_text("filename\nx\n")
    with pytest.raises(InputError, match="no column 'view'"):
        read_table(tmp_path / "t.csv", {"file": "filename", "view": "view"})
    with pytest.raises(InputError, match="no file ending in"):
        list_pictures(tmp_path, path_pattern("(?P<study>.)"), {})


def test_real_nih_pictures_reach_the_end_of_the_road_as_studies_of_their_patients(real_data, tmp_path):
    folder = next((real_data / "4_cxr_text_masks" / "nih_bbox_and_images").rglob("*.png")).parent
    wrap(folder, tmp_path / "wrapped", "--pattern", r"(?P<patient>\d{8})_(?P<study>\d{3})\.png$")
    made = road(tmp_path / "road", sorted((tmp_path / "wrapped").glob("*.dcm")), CAPTURES)
    studies = read_manifest(made["resample"], "resample_films")
    assert studies["status"].to_list() == ["ok", "ok"] and studies["patient_id"].n_unique() == 2
    names = {path.stem for path in folder.glob("*.png")}
    told = " ".join(str(path) for path in (tmp_path / "road" / "resample").rglob("*")) + str(studies.rows())
    assert not any(name in told or name[:8] in told for name in names)

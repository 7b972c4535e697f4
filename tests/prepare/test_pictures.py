"""PNG and JPEG films take the same road as DICOM, without what their files carry besides pixels."""

import io
import json
from pathlib import Path

import numpy as np
import polars as pl
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


def save(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture(seed)).save(path)


def test_mimic_cxr_as_published_gives_subject_study_and_view(tmp_path):
    """Paths of MIMIC-CXR-JPG, and its metadata table, whose ids lack the file's ending."""
    for number, name in enumerate(("02aa804e-bde0afdd", "174413ec-4ec4c1f7")):
        save(tmp_path / f"files/p10/p10000032/s5041426{7 + number}/{name}.jpg", number)
    (tmp_path / "mimic-cxr-2.0.0-metadata.csv").write_text(
        "dicom_id,subject_id,study_id,ViewPosition,Rows\n02aa804e-bde0afdd,10000032,50414267,PA,3056\n"
        "174413ec-4ec4c1f7,10000032,50414268,LATERAL,3056\n"
    )
    table = str(tmp_path / "mimic-cxr-2.0.0-metadata.csv")
    films = wrap(tmp_path / "files", tmp_path / "out", "--layout", "mimic_cxr", "--table", table)
    assert {(film.PatientID, film.AccessionNumber, film.ViewPosition) for film in films} == {
        ("10000032", "s50414267", "PA"),
        ("10000032", "s50414268", "LL"),
    }


def test_openi_pictures_and_their_xml_meet_in_one_number(tmp_path):
    for name in ("CXR1_1_IM-0001-3001.png", "CXR1_1_IM-0001-4001.png", "CXR2_IM-0652-1001.png"):
        save(tmp_path / "png" / name, len(name))
    (tmp_path / "xml").mkdir()
    for number in (1, 2):
        (tmp_path / "xml" / f"{number}.xml").write_text(
            f'<eCitation><uId id="CXR{number}"/><Abstract><AbstractText Label="FINDINGS">No pneumothorax.</AbstractText>'
            '<AbstractText Label="IMPRESSION">Normal chest.</AbstractText></Abstract></eCitation>'
        )
    films = wrap(tmp_path / "png", tmp_path / "out", "--layout", "openi")
    reports = tmp_path / "reports.csv"
    assert main(["report-table", "--layout", "iu_xml", "--source", str(tmp_path / "xml"), "--out", str(reports)]) == 0
    assert sorted(film.AccessionNumber for film in films) == ["CXR1", "CXR1", "CXR2"]
    assert len({film.StudyInstanceUID for film in films}) == 2
    assert set(pl.read_csv(reports)["id"]) == {"CXR1", "CXR2"}


def test_notes_of_a_table_become_the_report_of_their_picture(tmp_path):
    """The layout of covid-chestxray-dataset: patients by number, notes with commas and quotes, some empty."""
    for number, name in enumerate(("a.jpg", "b.png", "c.jpeg")):
        save(tmp_path / "images" / name, number)
    (tmp_path / "metadata.csv").write_text(
        'patientid,finding,view,filename,clinical_notes\n5,ARDS,PA,a.jpg,"Intubated, ""severe"" ARDS."\n'
        "21,COVID-19,AP,b.png,\n21,COVID-19,L,c.jpeg,Small effusion.\n"
    )
    reports = tmp_path / "restricted" / "reports.csv"
    more = ("--layout", "covid_chestxray", "--table", str(tmp_path / "metadata.csv"), "--reports", str(reports))
    films = wrap(tmp_path / "images", tmp_path / "out", *more)
    assert {(film.AccessionNumber, film.PatientID) for film in films} == {("a", "5"), ("b", "21"), ("c", "21")}
    rows = pl.read_csv(reports, infer_schema=False).rows()
    assert rows == [("a", "5", 'Intubated, "severe" ARDS.'), ("c", "21", "Small effusion.")]


def test_reports_without_a_column_of_text_are_refused(tmp_path, capsys):
    save(tmp_path / "in" / "a.png", 0)
    arguments = ["--folder", str(tmp_path / "in"), "--out", str(tmp_path / "out"), "--reports", str(tmp_path / "r.csv")]
    assert main(["pictures", *arguments]) == 1
    assert "--text-column" in capsys.readouterr().err

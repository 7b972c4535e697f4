"""The hospital's films, read back with pydicom and Pillow only."""

import csv
import hashlib
import json
from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image
from scipy.ndimage import binary_dilation

from glint.core.config.convert import FilmConvertConfig
from glint.core.config.demo import DemoConfig, FilmDemoConfig
from glint.core.config.split import SplitConfig
from glint.core.ids import Pseudonyms, read_key
from glint.demo.catalogue import FINDINGS, PlacedFinding
from glint.demo.film_patient import FIRST_FILM_STUDY, pose
from glint.demo.film_phrases import FILM
from glint.demo.hospital import build_hospital
from glint.demo.people import make_patient, make_visitation
from glint.demo.radiologist import write_report
from glint.prepare.convert.films import read_dicom_film
from glint.prepare.sections.findings import read_findings
from glint.prepare.split import split_of_patient

CONFIG = DemoConfig(seed=11, films=FilmDemoConfig(studies=14, lateral_fraction=0.4), repeat_fraction=0.3)


def _digests(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def hospital(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("films") / "hospital"
    build_hospital(out, CONFIG, workers=1, modality="cxr")
    return out


@pytest.fixture(scope="module")
def films(hospital: Path) -> dict[str, tuple[Path, pydicom.Dataset]]:
    """Whole films by instance."""
    broken = json.loads((hospital / "summary.json").read_text())["defects"]
    refused = {uid for key, uid in broken.items() if key.split("/")[0] in ("truncated_file", "for_processing")}
    files = [path for path in hospital.glob("dicom/**/*") if path.is_file()]
    read = [(path, pydicom.dcmread(path, stop_before_pixels=True)) for path in files]
    return {ds.SOPInstanceUID: (path, ds) for path, ds in read if ds.StudyInstanceUID not in refused}


def test_one_seed_gives_one_archive_byte_for_byte_whatever_the_number_of_workers(tmp_path: Path):
    config = DemoConfig(seed=5, films=FilmDemoConfig(studies=2), defects=False)
    build_hospital(tmp_path / "one", config, workers=1, modality="cxr")
    build_hospital(tmp_path / "two", config, workers=2, modality="cxr")
    assert _digests(tmp_path / "one") == _digests(tmp_path / "two")


def test_makers_and_their_habits_all_occur(films):
    headers = [ds for _, ds in films.values()]
    assert {ds.SOPClassUID.name.split(" Image")[0] for ds in headers} == {
        "Computed Radiography",
        "Digital X-Ray",
    }
    assert {ds.PhotometricInterpretation for ds in headers} == {"MONOCHROME1", "MONOCHROME2"}
    assert {"SIGMOID"} <= {ds.get("VOILUTFunction") for ds in headers}
    assert any("VOILUTSequence" in ds for ds in headers) and any("WindowCenter" in ds for ds in headers)
    assert {
        "JPEG Baseline (Process 1)",
        "JPEG 2000 Image Compression (Lossless Only)",
        "Explicit VR Little Endian",
    } == {ds.file_meta.TransferSyntaxUID.name for ds in headers}
    assert any("ImagerPixelSpacing" not in ds and "PixelSpacing" not in ds for ds in headers)
    assert any("ShutterShape" in ds for ds in headers) and any("CollimatorShape" in ds for ds in headers)


def test_every_film_converted_shows_dark_lungs_between_a_bright_spine_and_black_air(films):
    seen = set()
    for path, header in films.values():
        film = read_dicom_film(path, FilmConvertConfig(min_edge=128))
        if film.facts["view"] == "lateral":
            continue
        assert film.facts["view"] in ("PA", "AP") and film.facts["warnings"] == []
        rows, columns = film.film_YX.shape
        spine = film.film_YX[rows // 3 : rows // 2, columns // 2 - 8 : columns // 2 + 8]
        lungs = np.percentile(film.film_YX[rows // 4 : rows // 2, columns // 6 : -columns // 6], 8)
        assert lungs < 0.6 * np.median(spine), header.Manufacturer
        seen.add(header.Manufacturer)
    assert len(seen) == 6


def test_masks_and_boxes_lie_on_the_pixels_of_their_film(hospital: Path, films):
    named = json.loads((hospital / "truth" / "findings.json").read_text())
    assert named == {str(bit): name for bit, name in enumerate(FINDINGS)}
    marked = 0
    for path in (hospital / "truth").glob("*.png"):
        bits = np.array(Image.open(path))
        header = films[path.stem][1]
        assert bits.dtype == np.uint16 and bits.shape == (header.Rows, header.Columns)
        boxes = json.loads(path.with_suffix(".json").read_text())["boxes"]
        for bit, name in enumerate(FINDINGS):
            mask = bits >> bit & 1 == 1
            mine = [box["box_xywh"] for box in boxes if box["finding"] == name]
            assert bool(mine) == bool(mask.any())
            covered = np.zeros_like(mask)
            for x, y, width, height in mine:
                covered[y : y + height, x : x + width] = True
                assert mask[y, x : x + width].any() and mask[y + height - 1, x : x + width].any()
            assert (mask & ~covered).sum() <= 11 * max(1, len(mine))
            marked += bool(mine)
    assert marked >= 12


def test_a_round_finding_is_brighter_than_the_ring_around_it_where_truth_says(hospital: Path, films):
    brighter = []
    for uid, (path, _) in films.items():
        bits = np.array(Image.open(hospital / "truth" / f"{uid}.png"))
        config = FilmConvertConfig(min_edge=128, crop_border=False, crop_shutter=False)
        film = read_dicom_film(path, config).film_YX.astype(float)
        for name in ("nodule", "mass"):
            mask = bits >> FINDINGS.index(name) & 1 == 1
            ring = binary_dilation(mask, iterations=10) & ~binary_dilation(mask, iterations=3) & (bits == 0)
            if mask.any() and ring.sum() > 100:
                brighter.append(float(np.median(film[mask])) > float(np.median(film[ring])))
    assert len(brighter) >= 4 and np.mean(brighter) >= 0.8, brighter


def test_patients_are_those_of_the_ct_archive_and_identities_are_where_they_are_said_to_be(hospital: Path, films):
    mrns = {make_patient(11, number).mrn for number in range(20)}
    broken = json.loads((hospital / "summary.json").read_text())["defects"].values()
    whole = [ds for _, ds in films.values() if ds.StudyInstanceUID not in broken]
    assert {ds.PatientID for ds in whole} <= mrns
    contents: dict[str, bytes] = {}
    for entry in json.loads((hospital / "identities.json").read_text()):
        where = entry["where"]
        if where not in contents:
            contents[where] = (hospital / where).read_bytes() + where.encode()
        assert entry["value"].encode() in contents[where], entry["kind"]


def test_a_return_comes_after_the_film_it_is_compared_with(hospital: Path):
    with (hospital / "reports.csv").open(newline="") as handle:
        days: dict[str, list[str]] = {}
        for row in csv.DictReader(handle):
            days.setdefault(row["patient_id"], []).append(row["study_date"])
    assert any(len(dates) == 2 and dates[0] != dates[1] for dates in days.values())


def test_fluid_of_who_stands_lies_at_the_base_and_of_who_lies_at_the_back():
    config = DemoConfig(seed=20)
    number = next(n for n in range(400) if _effusion(n))
    place = {}
    for view, fraction in (("PA", 0.0), ("AP", 1.0)):
        films = config.model_copy(update={"films": FilmDemoConfig(portable_fraction=fraction)})
        study = pose(20, FIRST_FILM_STUDY + number, films)
        assert study.view == view
        z, y, _ = np.nonzero(study.masks["pleural_effusion"])
        lungs = np.nonzero((study.volume_hu_ZYX < -700) & (study.volume_hu_ZYX > -960))
        place[view] = np.mean(z) - np.mean(lungs[0]), np.mean(y) - np.mean(lungs[1])
    assert place["PA"][1] < place["AP"][1] - 2
    assert place["PA"][0] < -6


def _effusion(number: int) -> bool:
    from glint.demo.catalogue import choose_findings

    return "pleural_effusion" in choose_findings(20, FIRST_FILM_STUDY + number, DemoConfig(seed=20))


SIDES = {"cardiomegaly": (None, None), "hiatal_hernia": (None, None), "pleural_effusion": ("left", None)}


@pytest.mark.parametrize("name", FINDINGS)
def test_what_readers_say_of_a_film_is_understood_with_its_side_and_zone(name: str):
    side, region = SIDES.get(name, ("right", "lower"))
    grade = "small" if name in ("pleural_effusion", "pneumothorax", "emphysema") else None
    placed = PlacedFinding(finding=name, laterality=side, region=region, size_mm=44.0, grade=grade, volume_cm3=40.0)
    config = DemoConfig(typo_fraction=0.0)
    understood = []
    for number in range(30):
        patient = make_patient(4, number)
        visit = make_visitation(4, number, patient)
        text = write_report(4, number, config, patient, visit, (placed,), "PA view", None, FILM).text
        found = [f for line in text.replace("\n", " ").split(". ") for f in read_findings(line + ".")]
        mine = [f for f in found if f.finding == name and f.polarity == "present"]
        assert mine, text
        assert all(f.polarity == "absent" for f in found if f.finding in FINDINGS and f.finding != name), text
        layered = name in ("pneumothorax", "pleural_effusion")
        understood += [f.laterality == side and (layered or f.region == region) for f in mine]
    assert np.mean(understood) > 0.9


def test_a_patient_with_ct_and_films_has_one_pseudonym_and_one_split(hospital: Path, films, tmp_path: Path):
    """Both archives of a seed have one key, and the split follows from the pseudonym alone."""
    build_hospital(tmp_path / "ct", DemoConfig(seed=11, studies=2, defects=False), workers=1)
    keys = [read_key(folder / "deid.key") for folder in (tmp_path / "ct", hospital)]
    assert keys[0] == keys[1]
    scanned = {row["patient_id"] for row in csv.DictReader((tmp_path / "ct" / "reports.csv").open(newline=""))}
    filmed = {ds.PatientID for _, ds in films.values()}
    assert scanned & filmed
    for mrn in scanned & filmed:
        splits = {split_of_patient(Pseudonyms(key).patient_id(mrn), SplitConfig()) for key in keys}
        assert len(splits) == 1

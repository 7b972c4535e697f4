"""A small hospital, read back with pydicom, nibabel and plain bytes only."""

import csv
import hashlib
import json
from collections import defaultdict
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest

from glint.core.config.demo import DemoConfig
from glint.core.errors import InputError
from glint.demo.hospital import build_hospital

CONFIG = DemoConfig(studies=5, seed=11, repeat_fraction=0.4, compressed_fraction=0.5, scout_fraction=0.6)


def _digests(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def hospital(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("demo") / "hospital"
    build_hospital(out, CONFIG, workers=1)
    return out


@pytest.fixture(scope="module")
def volumes(hospital: Path) -> dict[str, list[pydicom.Dataset]]:
    """Readable volume slices by study, sorted from the lowest to the highest."""
    slices = defaultdict(list)
    for path in hospital.glob("dicom/**/*"):
        if not path.is_file():
            continue
        try:
            dataset = pydicom.dcmread(path)
            if dataset.get("ImageType") and "AXIAL" in dataset.ImageType:
                slices[dataset.StudyInstanceUID].append(dataset)
        except (OSError, EOFError, AttributeError, pydicom.errors.InvalidDicomError):
            continue
    return {uid: sorted(found, key=lambda d: float(d.ImagePositionPatient[2])) for uid, found in slices.items()}


def _summary(hospital: Path) -> dict:
    return json.loads((hospital / "summary.json").read_text())


def test_two_runs_with_one_seed_give_identical_bytes_whatever_the_number_of_workers(hospital: Path, tmp_path: Path):
    again = tmp_path / "again"
    build_hospital(again, CONFIG, workers=2)
    assert _digests(hospital) == _digests(again)


def test_the_hospital_is_closed_to_others_and_refuses_to_replace_a_foreign_folder(hospital: Path, tmp_path: Path):
    assert hospital.stat().st_mode & 0o777 == 0o700
    foreign = tmp_path / "thesis"
    foreign.mkdir()
    (foreign / "chapter.txt").write_text("irreplaceable")
    with pytest.raises(InputError, match="no earlier demo"):
        build_hospital(foreign, CONFIG, workers=1)
    assert (foreign / "chapter.txt").read_text() == "irreplaceable"


def test_every_planted_identity_is_in_the_file_it_is_said_to_be_in(hospital: Path):
    identities = json.loads((hospital / "identities.json").read_text())
    contents: dict[str, bytes] = {}
    for entry in identities:
        where = entry["where"]
        if where not in contents:
            contents[where] = (hospital / where).read_bytes() + where.encode()
        assert entry["value"].encode() in contents[where], entry["kind"]
    kinds = {entry["kind"] for entry in identities}
    assert {"patient_name", "patient_id", "birth_date", "accession", "physician", "private", "path", "uid"} <= kinds
    assert any(entry["where"] == "reports.csv" for entry in identities)


def test_truth_has_the_geometry_that_the_dicom_headers_state(hospital: Path, volumes):
    checked = 0
    for path in (hospital / "truth").glob("*.nii.gz"):
        slices = volumes[path.name.removesuffix(".nii.gz")]
        first, last = slices[0], slices[-1]
        orientation = np.array(first.ImageOrientationPatient, float)
        row_mm, column_mm = (float(value) for value in first.PixelSpacing)
        low, high = (np.array(d.ImagePositionPatient, float) for d in (first, last))
        lps = np.eye(4)
        lps[:3, 0] = orientation[:3] * column_mm
        lps[:3, 1] = orientation[3:] * row_mm
        lps[:3, 2] = (high - low) / (len(slices) - 1)
        lps[:3, 3] = low
        truth = nibabel.load(path)
        assert truth.shape == (first.Columns, first.Rows, len(slices))
        np.testing.assert_allclose(truth.affine, np.diag([-1, -1, 1, 1]) @ lps, atol=1e-3)
        checked += 1
    assert checked == CONFIG.studies + 3


def test_whole_studies_are_complete_series_with_even_steps_and_distinct_instances(hospital: Path, volumes):
    broken = set(_summary(hospital)["defects"].values())
    whole = {uid: slices for uid, slices in volumes.items() if uid not in broken}
    assert len(whole) == CONFIG.studies
    for slices in whole.values():
        steps = np.diff([float(d.ImagePositionPatient[2]) for d in slices])
        assert 40 <= len(slices) <= 56
        assert np.ptp(steps) < 1e-3
        numbers = sorted(int(d.InstanceNumber) for d in slices)
        assert numbers == list(range(numbers[0], numbers[0] + len(slices)))
        assert len({d.SOPInstanceUID for d in slices}) == len(slices)


def test_the_image_read_back_shows_the_finding_where_truth_says_and_air_outside(hospital: Path, volumes):
    bits = {name: int(bit) for bit, name in json.loads((hospital / "truth" / "findings.json").read_text()).items()}
    seen = set()
    for path in (hospital / "truth").glob("*.nii.gz"):
        slices = volumes[path.name.removesuffix(".nii.gz")]
        hu = np.stack([d.pixel_array * float(d.RescaleSlope) + float(d.RescaleIntercept) for d in slices])
        truth = np.asarray(nibabel.load(path).dataobj).transpose(2, 1, 0)
        assert np.median(hu[:, :3, :]) < -900
        for name, low, high in (
            ("pleural_effusion", -5, 30),
            ("pneumothorax", -1024, -960),
            ("mass", -40, 90),
            ("consolidation", -60, 60),
            ("ground_glass_opacity", -650, -400),
            ("emphysema", -1024, -890),
            ("atelectasis", 40, 90),
            ("cardiomegaly", 30, 200),
        ):
            mask = truth >> bits[name] & 1 == 1
            if mask.any():
                seen.add(name)
                assert low <= np.median(hu[mask]) <= high, name
    assert len(seen) >= 4


def test_every_defect_is_what_its_name_says(hospital: Path, volumes):
    defects = {key.split("/")[0]: uid for key, uid in _summary(hospital)["defects"].items()}
    with (hospital / "reports.csv").open(newline="") as handle:
        accessions = [row["accession_number"] for row in csv.DictReader(handle)]
    known = {slices[0].StudyInstanceUID: slices[0].AccessionNumber for slices in volumes.values()}
    steps = np.diff([float(d.ImagePositionPatient[2]) for d in volumes[defects["missing_slice"]]])
    assert np.isclose(steps.max(), 2 * np.median(steps))
    assert len(volumes[defects["one_slice"]]) == 1
    assert volumes[defects["tilted"]][0].ImageOrientationPatient[5] < -0.1
    assert known[defects["no_report"]] not in accessions
    assert len(set(accessions) - set(known.values())) == 1
    assert sorted(accessions.count(number) for number in set(accessions))[-2:] == [1, 2]


def test_a_hospital_without_defects_has_a_report_for_every_study_and_nothing_broken(tmp_path: Path):
    config = DemoConfig(studies=1, seed=3, defects=False)
    summary = build_hospital(tmp_path / "out", config, workers=1)
    assert (summary["studies"], summary["reports"], summary["defects"]) == (1, 1, {})

"""Real files after de-identification: valid, readable, pixels untouched, published identities gone."""

import re
import shutil
import subprocess
from io import BytesIO
from pathlib import Path

import pydicom
import pytest
from pydicom.dataset import Dataset

from glint.core.config.deidentify import DeidentifyConfig
from glint.core.errors import Quarantine
from glint.core.ids import Pseudonyms
from glint.formats.dicom import dataset_bytes, read_dataset, stored_transfer_syntax
from glint.prepare.deidentify.images import SECONDARY_CAPTURE, make_engine
from glint.prepare.deidentify.residual import PLACEHOLDERS, name_parts
from glint.prepare.deidentify.rules import SOP_CLASSES

PSEUDONYMS = Pseudonyms(b"k" * 32)
FOLDERS = ("1_ct_dicom", "2_cxr_dicom", "3_phi_dicom")
UNKNOWN = re.compile(r"^(0x\w+|<[^>]*>)")


def cleaned_files(root: Path, folder: str) -> list[tuple[Path, Dataset, bytes]]:
    """(file, original, cleaned bytes) of every readable file; at most twelve of one folder, headers repeat in a series."""
    found = []
    for place in sorted({file.parent for file in (root / folder).rglob("*") if file.is_file()}):
        for file in sorted(entry for entry in place.iterdir() if entry.is_file())[:12]:
            if file.suffix in (".md", ".txt", ".png", ".json", ".gz", ".nii", ".nrrd"):
                continue
            try:
                dataset = read_dataset(file.read_bytes())
            except Quarantine:
                continue
            if "SOPClassUID" not in dataset and "Rows" not in dataset and "PatientName" not in dataset:
                continue
            syntax = stored_transfer_syntax(dataset)
            make_engine(PSEUDONYMS, str(dataset.get("PatientID", "")), DeidentifyConfig()).clean(dataset)
            content = dataset_bytes(dataset, transfer_syntax=syntax)
            found.append((file, pydicom.dcmread(file, force=True), content))
    return found


@pytest.mark.parametrize("folder", FOLDERS)
def test_pixels_are_bit_identical_and_every_element_can_be_read(real_data: Path, folder: str) -> None:
    files = cleaned_files(real_data, folder)
    assert len(files) >= {"1_ct_dicom": 60, "2_cxr_dicom": 5, "3_phi_dicom": 15}[folder]
    for file, original, content in files:
        dataset = pydicom.dcmread(BytesIO(content))
        assert len(list(dataset.iterall())) >= 4, file.name
        assert dataset.get("PixelData") == original.get("PixelData"), file.name
        for keyword in ("Rows", "Columns", "PixelSpacing", "ImagePositionPatient", "RescaleIntercept", "BitsStored"):
            assert dataset.get(keyword) == original.get(keyword), (file.name, keyword)
        assert dataset.PatientIdentityRemoved == "YES"


@pytest.mark.parametrize("folder", FOLDERS)
def test_names_and_numbers_of_the_original_header_are_gone(real_data: Path, folder: str) -> None:
    for file, original, content in cleaned_files(real_data, folder):
        header = content[: content.rindex(b"\xe0\x7f\x10\x00")] if "PixelData" in original else content
        text = header.decode("utf-8", "replace").casefold()
        names = [part for e in original.iterall() if e.VR == "PN" for part in name_parts(str(e.value))]
        ids = [str(original.get(k, "")) for k in ("PatientID", "AccessionNumber", "StudyInstanceUID", "SOPInstanceUID")]
        private = [
            str(e.value) for e in original.iterall() if e.VR == "UI" and not str(e.value).startswith("1.2.840.10008")
        ]
        for value in (*names, *ids, *private):
            word = value.strip().casefold()
            numbers = [str(e.value) for e in original.iterall() if e.VR in ("IS", "DS")]
            if len(word) > 5 and word not in PLACEHOLDERS and word not in numbers:
                assert word not in text, f"{file.name}: a value of {len(word)} characters is left"


def complaints(file: Path) -> set[str]:
    """Errors of dicom3tools' validator, without values."""
    done = subprocess.run(["dciodvfy", str(file)], capture_output=True, text=True, errors="replace", check=False)
    lines = (done.stdout + done.stderr).splitlines()
    return {re.sub(r"<[^<>]*>|= ?\S+|\d+", "", line) for line in lines if line.startswith("Error")}


@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="dciodvfy absent: apt install dicom3tools")
@pytest.mark.parametrize("folder", FOLDERS)
def test_the_validator_has_nothing_new_to_say(real_data: Path, tmp_path: Path, folder: str) -> None:
    """Of every file whose kind stage 02 passes; what the validator says of the raw file may stay."""
    judged = 0
    for number, (file, original, content) in enumerate(cleaned_files(real_data, folder)):
        passes = str(original.get("SOPClassUID", "")) in {*SOP_CLASSES, SECONDARY_CAPTURE}
        film_or_ct = original.get("Modality", "CT") in ("CT", "CR", "DX", "DR")
        if not passes or not film_or_ct or original.get("SamplesPerPixel") != 1:  # others and colour are refused
            continue
        cleaned = tmp_path / f"{number}.dcm"
        cleaned.write_bytes(content)
        assert complaints(cleaned) - complaints(file) == set(), file.name
        judged += 1
    assert judged >= {"1_ct_dicom": 40, "2_cxr_dicom": 5, "3_phi_dicom": 1}[folder]


def test_dcm2niix_converts_a_cleaned_series(real_data: Path, tmp_path: Path) -> None:
    import dcm2niix

    series = real_data / "1_ct_dicom" / "cip_ct64"
    (tmp_path / "in").mkdir()
    for number, file in enumerate(sorted(series.rglob("*.dcm"))):
        dataset = read_dataset(file.read_bytes())
        syntax = stored_transfer_syntax(dataset)
        make_engine(PSEUDONYMS, "P", DeidentifyConfig()).clean(dataset)
        (tmp_path / "in" / f"{number}.dcm").write_bytes(dataset_bytes(dataset, transfer_syntax=syntax))
    (tmp_path / "out").mkdir()
    command = [dcm2niix.bin, "-o", str(tmp_path / "out"), str(tmp_path / "in")]
    assert subprocess.run(command, capture_output=True, check=False).returncode == 0
    assert len(list((tmp_path / "out").glob("*.nii"))) == 1


def test_identities_that_the_data_set_names_are_gone_from_headers(real_data: Path) -> None:
    rows = [row for row in (real_data / "README.md").read_text().splitlines() if row.startswith("| 3_phi_dicom/")]
    words = {
        word.lower()
        for row in rows
        for text in re.findall(r'"([^"]*)"', row)
        for word in re.findall(r"[A-Z]{5,}", text)
    }
    words |= {part.lower() for row in rows for name in re.findall(r"\w+\^\w+", row) for part in name.split("^")}
    dates = [date.split(".") for row in rows for date in re.findall(r"\d\d\.\d\d\.\d{4}", row)]
    words |= {f"{year}{month}{day}" for month, day, year in dates}
    assert len(words) >= 8
    seen = set()
    for file, original, content in cleaned_files(real_data, "3_phi_dicom"):
        before = file.read_bytes().lower()
        seen |= {word for word in words if word.encode() in before}
        header = content[: content.rindex(b"\xe0\x7f\x10\x00")] if "PixelData" in original else content
        assert [word for word in words if word.encode() in header.lower()] == [], file.name
    assert len(seen) >= 3  # the others are in the pixels alone

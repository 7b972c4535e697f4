"""A whole run over hostile files: what is said names nobody; order, shards and processes change nothing; time stays whole."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from datetime import datetime
from io import BytesIO
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

import gdcm
import numpy as np
import polars as pl
import pydicom
import pytest
from dicom_builder import ROOT, write_ct_series
from hostile_corpus import hostile_file, leaks
from pydicom.dataset import Dataset

from glint.cli.__main__ import main
from glint.core.ids import Pseudonyms

KEY = b"k" * 32
PSEUDONYMS = Pseudonyms(KEY)


@pytest.fixture(autouse=True)
def _key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "key"
    file.write_text(KEY.hex())
    file.chmod(0o600)
    monkeypatch.setenv("GLINT_DEID_KEY_FILE", str(file))


def run(raw: Path, out: Path, *, shards: int = 1) -> pl.DataFrame:
    """Index and de-identify every shard; the manifests in one, with absolute folders in `path`."""
    config = json.dumps({"num_shards": shards})
    assert main(["index", "images", "--raw", str(raw), "--out", str(out / "index"), "--config", config]) == 0
    frames = []
    for shard in sorted((out / "index").glob("shard-*")):
        made = out / "02" / shard.name / "manifest.parquet"
        assert main(["deidentify", "images", "--index", str(shard), "--out", str(made)]) == 0
        folder = pl.lit(str(made.parent) + "/")
        frames.append(pl.read_parquet(made).with_columns(path=folder + pl.col("path")))
    return pl.concat(frames).sort("study_id", "series_id")


def files_of(manifest: pl.DataFrame) -> dict[str, bytes]:
    """Cleaned files by their name, which is a pseudonym."""
    folders = [Path(path) for path in manifest["path"].drop_nulls()]
    return {file.name: file.read_bytes() for folder in folders for file in folder.glob("*.dcm")}


def write_hostile(folder: Path) -> Any:
    """Two slices of the hostile file, one of them damaged so that it provokes an error; returns the planter."""
    content, planter = hostile_file()
    folder.mkdir(parents=True)
    for number in (1, 2):
        dataset = pydicom.dcmread(BytesIO(content))
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = f"{ROOT}.3.1.1.{number}"
        dataset.ImagePositionPatient = [0, 0, 4.5 * number]
        for tag in (0x7FE00002, 0x7FE00009):  # the index looks for pixels right after the header
            del dataset[tag]
        buffer = BytesIO()
        dataset.save_as(buffer)
        (folder / f"IM{number}").write_bytes(buffer.getvalue())
    return planter


def test_no_line_of_a_run_and_no_file_name_holds_a_marker(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    planter = write_hostile(tmp_path / "raw" / "a")
    content = (tmp_path / "raw" / "a" / "IM1").read_bytes()
    for number, cut in enumerate((len(content) // 3, len(content) // 2, len(content) - 900)):
        (tmp_path / "raw" / f"cut{number}").mkdir()
        (tmp_path / "raw" / f"cut{number}" / "IM").write_bytes(content[:cut])
    broken = content.replace(b"ISO_IR 144", b"ZORKSET 12").replace(
        b"\x28\x00\x10\x00US\x02\x00", b"\x28\x00\x10\x00US\x05\x00"
    )
    (tmp_path / "raw" / "a" / "broken").write_bytes(broken)
    capfd.readouterr()
    caplog.clear()
    with caplog.at_level(0):
        manifest = run(tmp_path / "raw", tmp_path / "out")
    said = capfd.readouterr()
    spoken = (said.out + said.err + caplog.text).encode()
    assert leaks(spoken, planter) == [] and b"uillfeather" not in spoken and b"MRN4471902" not in spoken
    made = [file for file in (tmp_path / "out" / "02").rglob("*") if file.is_file()]
    names = "\n".join(str(file.relative_to(tmp_path)) for file in made).encode()
    assert leaks(names, planter) == []
    assert len(manifest) >= 1
    for file in made:
        assert leaks(file.read_bytes(), planter) == [], file.suffix


def test_a_hostile_series_comes_out_whole_and_clean(tmp_path: Path) -> None:
    planter = write_hostile(tmp_path / "raw")
    manifest = run(tmp_path / "raw", tmp_path / "out")
    assert manifest.select("status", "reason").rows() == [("ok", None)]
    files = files_of(manifest)
    assert len(files) == 2
    assert all(leaks(content, planter) == [] for content in files.values())


def two_patients(folder: Path, order: int) -> None:
    for study in (1, 2, 3)[::order]:
        patient = "MRN4471902" if study < 3 else "MRN5550001"
        prefix = f"IM{study * order % 7}"
        write_ct_series(folder / f"{study * order % 5}", study=study, num_slices=2, prefix=prefix, PatientID=patient)


def test_order_shards_and_processes_change_no_byte(tmp_path: Path) -> None:
    two_patients(tmp_path / "one", 1)
    two_patients(tmp_path / "two", -1)
    first = files_of(run(tmp_path / "one", tmp_path / "a"))
    assert len(first) == 6
    assert files_of(run(tmp_path / "two", tmp_path / "b", shards=3)) == first
    code = "import sys; sys.path[:0] = sys.argv[2:4]; from pathlib import Path; from test_hostile_run import run; run(Path(sys.argv[1]), Path(sys.argv[4]), shards=2)"
    here = Path(__file__).parent
    command = [sys.executable, "-c", code, str(tmp_path / "one"), str(here), str(here.parents[1]), str(tmp_path / "c")]
    subprocess.run(command, check=True, capture_output=True, env={**os.environ, "PYTHONHASHSEED": "7"})
    again = {file.name: file.read_bytes() for file in (tmp_path / "c" / "02").rglob("*.dcm")}
    assert again == first


def moments(dataset: Dataset) -> list[datetime]:
    pairs = [(dataset.StudyDate, dataset.StudyTime), (dataset.SeriesDate, dataset.SeriesTime)]
    pairs += [(dataset.AcquisitionDate, dataset.AcquisitionTime), (dataset.ContentDate, dataset.ContentTime)]
    whole = [date + time.split(".")[0] for date, time in pairs] + [dataset.AcquisitionDateTime[:14]]
    return [datetime.strptime(text, "%Y%m%d%H%M%S") for text in whole]


def test_intervals_of_a_patient_stay_to_the_second_also_across_midnight_and_years(tmp_path: Path) -> None:
    times = {"StudyTime": "235950", "SeriesTime": "235958.250", "AcquisitionTime": "000003", "ContentTime": "000131.5"}
    dates = {
        "StudyDate": "20191231",
        "SeriesDate": "20191231",
        "AcquisitionDate": "20200101",
        "ContentDate": "20200101",
    }
    moment = {"AcquisitionDateTime": "20200101000003.000000"}
    write_ct_series(tmp_path / "raw" / "a", study=1, num_slices=2, **times, **dates, **moment)
    write_ct_series(
        tmp_path / "raw" / "b", study=2, num_slices=2, **times, **dict.fromkeys(dates, "20200229"),
        AcquisitionDateTime="20200229000003", AccessionNumber="ACC2",
    )  # fmt: skip
    originals = [moments(pydicom.dcmread(tmp_path / "raw" / name / "IM0001")) for name in "ab"]
    by_study = {
        dataset.StudyInstanceUID: moments(dataset)
        for dataset in (pydicom.dcmread(BytesIO(c)) for c in files_of(run(tmp_path / "raw", tmp_path / "out")).values())
    }
    moved = [by_study[PSEUDONYMS.uid(f"{ROOT}.1.{study}")] for study in (1, 2)]
    flat, flat_moved = list(chain(*originals)), list(chain(*moved))
    assert [b - a for a, b in pairwise(flat)] == [b - a for a, b in pairwise(flat_moved)]
    assert flat != flat_moved


CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
CASES: dict[str, dict[str, Any]] = {
    "21 truncated pixels": {"PixelData": b"\0" * 100},
    "22 secondary capture": {"SOPClassUID": CAPTURE},
    "22 screen save": {"ImageType": ["DERIVED", "SECONDARY", "SCREEN SAVE"]},
    "23 structured report": {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.88.11", "Modality": "SR"},
    "23 dose report": {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.88.67", "Modality": "SR"},
    "24 encapsulated PDF": {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.104.1", "Modality": "DOC"},
    "25 presentation state": {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.11.1", "Modality": "PR"},
    "25 segmentation": {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.66.4", "Modality": "SEG"},
}


@pytest.mark.parametrize("case", CASES)
def test_what_is_no_clean_image_leaves_no_file(tmp_path: Path, case: str) -> None:
    write_ct_series(tmp_path / "raw", num_slices=2, **CASES[case])
    manifest = run(tmp_path / "raw", tmp_path / "out")
    assert manifest["status"].to_list() in ([], ["quarantined"])
    assert not list((tmp_path / "out" / "02").rglob("*.dcm"))


def raw_bytes(file: Path, change: Callable[[bytes], bytes]) -> None:
    file.write_bytes(change(file.read_bytes()))


def test_a_file_without_preamble_and_meta_is_read_and_rewritten(tmp_path: Path) -> None:
    """Case 19: implicit, no preamble, no meta."""
    for file in write_ct_series(tmp_path / "raw", num_slices=2, transfer_syntax="1.2.840.10008.1.2"):
        raw_bytes(file, lambda content: content[content.index(b"\x08\x00\x08\x00") :])
    files = files_of(run(tmp_path / "raw", tmp_path / "out"))
    assert len(files) == 2
    for content in files.values():
        dataset = pydicom.dcmread(BytesIO(content))
        assert content[:132] == bytes(128) + b"DICM"
        assert dataset.file_meta.TransferSyntaxUID == "1.2.840.10008.1.2"


def test_a_deflated_file_is_transcoded(tmp_path: Path) -> None:
    """Case 20."""
    write_ct_series(tmp_path / "raw", num_slices=2, transfer_syntax="1.2.840.10008.1.2.1.99")
    files = files_of(run(tmp_path / "raw", tmp_path / "out"))
    assert {pydicom.dcmread(BytesIO(c)).file_meta.TransferSyntaxUID for c in files.values()} == {"1.2.840.10008.1.2.1"}
    assert len(files) == 2


def big_endian(file: Path, pixels: np.ndarray, vr: str) -> None:
    """Rewrite `file` as explicit VR big endian; oracle: GDCM, which reads what is written here (see below)."""
    dataset = pydicom.dcmread(file)
    for element in dataset.iterall():
        element.value  # noqa: B018 (parsed, so that the writer turns numbers round)
    word = pixels.tobytes() if vr == "OB" else np.frombuffer(pixels.tobytes(), "<u2").astype(">u2").tobytes()
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.BitsAllocated = dataset.BitsStored = 8 * pixels.itemsize
    dataset.HighBit, dataset.PixelRepresentation = dataset.BitsStored - 1, int(pixels.dtype.kind == "i")
    dataset.add_new(0x7FE00010, vr, word)
    dataset.add_new(0x00189310, "SQ", [])
    dataset.RegionFlags = 0x01020304
    dataset.SharedFunctionalGroupsSequence = [Dataset()]
    dataset.SharedFunctionalGroupsSequence[0].PixelSpacingCalibrationType = "GEOMETRY"
    dataset.SharedFunctionalGroupsSequence[0].Rows = 0x0102
    dataset.SharedFunctionalGroupsSequence[0].OperatorsName = "ZORKNESTED"
    dataset.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.2"
    fresh = Dataset(dataset)
    fresh.file_meta, fresh.preamble = dataset.file_meta, dataset.preamble
    pydicom.dcmwrite(file, fresh, implicit_vr=False, little_endian=False, force_encoding=True)


SHADES = np.random.default_rng(3)
BIG_ENDIAN_PIXELS = {
    "16 bit in OW": (SHADES.integers(0, 4000, (24, 32)).astype("<u2"), "OW"),
    "16 bit signed in OW": (SHADES.integers(-900, 900, (24, 32)).astype("<i2"), "OW"),
    "8 bit in OB": (SHADES.integers(0, 255, (24, 32)).astype("u1"), "OB"),
    "8 bit in OW": (SHADES.integers(0, 255, (24, 32)).astype("u1"), "OW"),
}


@pytest.mark.parametrize("case", BIG_ENDIAN_PIXELS)
def test_a_big_endian_file_comes_out_little_endian_with_the_same_pixels(tmp_path: Path, case: str) -> None:
    """Case 20. Oracle: the array that was written, and GDCM's reading of the raw file where it reads such."""
    pixels, vr = BIG_ENDIAN_PIXELS[case]
    for file in write_ct_series(tmp_path / "raw", num_slices=2):
        big_endian(file, pixels, vr)
        image = gdcm.ImageReader()
        image.SetFileName(str(file))
        if case != "8 bit in OW":
            assert image.Read()
            seen = image.GetImage().GetBuffer().encode("utf-8", "surrogateescape")
            assert np.array_equal(np.frombuffer(seen, pixels.dtype).reshape(pixels.shape), pixels)
    files = files_of(run(tmp_path / "raw", tmp_path / "out"))
    assert len(files) == 2
    for content in files.values():
        dataset = pydicom.dcmread(BytesIO(content))
        assert dataset.file_meta.TransferSyntaxUID == "1.2.840.10008.1.2.1"
        assert np.array_equal(dataset.pixel_array, pixels)
        assert (dataset.Rows, dataset.Columns, dataset.RegionFlags) == (24, 32, 0x01020304)
        assert dataset.SharedFunctionalGroupsSequence[0].Rows == 0x0102
        assert b"ZORK" not in content and b"uillfeather" not in content


def test_a_truncated_big_endian_file_is_quarantined(tmp_path: Path) -> None:
    for number, file in enumerate(write_ct_series(tmp_path / "raw", num_slices=3)):
        big_endian(file, BIG_ENDIAN_PIXELS["16 bit in OW"][0], "OW")
        if number == 1:
            raw_bytes(file, lambda content: content[:-300])
    assert "ok" not in run(tmp_path / "raw", tmp_path / "out")["status"].to_list()


def test_bytes_after_the_data_set_are_dropped(tmp_path: Path) -> None:
    """Case 17: they are in no element."""
    for file in write_ct_series(tmp_path / "raw", num_slices=2):
        raw_bytes(file, lambda content: content + b"\xfc\xff\xfc\xffOB\0\0\x08\0\0\0ZORKTAIL")
    files = files_of(run(tmp_path / "raw", tmp_path / "out"))
    assert len(files) == 2
    assert not any(b"ZORKTAIL" in content for content in files.values())


def test_negative_twelve_bit_pixels_keep_every_bit(tmp_path: Path) -> None:
    """Case 39: bits that are not sign-extended are no text."""
    pixels = np.arange(24 * 32, dtype="<u2") | 0x0800
    edit = {"BitsStored": 12, "HighBit": 11, "PixelRepresentation": 1, "PixelData": pixels.tobytes()}
    write_ct_series(tmp_path / "raw", num_slices=2, **edit)
    for content in files_of(run(tmp_path / "raw", tmp_path / "out")).values():
        assert pydicom.dcmread(BytesIO(content)).PixelData == pixels.tobytes()

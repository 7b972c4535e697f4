"""The audit tells a good run from one that lost, kept, moved or changed something; its page holds no identifier."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pydicom
import pytest
from dicom_builder import ROOT, write_ct_series
from pydicom.dataset import Dataset
from test_deidentify_images import _key, deidentify  # noqa: F401

from glint.cli.__main__ import main
from glint.prepare.deidentify.byte_search import byte_pattern, spellings
from glint.prepare.deidentify.residual import residual_scan


def refer(dataset: Dataset, index: int) -> None:
    dataset.SourceImageSequence = [Dataset()]
    dataset.SourceImageSequence[0].ReferencedSOPClassUID = dataset.SOPClassUID
    dataset.SourceImageSequence[0].ReferencedSOPInstanceUID = f"{ROOT}.3.1.1.1"


def audited(tmp_path: Path) -> dict[str, tuple[int, int]]:
    """Action → (passed, total) of what lies below `tmp_path`."""
    command = ["audit", "--results", str(tmp_path / "out"), "--index", str(tmp_path / "index")]
    command += ["--out", str(tmp_path / "audit"), "--restricted", str(tmp_path / "restricted" / "audit")]
    assert main(command) == 0
    rows = json.loads((tmp_path / "audit" / "score.json").read_text())
    return {row["action"]: (row["passed"], row["total"]) for row in rows}


def run(tmp_path: Path, **elements: Any) -> list[Path]:
    """Raw series, index, de-identified series: the written files."""
    write_ct_series(tmp_path / "raw" / "a", num_slices=3, edit=refer, **elements)
    manifest = deidentify(tmp_path, tmp_path / "raw")
    return sorted(Path(manifest["path"].item()).glob("*.dcm"))


def test_a_good_run_passes_every_check_and_the_page_names_nobody(tmp_path: Path) -> None:
    run(tmp_path)
    score = audited(tmp_path)
    assert all(passed == total for passed, total in score.values()), score
    assert all(total for action, (_, total) in score.items() if action != "pixels_hidden"), score
    page = (tmp_path / "audit" / "audit.html").read_text()
    assert "interval_preserved" in page and "uid_mapped" in page
    for file in (tmp_path / "audit").iterdir():
        assert not re.search(rb"Quillfeather|MRN4471902|ACC7730041|Brackenbury|19541103", file.read_bytes()), file
    assert not re.search(r"(src|href)=.https?:", page)
    values = pl.read_parquet(tmp_path / "audit" / "values.parquet")
    assert values.filter(pl.col("keyword") == "Modality").select("value", "count").rows() == [("CT", 3)]


def edit(file: Path, change: Callable[[Dataset], None]) -> None:
    dataset = pydicom.dcmread(file)
    change(dataset)
    dataset.save_as(file)


def name_left(dataset: Dataset) -> None:
    dataset.ImageComments = "for QUILLFEATHER"


def other_day(dataset: Dataset) -> None:
    dataset.ContentDate = "20200101"


def other_patient(dataset: Dataset) -> None:
    dataset.PatientID = "p0"


def pixel_changed(dataset: Dataset) -> None:
    dataset.PixelData = b"\1" + dataset.PixelData[1:]


def spacing_lost(dataset: Dataset) -> None:
    del dataset.PixelSpacing


def reference_lost(dataset: Dataset) -> None:
    dataset.SourceImageSequence[0].ReferencedSOPInstanceUID = "2.25.1"


@pytest.mark.parametrize(
    ("change", "action"),
    [
        (name_left, "text_removed"),
        (other_day, "interval_preserved"),
        (other_patient, "patid_consistent"),
        (pixel_changed, "pixels_retained"),
        (spacing_lost, "tag_retained"),
        (reference_lost, "reference_closed"),
    ],
)
def test_one_fault_in_one_file_is_found(tmp_path: Path, change: Callable[[Dataset], None], action: str) -> None:
    edit(run(tmp_path)[1], change)
    passed, total = audited(tmp_path)[action]
    assert passed < total


def test_deleting_a_file_scores_worse_than_keeping_it_in_every_action(tmp_path: Path) -> None:
    run(tmp_path)[1].unlink()
    score = audited(tmp_path)
    for action, (passed, total) in score.items():
        assert total == 0 or passed < total, action


def test_a_refused_series_is_not_retained_and_its_picture_stays_in_the_restricted_folder(tmp_path: Path) -> None:
    write_ct_series(tmp_path / "raw" / "b", study=2, num_slices=2, BurnedInAnnotation="YES")
    write_ct_series(tmp_path / "raw" / "a", num_slices=2)
    deidentify(tmp_path, tmp_path / "raw")
    assert audited(tmp_path)["instance_retained"] == (1, 2)
    assert "data:image/png" not in (tmp_path / "audit" / "audit.html").read_text()
    restricted = tmp_path / "restricted" / "audit"
    assert "burned_in_annotation" in (restricted / "quarantined.html").read_text()
    assert "data:image/png" in (restricted / "quarantined.html").read_text()
    assert restricted.stat().st_mode & 0o077 == 0


def test_the_page_with_identifiers_is_refused_elsewhere(tmp_path: Path) -> None:
    shutil.rmtree(tmp_path / "x", ignore_errors=True)
    command = ["audit", "--results", "x", "--index", "x", "--out", "x", "--restricted", str(tmp_path / "open")]
    assert main(command) == 1


@pytest.mark.parametrize(
    "written",
    [
        "Müller".encode("latin-1"),
        "MÜLLER".encode("utf-16-le"),
        "Müller".encode("utf-16-be"),
        "anna müller".encode(),
        "Müller, Anna".encode(),
        b"03.11.1954",
        b"1954-11-03",
        "山田".encode("iso2022_jp"),
        "山田".encode("gb18030"),
        b"A4711",
    ],
)
def test_identifiers_are_found_in_every_encoding_and_order(written: bytes) -> None:
    texts = spellings(names=["Müller^Anna", "山田^太郎花子"], identifiers=["A4711", "山田太郎"], dates=["19541103"])
    pattern = byte_pattern(texts | {"山田"})
    assert pattern.search(b"..\0 " + written + b" \0..")
    assert not pattern.search(b"SIEMENS 1024 hannah 195411031 xA47112")


@pytest.mark.parametrize(
    "left",
    [
        "Quillfeather".encode("utf-16-le"),
        "QUILLFEATHER".encode("utf-16-be"),
        "Müller".encode("latin-1"),
        "MÜLLER".encode("iso8859-2"),
        "山田".encode("iso2022_jp"),
        "Иванов".encode("koi8-r"),
        "김희중".encode("euc_kr"),
        b"14.03.2021",
        b"03/14/2021",
        b"2021/03/14",
    ],
)
def test_the_gate_of_the_stage_sees_other_encodings_and_spellings(left: bytes) -> None:
    names = ["Quillfeather^Ottoline", "Müller^Änne", "山田^太郎", "Иванов^Пётр", "김희중"]
    scan = residual_scan(names=names, identifiers=[], dates=["20210314"], phrases=[])
    assert scan.finds(b"\2\0 LO " + left + b"\0 ", b"", Dataset(), [])
    assert not scan.finds(b"\2\0 LO chest \0C\0T\0 1.2\\0.5 20200101 ", b"", Dataset(), [])

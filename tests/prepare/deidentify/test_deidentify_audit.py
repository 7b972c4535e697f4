"""The audit tells a good run from one that lost, kept, moved or changed something; its page holds no identifier."""

import html
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pydicom
import pytest
from dicom_builder import ROOT, write_ct_series
from PIL import Image, ImageDraw, ImageFont
from pydicom.dataset import Dataset
from test_deidentify_images import _key, deidentify  # noqa: F401

from glint.cli.__main__ import main
from glint.prepare.deidentify.audit_page import thumbnail
from glint.prepare.deidentify.audit_reports import ReportAudit, audit_report
from glint.prepare.deidentify.byte_search import byte_pattern, spellings
from glint.prepare.deidentify.residual import residual_scan


def refer(dataset: Dataset, index: int) -> None:
    dataset.SourceImageSequence = [Dataset()]
    dataset.SourceImageSequence[0].ReferencedSOPClassUID = dataset.SOPClassUID
    dataset.SourceImageSequence[0].ReferencedSOPInstanceUID = f"{ROOT}.3.1.1.1"


def audited(tmp_path: Path, config: dict[str, Any] | None = None) -> dict[str, tuple[int, int]]:
    """Action → (passed, total) of what lies below `tmp_path`."""
    (tmp_path / "index_root").mkdir(exist_ok=True)
    if not (tmp_path / "index_root" / "images").exists():
        (tmp_path / "index_root" / "images").symlink_to(tmp_path / "index")
    command = ["deidentify", "audit", "--images", str(tmp_path / "out"), "--index", str(tmp_path / "index_root")]
    command += ["--out", str(tmp_path / "audit" / "score.json"), "--restricted", str(tmp_path / "restricted" / "audit")]
    assert main([*command, "--config", json.dumps(config or {})]) == 0
    score = json.loads((tmp_path / "audit" / "score.json").read_text())
    return {row["action"]: (row["passed"], row["total"]) for row in score["images"]}


def run(tmp_path: Path, config: dict[str, Any] | None = None, **elements: Any) -> list[Path]:
    """Raw series, index, de-identified series: the written files."""
    write_ct_series(tmp_path / "raw" / "a", num_slices=3, edit=refer, **elements)
    manifest = deidentify(tmp_path, tmp_path / "raw", config)
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
    page = (tmp_path / "audit" / "audit.html").read_text()
    assert "checks failed" in page and "No check failed" not in page


def uid_left(dataset: Dataset) -> None:
    dataset.add_new(0x00204000, "LT", f"see {ROOT}.3.1.1.2")


def test_an_original_uid_in_a_text_is_found(tmp_path: Path) -> None:
    edit(run(tmp_path)[0], uid_left)
    passed, total = audited(tmp_path)["text_removed"]
    assert passed == total - 1


@pytest.mark.parametrize(
    "config", [{"retain_device_identity": True}, {"retain_modified_dates": False}], ids=["device kept", "dates emptied"]
)
def test_what_the_configuration_keeps_or_empties_is_no_fault(tmp_path: Path, config: dict[str, Any]) -> None:
    run(tmp_path, config, StationName="CTSCANNER01")
    score = audited(tmp_path, config)
    assert all(passed == total for passed, total in score.values()), score
    assert score["date_shifted"][1] > 0


def test_a_share_of_the_series_can_be_compared_and_the_page_says_how_many(tmp_path: Path) -> None:
    for study in (1, 2, 3):
        write_ct_series(tmp_path / "raw" / str(study), study=study, num_slices=2)
    deidentify(tmp_path, tmp_path / "raw")
    assert audited(tmp_path, {"audit_series": 2})["instance_retained"] == (2, 2)
    assert "2 of 3 series" in (tmp_path / "audit" / "audit.html").read_text()
    assert audited(tmp_path, {"audit_series": None})["instance_retained"] == (3, 3)


STUDY = {
    "patient_names": ["Quillfeather^Änne"], "other_persons": ["Green^Tobias"], "raw_patient_id": "MRN-447 1902",
    "accession": "ACC7730041", "study_uid": "1.2.3", "identifiers": [], "institutions": ["Mercy Hill Hospital"],
    "study_dates": ["20210304"], "birth_dates": ["19541103"],
}  # fmt: skip


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("Called QUILLFEATHER.", "names"),
        ("seen by anne", "names"),
        ("Patient MRN4471902.", "numbers and codes"),
        ("see acc 7730041", "numbers and codes"),
        ("from Mercy\nHill  hospital", "institutions"),
        ("as on 3/4/2021", "study dates"),
        ("as on 4 March 2021", "study dates"),
        ("born 03.11.54", "birth dates"),
        ("The green curve.", "names that are ordinary words too"),
        ("No nodule. Series 3 image 112. 2021-03-14", None),
    ],
)
def test_what_is_known_of_a_study_is_found_again_in_its_report(text: str, left: str | None) -> None:
    audit = ReportAudit()
    audit_report(audit, {"study_id": "s", "status": "ok", "text": text, "replacements": []}, [], STUDY)
    assert [name for _, name in audit.places] == ([left] if left else [])
    assert audit.looked_for.total() == 9


def test_a_date_that_was_moved_onto_the_study_date_is_no_fault() -> None:
    text = "Compared with 2021-03-04."
    spans = [{"kind": "date", "start": 14, "end": 24}]
    audit = ReportAudit()
    audit_report(audit, {"study_id": "s", "status": "ok", "text": text, "replacements": spans}, [], STUDY)
    assert audit.places == [] and audit.replaced == {"date": 1}
    audit_report(audit, {"study_id": "s", "status": "ok", "text": text, "replacements": []}, [], STUDY)
    assert audit.left["study dates"] == 1


def test_a_blanked_image_is_shown_without_its_text_and_as_it_was_only_in_the_restricted_folder(tmp_path: Path) -> None:
    """Oracle: the picture in the open page equals a thumbnail of the written file, and differs from the raw one's."""
    hu_ZYX = np.full((2, 512, 512), -900, np.int16)
    hu_ZYX[:, 100:400, 100:400] = 40
    canvas = Image.new("L", (512, 512))
    ImageDraw.Draw(canvas).text((8, 6), "QUILLFEATHER 03.11.1954", fill=255, font=ImageFont.load_default(24))
    hu_ZYX[:, np.asarray(canvas) > 128] = 3000
    raw = write_ct_series(tmp_path / "raw" / "a", hu_ZYX=hu_ZYX)
    files = sorted(Path(deidentify(tmp_path, tmp_path / "raw", {"refuse_heads": False})["path"].item()).glob("*.dcm"))
    score = audited(tmp_path)
    assert score["pixels_hidden"][1] > 0 and all(passed == total for passed, total in score.values())
    boxes = json.loads((tmp_path / "out" / "shard-000" / "audit.json").read_text())["blanked"][0]["boxes"]
    written = {thumbnail(pydicom.dcmread(file), boxes) for file in files}
    before = {thumbnail(pydicom.dcmread(file), boxes) for file in raw}
    opened = set(re.findall(r'src="(data:[^"]+)"', (tmp_path / "audit" / "audit.html").read_text()))
    closed = set(
        re.findall(r'src="(data:[^"]+)"', (tmp_path / "restricted" / "audit" / "quarantined.html").read_text())
    )
    assert opened == {html.escape(image) for image in written} and not opened & {html.escape(i) for i in before}
    assert closed == {html.escape(image) for image in before}


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
    command = ["deidentify", "audit", "--images", "x", "--index", "x", "--out", "x/score.json"]
    assert main([*command, "--restricted", str(tmp_path / "open")]) == 1


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

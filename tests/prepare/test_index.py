"""The inventory: what each series is, why it can't be used, and that a second run touches only what changed."""

import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from dicom_builder import ROOT, write_ct_series
from pydicom.dataset import Dataset

from glint.cli.__main__ import main
from glint.core.config.index import IndexConfig
from glint.core.errors import InputError
from glint.core.ids import Pseudonyms
from glint.formats.manifest import read_manifests
from glint.formats.report_table import read_report_table
from glint.prepare.index.images import index_images
from glint.prepare.index.inventory import Inventory
from glint.prepare.index.reports import join_reports
from glint.prepare.index.shards import assign_shards

PSEUDONYMS = Pseudonyms(b"k" * 32)


def inventory(*folders: Path) -> Inventory:
    """The tables of a first run over `folders`."""
    with tempfile.TemporaryDirectory() as place:
        out = Path(place)
        found = index_images(list(folders), out, IndexConfig(num_shards=2), PSEUDONYMS, workers=1)
        instances = read_manifests(sorted(out.glob("shard-*/instances.parquet")), "index_instances").drop("folder")
    return Inventory(instances=instances, series=found.series, studies=found.studies, quarantine=found.quarantine)


def verdict(frame: pl.DataFrame, study: int = 1, series: int = 1) -> tuple[Any, Any, Any]:
    row = frame.filter(pl.col("series_id") == PSEUDONYMS.series_id(f"{ROOT}.2.{study}.{series}")).row(0, named=True)
    return row["kind"], row["reason"], row["num_instances"]


def test_a_complete_chest_series_is_a_volume(tmp_path: Path) -> None:
    write_ct_series(tmp_path / "any" / "depth")
    (tmp_path / "README.txt").write_text("not an image")
    found = inventory(tmp_path)
    assert verdict(found.series) == ("volume", None, 8)
    study = found.studies.row(0, named=True)
    assert (study["status"], study["accession"]) == ("ok", "ACC7730041")
    assert study["other_persons"] == ["Brackenbury^Tobias"]
    assert found.quarantine.is_empty()


@pytest.mark.parametrize(
    ("elements", "expected"),
    [
        ({"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}, ("localizer", "localizer")),
        ({"BodyPartExamined": "EXTREMITY"}, ("volume", "not_chest")),
        ({"BodyPartExamined": None}, ("volume", None)),
        ({"BodyPartExamined": "CHEST_TO_PELVIS"}, ("volume", None)),
        ({"ImagePositionPatient": None}, ("volume", "missing_geometry")),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.7"}, ("secondary_capture", "secondary_capture")),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.88.67"}, ("dose_report", "dose_report")),
        ({"ImageType": ["DERIVED", "SECONDARY", "SCREEN SAVE"]}, ("secondary_capture", "secondary_capture")),
        (
            {"ImageType": ["DERIVED", "SECONDARY", "SCREEN SAVE"], "SeriesDescription": "Dose Report"},
            ("dose_report", "dose_report"),
        ),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.481.3"}, ("other", "not_a_ct_image")),
    ],
)
def test_headers_tell_what_a_series_is(tmp_path: Path, elements: dict[str, Any], expected: tuple[str, Any]) -> None:
    write_ct_series(tmp_path, num_slices=3, **elements)
    assert verdict(inventory(tmp_path).series)[:2] == expected


def test_one_slice_is_no_volume(tmp_path: Path) -> None:
    write_ct_series(tmp_path, num_slices=1)
    assert verdict(inventory(tmp_path).series)[:2] == ("one_slice", "one_slice")


def test_scouts_inside_a_series_leave_it_named_or_not(tmp_path: Path) -> None:
    def edit(dataset: Dataset, index: int) -> None:
        if index == 0:
            dataset.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
        if index == 1:
            dataset.ImageOrientationPatient = [1, 0, 0, 0, 0, -1]

    write_ct_series(tmp_path, edit=edit)
    found = inventory(tmp_path)
    assert verdict(found.series) == ("volume", None, 6)
    assert found.quarantine["reason"].to_list() == ["localizer", "localizer"]


def test_two_halves_across_each_other_are_not_taken_for_scouts(tmp_path: Path) -> None:
    def edit(dataset: Dataset, index: int) -> None:
        if index % 2:
            dataset.ImageOrientationPatient = [1, 0, 0, 0, 0, -1]

    write_ct_series(tmp_path, edit=edit)
    assert verdict(inventory(tmp_path).series) == ("volume", None, 8)  # the geometry gate must see and refuse it


def test_a_tilted_stack_is_not_taken_for_scouts(tmp_path: Path) -> None:
    write_ct_series(tmp_path, orientation=(1, 0, 0, 0, 0.88, -0.475))
    assert verdict(inventory(tmp_path).series) == ("volume", None, 8)


def test_a_truncated_slice_refuses_its_series(tmp_path: Path) -> None:
    file = write_ct_series(tmp_path)[3]
    file.write_bytes(file.read_bytes()[:-200])
    assert verdict(inventory(tmp_path).series)[:2] == ("volume", "truncated")


@pytest.mark.parametrize(
    ("keyword", "reason"),
    [
        ("SeriesInstanceUID", "missing_series_uid"),
        ("StudyInstanceUID", "missing_study_uid"),
        ("SOPInstanceUID", "missing_sop_instance_uid"),
    ],
)
def test_a_missing_uid_is_never_invented(tmp_path: Path, keyword: str, reason: str) -> None:
    write_ct_series(tmp_path, num_slices=2, **{keyword: ""})
    found = inventory(tmp_path)
    assert found.quarantine["reason"].to_list() == [reason] * 2
    assert found.series.is_empty()


def test_copies_are_dropped_and_conflicting_copies_refuse_the_series(tmp_path: Path) -> None:
    files = write_ct_series(tmp_path / "a")
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    found = inventory(tmp_path)
    assert verdict(found.series) == ("volume", None, 8)
    assert found.quarantine["reason"].to_list() == ["duplicate"] * 8
    copy = tmp_path / "b" / files[2].name
    copy.write_bytes(copy.read_bytes()[:-2] + b"\1\1")
    assert verdict(inventory(tmp_path).series)[:2] == ("volume", "conflicting_duplicates")


def test_a_study_with_two_patients_is_refused(tmp_path: Path) -> None:
    write_ct_series(tmp_path / "a", series=1)
    write_ct_series(tmp_path / "b", series=2, PatientID="OTHER77")
    found = inventory(tmp_path)
    assert found.studies["reason"].to_list() == ["several_patients"]
    assert set(found.series["reason"]) == {"several_patients"}


def test_an_unreadable_file_is_listed_and_stops_nothing(tmp_path: Path) -> None:
    write_ct_series(tmp_path)
    (tmp_path / "broken").write_bytes(b"\0" * 128 + b"DICM" + b"\x02\x00\x10\x00XX\xff\xff" + b"\x13" * 40)
    found = inventory(tmp_path)
    assert verdict(found.series) == ("volume", None, 8)
    assert found.quarantine.select("level", "reason").rows() == [("file", "unreadable")]


def test_known_studies_keep_their_shard_and_new_ones_go_to_the_smallest() -> None:
    first = assign_shards([f"s{i}" for i in range(10)], {}, num_shards=3)
    assert sorted(list(first.values()).count(name) for name in set(first.values())) == [3, 3, 4]
    second = assign_shards([*first, "s-new"], first, num_shards=3)
    assert {study: second[study] for study in first} == first
    assert list(first.values()).count(second["s-new"]) == 3


def test_folders_without_dicom_are_told_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such folder"):
        inventory(tmp_path / "absent")
    with pytest.raises(InputError, match="no DICOM file among 0 files"):
        inventory(tmp_path)


def write_table(path: Path, rows: list[tuple[str, str]]) -> Path:
    pl.DataFrame(rows, schema=["accession_number", "report"], orient="row").write_csv(path)
    return path


def test_every_report_and_study_gets_a_partner_or_a_reason(tmp_path: Path) -> None:
    for study, accession in enumerate(["A1", "A2", "A3", "A3", "A5", "A6", "0007"], 1):
        folder = tmp_path / "raw" / str(study)
        write_ct_series(folder, study=study, num_slices=2, AccessionNumber=accession)
    studies = inventory(tmp_path / "raw").studies
    reports = [
        ("A1", "Clear lungs."),
        ("A3", "x"),
        ("A5", "one"),
        ("A5", "two"),
        ("A6", " "),
        ("A9", "y"),
        ("0007", "z"),
    ]
    index = join_reports(
        studies,
        read_report_table(write_table(tmp_path / "r.csv", reports), ["accession_number", "report"]),
        IndexConfig(),
    )
    joined = studies.join(index.reports, on="study_id", suffix="_report").sort("accession", "study_id")
    assert joined.select("accession", "reason_report").rows() == [
        ("0007", None),
        ("A1", None),
        ("A2", "no_report"),
        ("A3", "ambiguous_accession"),
        ("A3", "ambiguous_accession"),
        ("A5", "several_reports"),
        ("A6", "empty_report"),
    ]
    assert index.quarantine.filter(pl.col("reason") == "no_study")["item"].to_list() == ["A9"]


def test_a_report_of_another_patient_is_refused(tmp_path: Path) -> None:
    write_ct_series(tmp_path / "raw", num_slices=2)
    table = pl.DataFrame({"accession_number": ["ACC7730041"], "report": ["text"], "pid": ["MRN9"]})
    config = IndexConfig(patient_id_column="pid")
    index = join_reports(inventory(tmp_path / "raw").studies, table, config)
    assert index.reports["reason"].to_list() == ["patient_mismatch"]


def test_a_wrong_table_is_told_in_one_line(tmp_path: Path) -> None:
    table = write_table(tmp_path / "r.csv", [("A1", "text")])
    with pytest.raises(InputError, match="no column 'findings'"):
        read_report_table(table, ["accession_number", "findings"])
    with pytest.raises(InputError, match="no such report table"):
        read_report_table(tmp_path / "absent.csv", ["report"])
    (tmp_path / "r.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(InputError, match="not a readable"):
        read_report_table(tmp_path / "r.parquet", ["report"])


@pytest.fixture
def key_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    file = tmp_path / "secret" / "key"
    monkeypatch.setenv("GLINT_DEID_KEY_FILE", str(file))
    return file


def snapshot(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {str(p.relative_to(folder)): (p.read_bytes(), p.stat().st_mtime_ns) for p in folder.rglob("*.parquet")}


def test_the_command_touches_only_the_shard_that_changed(tmp_path: Path, key_file: Path) -> None:
    for study in range(1, 5):
        write_ct_series(tmp_path / "raw" / str(study), study=study, num_slices=2, AccessionNumber=f"A{study}")
    out, config = tmp_path / "index", '{"num_shards": 2}'
    images = ["index", "images", "--raw", str(tmp_path / "raw"), "--out", str(out / "images"), "--config", config]
    table = write_table(tmp_path / "r.csv", [(f"A{study}", f"Report {study}.") for study in range(1, 5)])
    reports = [
        "index",
        "reports",
        "--images",
        str(out / "images"),
        "--table",
        str(table),
        "--out",
        str(out / "reports"),
    ]
    assert main([*images, "--create-key"]) == 0
    assert main([*reports, "--config", config]) == 0
    before = snapshot(out)
    assert main(images) == 0
    assert main([*reports, "--config", config]) == 0
    assert snapshot(out) == before
    write_ct_series(tmp_path / "raw" / "new", study=9, num_slices=2, AccessionNumber="A9")
    write_table(table, [(f"A{study}", f"Report {study}." if study != 2 else "Other.") for study in (1, 2, 3, 4, 9)])
    assert main(images) == 0
    after = snapshot(out)
    changed = {name.split("/")[1] for name in after if after[name] != before[name] and name.startswith("images/shard")}
    assert len(changed) == 1
    assert os.stat(out / "images").st_mode & 0o077 == 0


def test_identity_is_missing_from_the_message_of_a_missing_key(
    tmp_path: Path, key_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_ct_series(tmp_path / "raw", num_slices=2)
    assert main(["index", "images", "--raw", str(tmp_path / "raw"), "--out", str(tmp_path / "out")]) == 1
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert "key file" in message


REAL = {
    # folder: (kind, reason, instances); None: no series at all, its files are set aside one by one
    "cip_ct64/ct-64Dicom": ("volume", None, 79),
    "dcm_qa_ct_ge": ("volume", "not_chest", 28),
    "dicom2nifti_failing/gantrytilting/001": ("volume", None, 4),
    "dicom2nifti_failing/sliceincrement/001": ("volume", None, 4),
    "dicom_numpy_dupes": ("volume", None, 11),
    "ibsi_sts_ge/STS_002/CT/image": ("volume", "not_chest", 48),
    "ibsi_sts_ge/STS_002/CT/mask": ("other", "not_a_ct_image", 1),
    "lungmask_minimal": ("volume", None, 2),
    "tcia_covid19_ny_sbu_slices": ("one_slice", "one_slice", 1),
    "totalsegmentator_dicom/example_ct_dicom": (None, "missing_series_uid", 20),
}


def test_every_real_series_gets_its_kind_and_reason(real_data: Path) -> None:
    raw = real_data / "1_ct_dicom"
    found = inventory(raw)
    seen = {}
    files = found.instances.join(found.series, on="series_id", suffix="_series")
    for row in files.iter_rows(named=True):
        folder = str(Path(row["file"]).parent.relative_to(raw.resolve()))
        name = next(name for name in REAL if folder == name or (name.startswith("tcia") and folder.startswith(name)))
        seen[name] = (row["kind"], row["reason_series"], row["num_instances"])
    lost = found.quarantine.filter(pl.col("level") == "file")
    assert lost.height == 20
    seen["totalsegmentator_dicom/example_ct_dicom"] = (None, lost["reason"].unique().item(), lost.height)
    assert seen == REAL
    assert found.series.filter(pl.col("kind") == "one_slice").height == 12
    assert found.studies.filter(pl.col("status") == "ok").height == 5

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
from glint.prepare.index.reports import join_reports, report_columns
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
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.481.3"}, ("radiotherapy", "not_a_ct_image")),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.88.11"}, ("structured_report", "not_a_ct_image")),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.88.59"}, ("key_objects", "not_a_ct_image")),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.104.1"}, ("document", "not_a_ct_image")),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.11.1"}, ("presentation_state", "not_a_ct_image")),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.66.4"}, ("segmentation", "not_a_ct_image")),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.1.1"}, ("film", "not_a_ct_image")),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.128"}, ("other", "not_a_ct_image")),
        ({"SOPClassUID": "1.2.3.4"}, ("other", "not_a_ct_image")),
        ({"ImageType": ["DERIVED", "SECONDARY", "REFORMATTED", "AVERAGE"]}, ("reformat", "reformat")),
        ({"ImageOrientationPatient": [1, 0, 0, 0, 0, -1]}, ("reformat", "reformat")),
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


def test_two_halves_across_each_other_are_two_series_and_no_scouts(tmp_path: Path) -> None:
    def edit(dataset: Dataset, index: int) -> None:
        if index % 2:
            dataset.ImageOrientationPatient = [1, 0, 0, 0, 0, -1]

    write_ct_series(tmp_path, edit=edit)
    series = inventory(tmp_path).series.sort("kind")
    assert series.select("kind", "reason", "num_instances").rows() == [("reformat", "reformat", 4), ("volume", None, 4)]


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
    with pytest.raises(InputError, match="no such folder or archive"):
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


def test_a_study_under_two_accession_numbers_takes_the_report_of_either_but_not_two(tmp_path: Path) -> None:
    for study, numbers in enumerate([("B1", "B2"), ("C1", "C2"), ("D1", "D2"), ("D2", "D2")], 1):
        for series, accession in enumerate(numbers, 1):
            folder = tmp_path / f"{study}.{series}"
            write_ct_series(folder, study=study, series=series, num_slices=2, AccessionNumber=accession)
    studies = inventory(tmp_path).studies
    rows = [("B2", "one"), ("C1", "one"), ("C2", "another"), ("D1", "mine")]
    table = pl.DataFrame(rows, schema=["accession_number", "report"], orient="row")
    index = join_reports(studies, table, IndexConfig())
    told = studies.join(index.reports, on="study_id", suffix="_report").sort("accession")
    assert told.select("accession", "reason_report").rows() == [
        ("B1\\B2", None),
        ("C1\\C2", "several_reports"),
        ("D1\\D2", "ambiguous_accession"),
        ("D2", "no_report"),
    ]
    assert "no_study" not in index.quarantine["reason"]


def test_a_report_of_another_patient_is_refused(tmp_path: Path) -> None:
    write_ct_series(tmp_path / "raw", num_slices=2)
    table = pl.DataFrame({"accession_number": ["ACC7730041"], "report": ["text"], "pid": ["MRN9"]})
    config = IndexConfig(patient_id_column="pid")
    index = join_reports(inventory(tmp_path / "raw").studies, table, config)
    assert index.reports["reason"].to_list() == ["patient_mismatch"]


def test_reports_join_by_patient_and_date_and_what_fits_two_studies_is_set_aside(tmp_path: Path) -> None:
    """Oracle: a person who reads the two lists; the table has no accession numbers at all."""
    dated = [
        ("P1", "20210314"),
        ("P1", "20210401"),
        ("0P2", "20210314"),
        ("P3", "20210314"),
        ("P3", "20210314"),
        ("P4", "20210314"),
    ]
    dates = ("StudyDate", "SeriesDate", "AcquisitionDate", "ContentDate")
    for study, (patient, day) in enumerate(dated, 1):
        days = dict.fromkeys(dates, day) | ({"ContentDate": "20210315"} if patient == "P4" else {})
        write_ct_series(
            tmp_path / str(study), study=study, num_slices=2, PatientID=patient, AccessionNumber=f"A{study}", **days
        )
    rows = [
        ("p1", "14.03.2021", "first"),
        ("P1", "01.04.2021", "second"),
        ("P2", "14.03.2021", "zero before it"),
        ("P3", "14.03.2021", "which of two?"),
        ("P4", "15.03.2021", "after midnight"),
        ("P5", "14.03.2021", "nobody's"),
        ("P1", "2021-03-14", "not a date"),
        ("", "14.03.2021", "no patient"),
    ]
    pl.DataFrame(rows, schema=["pid", "day", "report"], orient="row").write_csv(tmp_path / "r.csv")
    config = IndexConfig(
        report_key="patient_and_date", patient_id_column="pid", date_column="day", date_format="%d.%m.%Y"
    )
    table = read_report_table(tmp_path / "r.csv", report_columns(config))
    studies = inventory(*(tmp_path / str(number) for number in range(1, 7))).studies
    index = join_reports(studies, table, config)
    told = studies.join(index.reports, on="study_id", suffix="_report").sort("accession")
    assert told.select("accession", "text", "reason_report").rows() == [
        ("A1", "first", None),
        ("A2", "second", None),
        ("A3", "zero before it", None),
        ("A4", None, "ambiguous_patient_and_date"),
        ("A5", None, "ambiguous_patient_and_date"),
        ("A6", "after midnight", None),
    ]
    assert sorted(index.quarantine.filter(pl.col("study_id").is_null())["reason"]) == ["no_key", "no_key", "no_study"]
    assert all("14.03.2021" not in values for values in index.reports["identifiers"].to_list())


def test_half_of_a_composite_key_is_told(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="needs patient_id_column and date_column"):
        IndexConfig(report_key="patient_and_date", patient_id_column="pid")


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


CHARSETS = "pydicom_charsets_private_sr"
REAL = {
    # set: {folder: kinds with reason, number of files, number of series}; level "file" has no series at all
    "1_ct_dicom": {
        ("cip_ct64/ct-64Dicom", "volume", None): (79, 1),
        ("dcm_qa_ct_ge", "volume", "not_chest"): (28, 1),
        ("dicom2nifti_failing/gantrytilting/001", "volume", None): (4, 1),
        ("dicom2nifti_failing/sliceincrement/001", "volume", None): (4, 1),
        ("dicom_numpy_dupes", "volume", None): (11, 1),  # one of them repeats another at its place
        ("ibsi_sts_ge/STS_002/CT/image", "volume", "not_chest"): (48, 1),
        ("ibsi_sts_ge/STS_002/CT/mask", "radiotherapy", "not_a_ct_image"): (1, 1),
        ("lungmask_minimal", "volume", None): (2, 1),
        ("tcia_covid19_ny_sbu_slices/A002304/axial", "one_slice", "one_slice"): (2, 2),
        ("tcia_covid19_ny_sbu_slices/A002304/coronal", "reformat", "reformat"): (2, 2),
        ("tcia_covid19_ny_sbu_slices/A002304/sagittal", "reformat", "reformat"): (2, 2),
        ("tcia_covid19_ny_sbu_slices/A046441/axial", "one_slice", "one_slice"): (2, 2),
        ("tcia_covid19_ny_sbu_slices/A046441/coronal", "reformat", "reformat"): (2, 2),
        ("tcia_covid19_ny_sbu_slices/A046441/sagittal", "reformat", "reformat"): (2, 2),
        ("totalsegmentator_dicom/example_ct_dicom", "file", "missing_series_uid"): (20, 0),
    },
    "2_cxr_dicom": {
        ("gdcm_cr_mono1_three_encodings", "film", "not_a_ct_image"): (3, 1),
        ("nema_wg04_rg1", "film", "not_a_ct_image"): (1, 1),
        ("rsna_jpeg_baseline", "secondary_capture", "secondary_capture"): (2, 1),
    },
    "3_phi_dicom": {
        ("presidio_pseudo_phi", "secondary_capture", "secondary_capture"): (1, 1),
        ("presidio_pseudo_phi/dicom_dir_1/dicom_dir_2", "localizer", "localizer"): (1, 1),
        (f"{CHARSETS}/charset_files", "secondary_capture", "secondary_capture"): (12, 11),
        (f"{CHARSETS}/charset_files", "film", "not_a_ct_image"): (3, 2),
        (f"{CHARSETS}/charset_files", "file", "missing_series_uid"): (2, 0),
        (f"{CHARSETS}/test_files", "secondary_capture", "secondary_capture"): (1, 1),
        (f"{CHARSETS}/test_files", "structured_report", "not_a_ct_image"): (2, 2),
        (f"{CHARSETS}/test_files", "file", "missing_series_uid"): (4, 0),
        ("sr_reports", "structured_report", "not_a_ct_image"): (2, 2),
    },
}


@pytest.mark.parametrize("name", REAL)
def test_every_real_series_gets_its_kind_and_reason(real_data: Path, name: str) -> None:
    found = inventory(real_data / name)
    files = found.instances.join(found.series, on=["study_id", "series_id"], suffix="_series")
    lost = found.quarantine.filter(pl.col("level") == "file")
    told = pl.concat(
        [
            files.select("file", "kind", reason="reason_series", series="series_id"),
            lost.select(file="item", kind="level", reason="reason", series="series_id"),
        ]
    ).with_columns(folder=pl.col("file").str.extract("^0/(.*)/"))
    counts = told.group_by("folder", "kind", "reason").agg(pl.len(), pl.col("series").drop_nulls().n_unique())
    seen = {(folder, kind, reason): (files, series) for folder, kind, reason, files, series in counts.iter_rows()}
    assert seen == REAL[name]
    if name == "1_ct_dicom":
        assert found.studies.filter(pl.col("status") == "ok").height == 5
        assert found.quarantine.filter(pl.col("level") == "instance")["reason"].to_list() == ["duplicate_image"]

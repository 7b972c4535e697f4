"""Nothing planted anywhere in a file comes out; all that measures the body stays as it was."""

import json
import subprocess
import sys
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pydicom
import pytest
from dicom_builder import ROOT, ct_dataset, write_ct_series
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.tag import Tag
from pydicom.uid import ImplicitVRLittleEndian

from glint.cli.__main__ import main
from glint.core.config.deidentify import DeidentifyConfig
from glint.core.ids import Pseudonyms
from glint.prepare.deidentify.images import make_engine
from glint.prepare.deidentify.residual import residual_scan
from glint.prepare.deidentify.table import profile_actions, profile_rows
from glint.prepare.deidentify.values import age_from_dates, capped_age, parse_date, shift_date, shift_datetime

KEY = b"k" * 32
PSEUDONYMS = Pseudonyms(KEY)
GEOMETRY = ("Rows", "Columns", "PixelSpacing", "ImagePositionPatient", "ImageOrientationPatient", "SliceThickness")
GEOMETRY += ("RescaleSlope", "RescaleIntercept", "BitsStored", "PixelRepresentation", "InstanceNumber")
GEOMETRY += ("PatientPosition", "StudyTime", "Modality")


@pytest.fixture(autouse=True)
def _key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "key"
    file.write_text(KEY.hex())
    file.chmod(0o600)
    monkeypatch.setenv("GLINT_DEID_KEY_FILE", str(file))


def deidentify(tmp_path: Path, raw: Path, config: dict[str, Any] | None = None, name: str = "out") -> pl.DataFrame:
    """Index `raw` and de-identify it as one shard; the manifest with absolute folders in `path`."""
    index = ["index", "images", "--raw", str(raw), "--out", str(tmp_path / "index"), "--config", '{"num_shards": 1}']
    assert main(index) == 0
    out = tmp_path / name / "shard-000" / "manifest.parquet"
    command = ["deidentify", "images", "--index", str(tmp_path / "index" / "shard-000"), "--out", str(out)]
    assert main([*command, "--config", json.dumps(config or {})]) == 0
    return pl.read_parquet(out).with_columns(path=pl.lit(str(out.parent) + "/") + pl.col("path"))


def written(manifest: pl.DataFrame) -> list[Path]:
    """Files of the accepted series, in order of name."""
    return sorted(file for folder in manifest["path"].drop_nulls() for file in Path(folder).glob("*.dcm"))


def nested(levels: int, inner: Dataset) -> Dataset:
    """`inner` under `levels` sequences that the profile keeps."""
    for _ in range(levels):
        outer = Dataset()
        outer.SharedFunctionalGroupsSequence = [inner]
        inner = outer
    return inner


def plant(dataset: Dataset, index: int) -> None:
    """Markers, each unknown to the index, wherever a clerk, a scanner or a workstation may leave them."""
    dataset.ImageComments = "MARKcomment seen by family"
    dataset.OperatorsName = "MARKoperator^Xyla"
    dataset.PatientBirthDateInAlternativeCalendar = "MARKcalendar"
    dataset.RetrieveURL = "http://MARKurl/x"
    dataset.StationAETitle = "MARKAE"
    dataset.RescaleType = "HU"
    dataset.add_new(0x00204000, "LT", "MARKlt")
    dataset.add_new(0x00091001, "LO", "MARKprivate")
    dataset.add_new(0x00090010, "LO", "MARKcreator")
    dataset.add_new(0x60000010, "US", 8)
    dataset.add_new(0x60000022, "LO", "MARKoverlay")
    dataset.add_new(0x60003000, "OW", b"MARKoverlaydata!")
    dataset.add_new(0x50000030, "SH", "MARKcurve")
    dataset.add_new(0xFFFCFFFC, "OB", b"MARKpadding!")
    dataset.add_new(0x00189999, "LO", "MARKunknown")
    dataset.add_new(0x00101001, "UN", b"MARKun  ")
    dataset["BodyPartExamined"].value = "CHEST"
    dataset.add_new(0x00181400, "LO", "MARKdevice")
    inner = Dataset()
    inner.PatientName = "MARKnested^Zed"
    inner.PatientID = "MARKid"
    inner.StudyDate = "20210314"
    inner.InstitutionName = "MARKhospital"
    inner.ReferencedSOPInstanceUID = f"{ROOT}.77.4"
    inner.ImageComments = "MARKdeep"
    inner.add_new(0x00111010, "UN", b"MARKdeepprivate!")
    dataset.SharedFunctionalGroupsSequence = [nested(2, inner)]
    original = Dataset()
    original.ModifyingSystem = "MARKsystem"
    dataset.OriginalAttributesSequence = [original]
    dataset.SourceImageSequence = [Dataset()]
    dataset.SourceImageSequence[0].ReferencedSOPInstanceUID = f"{ROOT}.3.1.1.1"
    dataset.SourceImageSequence[0].ReferencedSOPClassUID = "1.2.840.10008.5.1.4.1.1.2"


PLANTED = (b"MARK", b"Quillfeather", b"Ottoline", b"MRN4471902", b"ACC7730041", b"Brackenbury", b"Mercy", b"19541103")


@pytest.mark.parametrize("syntax", ["1.2.840.10008.1.2.1", ImplicitVRLittleEndian])
def test_no_planted_marker_comes_out(tmp_path: Path, syntax: str) -> None:
    preamble = b"MARKpreamble Quillfeather".ljust(128, b"\0")
    files = write_ct_series(tmp_path / "raw", num_slices=3, edit=plant, preamble=preamble, transfer_syntax=syntax)
    assert all(marker in files[0].read_bytes() for marker in PLANTED)
    manifest = deidentify(tmp_path, tmp_path / "raw")
    assert manifest.select("status", "reason").rows() == [("ok", None)]
    cleaned = written(manifest)
    assert len(cleaned) == 3
    everything = b"".join(p.read_bytes() for p in (tmp_path / "out").rglob("*") if p.is_file())
    for marker in (*PLANTED, b"20210314", ROOT.encode()):
        assert marker not in everything, marker
        assert marker.decode().encode("utf-16-le") not in everything
    removed = json.loads((tmp_path / "out" / "shard-000" / "audit.json").read_text())["actions"]["removed"]
    assert (removed["private"], removed["overlay"], removed["curve"]) == (9, 9, 3)
    dataset = pydicom.dcmread(cleaned[0])
    assert dataset.file_meta.TransferSyntaxUID == syntax
    deep = dataset.SharedFunctionalGroupsSequence[0].SharedFunctionalGroupsSequence[0].SharedFunctionalGroupsSequence[0]
    assert deep.ReferencedSOPInstanceUID == PSEUDONYMS.uid(f"{ROOT}.77.4")
    assert deep.PatientName == ""


def test_what_measures_the_body_is_unchanged(tmp_path: Path) -> None:
    raw = {pydicom.dcmread(f).InstanceNumber: pydicom.dcmread(f) for f in write_ct_series(tmp_path / "raw", edit=plant)}
    for file in written(deidentify(tmp_path, tmp_path / "raw")):
        dataset = pydicom.dcmread(file)
        original = raw[dataset.InstanceNumber]
        for keyword in GEOMETRY:
            assert dataset[keyword].value == original[keyword].value, keyword
        assert dataset.PixelData == original.PixelData
        assert np.array_equal(dataset.pixel_array, original.pixel_array)
        assert (dataset.PatientSex, dataset.PatientAge, dataset.ConvolutionKernel) == ("F", "066Y", "B30f")


def test_identity_is_replaced_consistently_and_marked(tmp_path: Path) -> None:
    write_ct_series(tmp_path / "raw", num_slices=2, edit=plant)
    datasets = [pydicom.dcmread(file) for file in written(deidentify(tmp_path, tmp_path / "raw"))]
    first = datasets[0]
    assert {d.StudyInstanceUID for d in datasets} == {PSEUDONYMS.uid(f"{ROOT}.1.1")}
    assert {d.SOPInstanceUID for d in datasets} == {PSEUDONYMS.uid(f"{ROOT}.3.1.1.{i}") for i in (1, 2)}
    assert first.SourceImageSequence[0].ReferencedSOPInstanceUID in {d.SOPInstanceUID for d in datasets}
    assert first.SourceImageSequence[0].ReferencedSOPClassUID == first.SOPClassUID == "1.2.840.10008.5.1.4.1.1.2"
    assert first.PatientID == first.PatientName == PSEUDONYMS.patient_id("MRN4471902")
    moved = parse_date(first.StudyDate)
    original = parse_date("20210314")
    assert moved is not None
    assert original is not None
    assert (moved - original).days == PSEUDONYMS.date_shift_days("MRN4471902")
    assert moved.weekday() == original.weekday()
    assert (first.PatientIdentityRemoved, first.LongitudinalTemporalInformationModified) == ("YES", "MODIFIED")
    codes = [item.CodeValue for item in first.DeidentificationMethodCodeSequence]
    assert codes == ["113100", "113107", "113108"]


def test_without_options_dates_and_characteristics_go(tmp_path: Path) -> None:
    write_ct_series(tmp_path / "raw", num_slices=2)
    config = {"retain_modified_dates": False, "retain_patient_characteristics": False}
    dataset = pydicom.dcmread(written(deidentify(tmp_path, tmp_path / "raw", config))[0])
    assert dataset.StudyDate == "" and dataset.StudyTime == ""
    assert "PatientAge" not in dataset
    assert dataset.get("PatientSex", "") == ""
    assert dataset.LongitudinalTemporalInformationModified == "REMOVED"
    assert [item.CodeValue for item in dataset.DeidentificationMethodCodeSequence] == ["113100"]


def test_two_processes_write_the_same_bytes(tmp_path: Path) -> None:
    write_ct_series(tmp_path / "raw", num_slices=3, edit=plant)
    first = written(deidentify(tmp_path, tmp_path / "raw"))
    command = [sys.executable, "-m", "glint", "deidentify", "images", "--index", str(tmp_path / "index" / "shard-000")]
    subprocess.run([*command, "--out", str(tmp_path / "again" / "manifest.parquet")], check=True, capture_output=True)
    for file in first:
        again = tmp_path / "again" / file.relative_to(tmp_path / "out" / "shard-000")
        assert again.read_bytes() == file.read_bytes()
    assert (tmp_path / "again" / "manifest.parquet").read_bytes() == (
        tmp_path / "out" / "shard-000" / "manifest.parquet"
    ).read_bytes()


def test_our_own_output_is_refused(tmp_path: Path) -> None:
    write_ct_series(tmp_path / "raw", num_slices=2)
    once = deidentify(tmp_path, tmp_path / "raw")
    again = deidentify(tmp_path, Path(once["path"].item()), name="twice")
    assert again["reason"].to_list() == ["already_deidentified"]
    assert not list((tmp_path / "twice").rglob("*.dcm"))


@pytest.mark.parametrize(
    ("elements", "reason"),
    [
        ({"BurnedInAnnotation": "YES"}, "burned_in_annotation"),
        ({"ImageType": ["DERIVED", "SECONDARY", "AXIAL"]}, "secondary_image"),
        ({"PatientName": "Sharpplus^Ottoline", "ScanOptions": "SHARPPLUS"}, "residual_identifier"),
        ({"AccessionNumber": "lightspeed", "SoftwareVersions": "LightSpeed"}, "residual_identifier"),
    ],
)
def test_what_cannot_be_cleaned_is_quarantined_without_its_value(
    tmp_path: Path, elements: dict[str, Any], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write_ct_series(tmp_path / "raw", num_slices=2, **elements)
    manifest = deidentify(tmp_path, tmp_path / "raw")
    assert manifest.select("status", "reason", "path").rows() == [("quarantined", reason, None)]
    assert not list((tmp_path / "out").rglob("*.dcm"))
    assert "uillfeather" not in capsys.readouterr().err.casefold()


def test_a_number_that_equals_a_short_identifier_is_no_residue(tmp_path: Path) -> None:
    write_ct_series(tmp_path / "raw", num_slices=2, AccessionNumber="1024")
    assert deidentify(tmp_path, tmp_path / "raw")["reason"].to_list() == [None]


LONG_IDS: list[tuple[str, str, Any, Any]] = [
    ("512", "Exposure", "512", "512"),
    ("51200", "Exposure", "51200", "51200"),
    ("4471902", "Exposure", "4471902", ""),
    ("4471902", "Exposure", "44719020", "44719020"),
    ("0004471902", "ExposureTime", "+4471902", ""),
    ("4471902", "DataCollectionDiameter", ["1.5", "4471902.0"], ""),
    ("4471902", "DataCollectionDiameter", "447.1902", "447.1902"),
    ("4471902", "RegionFlags", 4471902, None),
    ("4471902", "RegionFlags", 44719, 44719),
]


@pytest.mark.parametrize(("patient_id", "keyword", "value", "kept"), LONG_IDS)
def test_a_long_number_that_is_the_patients_leaves_number_elements(
    patient_id: str, keyword: str, value: Any, kept: Any
) -> None:
    """Oracle: a person reading the table above; five digits or fewer may be a measure, a part of a number is chance."""
    dataset = ct_dataset(PatientID=patient_id, **{keyword: value})
    engine = make_engine(PSEUDONYMS, patient_id, DeidentifyConfig(), identifiers=[patient_id, ""])
    engine.clean(dataset)
    assert (str(dataset.get(keyword, "absent"))) == ("absent" if kept is None else str(kept)) or (
        kept == "" and dataset[keyword].is_empty
    )


@pytest.mark.parametrize(("patient_id", "keyword", "value", "kept"), LONG_IDS)
def test_the_last_gate_sees_such_a_number_where_the_rule_is_switched_off(
    patient_id: str, keyword: str, value: Any, kept: Any
) -> None:
    dataset = ct_dataset(PatientID="p", **{keyword: value})
    buffer = BytesIO()
    dataset.save_as(buffer, implicit_vr=False, little_endian=True)
    scan = residual_scan(names=[], identifiers=[patient_id], dates=[], phrases=[])
    assert scan.finds(buffer.getvalue(), b"", dataset, []) == (kept in (None, ""))


def test_a_required_maker_that_is_not_known_is_a_dummy_and_a_known_one_stays() -> None:
    for maker, after in (("Mercy Hill Workshop", "REMOVED"), ("SIEMENS", "SIEMENS"), ("", "")):
        dataset = ct_dataset(Manufacturer=maker)
        make_engine(PSEUDONYMS, "P", DeidentifyConfig()).clean(dataset)
        assert dataset.Manufacturer == after


def test_a_retained_station_name_is_no_residue_and_an_institution_still_is(tmp_path: Path) -> None:
    write_ct_series(tmp_path / "raw", num_slices=2, StationName="CTSCANNER01")
    config = {"retain_device_identity": True}
    files = written(deidentify(tmp_path, tmp_path / "raw", config))
    assert {pydicom.dcmread(file).StationName for file in files} == {"CTSCANNER01"}
    write_ct_series(tmp_path / "other", num_slices=2, StationName="Mercy Hill Hospital 2")
    assert deidentify(tmp_path, tmp_path / "other", config, name="other_out")["reason"].item() == "residual_identifier"


def test_an_overlay_hidden_in_pixel_bits_is_refused(tmp_path: Path) -> None:
    def edit(dataset: Dataset, index: int) -> None:
        dataset.add_new(0x60000102, "US", 12)

    write_ct_series(tmp_path / "raw", num_slices=2, edit=edit)
    assert deidentify(tmp_path, tmp_path / "raw")["reason"].to_list() == ["embedded_overlay"]


def test_one_bad_series_leaves_the_others_and_every_series_has_a_row(tmp_path: Path) -> None:
    write_ct_series(tmp_path / "raw" / "a", study=1, num_slices=2)
    write_ct_series(tmp_path / "raw" / "b", study=2, num_slices=2, BurnedInAnnotation="YES")
    write_ct_series(tmp_path / "raw" / "c", study=2, series=2, num_slices=1)
    manifest = deidentify(tmp_path, tmp_path / "raw")
    assert sorted(str(reason) for reason in manifest["reason"]) == ["None", "burned_in_annotation", "one_slice"]
    audit = json.loads((tmp_path / "out" / "shard-000" / "audit.json").read_text())
    assert audit["actions"]["uid_mapped"]["SOPInstanceUID"] == 2
    assert audit["quarantined"] == {"burned_in_annotation": 1, "one_slice": 1}


def test_compressed_pixels_pass_bit_for_bit(tmp_path: Path, real_data: Path) -> None:
    source = real_data / "1_ct_dicom" / "totalsegmentator_dicom" / "example_ct_dicom"
    raw = tmp_path / "raw"
    raw.mkdir()
    originals = {}
    for number, file in enumerate(sorted(source.iterdir())[:3]):
        dataset = pydicom.dcmread(file)
        dataset.SOPClassUID = "1.2.840.10008.5.1.4.1.1.2"
        dataset.StudyInstanceUID, dataset.SeriesInstanceUID = f"{ROOT}.1.1", f"{ROOT}.2.1.1"
        dataset.SOPInstanceUID = f"{ROOT}.3.{number}"
        dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
        dataset.save_as(raw / f"{number}")
        originals[PSEUDONYMS.uid(dataset.SOPInstanceUID)] = dataset
    files = written(deidentify(tmp_path, raw))
    assert len(files) == 3
    for file in files:
        dataset = pydicom.dcmread(file)
        assert dataset.PixelData == originals[dataset.SOPInstanceUID].PixelData
        assert dataset.file_meta.TransferSyntaxUID == "1.2.840.10008.1.2.4.90"


def test_real_headers_lose_their_original_identifiers(tmp_path: Path, real_data: Path) -> None:
    raw = real_data / "1_ct_dicom"
    manifest = deidentify(tmp_path, raw)
    usable = manifest.filter(pl.col("status") == "ok")
    assert sorted(usable["num_instances"]) == [2, 4, 4, 10, 79]
    everything = b"".join(file.read_bytes() for file in written(manifest))
    for marker in (b"Lymphoma", b"dicom2nifti", b"Z-Missing", b"20060101", b"20160725"):
        assert marker not in everything


def test_names_in_foreign_character_sets_are_gone_and_text_is_utf8(real_data: Path) -> None:
    engine = make_engine(PSEUDONYMS, "P", DeidentifyConfig())
    for file in sorted((real_data / "3_phi_dicom" / "pydicom_charsets_private_sr" / "charset_files").glob("*.dcm")):
        dataset = pydicom.dcmread(file)
        engine.clean(dataset)
        buffer = BytesIO()
        dataset.save_as(buffer, implicit_vr=False, little_endian=True)
        names = {
            str(e.value) for e in pydicom.dcmread(BytesIO(buffer.getvalue()), force=True).iterall() if e.VR == "PN"
        }
        assert names <= {"", "REMOVED", PSEUDONYMS.patient_id("P")}, file.name
        assert dataset.SpecificCharacterSet == "ISO_IR 192"


def test_private_and_nested_sequences_of_real_files_are_cleaned(real_data: Path) -> None:
    engine = make_engine(PSEUDONYMS, "P", DeidentifyConfig())
    folder = real_data / "3_phi_dicom" / "pydicom_charsets_private_sr" / "test_files"
    for file in [*sorted(folder.glob("*priv*.dcm")), folder / "UN_sequence.dcm"]:
        dataset = pydicom.dcmread(file, force=True)
        engine.clean(dataset)
        assert not [element.tag for element in dataset.iterall() if element.tag.is_private]


def test_an_identifier_in_a_number_field_goes(tmp_path: Path) -> None:
    dataset = ct_dataset()
    dataset[0x00180050] = RawDataElement(Tag(0x00180050), "DS", 8, b"Ottoline", 0, False, True)
    dataset.add_new(0x00180060, "LO", "Ottoline")  # not the representation that the dictionary knows
    make_engine(PSEUDONYMS, "P", DeidentifyConfig()).clean(dataset)
    assert "SliceThickness" not in dataset
    assert "KVP" not in dataset


@pytest.mark.parametrize(
    ("text", "moved"),
    [
        ("20210314", "20210324"),
        ("2021.03.14", "20210324"),
        ("20201225", "20210104"),
        ("", ""),
        ("20210314-20210320", None),
        ("20211314", None),
        ("19000101", None),
        ("00000000", None),
        ("99991231", None),
    ],
)
def test_dates_move_by_whole_days_or_not_at_all(text: str, moved: str | None) -> None:
    assert shift_date(text, 10) == moved


def test_date_times_keep_time_and_zone() -> None:
    assert shift_datetime("20210314235959.123456+0100", 7) == "20210321235959.123456+0100"
    assert shift_datetime("202103", 7) is None


def test_an_unreadable_date_is_emptied(tmp_path: Path) -> None:
    write_ct_series(tmp_path / "raw", num_slices=2, ContentDate="14 March", AcquisitionDateTime="2021")
    dataset = pydicom.dcmread(written(deidentify(tmp_path, tmp_path / "raw"))[0])
    assert dataset.ContentDate == ""
    assert dataset.AcquisitionDateTime == ""


def test_ages_above_89_are_one_class_and_a_missing_age_comes_from_the_original_dates() -> None:
    assert [capped_age(text) for text in ("089Y", "090Y", "104Y", "18M", "old")] == [
        "089Y",
        "090Y",
        "090Y",
        "018M",
        None,
    ]
    assert age_from_dates("19541103", "20210314") == "066Y"
    assert age_from_dates("19100101", "20210314") == "090Y"
    assert age_from_dates("", "20210314") is None


def test_the_profile_table_is_whole_and_options_override_it() -> None:
    assert len(profile_rows()) == 655
    basic, dates = profile_actions(), profile_actions("modified_dates")
    assert [basic[tag] for tag in (0x00100010, 0x00100020, 0x00080050, 0x0020000D, 0x00400275)] == list("ZDZUX")
    assert (basic[0x00080020], dates[0x00080020]) == ("Z", "C")
    assert basic[0x00081140] == "U"  # X/Z/U* takes the rightmost

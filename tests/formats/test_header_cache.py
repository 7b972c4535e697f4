"""A cached header is the header, and a file that changed has another stamp."""

from dataclasses import asdict

import pytest
from dicom_builder import write_ct_series

from glint.formats.dicom import read_header
from glint.formats.header_cache import RawFile, file_stamp, headers_frame, headers_of, source_path
from glint.formats.manifest import read_manifest, write_manifest


@pytest.mark.parametrize(
    "elements",
    [
        {},
        {"PatientName": "Álvarez^José", "SpecificCharacterSet": "ISO_IR 192"},
        {"ImagePositionPatient": None, "PixelSpacing": None, "InstanceNumber": None, "Rows": None},
        {"OtherPatientIDs": "a\\b", "ImageType": None, "StudyDate": None, "PatientBirthDate": None},
    ],
    ids=["plain", "accents", "nulls", "lists"],
)
def test_what_a_header_says_survives_the_cache(tmp_path, elements):
    paths = write_ct_series(tmp_path / "raw", num_slices=2, **elements)
    files = [RawFile(stamp=2**64 - 1 - place, source=f"0/{path.name}") for place, path in enumerate(paths)]
    headers = [read_header(path) for path in paths]
    write_manifest(tmp_path / "part.parquet", headers_frame(files, headers), "index_headers")
    cached = headers_of(read_manifest(tmp_path / "part.parquet", "index_headers"))
    told = [asdict(header) | {"file": f"0/{path.name}"} for header, path in zip(headers, paths, strict=True)]
    assert [asdict(header) for header in cached] == told


def test_files_that_gave_no_header_are_remembered_as_such():
    files = [RawFile(stamp=place, source=f"0/{place}") for place in range(2)]
    frame = headers_frame(files, ["text", "unreadable"])
    assert frame["state"].to_list() == ["text", "unreadable"]
    assert headers_of(frame) == []


def test_a_stamp_tells_place_size_and_time_apart():
    stamps = {file_stamp(*told) for told in (("0/a", 1, 2), ("1/a", 1, 2), ("0/b", 1, 2), ("0/a", 2, 2), ("0/a", 1, 3))}
    assert len(stamps) == 5 and all(0 <= stamp < 2**64 for stamp in stamps)
    assert file_stamp("0/a", 1, 2) in stamps


def test_a_source_lies_below_its_own_raw_folder(tmp_path):
    assert source_path("1/x/y", [tmp_path / "a", tmp_path / "b"]) == str(tmp_path / "b" / "x" / "y")

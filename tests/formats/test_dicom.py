"""Headers tell what a file is without decoding it; written files carry nothing of their past."""

from io import BytesIO
from pathlib import Path

import pydicom
import pytest
from dicom_builder import write_ct_series
from pydicom.uid import JPEG2000Lossless

from glint.core.errors import Quarantine
from glint.formats.dicom import dataset_bytes, is_dicom, read_dataset, read_header, stored_transfer_syntax


def test_a_header_gives_identity_and_geometry(tmp_path: Path) -> None:
    file = write_ct_series(tmp_path, num_slices=2)[1]
    header = read_header(file)
    assert header is not None
    assert (header.rows, header.columns, header.instance_number) == (24, 32, 2)
    assert header.position == (-14.4, -9.6, -98.0)
    assert header.pixel_spacing == (0.8, 0.9)
    assert header.patient_names == ("Quillfeather^Ottoline",)
    assert header.study_dates == ("20210314",)
    assert header.pixels == "complete"


def test_a_cut_file_is_truncated_wherever_the_cut_falls_in_its_pixels(tmp_path: Path) -> None:
    file = write_ct_series(tmp_path, num_slices=1)[0]
    content = file.read_bytes()
    for missing in (1, 100, 24 * 32 * 2 - 1, 24 * 32 * 2 + 11):
        file.write_bytes(content[:-missing])
        header = read_header(file)
        assert header is not None
        assert header.pixels != "complete", missing


def test_declared_pixels_shorter_than_rows_times_columns_are_truncated(tmp_path: Path) -> None:
    file = write_ct_series(tmp_path, num_slices=1, edit=lambda dataset, _: setattr(dataset, "Rows", 25))[0]
    header = read_header(file)
    assert header is not None
    assert header.pixels == "truncated"


def test_cut_compressed_pixels_are_truncated(real_data: Path, tmp_path: Path) -> None:
    folder = real_data / "1_ct_dicom" / "totalsegmentator_dicom" / "example_ct_dicom"
    content = min(folder.iterdir()).read_bytes()
    states = []
    for name, piece in (("whole", content), ("cut", content[:-5000])):
        (tmp_path / name).write_bytes(piece)
        header = read_header(tmp_path / name)
        assert header is not None
        states.append(header.pixels)
        assert header.transfer_syntax == JPEG2000Lossless
    assert states == ["complete", "truncated"]


def test_a_data_set_without_preamble_is_dicom_and_text_is_not(tmp_path: Path) -> None:
    file = write_ct_series(tmp_path, num_slices=1)[0]
    dataset = pydicom.dcmread(file)
    del dataset.file_meta
    dataset.preamble = None
    buffer = BytesIO()
    dataset.save_as(buffer, implicit_vr=True, little_endian=True, overwrite=True)
    bare = buffer.getvalue()
    assert bare[:2] == b"\x08\x00"
    (tmp_path / "bare").write_bytes(bare)
    (tmp_path / "notes.txt").write_text("SOURCE of these files: somewhere\n" * 20)
    (tmp_path / "empty").write_bytes(b"")
    assert is_dicom(tmp_path / "bare")
    header = read_header(tmp_path / "bare")
    assert header is not None
    assert (header.rows, header.pixels) == (24, "complete")
    assert not is_dicom(tmp_path / "notes.txt")
    assert read_header(tmp_path / "notes.txt") is None
    assert read_header(tmp_path / "empty") is None


def test_names_in_other_character_sets_are_decoded(real_data: Path) -> None:
    file = real_data / "3_phi_dicom" / "pydicom_charsets_private_sr" / "charset_files" / "chrGerm.dcm"
    header = read_header(file)
    assert header is not None
    assert header.patient_names == ("Äneas^Rüdiger",)


def test_a_rewritten_file_has_a_zero_preamble_and_fresh_meta(tmp_path: Path) -> None:
    file = write_ct_series(tmp_path, num_slices=1, preamble=b"II*\0Ottoline" + b"\1" * 116)[0]
    dataset = read_dataset(file.read_bytes())
    dataset.file_meta.SourceApplicationEntityTitle = "MERCYHILL"
    written = dataset_bytes(dataset, transfer_syntax=stored_transfer_syntax(dataset))
    assert written[:132] == b"\0" * 128 + b"DICM"
    assert b"MERCYHILL" not in written
    again = pydicom.dcmread(BytesIO(written))
    start = 132 + 12 + again.file_meta.FileMetaInformationGroupLength
    assert written[start : start + 4] == b"\x08\x00\x08\x00"
    assert again.file_meta.MediaStorageSOPInstanceUID == again.SOPInstanceUID
    assert again.PixelData == pydicom.dcmread(file).PixelData


def test_rubbish_behind_a_dicom_preamble_is_unreadable() -> None:
    with pytest.raises(Quarantine, match="unreadable"):
        read_dataset(b"\0" * 128 + b"DICM" + b"\x02\x00\x10\x00XX\xff\xff" + b"\x13" * 40)

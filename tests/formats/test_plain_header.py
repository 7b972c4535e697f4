"""Headers walked without a library are those that pydicom reads, or are left to it."""

from collections.abc import Callable
from pathlib import Path

import pydicom
import pytest
from dicom_builder import write_ct_series
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from glint.formats import dicom_series
from glint.formats.dicom_series import SliceHeader, slice_headers
from glint.formats.plain_header import HEAD_BYTES, plain_header


def walked(file: Path) -> bool:
    with file.open("rb") as handle:
        return plain_header(handle.read(HEAD_BYTES)) is not None


def by_pydicom(file: Path, monkeypatch: pytest.MonkeyPatch) -> list[SliceHeader]:
    with monkeypatch.context() as patched:
        patched.setattr(dicom_series, "plain_header", lambda _: None)
        return slice_headers([file])


def referenced(undefined: bool) -> Sequence:
    """Items that hold elements of a slice, two levels deep; none of them is the slice's own."""
    inner, outer = Dataset(), Dataset()
    inner.Rows, inner.PixelSpacing, inner.PatientID = 7, [9, 9], "inner"
    outer.Columns, outer.RescaleSlope, outer.InstanceNumber = 5, 3, 99
    outer.ReferencedInstanceSequence = Sequence([inner, inner])
    outer["ReferencedInstanceSequence"].is_undefined_length = undefined
    outer.is_undefined_length_sequence_item = undefined  # the inner ones state their lengths
    return Sequence([outer])


def with_sequence(undefined: bool) -> Callable[[Dataset, int], None]:
    def edit(dataset: Dataset, _: int) -> None:
        dataset.ReferencedImageSequence = referenced(undefined)  # before the slice's own elements
        dataset["ReferencedImageSequence"].is_undefined_length = undefined
        dataset.add_new((0x0029, 0x0010), "LO", "MAKER")
        dataset.add_new((0x0029, 0x1001), "OB", bytes(range(250)) * 3)

    return edit


def one_file(folder: Path, **options: object) -> Path:
    return write_ct_series(folder, num_slices=1, **options)[0]


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian], ids=["explicit", "implicit"])
@pytest.mark.parametrize("undefined", [True, False], ids=["delimited", "of stated length"])
def test_elements_within_sequences_and_private_ones_are_passed_over(tmp_path, monkeypatch, syntax, undefined):
    file = one_file(tmp_path, transfer_syntax=syntax, edit=with_sequence(undefined), PatientID="slice")
    assert (b"\xfe\xff\xdd\xe0" in file.read_bytes()[:2048]) == undefined
    assert walked(file)
    (header,) = slice_headers([file])
    assert (header.rows, header.columns, header.slope, header.patient) == (24, 32, 1, "slice")
    assert header.native is not None
    assert [header] == by_pydicom(file, monkeypatch)


@pytest.mark.parametrize("vr", ["SS", "US"])
@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian], ids=["explicit", "implicit"])
def test_padding_is_read_in_either_sign_and_encoding(tmp_path, monkeypatch, syntax, vr):
    def edit(dataset: Dataset, _: int) -> None:
        dataset.add_new("PixelPaddingValue", vr, -2000 if vr == "SS" else 63536)

    file = one_file(tmp_path, transfer_syntax=syntax, edit=edit, PixelRepresentation=1)
    assert walked(file)
    (header,) = slice_headers([file])
    assert header.padding == (-2000, -2000)
    assert [header] == by_pydicom(file, monkeypatch)


@pytest.mark.parametrize(
    "options",
    [
        {"PatientID": "Müller"},
        {"transfer_syntax": DeflatedExplicitVRLittleEndian},
        {"edit": lambda dataset, _: dataset.add_new((0x0029, 0x1001), "OB", bytes(HEAD_BYTES))},
        {"edit": lambda dataset, _: dataset.add_new("PixelSpacing", "LO", "0.8\\0.9")},
        {"edit": lambda dataset, _: setattr(dataset, "SharedFunctionalGroupsSequence", Sequence([Dataset()]))},
        {"PixelData": None},
    ],
    ids=["text beyond ASCII", "deflated", "long header", "another VR", "functional groups", "no pixels"],
)
def test_what_is_not_plain_is_left_to_pydicom(tmp_path, monkeypatch, options):
    file = one_file(tmp_path, SpecificCharacterSet="ISO_IR 100", **options)
    assert not walked(file)
    assert slice_headers([file]) == by_pydicom(file, monkeypatch)


def test_a_header_cut_off_anywhere_is_no_header(tmp_path):
    content = one_file(tmp_path, edit=with_sequence(True)).read_bytes()
    whole = plain_header(content)
    assert whole is not None
    assert (
        content[whole.pixels_start : whole.pixels_start + whole.pixels_length]
        == pydicom.dcmread(tmp_path / "IM0001").PixelData
    )
    for end in range(whole.pixels_start - 12):
        assert plain_header(content[:end]) is None


def test_an_element_that_comes_twice_or_a_thousand_nested_items_are_left_to_pydicom(tmp_path):
    content = one_file(tmp_path).read_bytes()
    rows = content.index(b"\x28\x00\x10\x00US")
    assert plain_header(content[:rows] + content[rows : rows + 10] + content[rows:]) is None
    nested = b"\x08\x00\x40\x11SQ\0\0" + b"\xff" * 4 + b"\xfe\xff\x00\xe0" + b"\xff" * 4
    assert plain_header(content[:rows] + nested * 5000 + content[rows:]) is None


def test_every_real_header_is_read_as_pydicom_reads_it(real_data, monkeypatch):
    files = [file for file in (real_data / "1_ct_dicom").rglob("*") if file.is_file() and is_dicom(file)]
    assert len(files) > 150
    for file in files:
        assert slice_headers([file]) == by_pydicom(file, monkeypatch)
    assert sum(map(walked, files)) > 100


def is_dicom(file: Path) -> bool:
    with file.open("rb") as handle:
        return handle.read(132)[128:] == b"DICM"

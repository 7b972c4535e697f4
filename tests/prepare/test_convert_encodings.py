"""HU are pydicom's, bit for bit, however a series is encoded; Enhanced CT against highdicom."""

import json
from pathlib import Path

import gdcm
import highdicom
import numpy as np
import pydicom
import pytest
from dicom_builder import ROOT, chest_between_neck_and_belly_hu, write_ct_series
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    JPEG2000,
    DeflatedExplicitVRLittleEndian,
    EnhancedCTImageStorage,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from glint.cli.__main__ import main
from glint.core.config.convert import ConvertConfig
from glint.core.errors import Quarantine
from glint.formats.dicom_series import read_series_headers, read_volume_hu
from glint.formats.manifest import read_manifest
from glint.formats.nifti import read_nifti
from glint.prepare.convert import PADDING_TO_AIR, read_series

CHEST_HU = chest_between_neck_and_belly_hu()
SYNTAXES = {
    "implicit": ImplicitVRLittleEndian,
    "explicit": ExplicitVRLittleEndian,
    "big_endian": ExplicitVRBigEndian,
    "deflated": DeflatedExplicitVRLittleEndian,
    "rle": RLELossless,
    "jpeg_lossless": JPEGLossless,
    "jpeg_lossless_sv1": JPEGLosslessSV1,
    "jpeg_ls": JPEGLSLossless,
    "jpeg_2000": JPEG2000Lossless,
}
GDCM_SYNTAXES = {
    JPEGLossless: gdcm.TransferSyntax.JPEGLosslessProcess14,
    JPEGLosslessSV1: gdcm.TransferSyntax.JPEGLosslessProcess14_1,
}


def write_chest(folder: Path, **options: object) -> Path:
    options.setdefault("hu_ZYX", CHEST_HU)
    for file in write_ct_series(folder, **options):
        file.rename(file.with_name(file.name + ".dcm"))
    return folder


def encode(file: Path, syntax: str) -> None:
    """Rewrite an explicit little endian file in `syntax`."""
    if syntax in GDCM_SYNTAXES:
        reader, change, writer = gdcm.ImageReader(), gdcm.ImageChangeTransferSyntax(), gdcm.ImageWriter()
        reader.SetFileName(str(file))
        assert reader.Read()
        change.SetTransferSyntax(gdcm.TransferSyntax(GDCM_SYNTAXES[syntax]))
        change.SetInput(reader.GetImage())
        assert change.Change()
        writer.SetFile(reader.GetFile())
        writer.SetImage(change.GetOutput())
        writer.SetFileName(str(file))
        assert writer.Write()
        return
    dataset = pydicom.dcmread(file)
    if syntax in (RLELossless, JPEGLSLossless, JPEG2000Lossless):
        dataset.compress(syntax, generate_instance_uid=False)
        dataset.save_as(file)
        return
    implicit, little = syntax == ImplicitVRLittleEndian, syntax != ExplicitVRBigEndian
    if not little:
        dataset.PixelData = np.frombuffer(dataset.PixelData, "<u2").astype(">u2").tobytes()
    dataset.file_meta.TransferSyntaxUID = syntax
    fresh = Dataset(dataset)
    fresh.file_meta, fresh.preamble = dataset.file_meta, dataset.preamble
    pydicom.dcmwrite(file, fresh, implicit_vr=implicit, little_endian=little, force_encoding=True)


def pydicom_hu(file: Path) -> np.ndarray:
    dataset = pydicom.dcmread(file)
    return dataset.pixel_array * float(dataset.RescaleSlope) + float(dataset.RescaleIntercept)


@pytest.mark.parametrize("name", SYNTAXES)
def test_every_encoding_gives_pydicoms_hu_bit_for_bit(tmp_path, name):
    for file in write_chest(tmp_path).iterdir():
        encode(file, SYNTAXES[name])
        assert pydicom.dcmread(file, stop_before_pixels=True).file_meta.TransferSyntaxUID == SYNTAXES[name]
    volume = read_series(tmp_path, ConvertConfig())
    np.testing.assert_array_equal(volume.hu_ZYX, CHEST_HU)
    for place, file in enumerate(sorted(tmp_path.iterdir())):
        np.testing.assert_array_equal(volume.hu_ZYX[place], pydicom_hu(file))


def test_lossy_jpeg_2000_gives_what_pydicom_decodes(tmp_path):
    for file in write_chest(tmp_path).iterdir():
        dataset = pydicom.dcmread(file)
        dataset.compress(JPEG2000, j2k_cr=[5], generate_instance_uid=False)
        dataset.save_as(file)
    volume = read_volume_hu(read_series_headers(tmp_path))
    assert (volume != CHEST_HU).any()
    for place, file in enumerate(sorted(tmp_path.iterdir())):
        np.testing.assert_array_equal(volume[place], pydicom_hu(file))


@pytest.mark.parametrize("above", [0x0000, 0xF000], ids=["high bits clear", "high bits set"])
def test_twelve_bits_signed_are_extended_by_their_sign_whatever_the_high_bits_hold(tmp_path, above):
    def edit(dataset: Dataset, index: int) -> None:
        stored = np.clip(CHEST_HU[index], -2048, 2047).astype("<i2").view("<u2")
        dataset.PixelData = ((stored & 0x0FFF) | above).astype("<u2").tobytes()

    bits = {"BitsStored": 12, "HighBit": 11, "PixelRepresentation": 1, "RescaleIntercept": "0"}
    volume = read_series(write_chest(tmp_path, edit=edit, **bits), ConvertConfig())
    np.testing.assert_array_equal(volume.hu_ZYX, CHEST_HU)


@pytest.mark.parametrize("value", [-2000, 63536], ids=["signed", "signed written as unsigned"])
def test_declared_padding_becomes_air_and_is_recorded(tmp_path, value):
    hu = CHEST_HU.copy()
    hu[:, :4, :4] = -3024

    def edit(dataset: Dataset, index: int) -> None:
        dataset.PixelData = (hu[index] + 1024).astype("<i2").tobytes()
        dataset.add_new("PixelPaddingValue", "US" if value > 0 else "SS", value)

    volume = read_series(write_chest(tmp_path, edit=edit, PixelRepresentation=1), ConvertConfig())
    assert volume.repairs == (PADDING_TO_AIR,)
    assert (volume.hu_ZYX[:, :4, :4] == -1024).all()
    untouched = np.ones(hu.shape, bool)
    untouched[:, :4, :4] = False
    np.testing.assert_array_equal(volume.hu_ZYX[untouched], CHEST_HU[untouched])


def test_padding_declared_at_the_value_of_water_punches_no_hole(tmp_path):
    stored = {"PixelPaddingValue": 1064, "edit": lambda dataset, index: None}  # 40 HU
    volume = read_series(write_chest(tmp_path, **stored), ConvertConfig())
    np.testing.assert_array_equal(volume.hu_ZYX, CHEST_HU)
    hu = CHEST_HU.copy()
    hu[:, :4, :4] = 40
    with pytest.raises(Quarantine, match="padding_not_air"):
        read_series(write_chest(tmp_path / "filled", hu_ZYX=hu, **stored), ConvertConfig())


def enhanced_ct(folder: Path, *, order: np.ndarray, per_frame_intercept: bool = True, z_mm: np.ndarray) -> Path:
    """One Enhanced CT file; frame k shows slice `order[k]`; the intercept changes from frame to frame."""
    source = pydicom.dcmread(write_ct_series(folder / "source", hu_ZYX=CHEST_HU)[0])
    dataset = Dataset()
    for element in source:
        if element.keyword not in {
            "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness", "RescaleSlope",
            "RescaleIntercept", "RescaleType", "PixelData",
        }:  # fmt: skip
            dataset.add(element)
    dataset.SOPClassUID = EnhancedCTImageStorage
    dataset.NumberOfFrames = len(order)
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"]
    orientation, measures = Dataset(), Dataset()
    orientation.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    measures.PixelSpacing, measures.SliceThickness = [0.8, 0.9], 2.0
    shared = Dataset()
    shared.PlaneOrientationSequence, shared.PixelMeasuresSequence = [orientation], [measures]
    dataset.SharedFunctionalGroupsSequence = [shared]
    frames, pixels = [], []
    organization = f"{ROOT}.8.1"
    for frame, place in enumerate(order):
        intercept = -1024 - 10 * (frame % 3) * per_frame_intercept
        position, values, content, group = Dataset(), Dataset(), Dataset(), Dataset()
        position.ImagePositionPatient = [-14.4, -9.6, float(z_mm[place])]
        values.RescaleSlope, values.RescaleIntercept, values.RescaleType = 1, intercept, "HU"
        content.StackID, content.InStackPositionNumber = "1", int(place) + 1
        content.DimensionIndexValues = [1, int(place) + 1]
        content.FrameAcquisitionNumber = 1
        group.PlanePositionSequence, group.PixelValueTransformationSequence = [position], [values]
        group.FrameContentSequence = [content]
        frames.append(group)
        pixels.append((CHEST_HU[place].astype(np.int32) - intercept).astype("<u2"))
    dataset.PerFrameFunctionalGroupsSequence = frames
    dimension = Dataset()
    dimension.DimensionOrganizationUID = organization
    dataset.DimensionOrganizationSequence = [dimension]
    pointers = []
    for pointer in (0x00209056, 0x00209057):
        item = Dataset()
        item.DimensionOrganizationUID, item.DimensionIndexPointer = organization, pointer
        item.FunctionalGroupPointer = 0x00209111
        pointers.append(item)
    dataset.DimensionIndexSequence = pointers
    dataset.PixelData = np.stack(pixels).tobytes()
    dataset["PixelData"].VR = "OW"
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    (folder / "series").mkdir()
    dataset.save_as(folder / "series" / "enhanced.dcm", enforce_file_format=True)
    return folder / "series"


@pytest.mark.parametrize("per_frame_intercept", [True, False])
@pytest.mark.parametrize("order", ["forward", "backward", "shuffled"])
def test_enhanced_ct_equals_highdicom_frame_by_frame(tmp_path, order, per_frame_intercept):
    places = {"forward": np.arange(24), "backward": np.arange(24)[::-1], "shuffled": np.arange(24) * 7 % 24}[order]
    folder = enhanced_ct(tmp_path, order=places, z_mm=np.arange(24) * 2.0, per_frame_intercept=per_frame_intercept)
    volume = read_series(folder, ConvertConfig())
    np.testing.assert_array_equal(volume.hu_ZYX, CHEST_HU)
    np.testing.assert_allclose(volume.affine @ (0, 0, 0, 1), (14.4, 9.6, 0, 1), atol=1e-4)
    np.testing.assert_allclose(np.diag(volume.affine), (-0.9, -0.8, 2, 1), atol=1e-5)
    image = highdicom.imread(folder / "enhanced.dcm")
    for frame, place in enumerate(places):
        other = image.get_frame(frame + 1, apply_modality_transform=True, apply_voi_transform=False)
        np.testing.assert_array_equal(volume.hu_ZYX[place], other)


@pytest.mark.parametrize(("z_mm", "reason"), [
    (np.delete(np.arange(25) * 2.0, 9), "missing_slice"),
    (np.r_[0, 0, np.arange(1, 23) * 2.0], "duplicate_position"),
    (np.zeros(24), "not_a_volume"),
])  # fmt: skip
def test_an_enhanced_file_passes_the_same_gate(tmp_path, z_mm, reason):
    with pytest.raises(Quarantine, match=reason):
        read_series(enhanced_ct(tmp_path, order=np.arange(24), z_mm=z_mm), ConvertConfig())


def test_an_enhanced_file_takes_the_road_through_index_and_deidentification(tmp_path):
    raw = enhanced_ct(tmp_path, order=np.arange(24)[::-1], z_mm=np.arange(24) * 2.0)
    restricted, clean, made = tmp_path / "restricted", *(tmp_path / name / "manifest.parquet" for name in ("02", "03"))
    restricted.mkdir()
    (restricted / "key").write_text("5a" * 32)
    (restricted / "key").chmod(0o600)
    key, config = ["--key-file", str(restricted / "key")], json.dumps({"num_shards": 1})
    index = str(restricted / "i")
    assert main(["index", "images", "--raw", str(raw), "--out", index, "--config", config, *key]) == 0
    assert main(["deidentify", "images", "--index", f"{index}/shard-000", "--out", str(clean), *key]) == 0
    assert main(["convert", "--manifest", str(clean), "--out", str(made)]) == 0
    (row,) = read_manifest(made, "convert").to_dicts()
    assert row["status"] == "ok"
    np.testing.assert_array_equal(read_nifti(made.parent / row["path"])[0], CHEST_HU)

"""Text in pixels is blanked in the values, recorded or refused; what is not text stays to the bit."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pydicom
import pytest
from dicom_builder import ROOT, ct_dataset, write_ct_series, write_dataset
from PIL import Image, ImageDraw, ImageFont
from pydicom.dataset import FileDataset
from pydicom.uid import ExplicitVRLittleEndian, JPEGLSLossless
from test_deidentify_images import _key, deidentify  # noqa: F401

from glint.cli.__main__ import main
from glint.core.config.deidentify import DeidentifyConfig
from glint.core.errors import Quarantine
from glint.formats.dicom import read_dataset, stored_transfer_syntax
from glint.prepare.deidentify.device_regions import Box, device_regions
from glint.prepare.deidentify.images import SeriesJob, clean_file
from glint.prepare.deidentify.pixels import SeriesReview, clean_pixels, has_sharp_rim
from glint.prepare.deidentify.text_detector import grey_levels, text_boxes

TWELVE_BITS = 4095
TEXT_AREA = np.s_[20:60, 20:400]


def film(text: str = "VANTONGEREN LUCY [F] 03.02.1951", *, height: int = 600, width: int = 500) -> np.ndarray:
    """A 12-bit picture like a chest film, (Y, X) uint16, with `text` in its upper left corner."""
    y, x = np.mgrid[0:height, 0:width]
    body = 1800 * np.exp(-(((x - width / 2) / (width / 2.2)) ** 4))
    lungs = sum(900 * np.exp(-(((x - c) / 70) ** 2) - ((y - 280) / 130) ** 2) for c in (width * 0.3, width * 0.7))
    noise = np.random.default_rng(7).normal(0, 12, (height, width))
    canvas = Image.new("L", (width, height))
    ImageDraw.Draw(canvas).text((24, 28), text, fill=255, font=ImageFont.load_default(20))
    values = np.clip(200 + body - lungs + noise, 0, 3000)
    return np.where(np.asarray(canvas) > 128, TWELVE_BITS, values).astype("<u2")


def cr_file(path: Path, values_YX: np.ndarray, *, syntax: str = ExplicitVRLittleEndian, **elements: Any) -> bytes:
    """A CR file's bytes."""
    dataset = ct_dataset(
        SOPClassUID="1.2.840.10008.5.1.4.1.1.1", Modality="CR", ImageType=["ORIGINAL", "PRIMARY"], **elements
    )
    dataset.SOPInstanceUID, dataset.StudyInstanceUID, dataset.SeriesInstanceUID = f"{ROOT}.3", f"{ROOT}.1", f"{ROOT}.2"
    dataset.Rows, dataset.Columns = values_YX.shape
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 12, 11, 0
    dataset.add_new(0x7FE00010, "OW", values_YX.tobytes())
    write_dataset(path, dataset)
    if syntax != ExplicitVRLittleEndian:
        compressed = pydicom.dcmread(path)
        compressed.compress(syntax, generate_instance_uid=False)
        compressed.save_as(path)
    return path.read_bytes()


def cleaned(content: bytes, **config: Any) -> tuple[FileDataset, SeriesReview]:
    """`content` after stage 02, read again, and what the series remembers."""
    study = {"patient_key": "MRN4471902", "raw_patient_id": "MRN4471902", "accession": "ACC7730041"}
    study |= {"patient_names": ["Quillfeather^Ottoline"], "other_persons": [], "identifiers": [], "institutions": []}
    study |= {"birth_dates": [], "study_dates": []}
    job = SeriesJob(
        study=study,
        series={"part": "", "kind": "film"},
        instances=[],
        folder=Path("unused"),
        key=b"k" * 32,
        config=DeidentifyConfig(**config),
    )
    review = SeriesReview()
    written, trace = clean_file(content, {"sop_instance_uid": f"{ROOT}.3", "instance_id": "i1"}, job, review)
    assert trace.actions["blanked", "PixelData"] == len(review.blanked)
    return pydicom.dcmread(io.BytesIO(written)), review


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, JPEGLSLossless])
def test_twelve_bit_text_is_gone_from_the_values_and_the_rest_is_the_same(tmp_path: Path, syntax: str) -> None:
    values = film()
    dataset, review = cleaned(cr_file(tmp_path / "a", values, syntax=syntax))
    after = dataset.pixel_array
    assert (values == TWELVE_BITS).sum() > 500
    assert not (after == TWELVE_BITS).any()
    outside = np.ones(values.shape, dtype=bool)
    for top, left, bottom, right in review.blanked[0]["boxes"]:
        outside[top:bottom, left:right] = False
    assert np.array_equal(after[outside], values[outside])
    assert (~outside).mean() < 0.08
    assert text_boxes(grey_levels(after, inverted=False)) == ()
    assert (dataset.BitsStored, dataset.BurnedInAnnotation) == (12, "NO")
    assert dataset.file_meta.TransferSyntaxUID == ExplicitVRLittleEndian
    assert "113101" in [item.CodeValue for item in dataset.DeidentificationMethodCodeSequence]


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, JPEGLSLossless])
def test_a_film_without_text_keeps_its_pixel_bytes(tmp_path: Path, syntax: str) -> None:
    content = cr_file(tmp_path / "a", film(""), syntax=syntax)
    dataset, review = cleaned(content)
    assert dataset.PixelData == pydicom.dcmread(io.BytesIO(content)).PixelData
    assert dataset.file_meta.TransferSyntaxUID == syntax
    assert review.blanked == []
    assert "113101" not in [item.CodeValue for item in dataset.DeidentificationMethodCodeSequence]


def test_inverted_films_are_read_too(tmp_path: Path) -> None:
    values = (TWELVE_BITS - film()).astype("<u2")
    content = cr_file(tmp_path / "a", values, PhotometricInterpretation=None)
    raw = pydicom.dcmread(io.BytesIO(content))
    raw.PhotometricInterpretation = "MONOCHROME1"
    raw.save_as(tmp_path / "a")
    dataset, _ = cleaned((tmp_path / "a").read_bytes())
    assert not (dataset.pixel_array[TEXT_AREA] == 0).any()


def test_by_configuration_a_film_with_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Quarantine) as refused:
        cleaned(cr_file(tmp_path / "a", film()), burned_in="quarantine")
    assert refused.value.reason == "burned_in_text"


def test_a_header_that_tells_of_text_is_believed_unless_a_device_rule_says_where(tmp_path: Path) -> None:
    with pytest.raises(Quarantine) as refused:
        cleaned(cr_file(tmp_path / "a", film(""), BurnedInAnnotation="YES"))
    assert refused.value.reason == "burned_in_annotation"
    known = {"Manufacturer": "MEDRAD", "SeriesDescription": "medrad injection"}
    dataset, review = cleaned(
        cr_file(tmp_path / "b", film("", height=1077, width=750), BurnedInAnnotation="YES", **known)
    )
    assert review.blanked[0]["boxes"] == [[0, 0, 230, 750]]
    assert review.blanked[0]["sources"] == ["device"]
    assert len(np.unique(dataset.pixel_array[:230])) == 1


def test_a_device_rule_needs_every_condition() -> None:
    canon = {"Manufacturer": "Canon Inc.", "ManufacturerModelName": "CXDI-50", "Rows": 2592, "Columns": 2208}
    assert device_regions(ct_dataset(**canon)) == (Box(0, 0, 80, 2208), Box(2512, 0, 2592, 2208))
    for other in ({"Manufacturer": "X"}, {"ManufacturerModelName": "Y"}, {"Rows": 2591}):
        assert device_regions(ct_dataset(**{**canon, **other})) == ()


def test_a_ct_slice_with_letters_at_the_rim_is_blanked_and_a_plain_one_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = np.full((3, 256, 256), -1000, dtype=np.int16)
    y, x = np.mgrid[0:256, 0:256]
    plain[:, np.hypot(y - 128, (x - 128) / 1.3) < 90] = 40
    plain[:, np.hypot(y - 128, x - 90) < 35] = -850
    canvas = Image.new("L", (256, 256))
    ImageDraw.Draw(canvas).text((8, 4), "VANTONGEREN LUCY 1951", fill=255, font=ImageFont.load_default(14))
    written_on = np.where(np.asarray(canvas) > 128, 3071, plain[0]).astype(np.int16)
    assert has_sharp_rim(written_on) and not has_sharp_rim(plain[0])
    write_ct_series(tmp_path / "raw", hu_ZYX=np.stack([plain[0], written_on, plain[2]]), spacing_mm=(2.0, 1.4, 1.4))
    manifest = deidentify(tmp_path, tmp_path / "raw")
    assert manifest["reason"].to_list() == [None]
    changed = {}
    for file in Path(manifest["path"].item()).glob("*.dcm"):
        dataset = pydicom.dcmread(file)
        changed[int(dataset.InstanceNumber)] = dataset.pixel_array.astype(int) - 1024
    assert np.array_equal(changed[1], plain[0])
    assert (changed[2] == 3071).sum() == 0
    assert np.array_equal(changed[2][60:], plain[1][60:])


def head(num_slices: int = 6, width_px: int = 160) -> np.ndarray:
    """HU of an ellipse of brain in a skull, (Z, Y, X)."""
    y, x = np.mgrid[0:256, 0:256]
    radius = np.hypot((y - 128) / (width_px * 0.6), (x - 128) / (width_px / 2))
    hu = np.where(radius < 1, 40, -1000)
    hu[(radius < 0.97) & (radius > 0.88)] = 1100
    return np.repeat(hu[None].astype(np.int16), num_slices, axis=0)


def test_a_head_is_refused_whatever_its_header_says_and_leaves_no_file(tmp_path: Path) -> None:
    write_ct_series(tmp_path / "raw", hu_ZYX=head(), spacing_mm=(2.0, 1.0, 1.0), BodyPartExamined="CHEST")
    assert deidentify(tmp_path, tmp_path / "raw")["reason"].to_list() == ["head_ct"]
    assert not list((tmp_path / "out").rglob("*.dcm"))
    manifest = deidentify(tmp_path, tmp_path / "raw", {"refuse_heads": False}, name="kept")
    assert manifest["reason"].to_list() == [None]


def test_a_real_head_is_refused_and_real_chests_are_not(real_data: Path) -> None:
    def judged(folder: str) -> str | None:
        review = SeriesReview()
        for file in sorted((real_data / "1_ct_dicom" / folder).rglob("*")):
            if file.is_file() and file.suffix not in (".md", ".txt", ".gz", ".json"):
                dataset = read_dataset(file.read_bytes())
                if (
                    0x7FE00010 in dataset
                    and "RescaleSlope" in dataset
                    and "RTSTRUCT" not in str(dataset.get("Modality"))
                ):
                    clean_pixels(dataset, stored_transfer_syntax(dataset), DeidentifyConfig(find_text="none"), review)
        try:
            review.require_no_head()
        except Quarantine as quarantine:
            return quarantine.reason
        return None

    assert judged("dcm_qa_ct_ge") == "head_ct"
    for folder in ("cip_ct64", "lungmask_minimal", "totalsegmentator_dicom", "dicom_numpy_dupes", "ibsi_sts_ge"):
        assert judged(folder) is None, folder


def test_names_burned_into_public_chest_pictures_are_blanked(real_data: Path) -> None:
    folder = real_data / "3_phi_dicom" / "presidio_pseudo_phi"
    dataset = read_dataset((folder / "dicom_dir_1" / "dicom_dir_2" / "2_ORIGINAL.dicom").read_bytes())
    before = dataset.pixel_array.copy()
    blanked = clean_pixels(dataset, stored_transfer_syntax(dataset), DeidentifyConfig())
    assert blanked is not None
    after = np.frombuffer(blanked.pixels, before.dtype).reshape(before.shape)
    assert text_boxes(grey_levels(after, inverted=False)) == ()
    for place in (np.s_[0:14, 0:230], np.s_[14:28, 0:115]):  # the two lines of text, found by eye
        assert len(np.unique(after[place])) <= 2
    assert (after != before).mean() < 0.06
    for name, lines in (("2", ((0, 0, 14, 230), (14, 0, 28, 115))), ("3", ((2, 2, 34, 770), (48, 16, 82, 360)))):
        picture = np.asarray(Image.open(folder / "png_images" / f"{name}_ORIGINAL.png").convert("L"))
        covered = np.zeros(picture.shape, dtype=bool)
        for top, left, bottom, right in text_boxes(picture):
            covered[top:bottom, left:right] = True
        for top, left, bottom, right in lines:
            assert covered[top:bottom, left:right].mean() > 0.98, name
        assert covered.mean() < 0.08


CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
ROAD: list[tuple[str, dict[str, Any], dict[str, bool], str | None]] = [
    ("a film", {}, {}, None),
    ("a film of the other polarity", {"PhotometricInterpretation": "MONOCHROME1"}, {}, None),
    ("a capture of a film", {"SOPClassUID": CAPTURE}, {"accept_secondary_capture": True}, None),
    ("a capture, by default", {"SOPClassUID": CAPTURE}, {}, "secondary_capture"),
    ("a capture of a screen", {"SOPClassUID": CAPTURE, "Modality": "OT"}, {"accept_secondary_capture": True}, "secondary_capture"),
    ("a film in colour", {"SamplesPerPixel": 3}, {}, "colour_image"),
]  # fmt: skip


@pytest.mark.parametrize(("case", "elements", "index", "reason"), ROAD, ids=[row[0] for row in ROAD])
def test_a_name_burned_into_a_film_is_gone_after_stages_one_and_two(
    tmp_path: Path, case: str, elements: dict[str, Any], index: dict[str, bool], reason: str | None
) -> None:
    """Oracles: the values that were drawn, the detector on what came out, and no file at all where it was refused."""
    values, plain = film(), film("")
    cr_file(tmp_path / "raw" / "a", values)
    dataset = pydicom.dcmread(tmp_path / "raw" / "a")
    for keyword, value in elements.items():
        setattr(dataset, keyword, value)
    if dataset.PhotometricInterpretation == "MONOCHROME1":
        values, plain = TWELVE_BITS - values, TWELVE_BITS - plain
        dataset.PixelData = values.astype("<u2").tobytes()
    if dataset.SamplesPerPixel == 3:
        dataset.PhotometricInterpretation, dataset.PlanarConfiguration = "RGB", 0
        dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 8, 8, 7
        dataset.PixelData = np.repeat((values // 16).astype("u1")[..., None], 3, axis=-1).tobytes()
    dataset.save_as(tmp_path / "raw" / "a")
    config = json.dumps({"num_shards": 1, **index})
    command = ["index", "images", "--modality", "cxr", "--raw", str(tmp_path / "raw"), "--out", str(tmp_path / "index")]
    assert main([*command, "--config", config]) == 0
    out = tmp_path / "out" / "shard-000" / "manifest.parquet"
    assert main(["deidentify", "images", "--index", str(tmp_path / "index" / "shard-000"), "--out", str(out)]) == 0
    files = list(out.parent.rglob("*.dcm"))
    assert pl.read_parquet(out)["reason"].to_list() == [reason]
    assert len(files) == (reason is None)
    if reason is None:
        written = pydicom.dcmread(files[0])
        lettered = values != plain
        assert lettered.sum() > 500 and not (written.pixel_array == values)[lettered].any()
        inverted = written.PhotometricInterpretation == "MONOCHROME1"
        assert text_boxes(grey_levels(written.pixel_array, inverted=inverted)) == ()
        assert np.array_equal(written.pixel_array[150:], values[150:])
        (entry,) = json.loads((out.parent / "audit.json").read_text())["blanked"]
        assert set(entry["sources"]) == {"detector"} and written.BurnedInAnnotation == "NO"

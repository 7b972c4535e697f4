"""Stage 03 for films: every transformation against the standard's formula, and real films against what is known of them."""

from pathlib import Path

import numpy as np
import polars as pl
import pydicom
import pytest
from dicom_builder import write_dataset
from film_builder import COLUMNS, ROWS, film_dataset, ramp
from pydicom.dataset import Dataset
from pydicom.uid import ImplicitVRLittleEndian

from glint.core.config.convert import FilmConvertConfig
from glint.core.errors import Quarantine
from glint.formats.image import read_film
from glint.formats.manifest import manifest_frame, read_manifest, write_manifest
from glint.prepare.convert.film_values import equalize, grey_levels, named_view
from glint.prepare.convert.films import Film, convert_films, read_dicom_film, read_picture_film

PLAIN = FilmConvertConfig(crop_border=False, min_edge=16)


def converted(
    folder: Path, config: FilmConvertConfig = PLAIN, stored: np.ndarray | None = None, **elements: object
) -> Film:
    dataset = film_dataset(ramp() if stored is None else stored, **elements)
    return read_dicom_film(write_dataset(folder / "film.dcm", dataset), config)


def stretched(values: np.ndarray) -> np.ndarray:
    """Oracle of the last step: the range to 0..65535."""
    return np.rint((values - values.min()) / (values.max() - values.min()) * 65535)


def close(film: Film, expected: np.ndarray) -> bool:
    return bool(np.abs(film.film_YX.astype(float) - stretched(expected)).max() <= 1)


# PS3.3 C.11.2.1.2.1, C.11.2.1.3.1 and C.11.2.1.3.2, with output 0..1
WINDOWS = {
    "LINEAR": lambda x, c, w: np.clip((x - (c - 0.5)) / (w - 1) + 0.5, 0, 1),
    "LINEAR_EXACT": lambda x, c, w: np.clip((x - c) / w + 0.5, 0, 1),
    "SIGMOID": lambda x, c, w: 1 / (1 + np.exp(-4 * (x - c) / w)),
}


@pytest.mark.parametrize("function", WINDOWS)
def test_the_first_window_is_applied_with_the_function_it_names(tmp_path, function):
    film = converted(tmp_path, WindowCenter=["1800", "400"], WindowWidth=["900", "10"], VOILUTFunction=function)
    assert film.facts["voi"] == function
    assert close(film, WINDOWS[function](ramp().astype(float), 1800, 900))


def test_a_window_is_in_units_after_the_rescale(tmp_path):
    film = converted(tmp_path, RescaleSlope="0.5", RescaleIntercept="100", WindowCenter="1000", WindowWidth="500")
    assert close(film, WINDOWS["LINEAR"](ramp() * 0.5 + 100, 1000, 500))


def lut(entries: list[int], first: int) -> Dataset:
    item = Dataset()
    item.LUTDescriptor = [len(entries), first, 16]
    item.LUTData = entries
    item["LUTDescriptor"].VR, item["LUTData"].VR = "US", "US"
    return item


def test_a_voi_lut_wins_over_the_window(tmp_path):
    entries = [int(value) for value in np.linspace(0, 1, 1000) ** 2 * 65535]
    film = converted(tmp_path, VOILUTSequence=[lut(entries, 500)], WindowCenter="100", WindowWidth="50")
    assert film.facts["voi"] == "lut"
    assert close(film, np.array(entries)[np.clip(ramp().astype(int) - 500, 0, 999)].astype(float))


def test_a_modality_lut_comes_before_the_window(tmp_path):
    entries = [65535 - 16 * value for value in range(4096)]
    film = converted(tmp_path, ModalityLUTSequence=[lut(entries, 0)], WindowCenter="32768", WindowWidth="20000")
    assert close(film, WINDOWS["LINEAR"](65535.0 - 16 * ramp(), 32768, 20000))


@pytest.mark.parametrize("window", [("", ""), ("100", "0"), ("100", "-5"), ("nan", "3")])
def test_a_window_that_can_not_be_applied_is_left_out(tmp_path, window):
    film = converted(tmp_path, WindowCenter=window[0], WindowWidth=window[1])
    assert film.facts["voi"] == "none" and close(film, ramp().astype(float))


def test_monochrome1_is_turned_after_the_window_not_before(tmp_path):
    """A window off the centre tells the two orders apart."""
    film = converted(tmp_path, PhotometricInterpretation="MONOCHROME1", WindowCenter="900", WindowWidth="600")
    right = 1 - WINDOWS["LINEAR"](ramp().astype(float), 900, 600)
    wrong = WINDOWS["LINEAR"](4095.0 - ramp(), 900, 600)
    assert close(film, right) and not close(film, wrong)


@pytest.mark.parametrize(
    ("photometric", "shape", "inverted", "doubted"),
    [
        ("MONOCHROME1", None, True, False),
        ("MONOCHROME1", "INVERSE", True, False),  # the two say the same thing once
        ("MONOCHROME2", "IDENTITY", False, False),
        ("MONOCHROME2", "INVERSE", True, True),
        ("MONOCHROME1", "IDENTITY", True, True),
    ],
)
def test_polarity_is_turned_once_and_a_contradiction_is_recorded(tmp_path, photometric, shape, inverted, doubted):
    film = converted(tmp_path, PhotometricInterpretation=photometric, PresentationLUTShape=shape)
    assert film.facts["inverted"] is inverted
    assert close(film, -ramp().astype(float) if inverted else ramp().astype(float))
    assert ("presentation_lut_contradicts_photometric" in film.facts["warnings"]) is doubted


def test_a_rectangular_shutter_is_cut_and_its_offset_kept(tmp_path):
    edges = dict(zip(("Upper", "Lower"), ("5", "40"), strict=True))
    film = converted(
        tmp_path,
        ShutterShape="RECTANGULAR",
        ShutterUpperHorizontalEdge=edges["Upper"],
        ShutterLowerHorizontalEdge=edges["Lower"],
        ShutterLeftVerticalEdge="11",
        ShutterRightVerticalEdge="60",
    )
    assert film.facts["crop_origin_yx"] == [4, 10] and film.facts["original_shape_yx"] == [ROWS, COLUMNS]
    assert close(film, ramp()[4:40, 10:60].astype(float))


def test_a_round_shutter_leaves_black_outside_that_does_not_enter_the_range(tmp_path):
    stored = ramp() + 1000
    stored[:3, :3] = 0  # bright when turned, and outside the circle
    film = converted(
        tmp_path,
        stored=stored.clip(0, 4095),
        PhotometricInterpretation="MONOCHROME1",
        ShutterShape="CIRCULAR",
        CenterOfCircularShutter=["24", "32"],
        RadiusOfCircularShutter="20",
    )
    y, x = np.ogrid[:ROWS, :COLUMNS]
    inside = ((y - 23) ** 2 + (x - 31) ** 2 <= 400)[3:44, 11:52]
    assert film.facts["crop_origin_yx"] == [3, 11]
    assert (film.film_YX[~inside] == 0).all() and film.film_YX[inside].max() == 65535


def test_an_opening_in_other_units_is_doubted_and_not_cut(tmp_path):
    edges = {
        "UpperHorizontalEdge": "907",
        "LowerHorizontalEdge": "1299",
        "LeftVerticalEdge": "-184",
        "RightVerticalEdge": "184",
    }
    film = converted(
        tmp_path, CollimatorShape="RECTANGULAR", **{f"Collimator{key}": value for key, value in edges.items()}
    )
    assert film.facts["warnings"] == ["collimator_rectangular_implausible"]
    assert film.facts["shape_yx"] == [ROWS, COLUMNS]


def test_an_empty_border_is_cut_to_the_pixel_and_its_offset_kept(tmp_path):
    random = np.random.default_rng(0)
    stored = np.full((80, 90), 7, np.uint16)
    stored[6:70, 10:85] = random.integers(500, 4000, (64, 75))
    film = converted(tmp_path, FilmConvertConfig(min_edge=16), stored=stored)
    assert film.facts["crop_origin_yx"] == [6, 10] and film.facts["shape_yx"] == [64, 75]


def test_a_border_within_the_shutter_is_cut_too_and_the_offset_counts_both(tmp_path):
    stored = np.full((80, 90), 4000, np.uint16)  # outside the shutter
    stored[5:75, 8:88] = 7  # within it, an empty border
    picture = np.random.default_rng(0).integers(500, 3900, (58, 71))
    stored[12:70, 11:82] = picture
    film = converted(
        tmp_path,
        FilmConvertConfig(min_edge=16),
        stored=stored,
        ShutterShape="RECTANGULAR",
        ShutterUpperHorizontalEdge="6",
        ShutterLowerHorizontalEdge="75",
        ShutterLeftVerticalEdge="9",
        ShutterRightVerticalEdge="88",
    )
    assert film.facts["crop_origin_yx"] == [12, 11] and film.facts["shape_yx"] == [58, 71]
    assert close(film, picture.astype(float))


def test_padding_is_black_and_does_not_enter_the_range(tmp_path):
    stored = ramp().clip(1000, 3000)
    stored[:5] = 0
    film = converted(tmp_path, stored=stored, PixelPaddingValue=0, PhotometricInterpretation="MONOCHROME1")
    assert (film.film_YX[:5] == 0).all()
    assert film.film_YX[5:].max() == 65535 and film.film_YX[-1, -1] == 0


@pytest.mark.parametrize(
    ("elements", "expected", "source"),
    [
        ({"PixelSpacing": ["0.2", "0.1"]}, [0.2, 0.1], "pixel_spacing"),
        ({"PixelSpacing": ["0.000", "0.000"]}, None, "none"),
        ({"PixelSpacing": ["-0.1", "0.1"]}, None, "none"),
        ({"PixelSpacing": ["0", "0"], "ImagerPixelSpacing": ["0.15", "0.15"]}, [0.15, 0.15], "imager"),
        (
            {"ImagerPixelSpacing": ["0.15", "0.3"], "EstimatedRadiographicMagnificationFactor": "1.5"},
            [0.1, 0.2],
            "imager_magnified",
        ),
        (
            {
                "ImagerPixelSpacing": ["0.2", "0.2"],
                "DistanceSourceToDetector": "1800",
                "DistanceSourceToPatient": "1500",
            },
            [0.2 / 1.2, 0.2 / 1.2],
            "imager_magnified",
        ),
        (
            {"ImagerPixelSpacing": ["0.15", "0.15"], "EstimatedRadiographicMagnificationFactor": "0"},
            [0.15, 0.15],
            "imager",
        ),
        ({}, None, "none"),
    ],
)
def test_spacing_is_true_or_absent_never_divided_by_zero(tmp_path, elements, expected, source):
    facts = converted(tmp_path, **elements).facts
    assert facts["spacing_source"] == source
    assert facts["spacing_mm_yx"] == (expected if expected is None else pytest.approx(expected))


@pytest.mark.parametrize(
    ("said", "view"),
    [("PA", "PA"), ("AP", "AP"), ("LL", "lateral"), ("LATERAL", "lateral"), ("RAO", "oblique"), ("postero-anterior", "PA"), ("", "unknown"), ("XR9", "unknown")],
)  # fmt: skip
def test_views_have_one_name_each(said, view):
    assert named_view(said.upper()) == view


def symmetric(skew: float) -> np.ndarray:
    y, x = np.mgrid[-1 : 1 : ROWS * 1j, -1 : 1 : COLUMNS * 1j]
    return (2000 + 1500 * np.cos(3 * x + skew) * (1 - y**2)).astype(np.uint16)


@pytest.mark.parametrize(
    ("view", "orientation", "skew", "doubt"),
    [
        ("PA", ["L", "F"], 0.0, None),
        ("PA", ["A", "F"], 0.0, "view_contradicts_orientation"),
        ("LL", ["L", "F"], 1.5, "view_contradicts_orientation"),
        ("AP", ["R", "F"], 0.0, "mirrored"),
        ("PA", None, 1.5, "view_contradicts_symmetry"),
        ("LL", None, 0.0, "view_contradicts_symmetry"),
        ("LL", ["A", "F"], 1.5, None),
    ],
)
def test_a_view_is_kept_and_doubted_where_orientation_or_symmetry_say_otherwise(
    tmp_path, view, orientation, skew, doubt
):
    facts = converted(tmp_path, stored=symmetric(skew), ViewPosition=view, PatientOrientation=orientation).facts
    assert facts["view"] == named_view(view) and facts["warnings"] == ([doubt] if doubt else [])


def test_a_blank_film_a_thumbnail_and_a_cut_off_one_are_refused(tmp_path):
    with pytest.raises(Quarantine, match="blank_film"):
        converted(tmp_path, stored=np.full((ROWS, COLUMNS), 9))
    with pytest.raises(Quarantine, match="too_small"):
        converted(tmp_path, FilmConvertConfig())
    dataset = film_dataset(ramp())
    dataset.PixelData = dataset.PixelData[:1000]
    with pytest.raises(Quarantine, match="unreadable_pixels"):
        read_dicom_film(write_dataset(tmp_path / "cut.dcm", dataset), PLAIN)
    with pytest.raises(Quarantine, match="multi_frame"):
        converted(tmp_path, NumberOfFrames="2")


def test_grey_stored_as_colour_passes_and_colour_is_refused_unless_wanted():
    grey = np.repeat((ramp() // 16).astype(np.uint8)[..., None], 3, axis=2)
    assert np.array_equal(np.rint(grey_levels(grey, accept_color=False, tolerance=0.06)), grey[..., 0])
    coloured = grey.copy()
    coloured[..., 0] //= 2
    with pytest.raises(Quarantine, match="coloured"):
        grey_levels(coloured, accept_color=False, tolerance=0.06)
    assert grey_levels(coloured, accept_color=True, tolerance=0.06).shape == (ROWS, COLUMNS)


def test_mimic_jpg_is_the_equalised_histogram_without_voi(tmp_path):
    """Oracle: rank share of each 8-bit level, the definition that OpenCV's equalizeHist implements."""
    config = FilmConvertConfig(recipe="mimic_jpg", crop_border=False, min_edge=16)
    stored = (ramp().astype(float) ** 2 / 4095).astype(np.uint16)
    film = converted(tmp_path, config, stored=stored, WindowCenter="100", WindowWidth="20")
    levels = np.rint(stretched(stored.astype(float)) / 257).astype(int)
    below = np.array([(levels <= level).sum() for level in range(256)])
    expected = np.rint((below[levels] - below[0]) / (levels.size - below[0]) * 255)
    assert film.facts["voi"] == "none" and film.facts["recipe"] == "mimic_jpg"
    assert np.abs(film.film_YX / 257.0 - expected).max() <= 1
    assert not np.array_equal(equalize(ramp(), None), film.film_YX)


# ---- real films -------------------------------------------------------------------------------------------------

REAL = "2_cxr_dicom"


def with_meta(source: Path, folder: Path) -> Path:
    """A bare data set as stage 02 hands it on: rebuilt with preamble and meta."""
    dataset = pydicom.dcmread(source, force=True)
    dataset.ensure_file_meta()
    dataset.file_meta.TransferSyntaxUID = (
        ImplicitVRLittleEndian if dataset.original_encoding[0] else "1.2.840.10008.1.2.1"
    )
    path = folder / f"{source.stem}.dcm"
    dataset.save_as(path, enforce_file_format=True)
    return path


def test_the_three_encodings_of_one_fuji_film_come_out_equal(real_data, tmp_path):
    paths = sorted((real_data / REAL / "gdcm_cr_mono1_three_encodings").glob("*.*"))
    films = [
        read_dicom_film(with_meta(path, tmp_path), FilmConvertConfig())
        for path in paths
        if path.suffix in (".dcm", ".nometa")
    ]
    assert len(films) == 3
    assert all(np.array_equal(film.film_YX, films[0].film_YX) for film in films)
    assert sorted(str(film.facts["spacing_mm_yx"]) for film in films) == ["None", "None", "[0.1, 0.1]"]
    assert all(film.facts["view"] == "PA" and film.facts["inverted"] and not film.facts["warnings"] for film in films)


def test_a_true_monochrome2_twin_of_the_fuji_film_comes_out_as_the_monochrome1_original(real_data, tmp_path):
    """The twin's stored values and window are mirrored as well as its flag: the same picture, told the other way."""
    source = real_data / REAL / "gdcm_cr_mono1_three_encodings" / "gdcm-CR-MONO1-10-chest.dcm"
    original = read_dicom_film(source, FilmConvertConfig())
    dataset = pydicom.dcmread(source)
    top = 2**dataset.BitsStored - 1
    dataset.PixelData = (top - dataset.pixel_array).astype("<u2").tobytes()
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.WindowCenter = str(top - float(dataset.WindowCenter) + 1)  # LINEAR is centred on c - 0.5
    twin = read_dicom_film(write_dataset(tmp_path / "twin.dcm", dataset), FilmConvertConfig())
    assert np.abs(twin.film_YX.astype(int) - original.film_YX).max() <= 1
    assert original.facts["inverted"] and not twin.facts["inverted"]


def test_the_rsna_twin_whose_flag_alone_was_flipped_comes_out_as_the_negative(real_data):
    """Its pixels were not inverted (README), so a reader that honours the flag must show the negative; one that
    makes it equal to its sibling ignores MONOCHROME1."""
    folder = real_data / REAL / "rsna_jpeg_baseline"
    config = FilmConvertConfig(crop_border=False)
    fake = read_dicom_film(folder / "Fake_MONOHR1.dcm", config)
    (source,) = folder.glob("1.2.*.dcm")
    sibling = read_dicom_film(source, config)
    assert np.abs(fake.film_YX.astype(int) + sibling.film_YX - 65535).max() <= 1  # halves round to even
    assert sibling.facts["spacing_mm_yx"] == [0.168, 0.168]


def test_the_nema_film_has_no_spacing_and_a_collimator_in_other_units(real_data):
    film = read_dicom_film(real_data / REAL / "nema_wg04_rg1" / "RG1_J2KI.dcm", FilmConvertConfig())
    assert film.facts["spacing_mm_yx"] is None and film.facts["spacing_source"] == "none"
    assert film.facts["warnings"] == ["collimator_rectangular_implausible"]
    assert film.facts["original_shape_yx"] == [1955, 1841] and film.facts["shape_yx"] == [1955, 1841]
    rows = film.film_YX.astype(float)
    assert rows[900:1100, 900:960].mean() > rows[900:1100, 400:460].mean()  # spine is brighter than lung


def picture_outcomes(folder: Path) -> dict[str, str]:
    outcomes = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in (".png", ".jpg", ".jpeg"):
            try:
                read_picture_film(path, FilmConvertConfig())
                outcomes[path.name] = "ok"
            except Quarantine as refusal:
                outcomes[path.name] = refusal.reason
    return outcomes


@pytest.mark.slow
def test_real_pictures_pass_but_for_a_thumbnail_and_a_tinted_one(real_data):
    outcomes = picture_outcomes(real_data / "4_cxr_text_masks" / "generalblockchain_covid_cxr" / "images")
    refused = {name: outcome for name, outcome in outcomes.items() if outcome != "ok"}
    assert sorted(refused.values()) == ["coloured", "too_small"] and len(outcomes) == 28


def test_real_nih_pictures_pass(real_data):
    outcomes = picture_outcomes(real_data / "4_cxr_text_masks" / "nih_bbox_and_images")
    assert outcomes and set(outcomes.values()) == {"ok"}


# ---- the shard --------------------------------------------------------------------------------------------------


def shard(folder: Path) -> Path:
    """A stage-02 folder: a series of two films of which one is blank, and one that was refused before."""
    base = {
        "study_id": "s1",
        "patient_id": "p1",
        "kind": "film",
        "num_instances": 2,
        "input_digest": "d",
        "params_digest": "q",
    }
    write_dataset(folder / "dicom/s1/r1/i1.dcm", film_dataset(ramp(), ViewPosition="PA"))
    write_dataset(folder / "dicom/s1/r1/i2.dcm", film_dataset(np.full((ROWS, COLUMNS), 5)))
    rows = [
        {**base, "series_id": "r1", "status": "ok", "reason": None, "path": "dicom/s1/r1"},
        {**base, "series_id": "r2", "status": "quarantined", "reason": "secondary_capture", "path": None},
    ]
    write_manifest(folder / "manifest.parquet", manifest_frame(rows, "deidentify_images"), "deidentify_images")
    return folder / "manifest.parquet"


def test_a_shard_has_a_row_per_film_and_one_bad_film_fails_nothing(tmp_path):
    out = tmp_path / "out" / "manifest.parquet"
    convert_films(shard(tmp_path / "in"), out, PLAIN)
    rows = read_manifest(out, "convert_films")
    assert rows.select("instance_id", "status", "reason").rows() == [
        ("i1", "ok", None),
        ("i2", "quarantined", "blank_film"),
        (None, "quarantined", "secondary_capture"),
    ]
    path = out.parent / rows.filter(pl.col("status") == "ok")["path"][0]
    assert close(Film(film_YX=read_film(path), facts={}), ramp().astype(float))
    first = path.read_bytes()
    convert_films(shard(tmp_path / "in"), out, PLAIN)
    assert path.read_bytes() == first
    assert b"tEXt" not in first and b"tIME" not in first

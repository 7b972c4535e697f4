"""Real X-rays through stages 01 to 04, as commands, with the outcome their README implies; and which films are refused."""

import numpy as np
import pytest
from dicom_builder import write_dataset
from film_builder import CAPTURES, DX, film_dataset, ramp, road

from glint.core.config.index import FilmIndexConfig
from glint.formats.dicom import read_header
from glint.formats.image import read_film
from glint.formats.manifest import read_manifest
from glint.prepare.index.classify_films import classify_films

DX_FOR_PROCESSING = DX + ".1"
SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
FUJI, NEMA, RSNA = "gdcm_cr_mono1_three_encodings", "nema_wg04_rg1", "rsna_jpeg_baseline"
WHOLE = [0, 518, 0, 518]


# set, file, index configuration, reason or None, facts of stage 03, valid box of stage 04
TABLE = [
    (FUJI, "gdcm-CR-MONO1-10-chest.dcm", {}, None, {"inverted": True, "spacing_mm_yx": None, "voi": "LINEAR"}, WHOLE),
    (FUJI, "fodicom-CR-MONO1-10-chest.nometa", {}, None, {"inverted": True, "spacing_mm_yx": None}, WHOLE),
    (FUJI, "panimg-cxr.dcm", {}, None, {"inverted": True, "spacing_mm_yx": [0.1, 0.1]}, WHOLE),
    (
        NEMA,
        "RG1_J2KI.dcm",
        {},
        None,
        {"inverted": True, "spacing_mm_yx": None, "spacing_source": "none"},
        [0, 518, 15, 503],
    ),
    (RSNA, "1.2.276.0.7230010.3.1.4.8323329.6904.1517875201.850819.dcm", {}, "secondary_capture", {}, None),
    (
        RSNA,
        "1.2.276.0.7230010.3.1.4.8323329.6904.1517875201.850819.dcm",
        CAPTURES,
        None,
        {"inverted": False, "spacing_mm_yx": [0.168, 0.168], "voi": "none"},
        WHOLE,
    ),
    (RSNA, "Fake_MONOHR1.dcm", CAPTURES, None, {"inverted": True, "spacing_mm_yx": [0.168, 0.168]}, WHOLE),
]


@pytest.mark.parametrize(
    ("place", "name", "index", "reason", "facts", "box"), TABLE, ids=[f"{row[1][:20]}-{row[3]}" for row in TABLE]
)
def test_every_real_film_comes_out_as_its_readme_implies(real_data, tmp_path, place, name, index, reason, facts, box):
    made = road(tmp_path, [real_data / "2_cxr_dicom" / place / name], index)
    (film,) = read_manifest(made["convert"], "convert_films").to_dicts()
    (study,) = read_manifest(made["resample"], "resample_films").to_dicts()
    assert (film["status"], film["reason"]) == (("ok", None) if reason is None else ("quarantined", reason))
    assert {key: film[key] for key in facts} == facts
    assert (study["status"], study["valid_box"]) == (film["status"], box)
    if reason is None:
        assert film["view"] == study["view"] == "PA"
        assert read_film(made["resample"].parent / study["path"]).shape == (518, 518)


def test_the_three_encodings_of_the_fuji_film_are_equal_pixel_by_pixel_at_the_end_of_the_road(real_data, tmp_path):
    ends = []
    for number, row in enumerate(TABLE[:3]):
        made = road(tmp_path / str(number), [real_data / "2_cxr_dicom" / row[0] / row[1]], {})
        (study,) = read_manifest(made["resample"], "resample_films").to_dicts()
        ends.append(read_film(made["resample"].parent / study["path"]))
    assert all(np.array_equal(end, ends[0]) for end in ends)


HEADERS = [
    ({}, {}, None),
    ({"SOPClassUID": DX_FOR_PROCESSING}, {}, "for_processing"),
    ({"SOPClassUID": DX_FOR_PROCESSING}, {"accept_for_processing": True}, None),
    ({"SOPClassUID": SECONDARY_CAPTURE, "Modality": "CR"}, {}, "secondary_capture"),
    ({"SOPClassUID": SECONDARY_CAPTURE, "Modality": "CR"}, CAPTURES, None),
    ({"SOPClassUID": SECONDARY_CAPTURE, "Modality": "OT"}, CAPTURES, "secondary_capture"),
    ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.2", "Modality": "CT"}, {}, "not_a_film"),
    ({"BodyPartExamined": "KNEE"}, {}, "not_chest"),
    ({"BodyPartExamined": None}, {}, None),
    ({"PatientSpeciesDescription": "Canine"}, {}, "not_human"),
    ({"PatientSpeciesDescription": "Homo sapiens"}, {}, None),
    ({"NumberOfFrames": "3"}, {}, "multi_frame"),
]  # fmt: skip


@pytest.mark.parametrize(("elements", "index", "reason"), HEADERS)
def test_the_header_says_which_film_is_a_human_chest_for_reading(tmp_path, elements, index, reason):
    stored = np.tile(ramp(), (3, 1)) if "NumberOfFrames" in elements else ramp()
    height = {"Rows": ramp().shape[0]}
    path = write_dataset(tmp_path / "film", film_dataset(stored, **height, **elements))
    header = read_header(path)
    assert header is not None
    verdict = classify_films([header], FilmIndexConfig(**index))
    assert (verdict.kind, verdict.reason) == ("film", reason)


def test_a_cut_off_film_leaves_its_series_and_its_neighbour_stays(tmp_path):
    whole = write_dataset(tmp_path / "a", film_dataset(ramp(), SOPInstanceUID="1.2.3.1"))
    cut = write_dataset(tmp_path / "b", film_dataset(ramp(), SOPInstanceUID="1.2.3.2"))
    cut.write_bytes(cut.read_bytes()[:-500])
    headers = [header for path in (whole, cut) if (header := read_header(path)) is not None]
    verdict = classify_films(headers, FilmIndexConfig())
    assert verdict.reason is None and verdict.dropped == {str(cut): "truncated"}

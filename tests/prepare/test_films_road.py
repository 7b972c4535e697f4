"""Which films stage 01 refuses, and why."""

import numpy as np
import pytest
from dicom_builder import write_dataset
from film_builder import CAPTURES, DX, film_dataset, ramp

from glint.core.config.index import FilmIndexConfig
from glint.formats.dicom import read_header
from glint.prepare.index.classify_films import classify_films

DX_FOR_PROCESSING = DX + ".1"
SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"

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

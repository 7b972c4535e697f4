"""Volumes and films in one form."""

from pathlib import Path

import numpy as np
import pytest

from glint.core.errors import InputError
from glint.formats.image import write_film
from glint.formats.manifest import manifest_frame, write_manifest
from glint.formats.model_image import load_model_image, read_image_rows
from glint.formats.nifti import write_nifti
from glint.teachers.volumes import patch_coverage, read_sources, shift_volume


def films(folder: Path) -> Path:
    film = np.arange(12 * 16, dtype=np.uint16).reshape(12, 16) * 300
    write_film(folder / "films" / "s1.png", film)
    common = {"status": "ok", "path": "films/s1.png", "to_original": [2.0, 0, 5, 0, 2.0, 1, 0, 0, 1]}
    rows = [
        {
            **common,
            "study_id": "s1",
            "patient_id": "p1",
            "instance_id": "i1",
            "view": "PA",
            "valid_box": [2, 12, 0, 16],
        },
        {"study_id": "s2", "patient_id": "p2", "status": "quarantined", "reason": "too_small"},
    ]
    write_manifest(folder / "manifest.parquet", manifest_frame(rows, "resample_films"), "resample_films")
    return folder / "manifest.parquet"


def test_a_film_is_a_volume_of_one_slice_whose_padding_has_no_weight(tmp_path):
    (source,) = read_sources([films(tmp_path)])
    volume, affine = load_model_image(source.path)
    assert volume.shape == (1, 12, 16) and volume[0, 3, 2] == 50 * 300
    assert source.valid_box == (0, 1, 2, 12, 0, 16)
    np.testing.assert_array_equal(source.affine, affine)
    right, down = affine @ [1, 0, 0, 0], affine @ [0, 1, 0, 0]
    assert right[0] == -1 and down[2] == -1  # to the patient's left and to the feet, in RAS
    coverage = patch_coverage(source.valid_box, (1, 12, 16), (1, 4, 4)).reshape(3, 4)
    np.testing.assert_allclose(coverage, [[0.5] * 4, [1] * 4, [1] * 4])


def test_refused_films_keep_their_reason(tmp_path):
    rows = read_image_rows([films(tmp_path)]).sort("study_id")
    assert rows["reason"].to_list() == [None, "too_small"]


def test_volumes_are_read_as_before(tmp_path):
    volume = np.arange(2 * 3 * 4, dtype=np.int16).reshape(2, 3, 4) - 900
    write_nifti(tmp_path / "v.nii", volume, np.diag([2.0, 3.0, 4.0, 1.0]))
    row = {
        "study_id": "s",
        "patient_id": "p",
        "status": "ok",
        "path": "v.nii",
        "affine": list(np.eye(4).ravel()),
        "valid_box": [0, 2, 0, 3, 0, 4],
    }
    write_manifest(tmp_path / "manifest.parquet", manifest_frame([row], "resample"), "resample")
    (found,) = read_image_rows([tmp_path / "manifest.parquet"]).to_dicts()
    assert found["view"] is None and found["valid_box"] == [0, 2, 0, 3, 0, 4]
    np.testing.assert_array_equal(load_model_image(tmp_path / "v.nii")[0], volume)


def test_what_moves_into_a_film_is_black(tmp_path):
    film = np.full((1, 4, 5), 1000, np.uint16)
    moved = shift_volume(film, (0, 1, -2))
    assert (moved[0, 0] == 0).all() and (moved[0, :, 3:] == 0).all() and moved[0, 1, 0] == 1000


def test_a_manifest_of_another_stage_is_named(tmp_path):
    with pytest.raises(InputError, match="manifest"):
        read_image_rows([tmp_path / "manifest.parquet"])

"""A radiologist reads the pictures the right way round."""

from pathlib import Path

import numpy as np
import pytest

from glint.core.config.evaluate import EvaluateConfig
from glint.evaluation.cohort import Study
from glint.evaluation.overlays import Picture, highest_pixel, make_picture, paint_plane
from glint.evaluation.zero_shot import Answers
from glint.formats.image import write_film
from glint.formats.nifti import write_nifti

SHAPE, GRID = (16, 24, 32), (2, 3, 4)
RAS = np.diag([4.0, 4.0, 4.0, 1.0])


def study_with_spot(folder: Path, world_corner: tuple[int, int, int], affine) -> Study:
    """A dense spot in one corner of the body: direction along right, anterior, superior, each -1 or 1."""
    steps = np.sign(np.diag(affine)[:3]) * world_corner
    place = tuple(
        slice(2, 6) if step < 0 else slice(size - 6, size - 2) for step, size in zip(steps[::-1], SHAPE, strict=True)
    )
    volume, bits = np.full(SHAPE, -1350, np.int16), np.zeros(SHAPE, np.uint16)
    volume[place], bits[place] = 150, 1
    write_nifti(folder / "volume.nii", volume, affine)
    write_nifti(folder / "truth.nii", bits, affine)
    return Study(
        study_id="s", patient_id="p", split="test", volume_path=folder / "volume.nii", truth_path=folder / "truth.nii",
        valid_box=(0, 16, 0, 24, 0, 32), findings=frozenset({"mass"}),
    )  # fmt: skip


def answers_like_the_truth(study: Study) -> Answers:
    bits = study.bits().reshape(2, 8, 3, 8, 4, 8).mean(axis=(1, 3, 5)).reshape(1, 1, -1)
    logits = (bits * 200 - 5).astype(np.float32)
    nothing = np.zeros((1, 1), np.float32)
    return Answers(score_FB=nothing, contrast_FB=nothing, logits_FBP=logits, mass_FB=nothing, grid=GRID)


@pytest.mark.parametrize("flips", [(1, 1, 1), (-1, -1, 1), (1, -1, -1)])
@pytest.mark.parametrize("corner", [(1, 1, 1), (-1, 1, -1), (1, -1, 1)])
def test_right_is_left_front_is_up_and_head_is_up(tmp_path, corner, flips):
    """Whatever the order in the file: x is the patient's right, y front, z head."""
    study = study_with_spot(tmp_path, corner, RAS @ np.diag([*flips, 1]))
    picture = make_picture(study, 0, {"glint": answers_like_the_truth(study)}, 0, EvaluateConfig())
    right, front, head = (step > 0 for step in corner)
    expected = {"axial": (front, right), "coronal": (head, right), "sagittal": (head, front)}
    for plane, (up, left) in expected.items():
        painted = paint_plane(picture, "glint", plane)
        rows, columns = np.nonzero(painted.max(axis=2) > 0.6)
        assert (rows.mean() < painted.shape[0] / 2) == up, plane
        assert (columns.mean() < painted.shape[1] / 2) == left, plane
        row, column = highest_pixel(picture, "glint", plane)
        assert rows.min() - 30 <= row <= rows.max() + 30
        assert columns.min() - 30 <= column <= columns.max() + 30
        assert (row < painted.shape[0] / 2, column < painted.shape[1] / 2) == (up, left)


def test_proportions_are_those_of_the_body():
    """Voxels of 10 x 2 x 5 mm: a picture's sides are millimetres, not voxels."""
    truth = np.zeros((5, 20, 10), bool)
    truth[2, 10, 5] = True
    picture = Picture(
        volume_ZYX=np.zeros((5, 20, 10), np.int16),
        probability_ZYX={"glint": np.zeros((5, 20, 10), np.float32)},
        truth_ZYX=truth,
        spacing_mm=(10.0, 2.0, 5.0),
        window=(-1350.0, 150.0),
    )
    sizes = {plane: paint_plane(picture, "glint", plane).shape[:2] for plane in ("axial", "coronal", "sagittal")}
    assert sizes == {"axial": (36, 45), "coronal": (45, 45), "sagittal": (45, 36)}


def test_planes_pass_through_the_largest_section_of_the_truth():
    truth = np.zeros((6, 6, 6), bool)
    truth[1, 2, 3] = truth[4, 4:, 5] = True
    volume = np.zeros((6, 6, 6), np.int16)
    picture = Picture(volume_ZYX=volume, probability_ZYX={}, truth_ZYX=truth, spacing_mm=(1, 1, 1), window=(0, 1))
    assert picture.centre() == (4, 2, 5)


def test_a_film_is_one_upright_panel_with_the_patients_right_on_the_left(tmp_path):
    """Columns of a film run to the patient's left: what lies in its first rows and columns is shown there."""
    film, bits = np.zeros((48, 64), np.uint16), np.zeros((48, 64), np.uint16)
    film[4:10, 6:20], bits[4:10, 6:20] = 65535, 1
    write_film(tmp_path / "film.png", film)
    write_film(tmp_path / "truth.png", bits)
    study = Study(
        study_id="s", patient_id="p", split="test", volume_path=tmp_path / "film.png", truth_path=tmp_path / "truth.png",
        valid_box=(0, 1, 0, 48, 0, 64), findings=frozenset({"mass"}),
    )  # fmt: skip
    logits = bits.reshape(6, 8, 8, 8).mean(axis=(1, 3)).reshape(1, 1, -1).astype(np.float32) * 20 - 5
    nothing = np.zeros((1, 1), np.float32)
    answers = Answers(score_FB=nothing, contrast_FB=nothing, logits_FBP=logits, mass_FB=nothing, grid=(1, 6, 8))
    config = EvaluateConfig(overlay_window=(0.0, 65535.0))
    picture = make_picture(study, 0, {"glint": answers}, 0, config)
    assert picture.planes == ("coronal",)
    painted = paint_plane(picture, "glint", "coronal")
    rows, columns = np.nonzero(painted.max(axis=2) > 0.6)
    assert rows.max() < painted.shape[0] / 3 and columns.max() < painted.shape[1] / 2
    row, column = highest_pixel(picture, "glint", "coronal")
    assert rows.min() <= row <= rows.max() and columns.min() <= column <= columns.max()

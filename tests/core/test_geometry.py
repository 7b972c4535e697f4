"""Slice order, regularity, affines and orientation, against DICOM's equation and nibabel."""

import nibabel
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.spatial.transform import Rotation

from glint.core.errors import GeometryError
from glint.core.geometry import (
    check_affine,
    nearest_world_axes,
    order_along_normal,
    reorient,
    slice_normal,
    slice_steps,
    spacing_mm_zyx,
    stack_affine,
    voxel_to_world,
    world_to_voxel,
)

SPACING = st.floats(0.3, 8.0)
ANGLES = st.tuples(*[st.floats(-180, 180)] * 3)


def rotation(angles_degrees: tuple[float, float, float]) -> np.ndarray:
    return Rotation.from_euler("zyx", angles_degrees, degrees=True).as_matrix()


def affine_of(angles_degrees: tuple[float, float, float], spacing_mm_xyz: tuple[float, float, float]) -> np.ndarray:
    affine = np.eye(4)
    affine[:3, :3] = rotation(angles_degrees) * spacing_mm_xyz
    affine[:3, 3] = (12.5, -40.25, 7.75)
    return affine


@settings(max_examples=40, deadline=None)
@given(angles=ANGLES, step_mm=SPACING, row_mm=SPACING, column_mm=SPACING, seed=st.integers(0, 99))
def test_the_affine_places_every_pixel_where_dicoms_equation_does(angles, step_mm, row_mm, column_mm, seed):
    row, column, normal = rotation(angles).T
    positions = np.array([3.0, -8.0, 20.0]) + np.arange(6)[:, None] * step_mm * normal
    shuffled = np.random.default_rng(seed).permutation(6)
    order, distances = order_along_normal(positions[shuffled], slice_normal([*row, *column]))
    np.testing.assert_array_equal(shuffled[order], np.arange(6))
    np.testing.assert_allclose(np.diff(distances), step_mm)
    affine = stack_affine(positions, [*row, *column], (row_mm, column_mm))
    for k, i, j in [(0, 0, 0), (5, 4, 9), (2, 7, 1)]:  # slice, row index, column index
        expected = positions[k] + row * column_mm * j + column * row_mm * i
        np.testing.assert_allclose(voxel_to_world(affine, (k, i, j)), expected, atol=1e-9)
    np.testing.assert_allclose(spacing_mm_zyx(affine), (step_mm, row_mm, column_mm))


@settings(max_examples=60, deadline=None)
@given(angles=ANGLES, spacing=st.tuples(SPACING, SPACING, SPACING), signs=st.tuples(*[st.sampled_from((1, -1))] * 3))
def test_reorienting_gives_nibabels_closest_canonical_volume(angles, spacing, signs):
    affine = affine_of(angles, spacing)
    affine[:3, :3] *= signs
    volume = np.arange(2 * 3 * 4).reshape(2, 3, 4)
    oriented, oriented_affine = reorient(volume, affine)
    oracle = nibabel.as_closest_canonical(nibabel.Nifti1Image(volume.T.astype(np.int16), affine))
    np.testing.assert_array_equal(oriented.T, np.asanyarray(oracle.dataobj))
    np.testing.assert_allclose(oriented_affine, oracle.affine, atol=1e-4)


@settings(max_examples=40, deadline=None)
@given(
    angles=ANGLES, spacing=st.tuples(SPACING, SPACING, SPACING), index=arrays(float, (5, 3), elements=st.floats(0, 99))
)
def test_world_and_voxel_maps_undo_each_other(angles, spacing, index):
    affine = affine_of(angles, spacing)
    np.testing.assert_allclose(world_to_voxel(affine, voxel_to_world(affine, index)), index, atol=1e-6)


def test_world_positions_agree_with_nibabel_for_reversed_index_order():
    affine = affine_of((10, 20, 30), (0.7, 0.8, 2.5))
    np.testing.assert_allclose(voxel_to_world(affine, (4, 3, 2)), nibabel.affines.apply_affine(affine, (2, 3, 4)))


def test_a_stack_sheared_by_fifteen_degrees_is_told_as_tilt_of_fifteen_degrees():
    positions = np.arange(5)[:, None] * np.array([0, 2 * np.tan(np.radians(15)), 2.0])
    steps = slice_steps(positions, (0, 0, 1))
    assert steps.tilt_degrees == pytest.approx(15)
    assert steps.step_mm == pytest.approx(2)
    assert steps.largest_shift_mm == pytest.approx(0, abs=1e-12)


def test_drift_is_what_small_unequal_gaps_add_up_to():
    z = np.concatenate([np.arange(11) * 1.0, 10 + np.arange(1, 11) * 1.02])
    steps = slice_steps(np.stack([0 * z, 0 * z, z], axis=1), (0, 0, 1))
    assert steps.largest_drift_mm == pytest.approx(0.1, abs=1e-9)
    assert steps.gaps_mm.max() == pytest.approx(1.02)


def test_every_world_axis_gets_another_index_axis_even_at_45_degrees():
    axes, _ = nearest_world_axes(affine_of((45, 45, 45), (1, 1, 1)))
    assert sorted(axes) == [0, 1, 2]


@pytest.mark.parametrize(
    "affine", [np.eye(3), np.full((4, 4), np.nan), np.diag([1.0, 0, 1, 1]), np.eye(4)[[1, 0, 2, 3]] + np.eye(4)]
)
def test_what_is_no_affine_is_refused(affine):
    with pytest.raises(GeometryError):
        check_affine(affine)


def test_directions_that_are_not_at_a_right_angle_are_refused():
    with pytest.raises(GeometryError, match="right angle"):
        slice_normal((1, 0, 0, 0.5, 0.8, 0))

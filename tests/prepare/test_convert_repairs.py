"""Repairs keep every lesion where it lies in the patient, and are done only when the configuration asks."""

from pathlib import Path

import numpy as np
import pytest
from dicom_builder import chest_between_neck_and_belly_hu, write_ct_series
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from glint.core.config.convert import ConvertConfig
from glint.core.errors import Quarantine
from glint.core.geometry import spacing_mm_zyx, voxel_to_world
from glint.formats.dicom_series import SliceHeader
from glint.prepare.convert import read_series
from glint.prepare.convert.geometry_gate import EVEN, UPRIGHT, pass_gate
from glint.prepare.convert.repair import repair

TO_RAS = np.array([-1.0, -1.0, 1.0])
REPAIRING = ConvertConfig(repair_tilt=True, repair_variable_spacing=True)
AIR_HU = -1000.0


def header(position_mm: np.ndarray, orientation: np.ndarray, spacing_mm_yx: tuple[float, float]) -> SliceHeader:
    return SliceHeader(
        path=Path("slice.dcm"),
        frame=None,
        rows=40,
        columns=44,
        frames=1,
        samples=1,
        position_mm=tuple(position_mm),
        orientation=tuple(orientation),
        spacing_mm_yx=spacing_mm_yx,
        slope=1.0,
        intercept=0.0,
        rescale_type="HU",
        padding=None,
        native=None,
        instance_number=1,
        deflated=False,
        patient="",
        study="",
        series="",
        frame_of_reference="",
    )


def ball_hu(points_mm: np.ndarray, centre_mm: np.ndarray) -> np.ndarray:
    return AIR_HU + 1000 * np.exp(-(((points_mm - centre_mm) / 6.0) ** 2).sum(axis=-1) / 2)


@given(
    tilt_degrees=st.floats(-30, 30),
    gaps_mm=st.lists(st.floats(1.5, 5.0), min_size=24, max_size=24),
    even=st.booleans(),
    spacing_mm_yx=st.tuples(st.floats(1.0, 2.5), st.floats(1.0, 2.5)),
    turn=st.tuples(st.floats(-8, 8), st.floats(-8, 8), st.sampled_from([0.0, 90.0, 180.0, 270.0])),
    lesion_share=st.tuples(*[st.floats(0.4, 0.6)] * 3),
)
@settings(max_examples=60, deadline=None)
def test_a_lesion_keeps_its_place_to_a_quarter_voxel(tilt_degrees, gaps_mm, even, spacing_mm_yx, turn, lesion_share):
    row, column, normal = Rotation.from_euler("xyz", turn, degrees=True).as_matrix().T
    gaps_mm = [2.5] * 24 if even else gaps_mm
    along_mm = np.concatenate([[0], np.cumsum(gaps_mm)])
    stacking = normal + np.tan(np.radians(tilt_degrees)) * column
    positions = np.array([12.0, -80.0, 300.0]) + along_mm[:, None] * stacking
    headers = [header(position, np.r_[row, column], spacing_mm_yx) for position in positions]
    y, x = np.meshgrid(np.arange(40) * spacing_mm_yx[0], np.arange(44) * spacing_mm_yx[1], indexing="ij")
    points = positions[:, None, None] + x[..., None] * row + y[..., None] * column
    share = np.array(lesion_share)
    lesion_mm = (
        positions[0]
        + share[0] * (positions[-1] - positions[0])
        + share[1] * y.max() * column
        + share[2] * x.max() * row
    )
    stack = pass_gate(headers, REPAIRING)
    if not stack.repairs:
        return
    hu, affine = repair(stack, ball_hu(points, lesion_mm), AIR_HU)
    mass = hu - AIR_HU
    found_mm = (voxel_to_world(affine, np.argwhere(mass > 5)) * mass[mass > 5][:, None]).sum(axis=0) / mass[
        mass > 5
    ].sum()
    error_voxels = np.linalg.inv(affine[:3, :3]) @ (found_mm - lesion_mm * TO_RAS)
    assert np.abs(error_voxels).max() < 0.25
    directions = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    np.testing.assert_allclose(directions.T @ directions, np.eye(3), atol=0.01)  # right-angled, or tilt within the gate
    assert hu.min() >= AIR_HU - 1e-3 and hu.max() <= 1e-3


def write_chest(folder: Path, positions_mm: np.ndarray | None = None, **options: object) -> Path:
    hu = options.pop("hu_ZYX", chest_between_neck_and_belly_hu())
    for file in write_ct_series(folder, hu_ZYX=hu, positions_mm=positions_mm, **options):
        file.rename(file.with_name(file.name + ".dcm"))
    return folder


def tilted(degrees: float, z_mm: np.ndarray) -> np.ndarray:
    return np.stack([0 * z_mm - 14.4, -9.6 + np.tan(np.radians(degrees)) * z_mm, z_mm], axis=1)


def test_a_tilted_series_is_set_upright_only_where_the_configuration_asks(tmp_path):
    folder = write_chest(tmp_path, tilted(15, np.arange(24) * 2.0))
    with pytest.raises(Quarantine, match="gantry_tilt"):
        read_series(folder, ConvertConfig())
    volume = read_series(folder, REPAIRING)
    assert volume.repairs == (UPRIGHT,)
    np.testing.assert_allclose(volume.affine[:3, 2], (0, 0, 2), atol=1e-6)
    # Slice 20 was taken 20 · 2 mm · tan 15° lower down the table: 13.4 pixels of 0.8 mm.
    index_YX = np.array([24 + 20 * 2 * np.tan(np.radians(15)) / 0.8, 30])
    low = np.floor(index_YX).astype(int)
    weight = index_YX[0] - low[0]
    before = chest_between_neck_and_belly_hu()[20].astype(float)
    between = (1 - weight) * volume.hu_ZYX[20, low[0], 30] + weight * volume.hu_ZYX[20, low[0] + 1, 30]
    assert abs(between - before[23:26, 30].mean()) < 40


def test_uneven_slices_are_interpolated_at_their_true_places_only_where_the_configuration_asks(tmp_path):
    z_mm = np.concatenate([np.arange(12) * 2.0, 22 + 3.0 * np.arange(1, 13)])
    positions = tilted(0, z_mm)
    ramp = np.broadcast_to(chest_between_neck_and_belly_hu()[12], (24, 48, 64)) + (10 * z_mm)[:, None, None]
    folder = write_chest(tmp_path, positions, hu_ZYX=ramp.astype(np.int16))
    with pytest.raises(Quarantine, match="variable_spacing"):
        read_series(folder, ConvertConfig())
    volume = read_series(folder, REPAIRING)
    assert volume.repairs == (EVEN,)
    steps = np.diff(volume.hu_ZYX.astype(float), axis=0)
    assert spacing_mm_zyx(volume.affine)[0] == pytest.approx(2.0, rel=0.05)
    np.testing.assert_allclose(steps, 10 * spacing_mm_zyx(volume.affine)[0], atol=1.01)  # rounded twice


def test_a_missing_slice_is_never_interpolated(tmp_path):
    z_mm = np.delete(np.arange(25) * 2.0, 11)
    with pytest.raises(Quarantine, match="missing_slice"):
        read_series(write_chest(tmp_path, tilted(0, z_mm)), REPAIRING)


def test_the_real_tilted_head_with_uneven_slices_is_repaired_and_then_refused_as_no_chest(real_data, tmp_path):
    for file in (real_data / "1_ct_dicom/dcm_qa_ct_ge").glob("*.dcm"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    with pytest.raises(Quarantine, match="little_lung"):
        read_series(tmp_path, REPAIRING)
    volume = read_series(tmp_path, REPAIRING.model_copy(update={"min_lung_fraction": 0.0}))
    assert volume.repairs[-2:] == (UPRIGHT, EVEN)
    directions = volume.affine[:3, :3] / np.linalg.norm(volume.affine[:3, :3], axis=0)
    np.testing.assert_allclose(directions.T @ directions, np.eye(3), atol=2e-3)


@pytest.mark.parametrize(
    ("plane", "orientation"), [("sagittal", (0, 1, 0, 0, 0, -1)), ("coronal", (1, 0, 0, 0, 0, -1))]
)
def test_sagittal_and_coronal_acquisitions_are_turned_to_axial_order(tmp_path, plane, orientation):
    chest = chest_between_neck_and_belly_hu(num_slices=40, rows=48, columns=64)  # z up, y to the back, x to the left
    turned = chest.transpose(2, 0, 1)[:, ::-1] if plane == "sagittal" else chest.transpose(1, 0, 2)[:, ::-1]
    normal = np.cross(orientation[:3], orientation[3:])
    turned = turned if normal @ (1, 1, 0) > 0 else turned[::-1]
    write_chest(tmp_path, hu_ZYX=turned, orientation=orientation, spacing_mm=(1.5, 1.2, 0.9), origin_mm=(5.0, 6.0, 7.0))
    with pytest.raises(Quarantine, match="not_axial"):
        read_series(tmp_path, ConvertConfig())
    volume = read_series(tmp_path, ConvertConfig(planes=("axial", plane)))
    assert volume.repairs == ("turned_to_axial",)
    np.testing.assert_array_equal(volume.hu_ZYX, chest[:, ::-1, ::-1])  # y to the front, x to the right
    assert spacing_mm_zyx(volume.affine) == pytest.approx((1.2, 0.9, 1.5) if plane == "sagittal" else (1.2, 1.5, 0.9))
    highest_first_pixel = volume.affine @ (63, 47, 39, 1)  # x, y, z: the far right, front, upper corner
    assert highest_first_pixel[2] == pytest.approx(7.0, abs=1e-4)

"""Resampling: positions, antialiasing, ranges, masks and the shard, against scipy, nibabel and formulas."""

import itertools
from pathlib import Path

import nibabel
import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nibabel.processing import resample_from_to
from scipy import ndimage
from scipy.spatial.transform import Rotation

from glint.cli.__main__ import main
from glint.core.config.resample import ResampleConfig
from glint.core.errors import GeometryError
from glint.core.geometry import spacing_mm_zyx, voxel_to_world, world_to_voxel
from glint.core.provenance import sha256_file
from glint.core.sums import write_sums
from glint.formats.manifest import manifest_frame, read_manifest, write_manifest
from glint.formats.nifti import load_model_volume, write_nifti
from glint.prepare.resample import resample_mask, resample_volume, select_series, window_channels
from glint.prepare.resample.kernels import axis_weights, sample_places

TURNS = st.tuples(st.permutations(range(3)), st.tuples(*[st.sampled_from((1, -1))] * 3))
SPACINGS = st.tuples(st.floats(1.2, 4.0), st.floats(1.0, 2.0), st.floats(1.0, 2.0))


def scan_affine(spacing_zyx, size_zyx, turn, slant_degrees=0.0) -> np.ndarray:
    """Affine of a scan centred on (5, -20, 300) mm whose index axes x, y, z run along the turned world axes."""
    axes, signs = turn
    directions = np.eye(3)[:, list(axes)] * signs
    directions = Rotation.from_euler("x", slant_degrees, degrees=True).as_matrix() @ directions
    affine = np.eye(4)
    affine[:3, :3] = directions * spacing_zyx[::-1]
    affine[:3, 3] = np.array([5.0, -20, 300]) - affine[:3, :3] @ ((np.array(size_zyx[::-1]) - 1) / 2)
    return affine


def worlds(affine: np.ndarray, size_zyx: tuple[int, ...]) -> np.ndarray:
    return voxel_to_world(affine, np.stack(np.indices(size_zyx), axis=-1))


def lesion_hu(world_mm: np.ndarray, centre_mm: np.ndarray) -> np.ndarray:
    """Air with a lesion of 2000 HU: elongated, thus different along every axis."""
    widths = np.array([5.0, 7.0, 6.0])
    return np.rint(-1000 + 2000 * np.exp(-0.5 * (((world_mm - centre_mm) / widths) ** 2).sum(-1))).astype(np.int16)


def centroid_mm(volume_ZYX: np.ndarray, affine: np.ndarray) -> np.ndarray:
    weight = np.maximum(volume_ZYX.astype(float) + 900, 0)
    return (worlds(affine, volume_ZYX.shape) * weight[..., None]).sum((0, 1, 2)) / weight.sum()


@settings(max_examples=15, deadline=None)
@given(spacing=SPACINGS, turn=TURNS, slant=st.sampled_from((0.0, 8.0)), target=st.tuples(*[st.floats(1.5, 4.0)] * 3))
def test_a_lesion_stays_where_it_is_in_the_patient(spacing, turn, slant, target):
    size = tuple(int(96 / edge) for edge in spacing)
    affine = scan_affine(spacing, size, turn, slant)
    centre = np.array([17.3, -29.1, 306.7])
    volume = lesion_hu(worlds(affine, size), centre)
    grid = tuple(int(90 / edge) for edge in target)
    made = resample_volume(volume, affine, spacing_mm=target, grid=grid)
    np.testing.assert_allclose(spacing_mm_zyx(made.affine), target, rtol=1e-5)
    moved_voxels = (centroid_mm(made.volume_ZYX, made.affine) - centre) / np.array(target)[::-1]
    assert np.abs(moved_voxels).max() < 0.1
    directions = made.affine[:3, :3] / np.linalg.norm(made.affine[:3, :3], axis=0)
    assert np.diag(directions).min() > 0.98  # x right, y anterior, z superior, up to the slant


def test_all_48_axis_orders_of_one_patient_give_one_volume():
    size, spacing = (20, 22, 24), (3.0, 2.0, 1.5)
    reference = None
    for axes in itertools.permutations(range(3)):
        for signs in itertools.product((1, -1), repeat=3):
            sizes = [np.array(size)[::-1][axis] for axis in axes][::-1]
            spacings = [np.array(spacing)[::-1][axis] for axis in axes][::-1]
            affine = scan_affine(spacings, sizes, (axes, signs))
            volume = lesion_hu(worlds(affine, tuple(sizes)), np.array([9.0, -16, 306]))
            made = resample_volume(volume, affine, spacing_mm=(4, 4, 4), grid=(16, 12, 10))
            reference = reference or made
            assert np.abs(made.volume_ZYX.astype(int) - reference.volume_ZYX).max() <= 1
            np.testing.assert_allclose(made.affine, reference.affine, atol=1e-4)
            assert made.valid_box == reference.valid_box


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_wave_of_4_mm_keeps_at_most_15_percent_at_3_mm(axis):
    size, wave_mm = (64, 64, 64), np.arange(64)
    volume = np.broadcast_to(
        np.expand_dims(1000 * np.sin(2 * np.pi * wave_mm / 4 + 0.3), [a for a in range(3) if a != axis]), size
    )
    target = tuple(3.0 if a == axis else 1.0 for a in range(3))
    made = resample_volume(volume.astype(np.int16), np.eye(4), spacing_mm=target, grid=(16, 16, 16))
    assert np.abs(made.volume_ZYX).max() <= 150


@settings(max_examples=60, deadline=None)
@given(num_in=st.integers(4, 80), num_out=st.integers(1, 80), ratio=st.floats(0.2, 6.0))
def test_weights_are_an_average_centred_on_the_place_itself(num_in, num_out, ratio):
    places = sample_places(num_in, num_out, ratio)
    places = places[(places >= -0.5) & (places <= num_in - 0.5)]
    weights = axis_weights(num_in, places, ratio)
    assert (weights >= 0).all()
    np.testing.assert_allclose(weights.sum(axis=1), 1, atol=1e-5)
    width = max(1.0, ratio)
    inside = (places >= width) & (places <= num_in - 1 - width)
    np.testing.assert_allclose((weights @ np.arange(num_in))[inside], places[inside], atol=1e-3)


def test_antialiasing_is_a_triangle_as_wide_as_the_target_voxel():
    volume = np.random.default_rng(0).integers(-1000, 1000, (3, 3, 60)).astype(np.int16)
    made = resample_volume(volume, np.eye(4), spacing_mm=(1, 1, 3), grid=(3, 3, 20))
    triangle = ndimage.convolve1d(volume.astype(float), np.array([1, 2, 3, 2, 1]) / 9, axis=2, mode="constant")
    np.testing.assert_allclose(made.volume_ZYX[..., 1:-1], triangle[..., 1::3][..., 1:-1], atol=0.51)


@settings(max_examples=15, deadline=None)
@given(target=st.tuples(*[st.floats(0.3, 1.0)] * 3), seed=st.integers(0, 99))
def test_axes_that_grow_are_linear_as_scipys(target, seed):
    volume = np.random.default_rng(seed).integers(-1000, 1000, (8, 9, 10)).astype(np.int16)
    made = resample_volume(volume, np.eye(4), spacing_mm=target, grid=(12, 12, 12))
    places = np.moveaxis(world_to_voxel(np.eye(4), worlds(made.affine, (12, 12, 12))), -1, 0)
    expected = ndimage.map_coordinates(volume.astype(float), places, order=1, mode="nearest")
    z0, z1, y0, y1, x0, x1 = made.valid_box
    box = (slice(z0, z1), slice(y0, y1), slice(x0, x1))
    np.testing.assert_allclose(made.volume_ZYX[box], expected[box], atol=0.6)


@settings(max_examples=25, deadline=None)
@given(spacing=SPACINGS, target=st.tuples(*[st.floats(0.5, 6.0)] * 3), seed=st.integers(0, 99))
def test_no_value_leaves_the_range_of_the_scan(spacing, target, seed):
    volume = np.random.default_rng(seed).choice(np.array([-700, 55, 1200], np.int16), (7, 11, 9))
    affine = scan_affine(spacing, volume.shape, ((0, 1, 2), (1, 1, 1)))
    made = resample_volume(volume, affine, spacing_mm=target, grid=(9, 9, 9))
    z0, z1, y0, y1, x0, x1 = made.valid_box
    inside = made.volume_ZYX[z0:z1, y0:y1, x0:x1]
    assert inside.min(initial=0) >= -700
    assert inside.max(initial=0) <= 1200
    padded = np.ones(made.volume_ZYX.shape, bool)
    padded[z0:z1, y0:y1, x0:x1] = False
    assert (made.volume_ZYX[padded] == -1024).all()


def test_the_valid_box_holds_the_voxels_whose_centres_lie_in_the_scan():
    made = resample_volume(np.zeros((10, 20, 40), np.int16), np.eye(4), spacing_mm=(2, 2, 2), grid=(9, 8, 20))
    assert made.valid_box == (2, 7, 0, 8, 0, 20)
    centre_in, centre_out = voxel_to_world(np.eye(4), (4.5, 9.5, 19.5)), voxel_to_world(made.affine, (4, 3.5, 9.5))
    np.testing.assert_allclose(centre_out, centre_in)


def test_padding_and_metal_are_clipped_before_they_are_averaged():
    volume = np.full((4, 4, 40), 40, np.int16)
    volume[..., :20] = -3024
    made = resample_volume(volume, np.eye(4), spacing_mm=(1, 1, 2), grid=(4, 4, 20))
    assert made.volume_ZYX.min() == -1024
    # triangle over four voxels: 1/8, 3/8, 3/8, 1/8 of -1024 and 40
    np.testing.assert_array_equal(made.volume_ZYX[0, 0, 8:12], [-1024, -891, -93, 40])


def blob(world_mm: np.ndarray) -> np.ndarray:
    return (((world_mm - (9.0, -15.0, 304.0)) / (22.0, 18.0, 20.0)) ** 2).sum(-1) < 1


@settings(max_examples=10, deadline=None)
@given(spacing=SPACINGS, turn=TURNS, slant=st.sampled_from((0.0, 10.0)))
def test_a_mask_lands_on_its_image(spacing, turn, slant):
    size = tuple(int(80 / edge) for edge in spacing)
    affine = scan_affine(spacing, size, turn, slant)
    truth = blob(worlds(affine, size))
    image = resample_volume(np.where(truth, 1000, -1000), affine, spacing_mm=(3, 3, 3), grid=(26, 26, 26))
    bits = resample_mask((truth * 0x8001).astype(np.uint16), affine, image.affine, (26, 26, 26))
    assert set(np.unique(bits)) == {0, 0x8001}
    from_image, from_mask = image.volume_ZYX > 0, bits > 0
    assert 2 * (from_image & from_mask).sum() / (from_image.sum() + from_mask.sum()) > 0.98
    shift = np.array(ndimage.center_of_mass(from_image)) - ndimage.center_of_mass(from_mask)
    # Two hard edges, each rounded to voxels of its own: single masks lie up to 0.083 off, their mean within 0.05.
    assert np.abs(shift).max() < 0.12
    analytic = blob(worlds(image.affine, (26, 26, 26)))
    assert 2 * (analytic & from_mask).sum() / (analytic.sum() + from_mask.sum()) > 0.95


@pytest.mark.parametrize(("turned", "agreeing"), [(12.0, 0.999), (0.0, 0.93)])
def test_a_finer_grid_gets_nibabels_nearest_neighbour_also_across_a_rotation(turned, agreeing):
    coarse = np.random.default_rng(1).integers(0, 2, (5, 5, 5)).astype(np.uint8)
    mask = coarse.repeat(3, 0).repeat(3, 1).repeat(3, 2)
    affine = scan_affine((2.1, 1.3, 1.7), mask.shape, ((0, 1, 2), (-1, -1, 1)), turned)
    target = scan_affine((1.0, 1.1, 1.2), (12, 13, 14), ((0, 1, 2), (1, 1, 1)))
    oracle = resample_from_to(nibabel.Nifti1Image(mask.T, affine), ((14, 13, 12), target), order=0, mode="constant")
    ours = resample_mask(mask, affine, target, (12, 13, 14))
    # scipy takes what lies in the outer half of the outermost voxels for outside: compare where it sees the mask
    seen = np.asanyarray(oracle.dataobj).T > 0
    assert seen.mean() > 0.3
    assert (ours == np.asanyarray(oracle.dataobj).T)[seen].mean() > agreeing


def test_windows_become_channels_between_0_and_1():
    channels = window_channels(np.array([[[-1400, -600, 40, 900]]], np.int16), [(-1350, 150), (-160, 240)])
    assert channels.dtype == np.float32
    np.testing.assert_allclose(channels[:, 0, 0], [[0, 0.5, 1390 / 1500, 1], [0, 0, 0.5, 1]], atol=1e-6)


def row(series_id: str, num_slices: int, spacing_z_mm: float, **values: object) -> dict[str, object]:
    common = {"study_id": "s1", "patient_id": "p1", "status": "ok", "input_digest": "0", "params_digest": "0"}
    shape = {"series_id": series_id, "shape_zyx": [num_slices, 20, 20], "spacing_mm": [spacing_z_mm, 3.0, 3.0]}
    return common | shape | values


@pytest.mark.parametrize(
    ("rows", "chosen"),
    [
        ([row("a", 60, 5.0), row("b", 295, 1.0)], "b"),  # 300 and 295 mm cover alike: thin slices win
        ([row("a", 60, 5.0), row("b", 100, 1.0)], "a"),  # 100 mm is not the chest
        ([row("b", 60, 5.0), row("a", 60, 5.0)], "a"),
        ([row("a", 58, 5.0), row("b", 60, 5.0)], "b"),
    ],
)
def test_the_thinnest_series_of_those_that_cover_the_chest_stands_for_the_study(rows, chosen):
    assert select_series(rows, 0.1)["series_id"] == chosen


@pytest.mark.parametrize(
    ("volume", "affine", "spacing"),
    [
        (np.zeros((3, 3)), np.eye(4), (1, 1, 1)),
        (np.zeros((3, 0, 3)), np.eye(4), (1, 1, 1)),
        (np.zeros((3, 3, 3)), np.zeros((4, 4)), (1, 1, 1)),
        (np.zeros((3, 3, 3)), np.eye(4), (1, 0, 1)),
    ],
)
def test_what_is_no_volume_is_refused(volume, affine, spacing):
    with pytest.raises(GeometryError):
        resample_volume(volume, affine, spacing_mm=spacing, grid=(2, 2, 2))


@pytest.mark.parametrize("wrong", [{"pad_hu": -2000}, {"clip_hu": (100, -100)}, {"spacing_mm": (0, 1, 1)}])
def test_an_illegal_combination_of_settings_is_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        ResampleConfig(**wrong)


def write_shard(folder: Path, rows: list[dict[str, object]]) -> Path:
    for entry in rows:
        if entry["status"] == "ok":
            z, y, x = entry["shape_zyx"]
            affine = scan_affine(entry["spacing_mm"], (z, y, x), ((0, 1, 2), (-1, -1, 1)))
            entry["path"] = f"volumes/{entry['study_id']}/{entry['series_id']}.nii"
            write_nifti(folder / entry["path"], lesion_hu(worlds(affine, (z, y, x)), np.array([9.0, -15, 302])), affine)
    write_manifest(folder / "manifest.parquet", manifest_frame(rows, "convert"), "convert")
    return folder / "manifest.parquet"


CONFIG = '{"grid": [16, 16, 24]}'


def resample(manifest: Path, out: Path, *options: str) -> pl.DataFrame:
    assert main(["resample", "--manifest", str(manifest), "--out", str(out), "--config", CONFIG, *options]) == 0
    return read_manifest(out, "resample")


def test_a_shard_has_one_row_a_study_and_its_files_say_the_same_as_its_manifest(tmp_path):
    refused = {"status": "quarantined", "reason": "gantry_tilt"}
    rows = [
        row("r1", 12, 5.0),
        row("r2", 30, 2.0),
        row("r3", 30, 2.0, **refused),
        row("r4", 9, 2.0, study_id="s2", **refused),
    ]
    made = resample(write_shard(tmp_path / "03", rows), tmp_path / "04" / "manifest.parquet")
    assert made["study_id"].to_list() == ["s1", "s2"]
    assert made["status"].to_list() == ["ok", "quarantined"]
    assert made["reason"].to_list() == [None, "gantry_tilt"]
    assert made["series_id"].to_list() == ["r2", None]
    assert made["not_selected"].to_list() == [["r1"], None]
    volume, affine = load_model_volume(tmp_path / "04" / made["path"][0])
    assert volume.shape == (16, 16, 24)
    np.testing.assert_array_equal(affine.ravel(), made["affine"][0].to_list())
    z0, z1, y0, y1, x0, x1 = made["valid_box"][0]
    assert (z1 - z0, y1 - y0, x1 - x0) == (16, 16, 16)  # 60 mm at 4 mm, padded only along x
    assert (volume[:, :, :x0] == -1024).all()
    assert (volume[:, :, x1:] == -1024).all()
    np.testing.assert_allclose(centroid_mm(volume, affine), (9, -15, 302), atol=1)


def test_two_runs_give_equal_bytes_and_an_absent_volume_is_one_line(tmp_path, capsys):
    manifest = write_shard(tmp_path / "03", [row("r1", 12, 5.0), row("r2", 30, 2.0, study_id="s2")])
    resample(manifest, tmp_path / "a" / "manifest.parquet")
    resample(manifest, tmp_path / "b" / "manifest.parquet")
    files = sorted(path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*") if path.is_file())
    assert len(files) == 4
    assert all((tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes() for file in files)
    (tmp_path / "03" / "volumes/s1/r1.nii").unlink()
    capsys.readouterr()
    assert main(["resample", "--manifest", str(manifest), "--out", str(tmp_path / "c" / "manifest.parquet")]) == 1
    assert "volumes/s1/r1.nii" in capsys.readouterr().err
    assert not (tmp_path / "c" / "manifest.parquet").exists()


def test_a_volume_that_is_not_the_one_that_was_noted_stops_the_shard(tmp_path, capsys):
    manifest = write_shard(tmp_path / "03", [row("r1", 12, 5.0), row("r2", 30, 2.0, study_id="s2")])
    volumes = sorted((tmp_path / "03").rglob("*.nii"))
    write_sums(tmp_path / "03", {path.relative_to(tmp_path / "03").as_posix(): sha256_file(path) for path in volumes})
    resample(manifest, tmp_path / "a" / "manifest.parquet")
    content = bytearray(volumes[1].read_bytes())
    content[-1] ^= 1
    volumes[1].write_bytes(content)
    capsys.readouterr()
    assert main(["resample", "--manifest", str(manifest), "--out", str(tmp_path / "b" / "manifest.parquet")]) == 1
    assert f"{volumes[1]} is another file" in capsys.readouterr().err
    assert not (tmp_path / "b" / "manifest.parquet").exists()


def test_the_real_lung_mask_lands_on_the_lungs(real_data):
    nrrd = pytest.importorskip("nrrd")
    folder = real_data / "6_ct_nifti_masks" / "cip_ct64"
    hu, header = nrrd.read(str(folder / "ct-64.nrrd"))
    lungs, _ = nrrd.read(str(folder / "wholeLung-64.nrrd"))
    affine = np.eye(4)
    affine[:3] = np.diag([-1, -1, 1]) @ np.column_stack([*header["space directions"], header["space origin"]])
    made = resample_volume(hu.T, affine, spacing_mm=(5, 5, 5), grid=(64, 56, 56))
    mask = resample_mask(lungs.T, affine, made.affine, (64, 56, 56)) > 0
    assert np.median(made.volume_ZYX[mask]) == pytest.approx(np.median(hu[lungs > 0]), abs=20)
    assert (mask.sum() * 125) == pytest.approx((lungs > 0).sum() * abs(np.linalg.det(affine[:3, :3])), rel=0.02)

"""The way to the model's grid and back: properties, public resamplers as oracles, presets, real masks."""

from pathlib import Path

import nibabel
import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from scipy import ndimage
from scipy.spatial.transform import Rotation

from glint.core.config.grids import GRID_PRESETS, WINDOWS_HU
from glint.core.config.resample import ResampleConfig
from glint.core.config.schema import read_config
from glint.core.config.teacher import TeacherConfig
from glint.core.errors import ConfigError, GeometryError
from glint.core.geometry import spacing_mm_zyx, voxel_to_world
from glint.prepare.resample import (
    resample_box,
    resample_labels,
    resample_mask,
    resample_volume,
    to_original,
    valid_mask,
    window_channels,
)
from glint.prepare.resample.kernels import apply_weights, axis_weights, sample_places

TURNS = st.tuples(st.permutations(range(3)), st.tuples(*[st.sampled_from((1, -1))] * 3))
SPACINGS = st.tuples(st.floats(0.9, 3.5), st.floats(0.8, 2.0), st.floats(0.8, 2.0))
TARGETS = st.tuples(st.floats(1.2, 4.0), st.floats(1.2, 3.0), st.floats(1.2, 3.0))
EXTENTS_MM = st.tuples(*[st.floats(90, 110)] * 3)
CENTRE_MM = np.array([5.0, -20, 300])


def scan_affine(spacing_zyx, size_zyx, turn=((0, 1, 2), (1, 1, 1)), turned_degrees=0.0) -> np.ndarray:
    axes, signs = turn
    directions = Rotation.from_euler("x", turned_degrees, degrees=True).as_matrix() @ (np.eye(3)[:, list(axes)] * signs)
    affine = np.eye(4)
    affine[:3, :3] = directions * spacing_zyx[::-1]
    affine[:3, 3] = CENTRE_MM - affine[:3, :3] @ ((np.array(size_zyx[::-1]) - 1) / 2)
    return affine


def worlds(affine: np.ndarray, size_zyx: tuple[int, ...]) -> np.ndarray:
    return voxel_to_world(affine, np.stack(np.indices(size_zyx), axis=-1))


def ball(world_mm: np.ndarray, centre_mm: np.ndarray, edge_mm: float) -> np.ndarray:
    """Share of a smooth-edged ellipsoid, 1 within; a plain threshold at a half gives its mask."""
    radius = np.linalg.norm((world_mm - centre_mm) / (31.0, 26.0, 28.5), axis=-1)
    return np.clip((1 - radius) * 28 / edge_mm + 0.5, 0, 1)


def hard_mask_bound(radius_voxels: float, roundings: int = 1) -> float:
    """How far (voxels) rounding its faces to whole voxels may move the centre of a ball, beside a soft mask's none.

    Every row of voxels ends at the face nearest to where the surface cuts it: an error d, at most 1/2, on an arm h from
    the centre moves the centre by h d / V, V = 4/3 pi R^3. No way of rounding avoids it; a box, whose rows all err alike,
    moves by 1/2. On a ball they differ: around a pole the surface lies u = rho^2 / 2R below it, so that d is a saw-tooth
    of u with mean 0 and a partial integral of at most 1/8, hence 2 pi R^2 / 8 / V = 0.1875 / R for a pole, 0.375 / R for
    two; elsewhere d is spread evenly (variance 1/12), and the sum of h^2 d^2 over all rows, pi R^4 / 12, makes a standard
    deviation of 0.122 / R, of which three are allowed. Roundings add up, their spread parts as squares.
    """
    return float(0.375 * roundings + 3 * 0.122 * np.sqrt(roundings)) / radius_voxels


def centre_of(weights_ZYX: np.ndarray, affine: np.ndarray) -> np.ndarray:
    total = weights_ZYX.sum(dtype=float)
    return np.tensordot(weights_ZYX.astype(float), worlds(affine, weights_ZYX.shape), 3) / total


@settings(max_examples=20, deadline=None, phases=(Phase.generate,))  # shrinking a volume takes minutes
@given(spacing=SPACINGS, target=TARGETS, extent=EXTENTS_MM, turn=TURNS, turned=st.sampled_from((0.0, 9.0)))
def test_a_lesion_and_its_mask_keep_place_and_mass_there_and_back(spacing, target, extent, turn, turned):
    size = tuple(int(mm / edge) for mm, edge in zip(extent, spacing, strict=True))
    affine = scan_affine(spacing, size, turn, turned)
    centre = CENTRE_MM + np.array([1.3, -0.7, 2.1])
    share = ball(worlds(affine, size), centre, edge_mm=8)
    hu = np.rint(-1000 + 1040 * share).astype(np.int16)
    grid = tuple(int(88 / edge) for edge in target)
    made = resample_volume(hu, affine, spacing_mm=target, grid=grid)
    image = (made.volume_ZYX + 1000).clip(0) / 1040
    mask = resample_mask((share > 0.5).astype(np.uint8), affine, made.affine, grid)
    voxel_mm = np.array(spacing_mm_zyx(made.affine))[::-1]
    coarse_mm = np.maximum(voxel_mm, max(spacing))
    assert (np.abs(centre_of(image, made.affine) - centre) / voxel_mm).max() < 0.02
    hard = (share > 0.5).astype(np.uint8)
    # the mask as shares of voxels is as true as the image; cut to whole voxels it moves by what that must cost
    soft = resample_volume(hard * np.int16(1000), affine, spacing_mm=target, grid=grid).volume_ZYX.clip(0)
    assert (np.abs(centre_of(soft, made.affine) - centre_of(hard, affine)) / coarse_mm).max() < 0.05
    radius = 26 / coarse_mm.max()
    assert (np.abs(centre_of(mask, made.affine) - centre) / coarse_mm).max() < hard_mask_bound(radius)
    # the mass of the lesion, HU above air times volume, is kept as well
    volumes = [abs(np.linalg.det(one[:3, :3])) for one in (made.affine, affine)]
    assert image.sum() * volumes[0] == pytest.approx(share.sum() * volumes[1], rel=0.01)
    back = to_original(image.astype(np.float32), made.affine, affine, size, interpolation="linear")
    mask_back = to_original(mask, made.affine, affine, size) > 0
    assert back.shape == mask_back.shape == size
    assert (np.abs(centre_of(back, affine) - centre) / voxel_mm).max() < 0.02
    assert (np.abs(centre_of(mask_back, affine) - centre) / coarse_mm).max() < hard_mask_bound(radius, roundings=2)
    assert 2 * (mask_back & (share > 0.5)).sum() / (mask_back.sum() + (share > 0.5).sum()) > 0.9


@pytest.mark.parametrize("target", [(2.0, 2.0, 2.0), (2.6, 2.7, 3.0), (3.0, 1.5, 4.0)])
@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (3.2, 1.0, 1.4), (2.0, 1.5, 1.0)])
def test_masks_are_not_shifted_against_images_by_more_than_a_twentieth_of_a_voxel_there_or_back(spacing, target):
    rng, size = np.random.default_rng(5), tuple(int(70 / edge) for edge in spacing)
    affine = scan_affine(spacing, size, ((1, 2, 0), (-1, 1, -1)))
    grid = tuple(int(64 / edge) for edge in target)
    coarse_mm = np.maximum(np.array(target)[::-1], max(spacing))
    there, back = [], []
    for centre in CENTRE_MM + rng.uniform(-2, 2, (12, 3)):
        share = ball(worlds(affine, size), centre, edge_mm=14) > 0.999  # a radius of some 23 mm
        image = resample_volume(share * 1000, affine, spacing_mm=target, grid=grid)
        mask = resample_mask(share, affine, image.affine, grid)
        place = centre_of(image.volume_ZYX.clip(0), image.affine)
        there.append((centre_of(mask, image.affine) - place) / coarse_mm)
        back.append((centre_of(to_original(mask, image.affine, affine, size), affine) - place) / coarse_mm)
    assert np.abs(np.mean(there, axis=0)).max() < 0.05
    assert np.abs(np.mean(back, axis=0)).max() < 0.05


@settings(max_examples=20, deadline=None)
@given(spacing=SPACINGS, target=TARGETS, turn=TURNS, slope=st.tuples(*[st.floats(-6, 6)] * 3))
def test_a_ramp_comes_out_as_the_same_ramp_and_goes_back_as_it(spacing, target, turn, slope):
    size = tuple(int(60 / edge) for edge in spacing)
    affine = scan_affine(spacing, size, turn)

    def ramp(world_mm: np.ndarray) -> np.ndarray:
        return 100 + (world_mm - CENTRE_MM) @ slope

    # one wider than the kernel reaches: there, the ends of the scan play no part
    grid = tuple(int(60 / edge) - 4 for edge in target)
    made = resample_volume(ramp(worlds(affine, size)), affine, spacing_mm=target, grid=grid)
    expected = ramp(worlds(made.affine, grid))
    np.testing.assert_allclose(made.volume_ZYX, expected, atol=0.52)
    assert made.volume_ZYX.mean() == pytest.approx(expected.mean(), abs=0.1)
    back = to_original(expected, made.affine, affine, size, interpolation="linear", outside=np.nan)
    index_ZYX = worlds(np.linalg.inv(made.affine) @ affine, size)[..., ::-1]
    reach = np.maximum(1.0, np.array(sorted(spacing)[-1]) / np.array(target))
    inside = ((index_ZYX > reach) & (index_ZYX < np.array(grid) - 1 - reach)).all(axis=-1)
    assert inside.any()
    np.testing.assert_allclose(back[inside], ramp(worlds(affine, size))[inside], atol=0.02)


@pytest.mark.parametrize("phase", [0.0, 0.7, 1.4])
def test_without_antialiasing_the_4_mm_wave_stays_and_with_it_it_goes(phase):
    wave = np.broadcast_to(1000 * np.sin(2 * np.pi * np.arange(120) / 4 + phase), (4, 4, 120)).astype(np.int16)
    kept = {
        antialias: np.abs(
            resample_volume(
                wave, np.eye(4), spacing_mm=(1, 1, 3), grid=(4, 4, 36), antialias=antialias
            ).volume_ZYX.astype(int)
        ).max()
        for antialias in (True, False)
    }
    assert kept[True] <= 150
    assert kept[False] >= 700


def test_any_number_of_axes_and_any_memory_order_give_the_same_values():
    rng = np.random.default_rng(0)
    film = rng.integers(0, 60000, (37, 53)).astype(np.uint16)
    weights = [axis_weights(n, sample_places(n, m, n / m), n / m) for n, m in zip(film.shape, (11, 70), strict=True)]
    expected = weights[0].astype(float) @ film @ weights[1].T.astype(float)
    for array in (film, np.asfortranarray(film), film[::-1][::-1]):
        out = np.empty((11, 70), np.float32)
        apply_weights(array, weights, out=out)
        np.testing.assert_allclose(out, expected, rtol=1e-5)


def test_simpleitk_gives_the_same_values_where_nothing_shrinks():
    sitk = pytest.importorskip("SimpleITK")
    rng = np.random.default_rng(3)
    volume = rng.integers(-1000, 1000, (14, 16, 18)).astype(np.int16)
    affine = scan_affine((2.0, 1.5, 1.7), volume.shape)
    made = resample_volume(volume, affine, spacing_mm=(1.3, 1.1, 1.7), grid=(18, 20, 16))

    def itk(array: np.ndarray, matrix: np.ndarray) -> object:
        image = sitk.GetImageFromArray(array)
        # ITK's frame is ours as long as both images use it
        image.SetSpacing(np.linalg.norm(matrix[:3, :3], axis=0).tolist())
        image.SetOrigin(matrix[:3, 3].tolist())
        return image

    oracle = sitk.Resample(
        itk(volume.astype(np.float32), affine), itk(made.volume_ZYX, made.affine), sitk.Transform(), sitk.sitkLinear
    )
    np.testing.assert_allclose(
        made.volume_ZYX[1:-1, 1:-1, 1:-1], sitk.GetArrayFromImage(oracle)[1:-1, 1:-1, 1:-1], atol=0.6
    )


@pytest.mark.slow  # importing MONAI takes seconds
def test_monai_gives_the_same_values_where_nothing_shrinks():
    from monai.data import MetaTensor
    from monai.transforms import Spacing

    volume = np.random.default_rng(4).integers(-1000, 1000, (12, 13, 14)).astype(np.float64)
    affine = scan_affine((2.0, 1.5, 1.5), volume.shape)
    spacer = Spacing(pixdim=(1.0, 1.5, 1.25), mode="bilinear", padding_mode="border", dtype=np.float64)
    moved = spacer(MetaTensor(volume.T[None], affine=affine))
    theirs = np.asarray(moved)[0].T
    ours = to_original(volume, affine, np.asarray(moved.affine), theirs.shape, interpolation="linear")
    np.testing.assert_allclose(ours[1:-1, 1:-1, 1:-1], theirs[1:-1, 1:-1, 1:-1], atol=0.01)


@pytest.mark.parametrize("turn", [((0, 1, 2), (1, 1, 1)), ((2, 0, 1), (-1, 1, -1))])
def test_a_box_lands_where_the_corners_of_its_mask_land_and_comes_back(turn):
    size = (40, 44, 48)
    affine = scan_affine((1.0, 1.0, 1.0), size, turn)
    mask = np.zeros(size, np.uint8)
    mask[9:27, 12:30, 6:36] = 1
    made = resample_volume(mask, affine, spacing_mm=(3, 3, 3), grid=(20, 20, 20))
    box = resample_box((9, 27, 12, 30, 6, 36), affine, made.affine)
    lit = np.argwhere(resample_mask(mask, affine, made.affine, (20, 20, 20)))
    for axis in range(3):
        assert lit[:, axis].min() == pytest.approx(box[2 * axis], abs=0.51)
        assert lit[:, axis].max() + 1 == pytest.approx(box[2 * axis + 1], abs=0.51)
    np.testing.assert_allclose(resample_box(box, made.affine, affine), (9, 27, 12, 30, 6, 36), atol=1e-4)
    with pytest.raises(GeometryError, match="empty"):
        resample_box((3, 3, 0, 1, 0, 1), affine, affine)


def test_the_label_that_fills_most_of_a_voxel_wins():
    labels = np.zeros((4, 4, 12), np.uint16)
    labels[..., 0:4], labels[..., 4:7], labels[..., 7:9] = 700, 3, 41
    affine = scan_affine((1, 1, 1), labels.shape)
    made = resample_volume(labels, affine, spacing_mm=(1, 1, 3), grid=(4, 4, 4))
    on_grid = resample_labels(labels, affine, made.affine, (4, 4, 4))
    np.testing.assert_array_equal(on_grid[0, 0], [700, 3, 41, 0])
    assert on_grid.dtype == np.uint16
    np.testing.assert_array_equal(to_original(on_grid, made.affine, affine, labels.shape)[0, 0, 3:6], [3, 3, 3])


def test_what_the_grid_does_not_reach_stays_outside_on_the_way_back():
    affine = scan_affine((1.0, 1.0, 1.0), (30, 30, 30))
    made = resample_volume(np.zeros((30, 30, 30)), affine, spacing_mm=(2, 2, 2), grid=(10, 10, 10))
    back = to_original(np.ones((10, 10, 10), np.uint8), made.affine, affine, (30, 30, 30), outside=7)
    assert set(np.unique(back)) == {1, 7}
    np.testing.assert_array_equal(back == 1, valid_mask((5, 25, 5, 25, 5, 25), (30, 30, 30)))


@pytest.mark.parametrize("name", sorted(GRID_PRESETS))
def test_a_preset_gives_its_grid_its_spacing_and_its_padding(name):
    preset, config = GRID_PRESETS[name], ResampleConfig(preset=name)
    assert (config.spacing_mm, config.grid) == (preset.spacing_mm, preset.grid)
    assert ResampleConfig.model_validate_json(config.model_dump_json()) == config
    windows = TeacherConfig(windows=preset.windows).windows
    assert windows == tuple(WINDOWS_HU[window] for window in preset.windows)
    # a small scan, so that the large grids cost nothing: its middle is tissue, its outside is padding, zero in every window
    made = resample_volume(
        np.full((8, 8, 8), 40, np.int16),
        scan_affine((6.0, 6.0, 6.0), (8, 8, 8)),
        spacing_mm=config.spacing_mm,
        grid=config.grid,
        clip_hu=config.clip_hu,
        pad_hu=config.pad_hu,
        antialias=config.antialias,
    )
    assert made.volume_ZYX.shape == preset.grid
    np.testing.assert_allclose(spacing_mm_zyx(made.affine), preset.spacing_mm, rtol=1e-6)
    middle = tuple(size // 2 for size in preset.grid)
    np.testing.assert_allclose(voxel_to_world(made.affine, (np.array(preset.grid) - 1) / 2), CENTRE_MM, atol=1e-4)
    assert made.volume_ZYX[middle] == 40
    corner = window_channels(made.volume_ZYX[:1, :1, :1], windows)
    assert (corner == 0).all()


def test_published_grids_are_those_of_the_papers():
    """Numbers from the sources named in the registry, in the authors' order x, y, z."""
    published = {
        "ct_clip": ((0.75, 0.75, 1.5), (480, 480, 240)),
        "merlin": ((1.5, 1.5, 3), (224, 224, 160)),
        "colipri": ((2, 2, 2), (192, 192, 192)),
    }
    for name, (spacing_xyz, grid_xyz) in published.items():
        assert GRID_PRESETS[name].spacing_mm[::-1] == spacing_xyz
        assert GRID_PRESETS[name].grid[::-1] == grid_xyz
        assert GRID_PRESETS[name].clip_hu == (-1000, 1000)
    for name in ("dinov3", "vjepa"):
        depth, height, width = GRID_PRESETS[name].grid
        assert height == width and height % 16 == 0 and depth % 2 == 0
        assert len(GRID_PRESETS[name].windows) == 3


def test_a_preset_and_another_value_contradict_each_other(tmp_path):
    with pytest.raises(ValidationError, match="preset merlin sets grid"):
        ResampleConfig(preset="merlin", grid=(8, 8, 8))
    with pytest.raises(ValidationError, match="known are ct_clip"):
        ResampleConfig(preset="merlot")
    folder = Path(__file__).resolve().parents[2] / "config"
    made = read_config(
        folder, {"resample": {"ct": {"preset": "vjepa"}}, "teacher": {"ct": {"windows": ["lung", "full"]}}}
    )
    assert made.resample.ct.grid == (64, 256, 256)
    assert made.teacher.ct.windows == ((-1350, 150), (-1000, 1000))
    with pytest.raises(ConfigError, match="no window 'bone'"):
        read_config(folder, {"teacher": {"ct": {"windows": ["bone"]}}})


def test_a_published_teacher_gets_the_windows_of_its_preset_or_one_line_that_names_them():
    folder = Path(__file__).resolve().parents[2] / "config"

    def given(windows: list[str], preset: str | None = "dinov3") -> dict[str, object]:
        published = {"name": "dinov3", "source": "path", "location": "/weights", "windows": windows}
        grid = {"preset": preset} if preset else {"grid": [72, 256, 256]}
        return {"cohort": "none", "resample": {"ct": grid}, "teacher": {"ct": published}}

    assert len(read_config(folder, given(["lung", "mediastinum", "full"])).teacher.ct.windows) == 3
    assert len(read_config(folder, given(["full"], preset=None)).teacher.ct.windows) == 1
    for wrong in (["full"], ["mediastinum", "lung", "full"]):
        with pytest.raises(ConfigError, match=r"set them to \[lung, mediastinum, full\]"):
            read_config(folder, given(wrong))
    with pytest.raises(ConfigError, match="2 windows: dinov3 takes 3 channels"):
        read_config(folder, given(["lung", "full"]))


def dice(first: np.ndarray, second: np.ndarray) -> float:
    return 2 * (first & second).sum() / (first.sum() + second.sum())


def test_real_lungs_come_back_from_the_grid(real_data):
    nrrd = pytest.importorskip("nrrd")
    folder = real_data / "6_ct_nifti_masks" / "cip_ct64"
    lungs, header = nrrd.read(str(folder / "wholeLung-64.nrrd"))
    affine = np.eye(4)
    affine[:3] = np.diag([-1, -1, 1]) @ np.column_stack([*header["space directions"], header["space origin"]])
    truth = lungs.T > 0
    made = resample_volume(np.zeros(truth.shape, np.int16), affine, spacing_mm=(2, 2, 2), grid=(170, 136, 136))
    mask = resample_mask(truth, affine, made.affine, made.volume_ZYX.shape)
    assert dice(to_original(mask, made.affine, affine, truth.shape), truth) >= 0.97
    share = to_original(mask.astype(np.float32), made.affine, affine, truth.shape, interpolation="linear")
    assert dice(share >= 0.5, truth) >= 0.97


def test_real_organs_keep_their_mean_hu(real_data):
    folder = real_data / "6_ct_nifti_masks" / "totalsegmentator_example"
    image = nibabel.load(next(folder.rglob("example_ct_sm.nii*")))
    labels = nibabel.load(next(folder.rglob("example_seg.nii*")))
    hu, label_ZYX = np.asarray(image.dataobj).T, np.asarray(labels.dataobj).T.astype(np.uint8)
    made = resample_volume(hu, image.affine, spacing_mm=(3.5, 2.5, 2.5), grid=(28, 150, 150))
    on_grid = resample_labels(label_ZYX, labels.affine, made.affine, made.volume_ZYX.shape)
    sizes = np.bincount(label_ZYX.ravel())
    large = [label for label in np.flatnonzero(sizes) if label and sizes[label] > 2000]
    compared = 0
    for label in large:
        # without the rim, where a voxel holds two organs; bone and gut differ within by more than they could move
        within = [ndimage.binary_erosion(volume == label) for volume in (label_ZYX, on_grid)]
        if within[1].sum() > 200 and hu[within[0]].std() < 40:
            compared += 1
            assert made.volume_ZYX[within[1]].mean() == pytest.approx(hu[within[0]].mean(), abs=5), label
    assert compared >= 4

"""The geometry gate, the second reader and the shard, on built series and on real ones."""

import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pydicom
import pytest
from dicom_builder import write_ct_series
from pydicom.dataset import Dataset
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
)

from glint.cli.__main__ import main
from glint.core.config.convert import ConvertConfig
from glint.core.errors import Quarantine
from glint.core.provenance import sha256_file
from glint.core.sums import write_sums
from glint.formats.dicom_series import read_series_headers, read_volume_hu
from glint.formats.manifest import manifest_frame, read_manifest, write_manifest
from glint.formats.nifti import StoredVolume, read_nifti
from glint.prepare.convert import read_series
from glint.prepare.convert.archival_check import check_with_dcm2niix, compare_volumes, run_dcm2niix, shown_slices
from glint.prepare.convert.geometry_gate import REASONS, pass_gate
from glint.prepare.convert.padding import padding_mask
from glint.prepare.convert.plausible_hu import lung_fraction, require_plausible_hu

ANY_LENGTH = ConvertConfig(min_slices=2)


def chest_hu(num_slices: int = 18, rows: int = 24, columns: int = 32) -> np.ndarray:
    """Air, an ellipse of tissue, two lungs, and one bright voxel column that marks a corner of the first slice."""
    y, x = np.meshgrid(np.linspace(-1, 1, rows), np.linspace(-1, 1, columns), indexing="ij")
    hu = np.full((num_slices, rows, columns), -1000, np.int16)
    hu[:, (x / 0.9) ** 2 + (y / 0.8) ** 2 < 1] = 40
    hu[:, ((abs(x) - 0.4) / 0.3) ** 2 + (y / 0.5) ** 2 < 1] = -850
    hu += np.arange(num_slices, dtype=np.int16)[:, None, None]
    hu[0, 2, 3] = 1500
    return hu


def write_series(folder: Path, **options: object) -> Path:
    """A series as stage 02 leaves it: `<folder>/<instance>.dcm`."""
    options.setdefault("hu_ZYX", chest_hu())
    for file in write_ct_series(folder, **options):
        file.rename(file.with_name(file.name + ".dcm"))
    return folder


def edit_slices(**values: Callable[[int], object]) -> Callable[[Dataset, int], None]:
    """An `edit` that sets each keyword to a function of the slice index."""

    def edit(dataset: Dataset, index: int) -> None:
        for keyword, value in values.items():
            setattr(dataset, keyword, value(index))

    return edit


def positions(z_mm: list[float] | np.ndarray, slant: float = 0.0) -> np.ndarray:
    z = np.asarray(z_mm, dtype=float)
    return np.stack([np.full_like(z, -14.4), -9.6 + slant * z, z], axis=1)


EVERY_2_MM = np.arange(18) * 2.0
REFUSED = {
    "one_slice": {"hu_ZYX": chest_hu(1)},
    "mixed_patients": {"edit": edit_slices(PatientID=lambda index: f"MRN{index == 7}")},
    "mixed_series": {"edit": edit_slices(FrameOfReferenceUID=lambda index: f"1.2.{index > 7:d}")},
    "multi_frame": {"NumberOfFrames": "2"},
    "not_grayscale": {"SamplesPerPixel": 3},
    "missing_geometry": {"ImagePositionPatient": None},
    "mixed_size": {"edit": edit_slices(Rows=lambda index: 24 - (index == 3))},
    "mixed_spacing": {"edit": edit_slices(PixelSpacing=lambda index: [0.8, 0.9 + 0.01 * (index > 8)])},
    "mixed_orientation": {
        "edit": edit_slices(ImageOrientationPatient=lambda index: [1, 0, 0, 0, (1, 0)[index == 5], (0, -1)[index == 5]])
    },
    "rescale_absent": {"RescaleIntercept": None},
    "not_hounsfield": {"RescaleType": "Z_EFF"},
    "not_axial": {"orientation": (1, 0, 0, 0, 0, -1)},
    "not_a_volume": {"positions_mm": positions([10.0] * 18)},
    "duplicate_position": {"positions_mm": positions([0, 0, *EVERY_2_MM[1:17]])},
    "gantry_tilt": {"positions_mm": positions(EVERY_2_MM, slant=np.tan(np.radians(15)))},
    "missing_slice": {"positions_mm": positions([*EVERY_2_MM[:9], *(EVERY_2_MM[9:] + 2)])},
    "variable_spacing": {"positions_mm": positions([*EVERY_2_MM[:9], *(16 + np.arange(1, 10) * 3.5)])},
    "shifted_slices": {
        "edit": edit_slices(ImagePositionPatient=lambda index: [-14.4 + 3.0 * (index == 7), -9.6, 2.0 * index])
    },
    "too_few_slices": {"hu_ZYX": chest_hu(15)},
}


def test_every_reason_of_the_gate_has_a_case_here():
    assert REFUSED.keys() == REASONS.keys()


@pytest.mark.parametrize("reason", REFUSED)
def test_the_gate_refuses_with_the_reason_that_applies(tmp_path, reason):
    headers = read_series_headers(write_series(tmp_path, **REFUSED[reason]))
    with pytest.raises(Quarantine) as refusal:
        pass_gate(headers, ConvertConfig())
    assert refusal.value.reason == reason
    assert "\n" not in refusal.value.detail


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"PixelSpacing": [0.0, 0.8]}, "missing_geometry"),
        ({"ImageOrientationPatient": [1, 0, 0, 1, 0, 0]}, "missing_geometry"),
        ({"RescaleSlope": "0"}, "rescale_absent"),
        ({"positions_mm": positions([*EVERY_2_MM[:9], 16.05, *EVERY_2_MM[9:17]])}, "variable_spacing"),
        ({"positions_mm": positions(np.cumsum([2.0] * 9 + [2.024] * 9))}, "variable_spacing"),
        ({"positions_mm": positions([*EVERY_2_MM[:11], *(20 + np.arange(1, 8) * 3.5)])}, "variable_spacing"),
        ({"orientation": (0, 1, 0, 0, 0, -1)}, "not_axial"),
    ],
)
def test_unusable_values_count_as_absent_and_small_unevenness_as_uneven(tmp_path, wrong, reason):
    with pytest.raises(Quarantine) as refusal:
        pass_gate(read_series_headers(write_series(tmp_path, **wrong)), ConvertConfig(drift_tolerance=0.05))
    assert refusal.value.reason == reason


def test_jitter_within_the_stated_tolerance_is_accepted(tmp_path):
    jitter = 0.006 * (-1.0) ** np.arange(18)  # gaps differ by 0.024 mm; 0.01 · 2 mm + 0.005 mm is allowed
    stack = pass_gate(
        read_series_headers(write_series(tmp_path, positions_mm=positions(EVERY_2_MM + jitter))), ConvertConfig()
    )
    assert len(stack.headers) == 18


def test_slices_are_ordered_by_position_whatever_name_number_and_direction(tmp_path):
    hu = chest_hu()
    write_series(
        tmp_path,
        hu_ZYX=hu[::-1],
        positions_mm=positions(EVERY_2_MM[::-1]),
        edit=edit_slices(InstanceNumber=lambda index: (index * 7) % 18),
    )
    volume = read_series(tmp_path, ConvertConfig())
    np.testing.assert_array_equal(volume.hu_ZYX, hu)
    np.testing.assert_allclose(volume.affine @ (3, 2, 0, 1), (14.4 - 3 * 0.9, 9.6 - 2 * 0.8, 0, 1), atol=1e-4)


@pytest.mark.parametrize(
    "orientation",
    [
        (1, 0, 0, 0, 1, 0),
        (-1, 0, 0, 0, -1, 0),
        (0, 1, 0, -1, 0, 0),
        (1, 0, 0, 0, -1, 0),
        (1, 0, 0, 0, np.cos(0.3), np.sin(0.3)),
    ],
    ids=["supine", "prone", "decubitus", "feet_first", "oblique"],
)
def test_dcm2niix_agrees_with_us_in_every_patient_position(tmp_path, orientation):
    write_series(tmp_path, orientation=orientation)
    volume = read_series(tmp_path, ConvertConfig())
    np.testing.assert_array_equal(volume.hu_ZYX, chest_hu())
    corner = np.array([-14.4, -9.6, -100]) + 0.9 * 3 * np.array(orientation[:3]) + 0.8 * 2 * np.array(orientation[3:])
    np.testing.assert_allclose((volume.affine @ (3, 2, 0, 1))[:3], corner * (-1, -1, 1), atol=1e-4)


@pytest.mark.parametrize("syntax", [RLELossless, JPEGLSLossless, JPEG2000Lossless])
def test_compressed_series_come_out_with_the_same_hu(tmp_path, syntax):
    hu = chest_hu(16, 64, 64)
    for file in write_series(tmp_path, hu_ZYX=hu).iterdir():
        dataset = pydicom.dcmread(file)
        dataset.compress(syntax, generate_instance_uid=False)
        dataset.save_as(file)
    np.testing.assert_array_equal(read_series(tmp_path, ConvertConfig()).hu_ZYX, hu)


def test_a_deflated_series_comes_out_with_the_same_hu(tmp_path):
    write_series(tmp_path, transfer_syntax=DeflatedExplicitVRLittleEndian)
    np.testing.assert_array_equal(read_series(tmp_path, ConvertConfig()).hu_ZYX, chest_hu())


def test_every_slice_is_rescaled_with_its_own_numbers(tmp_path):
    def edit(dataset: Dataset, index: int) -> None:
        dataset.RescaleIntercept = str(-1024 - 10 * (index % 3))
        dataset.PixelData = (np.frombuffer(dataset.PixelData, "<u2") + 10 * (index % 3)).astype("<u2").tobytes()

    np.testing.assert_array_equal(
        read_series(write_series(tmp_path, edit=edit), ConvertConfig()).hu_ZYX,
        chest_hu(),
    )


def test_fractional_slopes_are_applied_before_rounding(tmp_path):
    folder = write_series(
        tmp_path, RescaleSlope="0.5", RescaleIntercept="-1024", hu_ZYX=2 * (chest_hu() + 1024) - 1024 + 1
    )
    exact = read_volume_hu(pass_gate(read_series_headers(folder), ConvertConfig()).headers)
    np.testing.assert_allclose(exact, chest_hu() + 0.5)
    np.testing.assert_array_equal(read_series(folder, ConvertConfig()).hu_ZYX, np.rint(chest_hu() + 0.5))


def test_a_slice_cut_off_anywhere_never_becomes_a_volume(tmp_path):
    folder = write_series(tmp_path / "whole")
    content = (folder / "IM0008.dcm").read_bytes()
    for end in np.random.default_rng(3).integers(1, len(content), 20):
        (folder / "IM0008.dcm").write_bytes(content[:end])
        with pytest.raises(Quarantine) as refusal:
            read_series(folder, ConvertConfig())
        assert refusal.value.reason in {"unreadable_header", "unreadable_pixels", "missing_geometry", "rescale_absent"}


@pytest.mark.parametrize(
    ("wrong_hu", "reason"),
    [
        (chest_hu() + 1024, "hu_implausible"),
        (chest_hu() - 1024, "hu_implausible"),
        (np.where(chest_hu() < -900, -4000, chest_hu()), "hu_implausible"),
        (np.where(chest_hu() < -800, np.where(chest_hu() < -900, -1000, 40), chest_hu()), "little_lung"),
    ],
    ids=["not rescaled", "rescaled twice", "below any padding", "no lung"],
)
def test_values_that_are_no_hu_of_a_chest_are_refused(wrong_hu, reason):
    with pytest.raises(Quarantine) as refusal:
        require_plausible_hu(wrong_hu, ConvertConfig())
    assert refusal.value.reason == reason


def test_padding_outside_the_scanners_circle_is_no_reason_to_refuse():
    hu = chest_hu()
    hu[:, :2, :2] = -3024
    require_plausible_hu(hu, ConvertConfig())


def test_lung_is_counted_within_the_body_only():
    hu = chest_hu()
    noisy_air = np.where(hu < -990, -900, hu)
    assert lung_fraction(noisy_air) == pytest.approx(lung_fraction(hu), abs=1e-3)
    assert 0.1 < lung_fraction(hu) < 0.6


def test_dcm2niix_failing_or_repairing_is_told_as_disagreement(tmp_path):
    folder = write_series(tmp_path / "series", **REFUSED["missing_slice"])
    (tmp_path / "out").mkdir()
    with pytest.raises(Quarantine, match="converter_disagrees"):
        run_dcm2niix(folder, tmp_path / "out")


def stored(values_ZYX: np.ndarray, affine: np.ndarray) -> StoredVolume:
    return StoredVolume(stored_ZYX=values_ZYX, slope=1, intercept=0, affine=affine)


def test_two_readings_agree_across_flips_and_differ_by_a_voxel_a_micrometre_or_a_slice():
    hu, affine = chest_hu(), np.diag([-0.9, -0.8, 2.0, 1.0])
    flipped = affine.copy()
    flipped[1, 1], flipped[1, 3] = 0.8, -0.8 * 23
    compare_volumes(hu, affine, stored(hu[:, ::-1], flipped))
    changed = hu.copy()
    changed[4, 5, 6] += 1
    moved, stretched = affine.copy(), affine.copy()
    moved[0, 3] += 0.002
    stretched[2, 2] += 0.002
    for other, other_affine in [
        (changed, affine),
        (hu, moved),
        (hu, stretched),
        (hu[:-1], affine),
        (hu[:, ::-1], affine),
    ]:
        with pytest.raises(Quarantine, match="converter_disagrees"):
            compare_volumes(hu, affine, stored(other, other_affine))


def test_of_a_long_native_series_dcm2niix_sees_a_part_and_still_finds_a_wrong_value_and_a_wrong_step(tmp_path):
    hu = np.resize(chest_hu(18, 12, 16), (131, 12, 16))
    stack = pass_gate(read_series_headers(write_series(tmp_path, hu_ZYX=hu)), ConvertConfig())
    volume = read_volume_hu(stack.headers)
    assert shown_slices(stack.headers) == 16
    check_with_dcm2niix(stack.headers, volume, stack.affine)
    for wrong, affine in ((volume + 1, stack.affine), (volume, stack.affine * (1, 1, 1.001, 1))):
        with pytest.raises(Quarantine, match="converter_disagrees"):
            check_with_dcm2niix(stack.headers, wrong, affine)
    decoded = [replace(header, native=None) for header in stack.headers]
    other_rescale = [replace(stack.headers[0], intercept=-1000.0), *stack.headers[1:]]
    assert shown_slices(decoded) == shown_slices(other_rescale) == 131


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian])
def test_pixels_that_need_no_decoder_are_read_from_their_place_as_pydicom_decodes_them(tmp_path, syntax):
    (headers, *_), file = read_series_headers(write_series(tmp_path, transfer_syntax=syntax)), tmp_path / "IM0001.dcm"
    assert headers.native is not None
    content = file.read_bytes()
    pixels = np.frombuffer(content, "<u2", 24 * 32, headers.native.offset).reshape(24, 32)
    np.testing.assert_array_equal(pixels, pydicom.dcmread(file).pixel_array)
    file.write_bytes(content[:-1])  # a pixel short: no longer read from there, and told by pydicom
    assert read_series_headers(tmp_path)[0].native is None


def write_shard(folder: Path, series: dict[str, dict[str, object]], *, quarantined: tuple[str, ...] = ()) -> Path:
    """A stage-02 shard: one study and patient, a series per entry."""
    rows = []
    for number, (name, options) in enumerate(series.items(), 1):
        path = Path("dicom", "s1", name)
        write_series(folder / path, series=number, **options)
        rows.append({"study_id": "s1", "patient_id": "p1", "series_id": name, "status": "ok", "path": str(path)})
    for name in quarantined:
        rows.append(
            {"study_id": "s1", "patient_id": "p1", "series_id": name, "status": "quarantined", "reason": "secondary"}
        )
    rows = [row | {"input_digest": "0", "params_digest": "0"} for row in rows]
    write_manifest(folder / "manifest.parquet", manifest_frame(rows, "deidentify_images"), "deidentify_images")
    return folder / "manifest.parquet"


def convert(manifest: Path, out: Path, *options: str) -> pl.DataFrame:
    assert main(["convert", "--manifest", str(manifest), "--out", str(out), *options]) == 0
    return read_manifest(out, "convert")


def test_a_bad_series_is_told_and_the_good_ones_go_on(tmp_path):
    series = {"r1": {}, "r2": REFUSED["gantry_tilt"], "r3": {"spacing_mm": (1.5, 0.7, 0.7)}}
    manifest = write_shard(tmp_path / "02", series, quarantined=("r4",))
    made = convert(manifest, tmp_path / "03" / "manifest.parquet")
    assert made["status"].to_list() == ["ok", "quarantined", "ok", "quarantined"]
    assert made["reason"].to_list() == [None, "gantry_tilt", None, "secondary"]
    assert made["path"].to_list() == ["volumes/s1/r1.nii", None, "volumes/s1/r3.nii", None]
    assert made["shape_zyx"].to_list() == [[18, 24, 32], None, [18, 24, 32], None]
    np.testing.assert_allclose(made["spacing_mm"][2], (1.5, 0.7, 0.7), rtol=1e-6)
    volume, affine = read_nifti(tmp_path / "03" / made["path"][2])
    np.testing.assert_array_equal(volume, chest_hu())
    np.testing.assert_allclose(np.diag(affine), (-0.7, -0.7, 1.5, 1), rtol=1e-6)


def test_two_runs_and_two_workers_give_equal_bytes(tmp_path):
    manifest = write_shard(tmp_path / "02", {"r1": {}, "r2": {"spacing_mm": (1.5, 0.7, 0.7)}})
    convert(manifest, tmp_path / "a" / "manifest.parquet")
    convert(manifest, tmp_path / "b" / "manifest.parquet", "--workers", "2")
    files = sorted(path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*") if path.is_file())
    assert len(files) == 4
    assert all((tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes() for file in files)


def test_the_input_digest_follows_the_pixels(tmp_path):
    first = convert(write_shard(tmp_path / "02a", {"r1": {}}), tmp_path / "a" / "manifest.parquet")
    second = convert(
        write_shard(tmp_path / "02b", {"r1": {"hu_ZYX": chest_hu() + 1}}), tmp_path / "b" / "manifest.parquet"
    )
    assert first["input_digest"][0] != second["input_digest"][0]


@pytest.mark.parametrize(("harm", "told"), [("changed", "is another file"), ("absent", "is no longer there")])
def test_a_slice_that_is_not_the_one_that_was_noted_stops_the_shard(tmp_path, capsys, harm, told):
    """A checkout that left other slices than its manifest speaks of must not be converted under its name."""
    manifest = write_shard(tmp_path / "02", {"r1": {}, "r2": {}})
    slices = sorted((tmp_path / "02").rglob("*.dcm"))
    noted = {path.relative_to(tmp_path / "02").as_posix(): sha256_file(path) for path in slices}
    write_sums(tmp_path / "02", noted)
    convert(manifest, tmp_path / "a" / "manifest.parquet")
    slices[7].write_bytes(slices[8].read_bytes()) if harm == "changed" else slices[7].unlink()
    capsys.readouterr()
    assert main(["convert", "--manifest", str(manifest), "--out", str(tmp_path / "b" / "manifest.parquet")]) == 1
    said = capsys.readouterr().err
    assert f"{slices[7]} {told}" in said and "Traceback" not in said
    assert not (tmp_path / "b" / "manifest.parquet").exists()


def test_the_volumes_sums_are_what_sha256sum_finds(tmp_path):
    convert(
        write_shard(tmp_path / "02", {"r1": {}, "r2": REFUSED["gantry_tilt"]}), tmp_path / "03" / "manifest.parquet"
    )
    checked = subprocess.run(
        ["sha256sum", "--check", "--strict", "sha256.txt"],
        cwd=tmp_path / "03",
        capture_output=True,
        text=True,
        check=True,
    )
    assert checked.stdout == "volumes/s1/r1.nii: OK\n"


def test_an_absent_manifest_is_one_line_and_exit_code_1(tmp_path, capsys):
    assert (
        main(["convert", "--manifest", str(tmp_path / "no.parquet"), "--out", str(tmp_path / "o" / "m.parquet")]) == 1
    )
    assert capsys.readouterr().err.count("\n") == 1


def staged(source: Path, target: Path) -> Path:
    """The DICOM files of `source`, named as stage 02 names them."""
    target.mkdir()
    for number, file in enumerate(sorted(path for path in source.iterdir() if path.is_file())):
        if file.suffix not in {".md", ".txt", ".json", ".png"}:
            shutil.copy(file, target / f"i{number:04d}.dcm")
    return target


def test_the_real_whole_chest_equals_its_nrrd(real_data, tmp_path):
    nrrd = pytest.importorskip("nrrd")
    volume = read_series(staged(real_data / "1_ct_dicom/cip_ct64/ct-64Dicom", tmp_path / "series"), ConvertConfig())
    expected, header = nrrd.read(str(real_data / "6_ct_nifti_masks/cip_ct64/ct-64.nrrd"))
    np.testing.assert_array_equal(volume.hu_ZYX.T, expected)
    lps = np.column_stack([*header["space directions"], header["space origin"]])
    np.testing.assert_allclose(volume.affine[:3], np.diag([-1, -1, 1]) @ lps, atol=1e-3)


@pytest.mark.parametrize(
    ("series", "reason"),
    [
        ("dcm_qa_ct_ge", "gantry_tilt"),
        ("dicom2nifti_failing/gantrytilting/001", "gantry_tilt"),
        ("dicom2nifti_failing/sliceincrement/001", "missing_slice"),
        ("dicom_numpy_dupes", "duplicate_position"),
        ("lungmask_minimal", "too_few_slices"),
        ("ibsi_sts_ge/STS_002/CT/image", "little_lung"),
        ("totalsegmentator_dicom/example_ct_dicom", "little_lung"),
    ],
)
def test_the_real_series_that_are_no_chest_volume_are_refused(real_data, tmp_path, series, reason):
    with pytest.raises(Quarantine) as refusal:
        read_series(staged(real_data / "1_ct_dicom" / series, tmp_path / "series"), ConvertConfig())
    assert refusal.value.reason == reason


def test_every_real_single_slice_is_refused_as_one_slice(real_data, tmp_path):
    files = sorted((real_data / "1_ct_dicom/tcia_covid19_ny_sbu_slices").rglob("*.dcm"))
    assert files
    for number, file in enumerate(files):
        folder = tmp_path / str(number)
        folder.mkdir()
        shutil.copy(file, folder / "i.dcm")
        with pytest.raises(Quarantine) as refusal:
            read_series(folder, ANY_LENGTH)
        assert refusal.value.reason == "one_slice"


def test_the_real_slices_with_padding_of_minus_2048_become_air_where_nothing_was_measured(real_data, tmp_path):
    headers = pass_gate(
        read_series_headers(staged(real_data / "1_ct_dicom/lungmask_minimal", tmp_path / "s")), ANY_LENGTH
    )
    hu = read_volume_hu(headers.headers)
    assert hu.min() == -2048
    mask = padding_mask(headers.headers, hu, hu.min(), ANY_LENGTH)
    assert (hu[mask] == -2048).all()
    assert hu[~mask].min() > ANY_LENGTH.padding_below_hu  # noise in air, -1051, stays

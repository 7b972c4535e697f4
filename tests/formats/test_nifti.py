"""NIfTI files, against nibabel."""

import nibabel
import numpy as np
import pytest

from glint.core.errors import GeometryError, InputError
from glint.formats.nifti import load_model_volume, read_nifti, stored_affine, write_nifti

AFFINE = np.array([[0.0, -0.7, 0, 90.123456789], [0.8, 0, 0, -12.3], [0, 0, 2.5, -400.7], [0, 0, 0, 1]])


def volume_ZYX(dtype: type = np.int16) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 200, (4, 5, 6)).astype(dtype)


@pytest.mark.parametrize("dtype", [np.int16, np.uint16, np.uint8])
def test_nibabel_reads_the_same_values_and_the_same_place(tmp_path, dtype):
    volume = volume_ZYX(dtype)
    write_nifti(tmp_path / "v.nii", volume, AFFINE)
    image = nibabel.load(tmp_path / "v.nii")
    assert image.get_data_dtype() == dtype
    assert (image.dataobj.slope, image.dataobj.inter) == (1, 0)
    np.testing.assert_array_equal(np.asanyarray(image.dataobj)[5, 4, 3], volume[3, 4, 5])
    np.testing.assert_array_equal(np.asanyarray(image.dataobj), volume.T)
    np.testing.assert_array_equal(image.affine, stored_affine(AFFINE))
    np.testing.assert_allclose(image.header.get_qform(), AFFINE, atol=1e-4)
    assert image.header.get_xyzt_units()[0] == "mm"


def test_what_is_written_is_read_back_with_the_affine_of_the_record(tmp_path):
    write_nifti(tmp_path / "v.nii", volume_ZYX(), AFFINE)
    volume, affine = load_model_volume(tmp_path / "v.nii")
    np.testing.assert_array_equal(volume, volume_ZYX())
    np.testing.assert_array_equal(affine, stored_affine(AFFINE))
    assert volume.flags.c_contiguous


def test_equal_volumes_give_equal_bytes_whatever_their_memory_order(tmp_path):
    write_nifti(tmp_path / "a.nii", volume_ZYX(), AFFINE)
    write_nifti(tmp_path / "b.nii", np.asfortranarray(volume_ZYX()).astype(">i2"), AFFINE)
    assert (tmp_path / "a.nii").read_bytes() == (tmp_path / "b.nii").read_bytes()


@pytest.mark.parametrize(("slope", "intercept", "dtype"), [(1, -1024, np.int32), (0.5, -1000.25, np.float32)])
def test_the_scaling_of_a_compressed_file_is_applied(tmp_path, slope, intercept, dtype):
    image = nibabel.Nifti1Image(volume_ZYX().T, AFFINE)
    image.header.set_slope_inter(slope, intercept)
    image.to_filename(tmp_path / "v.nii.gz")
    stored = nibabel.load(tmp_path / "v.nii.gz")
    volume, _ = read_nifti(tmp_path / "v.nii.gz")
    assert volume.dtype == dtype
    np.testing.assert_allclose(volume.T, stored.get_fdata(), atol=1e-4)


def test_a_file_without_orientation_is_refused(tmp_path):
    image = nibabel.Nifti1Image(volume_ZYX().T, None)
    image.header.set_sform(None, 0)
    image.header.set_qform(None, 0)
    image.to_filename(tmp_path / "v.nii")
    with pytest.raises(GeometryError, match="orientation"):
        read_nifti(tmp_path / "v.nii")


@pytest.mark.parametrize("content", [b"", b"not a volume", None])
def test_a_damaged_or_absent_file_is_told_in_one_line(tmp_path, content):
    if content is not None:
        (tmp_path / "v.nii").write_bytes(content)
    with pytest.raises(InputError) as error:
        read_nifti(tmp_path / "v.nii")
    assert "\n" not in str(error.value)


def test_a_file_cut_short_is_refused(tmp_path):
    write_nifti(tmp_path / "v.nii", volume_ZYX(), AFFINE)
    content = (tmp_path / "v.nii").read_bytes()
    (tmp_path / "v.nii").write_bytes(content[:-10])
    with pytest.raises(InputError):
        read_nifti(tmp_path / "v.nii")


def test_a_model_volume_must_be_int16(tmp_path):
    write_nifti(tmp_path / "v.nii", volume_ZYX(np.uint8), AFFINE)
    with pytest.raises(InputError, match="int16"):
        load_model_volume(tmp_path / "v.nii")


@pytest.mark.parametrize("volume", [np.zeros((2, 2), np.int16), np.zeros((2, 2, 2), np.float32)])
def test_only_three_axes_of_16_or_8_bits_are_written(tmp_path, volume):
    with pytest.raises(GeometryError):
        write_nifti(tmp_path / "v.nii", volume, AFFINE)
    assert not list(tmp_path.iterdir())

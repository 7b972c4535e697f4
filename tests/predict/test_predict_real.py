"""On the real whole chest: a known lung mask goes to the model's grid and back, and into a DICOM SEG on its slices."""

import shutil
import subprocess

import nrrd
import numpy as np
import pydicom
import pytest

from glint.core.config.convert import ConvertConfig
from glint.core.config.resample import ResampleConfig
from glint.formats.checkpoint import Preprocessing
from glint.formats.dicom_seg import write_segmentation
from glint.predict.scan import read_scan
from glint.prepare.resample import resample_mask, to_original

SPACING_MM, GRID = (4.0, 4.0, 4.0), (80, 68, 68)


@pytest.fixture(scope="module")
def scan(real_data):
    preprocessing = Preprocessing(
        windows=((-1000.0, 1000.0),),
        volume=GRID,
        patch=(4, 4, 4),
        grid=(20, 17, 17),
        convert=ConvertConfig().model_dump(mode="json"),
        resample=ResampleConfig(spacing_mm=SPACING_MM, grid=GRID).model_dump(mode="json"),
    )
    return read_scan(real_data / "1_ct_dicom" / "cip_ct64", preprocessing)


@pytest.fixture(scope="module")
def lungs(real_data, scan):
    """The published lung mask on the scan's own voxels; both files tell the patient's axes."""
    labels, header = nrrd.read(str(next((real_data / "6_ct_nifti_masks" / "cip_ct64").glob("lm-64*.nrrd"))))
    affine = np.eye(4)
    affine[:3, :3] = np.asarray(header["space directions"], float).T
    affine[:3, 3] = header["space origin"]
    affine[:2] *= -1  # left-posterior-superior to right-anterior-superior
    assert header["space"] == "left-posterior-superior"
    mask = (np.asarray(labels).T > 0).astype(np.uint8)
    return to_original(mask, affine, scan.original_affine, scan.original_ZYX.shape).astype(bool)


def dice(first, second):
    return 2 * (first & second).sum() / (first.sum() + second.sum())


def test_the_published_mask_lies_on_lung(scan, lungs):
    assert -930 < scan.original_ZYX[lungs].mean() < -750


def test_a_lung_mask_survives_the_models_grid(scan, lungs):
    on_grid = resample_mask(lungs.astype(np.uint8), scan.original_affine, scan.affine, GRID)
    back = scan.on_original(on_grid.astype(np.float32), outside=0.0) > 0.5
    assert dice(back, lungs) >= 0.97


def test_the_seg_of_it_lies_on_its_slices_voxel_for_voxel_and_passes_the_validators(scan, lungs, tmp_path):
    source = scan.source
    on_slices = to_original(lungs.astype(np.uint8), scan.original_affine, source.affine, source.shape_zyx)
    write_segmentation(tmp_path / "seg.dcm", source.headers, on_slices[None].astype(bool), ["lungs"])
    seg = pydicom.dcmread(tmp_path / "seg.dcm")
    place = {
        pydicom.dcmread(one.path, stop_before_pixels=True).SOPInstanceUID: z for z, one in enumerate(source.headers)
    }
    seen = np.zeros(source.shape_zyx, bool)
    for frame, groups in zip(seg.pixel_array, seg.PerFrameFunctionalGroupsSequence, strict=True):
        image = groups.DerivationImageSequence[0].SourceImageSequence[0]
        z = place[image.ReferencedSOPInstanceUID]
        position = [float(value) for value in groups.PlanePositionSequence[0].ImagePositionPatient]
        assert np.allclose(position, source.headers[z].position_mm, atol=1e-3)
        seen[z] = frame
    np.testing.assert_array_equal(seen, on_slices)
    highdicom = pytest.importorskip("highdicom")
    volume = highdicom.seg.segread(tmp_path / "seg.dcm").get_volume(combine_segments=False)
    assert volume.array.sum() == on_slices.sum()
    if shutil.which("dciodvfy") is None:
        pytest.skip("dciodvfy (Debian package dicom3tools) is not installed")
    told = subprocess.run(["dciodvfy", tmp_path / "seg.dcm"], capture_output=True, text=True, check=False).stderr
    source_told = subprocess.run(
        ["dciodvfy", source.headers[0].path], capture_output=True, text=True, check=False
    ).stderr
    # What the source's own patient and study modules get wrong is taken over, as the standard demands.
    inherited = {line for line in source_told.splitlines() if line.startswith("Error")}
    errors = [line for line in told.splitlines() if line.startswith("Error") and line not in inherited]
    assert not errors, errors

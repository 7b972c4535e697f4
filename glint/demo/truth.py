"""The masks of a study as one NIfTI bit field on the scan's own grid; only stage 10 may read them."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np

from glint.demo.anatomy import Mask
from glint.demo.catalogue import FINDINGS
from glint.demo.scanner import Scan


def scan_affine(scan: Scan) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    """Voxel index (x, y, z) of the scan to RAS mm: DICOM's x and y change sign."""
    x, y, z = scan.origin_lps_mm
    step_z, step_y, step_x = scan.spacing_mm
    affine = np.diag([-step_x, -step_y, step_z, 1.0])
    affine[:3, 3] = (-x, -y, z)
    return affine


def write_truth(path: Path, masks: dict[str, Mask], scan: Scan) -> None:
    """Write bit k of each voxel for FINDINGS[k]; the same masks give the same bytes."""
    import nibabel

    bits = np.zeros(scan.shape_zyx, np.uint16)
    for name, mask in masks.items():
        bits |= mask.astype(np.uint16) << np.uint16(FINDINGS.index(name))
    image = nibabel.Nifti1Image(np.ascontiguousarray(bits.transpose(2, 1, 0)), scan_affine(scan))
    image.header.set_xyzt_units("mm")
    path.write_bytes(gzip.compress(image.to_bytes(), compresslevel=6, mtime=0))

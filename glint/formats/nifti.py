"""NIfTI-1 volumes: arrays are (z, y, x), the affine takes the file's index (x, y, z) to RAS millimetres.

A (z, y, x) array in C order and NIfTI's (x, y, z) array in Fortran order are the same bytes, so writing and
reading copy nothing. Files written here hold no date, no name and no scaling: equal volumes give equal bytes.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from nibabel.filebasedimages import ImageFileError
from numpy.typing import ArrayLike, NDArray

from glint.core.atomic import atomic_file
from glint.core.errors import GeometryError, InputError
from glint.core.geometry import check_affine

STORED_DTYPES = (np.int16, np.uint16, np.uint8, np.uint32)
SCANNER_FRAME = 1  # NIFTI_XFORM_SCANNER_ANAT
NO_EXTENSION = bytes(4)


def stored_affine(affine: ArrayLike) -> NDArray[np.float64]:
    """The affine as a NIfTI header keeps it: rounded to float32. What is recorded elsewhere must be this one."""
    return check_affine(affine).astype(np.float32).astype(np.float64)


def write_nifti(path: Path | str, volume_ZYX: NDArray[Any], affine: ArrayLike) -> None:
    """Write a 3-D int16, uint16, uint8 or uint32 array as uncompressed `.nii`, slope 1 and intercept 0, atomically.

    Args:
        volume_ZYX: Shape (Z, Y, X).
        affine: 4×4, index (x, y, z) → RAS mm; stored as sform and, without any slant, as qform.

    Raises:
        GeometryError: the array is not 3-D, has another type, or the affine is none.
    """
    if volume_ZYX.ndim != 3 or volume_ZYX.dtype.newbyteorder("=") not in STORED_DTYPES:
        raise GeometryError(
            f"{Path(path).name}: {volume_ZYX.dtype} {volume_ZYX.shape} is no 3-D array of 8, 16 or unsigned 32 bits"
        )
    matrix = stored_affine(affine)
    header = nibabel.Nifti1Header(endianness="<")
    header.set_data_dtype(volume_ZYX.dtype.newbyteorder("<"))
    header.set_data_shape(volume_ZYX.shape[::-1])
    header.set_xyzt_units(xyz="mm")
    header.set_qform(matrix, code=SCANNER_FRAME)
    header.set_sform(matrix, code=SCANNER_FRAME)
    header.set_slope_inter(1, 0)
    header["vox_offset"] = 352
    header["magic"] = b"n+1"
    with atomic_file(path) as temporary, temporary.open("wb") as handle:
        handle.write(header.binaryblock + NO_EXTENSION)
        handle.write(np.ascontiguousarray(volume_ZYX, volume_ZYX.dtype.newbyteorder("<")).data)


@dataclass(frozen=True, kw_only=True)
class StoredVolume:
    """A NIfTI volume as it lies on disk: nothing is in memory before it is used.

    `stored_ZYX` holds stored numbers, which `slope` and `intercept` turn into values (`scaled`).
    """

    stored_ZYX: NDArray[Any]
    slope: float
    intercept: float
    affine: NDArray[np.float64]

    def scaled(self, stored: NDArray[Any]) -> NDArray[Any]:
        """Values of some stored numbers: in their own type without a scale, int32 with a whole one, else float32."""
        if (self.slope, self.intercept) == (1, 0):
            return stored
        whole = self.slope.is_integer() and self.intercept.is_integer()
        whole = whole and stored.dtype.kind in "iu" and stored.dtype.itemsize <= 2
        values: NDArray[Any] = stored.astype(np.int32 if whole else np.float32)
        values *= int(self.slope) if whole else self.slope
        values += int(self.intercept) if whole else self.intercept
        return values


def open_nifti(path: Path | str) -> StoredVolume:
    """Open `.nii` (mapped, not read) or `.nii.gz`.

    Raises:
        InputError: the file is absent or no NIfTI.
        GeometryError: it is not 3-D, or the header gives no orientation (both form codes 0).
    """
    file = Path(path)
    if not file.is_file():
        raise InputError(f"{file}: no such NIfTI file; run the stage that makes it first")
    try:
        image: Any = nibabel.load(file)
        if image.header["sform_code"] == 0 and image.header["qform_code"] == 0:
            raise GeometryError(f"{file}: the header gives no orientation (sform and qform codes are 0)")
        stored: NDArray[Any] = image.dataobj.get_unscaled()
    except (ImageFileError, OSError, EOFError, ValueError, KeyError) as error:
        raise InputError(f"{file}: not a readable NIfTI file; make it again") from error
    if stored.ndim == 4 and stored.shape[3] == 1:
        stored = stored[..., 0]
    if stored.ndim != 3:
        raise GeometryError(f"{file}: {stored.ndim} axes; a volume has 3")
    slope, intercept = (float(number) for number in (image.dataobj.slope, image.dataobj.inter))
    return StoredVolume(stored_ZYX=stored.T, slope=slope, intercept=intercept, affine=check_affine(image.affine))


def read_nifti(path: Path | str) -> tuple[NDArray[Any], NDArray[np.float64]]:
    """Read `.nii` or `.nii.gz` with its scaling applied.

    Returns:
        The array, shape (Z, Y, X): in the stored type, int32 where the header scales by whole numbers, else float32;
        and the affine, index (x, y, z) → RAS mm.

    Raises:
        InputError, GeometryError: see `open_nifti`.
    """
    volume = open_nifti(path)
    return volume.scaled(volume.stored_ZYX), volume.affine


def read_channel_masks(path: Path | str) -> tuple[NDArray[Any], NDArray[np.float64]]:
    """Masks whose first axis counts findings, as ReXGroundingCT's (F, x, y, z); a 3-D file is one finding.

    Returns:
        (F, Z, Y, X) stored numbers, and the affine, index (x, y, z) → RAS mm; the identity where the header says nothing.

    Raises:
        InputError: the file is absent, no NIfTI, or has another number of axes.
    """
    file = Path(path)
    if not file.is_file():
        raise InputError(f"{file}: no such mask file")
    try:
        image: Any = nibabel.load(file)
        stored: NDArray[Any] = np.asarray(image.dataobj)
    except (ImageFileError, OSError, EOFError, ValueError, KeyError) as error:
        raise InputError(f"{file}: not a readable NIfTI file; download it again") from error
    if stored.ndim not in (3, 4):
        raise InputError(f"{file}: {stored.ndim} axes; masks have 3 or 4, findings first")
    known = image.header["sform_code"] or image.header["qform_code"]
    channels = stored if stored.ndim == 4 else stored[None]
    return channels.transpose(0, 3, 2, 1), np.asarray(image.affine if known else np.eye(4), np.float64)


def load_model_volume(path: Path | str) -> tuple[NDArray[np.int16], NDArray[np.float64]]:
    """A stage-04 volume: int16 HU on the model's grid, (Z, Y, X) running to superior, anterior, right; its affine.

    Raises:
        InputError: the file is absent, unreadable or does not hold int16.
    """
    volume, affine = read_nifti(path)
    if volume.dtype != np.int16:
        raise InputError(f"{path}: holds {volume.dtype}, not int16 HU; run the resample stage again")
    return np.ascontiguousarray(volume), affine

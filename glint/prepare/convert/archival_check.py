"""dcm2niix as an independent second reader: what it makes must be the volume that the gate saw.

Its exit code says little (0 for a volume with a missing slice), so the outcome is compared: exactly one output
without suffix, the same size, the same affine, the same HU in every slice that it is shown. Of a stack that is to be repaired it keeps the slices as
they are beside its own repair: then size, directions within the plane and HU are compared.
"""

import errno
import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from glint.core.errors import GeometryError, GlintError, InputError, Quarantine
from glint.core.geometry import reorient
from glint.formats.dicom_series import SliceHeader, numbered_by_position, one_rescale, write_renumbered_copy
from glint.formats.nifti import StoredVolume, open_nifti

OUTPUT = "volume"  # a fixed name: dcm2niix's default builds file names out of header values
OPTIONS = ("-b", "n", "-z", "n", "-f", OUTPUT, "-m", "y", "-i", "n", "-g", "i", "-d", "0", "-w", "2")
AFFINE_TOLERANCE_MM = 1e-3
HU_TOLERANCE = 0.01  # float32 rescale of a fractional slope; whole numbers must be equal
TIMEOUT_S = 900
SPARE_BYTES = 2**24
LEAST_SHOWN = 16  # slices
REPAIRED = re.compile(r"(_Eq|_Tilt)+(_\d+)?(_Eq(_\d+)?)?\.nii")
INT16 = np.iinfo(np.int16)


def _disagree(detail: str) -> Quarantine:
    return Quarantine("converter_disagrees", detail)


def run_dcm2niix(folder: Path, output_folder: Path, *, repaired_too: bool = False) -> Path:
    """Convert the series in `folder`; returns the single file made.

    Its messages are dropped: they quote header values. `-m y` keeps one volume where exposure varies (the gate has
    already seen that the geometry is one); `-g i` ignores the defaults file in the user's home. `repaired_too` allows
    its own repairs (`_Eq`, `_Tilt`) beside the volume.

    Raises:
        Quarantine: `converter_disagrees`, it failed, or made none, several or a repaired (`_Eq`, `_Tilt`) volume.
        GlintError: it was killed from outside.
    """
    import dcm2niix

    command = [dcm2niix.bin, *OPTIONS, "-o", str(output_folder), str(folder)]
    try:
        finished = subprocess.run(command, capture_output=True, check=False, timeout=TIMEOUT_S)
    except subprocess.TimeoutExpired:
        raise _disagree(f"dcm2niix did not end within {TIMEOUT_S} s") from None
    made = sorted(entry.name.removeprefix(OUTPUT) for entry in output_folder.iterdir())
    if -finished.returncode in (signal.SIGKILL, signal.SIGTERM):
        raise GlintError("dcm2niix was killed from outside: give the job more memory, or fewer --workers")
    # Its own repair can't handle unsigned 16 bits and ends with 1, the slices as they are written nevertheless.
    if finished.returncode != 0 and not (repaired_too and ".nii" in made):
        raise _disagree(f"dcm2niix ended with exit code {finished.returncode}")
    if repaired_too:
        made = [name for name in made if not REPAIRED.fullmatch(name)]
    if made != [".nii"]:
        raise _disagree(f"dcm2niix made {len(made)} files ({', '.join(made[:4])}) where one volume was expected")
    return output_folder / f"{OUTPUT}.nii"


def compare_volumes(
    volume_ZYX: NDArray[Any],
    affine: NDArray[np.float64],
    other: StoredVolume,
    *,
    in_plane_only: bool = False,
) -> None:
    """Check that two readings of one series agree, whatever order of axes each one chose.

    Sizes must be equal, every column of the affine within 1e-3 mm and the origin within 1e-3 mm (plus what a
    column's difference adds up to along the volume), HU equal in every voxel, beyond 16 bits at their limits.
    `in_plane_only` asks for the directions and spacing of rows and columns alone, which NIfTI keeps in that order.

    Raises:
        Quarantine: `converter_disagrees`.
    """
    other_affine = other.affine
    if in_plane_only:
        # A stack with uneven gaps has no step along its slices that both could state.
        other_affine = _with_stacking_of(affine, other.affine)
    ours, ours_affine = reorient(volume_ZYX, affine)
    theirs, theirs_affine = reorient(other.stored_ZYX, other_affine)
    if ours.shape != theirs.shape:
        raise _disagree(f"sizes differ: {theirs.shape} by dcm2niix, {ours.shape} by position")
    difference_mm = np.abs(theirs_affine - ours_affine)[:3]
    column_mm, origin_mm = float(difference_mm[:, :3].max()), float(difference_mm[:, 3].max())
    allowed_mm = AFFINE_TOLERANCE_MM + float(difference_mm[:, :3].max(axis=0) @ (np.array(ours.shape[::-1]) - 1))
    if column_mm > AFFINE_TOLERANCE_MM or origin_mm > allowed_mm:
        raise _disagree(f"affines differ: voxel steps by {column_mm:.4f} mm, origin by {origin_mm:.4f} mm")
    ours, theirs = _forward_rows(ours, theirs)
    unequal = sum(_count_unequal(a, other.scaled(b)) for a, b in zip(ours, theirs, strict=True))
    if unequal:
        raise _disagree(f"HU differ in {unequal} of {ours.size} voxels")


def _with_stacking_of(affine: NDArray[np.float64], other_affine: NDArray[np.float64]) -> NDArray[np.float64]:
    """`other_affine` with the stacking column of `affine`, in its own sense."""
    mixed = other_affine.copy()
    mixed[:3, 2] = affine[:3, 2] * (1 if affine[:3, 2] @ other_affine[:3, 2] > 0 else -1)
    return mixed


def _forward_rows(ours: NDArray[Any], theirs: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """The same pairs of voxels, rows read as they lie in memory where both lie backwards: several times as fast."""
    return (ours[..., ::-1], theirs[..., ::-1]) if ours.strides[-1] < 0 and theirs.strides[-1] < 0 else (ours, theirs)


def _count_unequal(slice_YX: NDArray[Any], other_YX: NDArray[Any]) -> int:
    if slice_YX.dtype.kind == other_YX.dtype.kind == "i":
        unequal = int(np.count_nonzero(slice_YX != other_YX))
        return unequal and int(np.count_nonzero(slice_YX != np.clip(other_YX, INT16.min, INT16.max)))
    clipped_YX = np.clip(other_YX, INT16.min, INT16.max)
    return int(np.count_nonzero(np.abs(slice_YX.astype(np.float32) - clipped_YX) > HU_TOLERANCE))


def shown_slices(headers: Sequence[SliceHeader]) -> int:
    """How many slices of a series dcm2niix is shown at least.

    All of a series that a decoder read: each slice may be the one that it got wrong. Uncompressed slices of one
    encoding and one rescale are right or wrong together, and their lengths and places are known from the headers.
    """
    encodings = {header.native and (header.native.bits_stored, header.native.signed) for header in headers}
    alike = len(encodings) == 1 and None not in encodings and one_rescale(headers)
    return min(len(headers), LEAST_SHOWN) if alike else len(headers)


def check_with_dcm2niix(
    headers: Sequence[SliceHeader],
    volume_ZYX: NDArray[Any],
    affine: NDArray[np.float64],
    *,
    to_be_repaired: bool = False,
) -> None:
    """Convert the series of `headers` (one folder, nothing else in it) with dcm2niix and compare it with our reading.

    dcm2niix orders by instance number first and misreads a series where those jump, it can't inflate, and gives all
    frames of a file the first one's rescale: such a series is handed over as a renumbered copy, inflated, a file a slice.
    Of a long series that needs no decoder it sees evenly spaced slices (`shown_slices`).

    Raises:
        Quarantine: `converter_disagrees`.
        OSError: no space for a second copy of the volume in the temporary folder.
    """
    step = 1 if to_be_repaired else len(headers) // shown_slices(headers) or 1
    headers, volume_ZYX, affine = headers[::step], volume_ZYX[::step], affine * np.array((1, 1, step, 1))
    folder = headers[0].path.parent
    with tempfile.TemporaryDirectory(prefix="glint-convert-") as scratch:
        if shutil.disk_usage(scratch).free < 3 * volume_ZYX.nbytes + SPARE_BYTES:
            # A full disk is no fault of the series: dcm2niix would fail and every series would be refused.
            raise OSError(errno.ENOSPC, "no space for dcm2niix's output; set TMPDIR to a larger disk")
        framed = headers[0].frame is not None
        takes_first_rescale = framed and not one_rescale(headers)
        to_be_copied = not numbered_by_position(headers) or any(header.deflated for header in headers)
        if takes_first_rescale or to_be_copied or step > 1:
            folder = Path(scratch, "series")
            folder.mkdir()
            if takes_first_rescale or to_be_copied:
                write_renumbered_copy(headers, folder)
            else:
                for number, header in enumerate(headers, 1):
                    Path(folder, f"{number:06d}.dcm").symlink_to(header.path.resolve())
        output_folder = Path(scratch, "output")
        output_folder.mkdir()
        try:
            other = open_nifti(run_dcm2niix(folder, output_folder, repaired_too=to_be_repaired))
        except (GeometryError, InputError):
            raise _disagree("dcm2niix made no volume of three axes") from None
        compare_volumes(volume_ZYX, affine, other, in_plane_only=to_be_repaired)

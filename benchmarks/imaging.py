"""Stages 03 and 04 on a thin-slice chest: time and memory, as ratios to the fastest tools in the same run.

Usage: OMP_NUM_THREADS=1 python benchmarks/imaging.py [--slices 600] [--repeats 3] [--out benchmarks/results/imaging.md]

CPU seconds are the least of the repeats (process_time of one process), so that a busy machine spoils little; wall
seconds, which two workers need, it does spoil. The chest is synthetic, 512 x 512.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

PIXEL_MM, SLICE_MM = 0.7, 0.6
MERLIN = {"spacing_mm": (3.0, 1.5, 1.5), "grid": (160, 224, 224)}
CT_CLIP = {"spacing_mm": (1.5, 0.75, 0.75), "grid": (240, 480, 480)}
DEMO = {"spacing_mm": (4.0, 4.0, 4.0), "grid": (88, 88, 88)}


def chest_hu(slices: int) -> np.ndarray:
    """int16 (slices, 512, 512): body, noise, two lungs that are widest in the middle, so that slices differ."""
    y, x = np.mgrid[-1:1:512j, -1:1:512j]
    body = np.where((x / 0.9) ** 2 + (y / 0.7) ** 2 < 1, 40, -1000)
    noise = np.random.default_rng(0).integers(-30, 31, body.shape)
    lungs = np.minimum(*(((x - side) / 0.32) ** 2 + (y / 0.5) ** 2 for side in (-0.42, 0.42)))
    volume = np.empty((slices, 512, 512), np.int16)
    for z in range(slices):
        plane = np.where(lungs < np.sin(np.pi * (z + 20) / (slices + 40)) ** 2, body - 900, body)
        volume[z] = (plane + np.roll(noise, 7 * z)).clip(-1024)
    return volume


def affine() -> np.ndarray:
    return np.diag([PIXEL_MM, PIXEL_MM, SLICE_MM, 1.0])


def write_dicom(folder: Path, hu: np.ndarray) -> None:
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

    series, study, frame = generate_uid(), generate_uid(), generate_uid()
    for z, plane in enumerate(hu):
        one = Dataset()
        one.file_meta = FileMetaDataset()
        one.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        one.SOPClassUID = one.file_meta.MediaStorageSOPClassUID = CTImageStorage
        one.SOPInstanceUID = one.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        one.SeriesInstanceUID, one.StudyInstanceUID, one.FrameOfReferenceUID = series, study, frame
        one.Modality, one.PatientID, one.PatientName, one.PatientPosition = "CT", "p", "p", "HFS"
        one.StudyDate, one.StudyTime, one.SeriesNumber, one.InstanceNumber = "20200101", "120000", 1, z + 1
        one.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
        one.Manufacturer, one.ConvolutionKernel, one.BodyPartExamined = "GLINT", "B", "CHEST"
        one.ImageOrientationPatient, one.ImagePositionPatient = [1, 0, 0, 0, 1, 0], [0, 0, z * SLICE_MM]
        one.PixelSpacing, one.SliceThickness, one.SliceLocation = [PIXEL_MM, PIXEL_MM], SLICE_MM, z * SLICE_MM
        one.Rows, one.Columns, one.SamplesPerPixel, one.PhotometricInterpretation = 512, 512, 1, "MONOCHROME2"
        one.BitsAllocated, one.BitsStored, one.HighBit, one.PixelRepresentation = 16, 16, 15, 1
        one.RescaleSlope, one.RescaleIntercept, one.RescaleType = 1, -1024, "HU"
        one.PixelData = (plane + 1024).astype("<i2").tobytes()
        one.save_as(folder / f"{z:04d}.dcm", enforce_file_format=True)


def read_plainly(folder: Path) -> np.ndarray:
    """The fastest reader known: pydicom's headers and the raw buffer, no check of anything."""
    import pydicom

    files = sorted(folder.glob("*.dcm"))
    volume = np.empty((len(files), 512, 512), np.int16)
    for z, file in enumerate(files):
        one = pydicom.dcmread(file)
        volume[z] = np.frombuffer(one.PixelData, "<i2").reshape(512, 512)
        volume[z] += np.int16(one.RescaleIntercept)
    return volume


def cpu_s(work: Callable[[], Any], repeats: int) -> float:
    best = float("inf")
    for _ in range(repeats):
        before, inside = os.times(), time.process_time()
        work()
        after = os.times()
        children = after.children_user + after.children_system - before.children_user - before.children_system
        best = min(best, time.process_time() - inside + children)
    return best


def resamplers(hu: np.ndarray, grid: dict[str, Any]) -> dict[str, Callable[[], Any]]:
    import torch
    import torch.nn.functional as F
    from monai.data import MetaTensor
    from monai.transforms import Spacing

    from glint.prepare.resample import resample_volume

    torch.set_num_threads(1)
    ratios = np.array((SLICE_MM, PIXEL_MM, PIXEL_MM)) / grid["spacing_mm"]
    size = tuple(int(n * r) for n, r in zip(hu.shape, ratios, strict=True))
    spacer = Spacing(pixdim=grid["spacing_mm"][::-1], mode="bilinear")

    def interpolate() -> Any:
        return F.interpolate(torch.from_numpy(hu.astype(np.float32))[None, None], size=size, mode="trilinear")

    def monai() -> Any:
        return spacer(MetaTensor(hu.T[None].astype(np.float32), affine=affine()))

    def ours() -> Any:
        return resample_volume(hu, affine(), **grid)

    return {"GLINT, antialiased": ours, "F.interpolate, aliased": interpolate, "MONAI Spacing, aliased": monai}


def with_sitk(hu: np.ndarray, grid: dict[str, Any]) -> Callable[[], Any]:
    """The antialiased road of SimpleITK: Gaussian, then linear."""
    import SimpleITK as sitk  # noqa: N813

    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)

    def run() -> Any:
        image = sitk.GetImageFromArray(hu)
        image.SetSpacing((PIXEL_MM, PIXEL_MM, SLICE_MM))
        spacing = grid["spacing_mm"][::-1]
        smooth = sitk.SmoothingRecursiveGaussian(sitk.Cast(image, sitk.sitkFloat32), [0.45 * s for s in spacing])
        size = [int(n * old / new) for n, old, new in zip(image.GetSize(), image.GetSpacing(), spacing, strict=True)]
        identity = sitk.Transform()
        return sitk.Resample(smooth, size, identity, sitk.sitkLinear, image.GetOrigin(), spacing)

    return run


def _memory_bytes(field: str) -> int:
    """A field of /proc/self/status; getrusage's peak would carry over from the parent."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return 1024 * int(line.split()[1])


def child(kind: str, folder: Path) -> None:
    """Peak resident memory (bytes) beyond that before the volume was read, for one worker's work on one study."""
    from glint.formats.nifti import read_nifti, write_nifti
    from glint.prepare.resample import resample_volume

    before = _memory_bytes("VmRSS")
    volume, matrix = read_nifti(folder / "volume.nii")
    made = resample_volume(volume, matrix, **(MERLIN if kind == "merlin" else CT_CLIP))
    write_nifti(folder / f"{kind}.nii", made.volume_ZYX, made.affine)
    print(_memory_bytes("VmHWM") - before)


def memory_ratio(kind: str, folder: Path) -> float:
    made = subprocess.run(
        [sys.executable, __file__, "--child", kind, "--folder", str(folder)], capture_output=True, text=True, check=True
    )
    return int(made.stdout.split()[-1]) / (folder / "volume.nii").stat().st_size


def workers_gain(folder: Path, studies: int, repeats: int) -> tuple[float, float]:
    """Wall seconds of one worker over those of two, and the load of the machine; the least of the repeats each."""
    from glint.core.parallel import parallel_map

    best = {1: float("inf"), 2: float("inf")}
    for _ in range(repeats):
        for workers in best:
            started_s = time.perf_counter()
            parallel_map(_one_study, [(folder, n) for n in range(studies)], workers=workers, description="workers")
            best[workers] = min(best[workers], time.perf_counter() - started_s)
    return best[1] / best[2], os.getloadavg()[0]


def _one_study(given: tuple[Path, int]) -> None:
    from glint.formats.nifti import read_nifti, write_nifti
    from glint.prepare.resample import resample_volume

    folder, number = given
    made = resample_volume(*read_nifti(folder / "volume.nii"), **MERLIN)
    write_nifti(folder / f"made{number}.nii", made.volume_ZYX, made.affine)


def chain(folder: Path, dicom: Path, archival: bool) -> Callable[[], Any]:
    """DICOM to the resampled volume on disk as stages 03 and 04 do it, both files written."""
    from glint.core.config.convert import ConvertConfig
    from glint.formats.dicom_series import read_series_headers, read_volume_hu
    from glint.formats.nifti import read_nifti, write_nifti
    from glint.prepare.convert import read_series
    from glint.prepare.convert.geometry_gate import pass_gate
    from glint.prepare.convert.plausible_hu import require_plausible_hu
    from glint.prepare.resample import resample_volume

    def run() -> Any:
        if archival:
            volume = read_series(dicom, ConvertConfig())
            hu, matrix = volume.hu_ZYX, volume.affine
        else:
            stack = pass_gate(read_series_headers(dicom), ConvertConfig())
            values = read_volume_hu(stack.headers)
            require_plausible_hu(values, ConvertConfig())
            hu, matrix = np.rint(values).astype(np.int16), stack.affine
        write_nifti(folder / "03.nii", hu, matrix)
        made = resample_volume(*read_nifti(folder / "03.nii"), **MERLIN)
        write_nifti(folder / "04.nii", made.volume_ZYX, made.affine)

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--slices", type=int, default=600)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--child")
    parser.add_argument("--folder", type=Path)
    args = parser.parse_args()
    if args.child:
        child(args.child, args.folder)
        return
    from glint.formats.nifti import write_nifti

    lines = [
        "# Reading and resampling a thin-slice chest",
        "",
        f"`OMP_NUM_THREADS=1 python benchmarks/imaging.py --slices {args.slices} --repeats {args.repeats}`: synthetic, "
        f"512 × 512 × {args.slices}, {PIXEL_MM} × {PIXEL_MM} × {SLICE_MM} mm, uncompressed. CPU seconds are the least of the "
        "repeats; the ratios are of one run.",
        f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} at the start; "
        + ", ".join(f"{name} {version(name)}" for name in ("numpy", "torch", "monai", "SimpleITK", "pydicom")),
        "",
        "| grid | what | CPU s | to MONAI Spacing |",
        "|---|---|--:|--:|",
    ]
    hu = chest_hu(args.slices)
    best_resampler = 0.0
    for name, grid in (("Merlin 3/1.5/1.5", MERLIN), ("4 mm", DEMO)):
        works = resamplers(hu, grid)
        if grid is MERLIN:
            works["SimpleITK Gaussian + linear"] = with_sitk(hu, grid)
        taken = {
            what: cpu_s(work, 1 if "GLINT" not in what and "F.int" not in what else args.repeats)
            for what, work in works.items()
        }
        base = taken["MONAI Spacing, aliased"]
        lines += [f"| {name} | {what} | {seconds:.2f} | {seconds / base:.2f} |" for what, seconds in taken.items()]
        if grid is MERLIN:
            best_resampler = min(s for what, s in taken.items() if "aliased" not in what or "GLINT" in what)
        print("\n".join(lines[-len(taken) :]), flush=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "dicom").mkdir()
        write_dicom(folder / "dicom", hu)
        write_nifti(folder / "volume.nii", hu, affine())
        del hu
        reader = cpu_s(lambda: read_plainly(folder / "dicom"), args.repeats)
        lines += ["", "| DICOM to resampled volume on disk (Merlin's grid) | CPU s | to the sum |", "|---|--:|--:|"]
        total = reader + best_resampler
        lines.append(
            f"| fastest reader (bare pydicom) + fastest antialiased resampler | {reader:.2f} + {best_resampler:.2f} | 1 |"
        )
        for what, archival in (
            ("headers, gate, HU, plausibility, both files written, resampled", False),
            ("stages 03 and 04 whole, with order of slices and dcm2niix as second opinion", True),
        ):
            seconds = cpu_s(chain(folder, folder / "dicom", archival), args.repeats if not archival else 1)
            lines.append(f"| {what} | {seconds:.2f} | {seconds / total:.2f} |")
        gain, load = workers_gain(folder, 12, 1)
        lines += [
            "",
            f"Two workers: {gain:.2f} times one (wall time of 12 studies, start of the processes included; load of the machine {load:.1f}).",
        ]
        ratios = {kind: memory_ratio(kind, folder) for kind in ("merlin", "ct_clip")}
        lines.append(
            f"Peak memory of one worker beyond its imports, over the int16 volume: {ratios['merlin']:.2f} (Merlin), "
            f"{ratios['ct_clip']:.2f} (CT-CLIP)."
        )
    text = "\n".join(lines) + "\n"
    print(text)
    if args.out:
        args.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()

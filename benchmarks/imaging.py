"""Stages 03 and 04 on a thin-slice chest: time and memory, as ratios to the fastest tools in the same run.

Usage: OMP_NUM_THREADS=1 python benchmarks/imaging.py [--slices 600] [--repeats 3] [--out benchmarks/results/imaging.md]
       OMP_NUM_THREADS=1 python benchmarks/imaging.py --workers      # the gain of two workers alone, on a quiet machine

CPU seconds are the least of the repeats (of this process and its children), taken in turns, so that a busy machine
spoils little; wall seconds, which two workers need, it does spoil. Before each work as much memory as it needs is touched
and freed: on a virtual machine the first touch of memory that the host took back costs seconds per GB, which would fall on
whichever work comes first. The chest is synthetic, 512 x 512.
"""

from __future__ import annotations

import argparse
import os
import platform
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any
from unittest.mock import patch

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


def cpu_clock_s() -> float:
    """CPU seconds of this process and of its ended children until now."""
    own, children = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime


def touch_memory(num_bytes: int = 1_500_000_000) -> None:
    """Have so much memory at hand, see above."""
    np.empty(num_bytes, np.uint8)[::4096] = 1


def in_turns(
    works: dict[str, Callable[[], Any]], repeats: int, before: Callable[[], Any] = touch_memory
) -> dict[str, float]:
    """Least CPU seconds of each work, children included; one turn runs all of them, each after `before`."""
    best = dict.fromkeys(works, float("inf"))
    for _ in range(repeats):
        for name, work in works.items():
            before()
            started_s = cpu_clock_s()
            work()
            best[name] = min(best[name], cpu_clock_s() - started_s)
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
    from glint.core.config.convert import ConvertConfig
    from glint.formats.nifti import read_nifti, write_nifti
    from glint.prepare.convert import read_series
    from glint.prepare.resample import resample_volume

    before = _memory_bytes("VmRSS")
    if kind == "convert":
        made = read_series(folder / "dicom", ConvertConfig())
        write_nifti(folder / "converted.nii", made.hu_ZYX, made.affine)
    else:
        on_grid = resample_volume(*read_nifti(folder / "volume.nii"), **(MERLIN if kind == "merlin" else CT_CLIP))
        write_nifti(folder / f"{kind}.nii", on_grid.volume_ZYX, on_grid.affine)
    print(_memory_bytes("VmHWM") - before)


def memory_ratio(kind: str, folder: Path) -> float:
    made = subprocess.run(
        [sys.executable, __file__, "--child", kind, "--folder", str(folder)], capture_output=True, text=True, check=True
    )
    return int(made.stdout.split()[-1]) / (folder / "volume.nii").stat().st_size


def write_shard(folder: Path, dicom: Path, studies: int) -> Path:
    """A stage-02 shard of so many studies, each of them the series in `dicom`."""
    from glint.formats.manifest import manifest_frame, write_manifest

    rows = []
    (folder / "02").mkdir()
    for number in range(studies):
        (folder / "02" / f"s{number}").symlink_to(dicom)
        rows.append(
            {"study_id": f"s{number}", "patient_id": "p", "series_id": "r", "status": "ok", "path": f"s{number}"}
            | {"input_digest": "0", "params_digest": "0"}
        )
    manifest = folder / "02" / "manifest.parquet"
    write_manifest(manifest, manifest_frame(rows, "deidentify_images"), "deidentify_images")
    return manifest


def both_stages(manifest: Path, workers: int) -> None:
    """`glint convert` and `glint resample` of one shard, in this process or in `workers` of them."""
    from glint.core.config.convert import ConvertConfig
    from glint.core.config.resample import ResampleConfig
    from glint.prepare.convert import convert_shard
    from glint.prepare.resample import resample_shard

    folder = manifest.parents[1]
    converted = folder / "03" / "manifest.parquet"
    convert_shard(manifest, converted, ConvertConfig(), workers=workers)
    resample_shard(converted, folder / "04" / "manifest.parquet", ResampleConfig(**MERLIN), workers=workers)


def start_of_processes() -> None:
    """What `both_stages` pays with two workers before any work: their start and their imports, twice."""
    from glint.core.parallel import parallel_map
    from glint.prepare.convert.geometry_gate import _refuse
    from glint.prepare.resample import valid_mask

    for nothing in (partial(_refuse, "one_slice"), partial(valid_mask, [0] * 6)):
        parallel_map(partial(_nothing, nothing), range(8), workers=2, description="start")


def _nothing(_function: Any, _item: int) -> None:
    """Receives a function of the stage, so that its module is imported."""


def workers_gain(slices: int, studies: int, repeats: int, scratch: Path | None) -> str:
    """Wall time of one worker over two on a shard, as a sentence; the least of the repeats each, in turns."""
    with tempfile.TemporaryDirectory(dir=scratch) as name:
        folder = Path(name)
        (folder / "dicom").mkdir()
        write_dicom(folder / "dicom", chest_hu(slices))
        manifest = write_shard(folder, folder / "dicom", studies)
        load = os.getloadavg()[0]
        works = {
            "one": lambda: both_stages(manifest, 1),
            "two": lambda: both_stages(manifest, 2),
            "start": start_of_processes,
        }
        wall = dict.fromkeys(works, float("inf"))
        for _ in range(repeats):
            for what, work in works.items():
                for made in ("03", "04"):
                    shutil.rmtree(folder / made, ignore_errors=True)
                os.sync()  # what is waiting to be written would be written at the next work's cost
                touch_memory(2 * studies * slices * 2**19)
                started_s = time.perf_counter()
                work()
                wall[what] = min(wall[what], time.perf_counter() - started_s)
        disk = _file_system(folder)
    whole, without = wall["one"] / wall["two"], wall["one"] / (wall["two"] - wall["start"])
    share = 200 / studies
    shard = share * wall["one"] / (share * (wall["two"] - wall["start"]) + wall["start"])
    return (
        f"Two workers: {whole:.2f} times one over stages 03 and 04 of {studies} studies of {slices} slices on {disk} (wall "
        f"time, {wall['one']:.1f} s and {wall['two']:.1f} s); {without:.2f} "
        f"without the start of the processes ({wall['start']:.1f} s for both stages, the same for a shard of any size), which "
        f"makes {shard:.2f} for a shard of 200 such studies. Load of the machine before: {load:.1f}."
    )


def _file_system(folder: Path) -> str:
    made = subprocess.run(["stat", "-f", "-c", "%T", str(folder)], capture_output=True, text=True, check=True)
    return made.stdout.strip()


STEPS = {
    "read_series_headers": "headers",
    "pass_gate": "geometry gate",
    "read_volume_hu": "pixels to HU, with the block means and the lowest value of every slice",
    "padding_mask": "padding",
    "require_plausible_hu": "are they HU of a chest",
    "require_slices_in_order": "do the slices follow each other",
    "check_with_dcm2niix": "dcm2niix on {shown} slices or more, compared",
    "write_hu": "the HU volume written",
    "resample": "resampled",
    "write_resampled": "the resampled volume written",
}


def timed(spent_s: dict[str, float], step: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """`function`, its CPU seconds added to `spent_s[step]`."""

    def run(*args: Any, **options: Any) -> Any:
        started_s = cpu_clock_s()
        try:
            return function(*args, **options)
        finally:
            spent_s[step] = spent_s.get(step, 0.0) + cpu_clock_s() - started_s

    return run


def chain(folder: Path, dicom: Path, *, shown: int, spent_s: dict[str, float] | None = None) -> Callable[[], Any]:
    """DICOM to the resampled volume on disk as stages 03 and 04 do it, both files written; dcm2niix is shown `shown`.

    `spent_s` is filled with what each of `STEPS` took.
    """
    from glint.core.config.convert import ConvertConfig
    from glint.formats.nifti import read_nifti, write_nifti
    from glint.prepare import convert
    from glint.prepare.convert import archival_check
    from glint.prepare.resample import resample_volume

    def wrapped(step: str, function: Callable[..., Any]) -> Callable[..., Any]:
        return function if spent_s is None else timed(spent_s, step, function)

    def run() -> Any:
        with ExitStack() as patches:
            patches.enter_context(patch.object(archival_check, "LEAST_SHOWN", shown))
            for step in STEPS:
                if hasattr(convert, step):
                    patches.enter_context(patch.object(convert, step, wrapped(step, getattr(convert, step))))
            if shown == 0:
                patches.enter_context(patch.object(convert, "check_with_dcm2niix", lambda *_, **__: None))
            volume = convert.read_series(dicom, ConvertConfig())
        wrapped("write_hu", write_nifti)(folder / "out" / "03.nii", volume.hu_ZYX, volume.affine)
        del volume
        made = wrapped("resample", resample_volume)(*read_nifti(folder / "out" / "03.nii"), **MERLIN)
        wrapped("write_resampled", write_nifti)(folder / "out" / "04.nii", made.volume_ZYX, made.affine)

    return run


def decomposed(folder: Path, dicom: Path, shown: int, repeats: int, before: Callable[[], Any]) -> list[str]:
    """Rows of the table of what each step of the chain takes, of the repeat that took least."""
    best: tuple[float, dict[str, float]] = (float("inf"), {})
    for _ in range(repeats):
        before()
        spent_s: dict[str, float] = {}
        started_s = cpu_clock_s()
        chain(folder, dicom, shown=shown, spent_s=spent_s)()
        best = min(best, (cpu_clock_s() - started_s, spent_s), key=lambda pair: pair[0])
    total_s, spent_s = best
    rows = [f"| {name.format(shown=shown)} | {spent_s[step]:.3f} |" for step, name in STEPS.items()]
    return [*rows, f"| the rest | {total_s - sum(spent_s.values()):.3f} |", f"| all | {total_s:.3f} |"]


def read_by_dcm2niix(folder: Path, dicom: Path) -> None:
    from glint.prepare.convert.archival_check import run_dcm2niix

    with tempfile.TemporaryDirectory(dir=folder) as output:
        run_dcm2niix(dicom, Path(output))


def read_unchecked(dicom: Path) -> np.ndarray:
    """GLINT's reader alone: headers, order by position, HU; what stage 03 builds on."""
    from glint.formats.dicom_series import read_series_headers, read_volume_hu

    headers = sorted(read_series_headers(dicom), key=lambda header: header.position_mm or ())
    return np.asarray(read_volume_hu(headers))


def to_disk(folder: Path, repeats: int) -> list[str]:
    """The tables from DICOM to the resampled volume on disk."""
    from glint.formats.nifti import read_nifti, write_nifti
    from glint.prepare.convert.archival_check import LEAST_SHOWN
    from glint.prepare.resample import resample_volume

    dicom = folder / "dicom"
    manifest = write_shard(folder, dicom, 1)
    hu, matrix = read_nifti(folder / "volume.nii")
    hu = np.array(hu)
    small = resample_volume(hu, matrix, **MERLIN)

    def afresh() -> None:
        for made in ("out", "03", "04"):
            shutil.rmtree(folder / made, ignore_errors=True)
        (folder / "out").mkdir()
        touch_memory()

    def write_both() -> None:
        write_nifti(folder / "out" / "03.nii", hu, matrix)
        write_nifti(folder / "out" / "04.nii", small.volume_ZYX, small.affine)

    rows = {
        f"stages 03 and 04: gate, HU, all checks, dcm2niix agrees on {LEAST_SHOWN} slices or more, both files written": chain(
            folder, dicom, shown=LEAST_SHOWN
        ),
        "the same without dcm2niix": chain(folder, dicom, shown=0),
        "the same, dcm2niix agrees on every slice, as it has to where a decoder was needed": chain(
            folder, dicom, shown=10**9
        ),
        "the two commands: stages 03 and 04, SHA-256 of all that they read, manifests": lambda: both_stages(
            manifest, 1
        ),
    }
    bases = {
        "bare pydicom": lambda: read_plainly(dicom),
        "dcm2niix": lambda: read_by_dcm2niix(folder, dicom),
        "own": lambda: read_unchecked(dicom),
        "resampler": lambda: resample_volume(hu, matrix, **MERLIN),
        "writing": write_both,
    }
    taken = in_turns({**bases, **rows}, repeats, before=afresh)
    public = {name: taken[name] for name in ("bare pydicom", "dcm2niix")}
    reader = min(public, key=public.__getitem__)
    total = taken[reader] + taken["resampler"]
    written, own = total + taken["writing"], taken["own"] + taken["resampler"]
    return [
        "",
        "Three sums: (a) fastest public reader + fastest antialiased resampler, nothing checked, nothing written: what is "
        "asked for is 1.3 of it; (b) the same with the same two files written; (c) as (a), with GLINT's own reader without "
        "any check for the public one.",
        "",
        "| DICOM to resampled volume on disk (Merlin's grid) | CPU s | to (a) | to (b) | to (c) |",
        "|---|--:|--:|--:|--:|",
        f"| (a) {reader} ({', '.join(f'{name} {s:.2f}' for name, s in public.items())}) + GLINT's resampler "
        f"{taken['resampler']:.2f} | {total:.2f} | 1 | | |",
        f"| (b) and both files written {taken['writing']:.2f} | {written:.2f} | {written / total:.2f} | 1 | |",
        f"| (c) GLINT's reader, unchecked {taken['own']:.2f} + its resampler | {own:.2f} | {own / total:.2f} "
        f"| {own / written:.2f} | 1 |",
        *(
            f"| {what} | {taken[what]:.2f} | {taken[what] / total:.2f} | {taken[what] / written:.2f} | {taken[what] / own:.2f} |"
            for what in rows
        ),
        "",
        "| where stages 03 and 04 spend it | CPU s |",
        "|---|--:|",
        *decomposed(folder, dicom, LEAST_SHOWN, repeats, afresh),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--slices", type=int, default=600)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--workers", action="store_true", help="measure the gain of two workers alone")
    parser.add_argument("--workers-slices", type=int, default=100)
    parser.add_argument("--studies", type=int, default=40)
    parser.add_argument("--scratch", type=Path, help="folder of the shard for the workers (default: the system's)")
    parser.add_argument("--child")
    parser.add_argument("--folder", type=Path)
    args = parser.parse_args()
    if args.child:
        child(args.child, args.folder)
        return
    if args.workers:
        print(workers_gain(args.workers_slices, args.studies, args.repeats, args.scratch))
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
    for name, grid in (("Merlin 3/1.5/1.5", MERLIN), ("4 mm", DEMO)):
        works = resamplers(hu, grid)
        if grid is MERLIN:
            works["SimpleITK Gaussian + linear"] = with_sitk(hu, grid)
        slow = {what: work for what, work in works.items() if "MONAI" in what or "SimpleITK" in what}
        quick = {what: work for what, work in works.items() if what not in slow}
        taken = in_turns(quick, args.repeats) | in_turns(slow, 1)
        base = taken["MONAI Spacing, aliased"]
        lines += [f"| {name} | {what} | {seconds:.2f} | {seconds / base:.2f} |" for what, seconds in taken.items()]
        print("\n".join(lines[-len(taken) :]), flush=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "dicom").mkdir()
        write_dicom(folder / "dicom", hu)
        write_nifti(folder / "volume.nii", hu, affine())
        del hu
        lines += to_disk(folder, args.repeats)
        ratios = {kind: memory_ratio(kind, folder) for kind in ("convert", "merlin", "ct_clip")}
    lines += [
        "",
        "Peak memory of one worker beyond its imports, over the int16 volume (asked for: 4): "
        f"{ratios['convert']:.2f} (stage 03), {ratios['merlin']:.2f} (stage 04, Merlin), {ratios['ct_clip']:.2f} (stage 04, CT-CLIP).",
        "",
        workers_gain(args.workers_slices, args.studies, 2, args.scratch),
    ]
    text = "\n".join(lines) + "\n"
    print(text)
    if args.out:
        args.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()

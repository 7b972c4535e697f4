"""De-identification beside dicom-anonymizer and beside pydicom's own read and write, and the memory of many slices.

    python benchmarks/deidentify.py [--slices 60] [--stream 1500]

CPU seconds per slice (512 x 512, 16 bit), the least of twelve rounds that take turns, so that ratios hold on a busy machine.
"""

import argparse
import contextlib
import io
import os
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import pydicom

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from dicom_builder import write_ct_series

from glint.core.config.deidentify import DeidentifyConfig
from glint.core.ids import Pseudonyms
from glint.formats.dicom import dataset_bytes, read_dataset, stored_transfer_syntax
from glint.prepare.deidentify.images import make_engine
from glint.prepare.deidentify.residual import residual_scan

RESULT = Path(__file__).parent / "results" / "deidentify.md"
ROUNDS = 12


def ours(files: list[Path], out: Path) -> None:
    """Read, clean, write and search the written bytes, as stage 02 does (without its look at the pixels)."""
    engine = make_engine(Pseudonyms(b"k" * 32), "MRN4471902", DeidentifyConfig())
    scan = residual_scan(names=["Quillfeather^Ottoline"], identifiers=["MRN4471902"], dates=["19541103"], phrases=[])
    for file in files:
        dataset = read_dataset(file.read_bytes())
        syntax = stored_transfer_syntax(dataset)
        pixels = bytes(dataset.get_item(0x7FE00010).value)
        trace = engine.clean(dataset)
        content = dataset_bytes(dataset, transfer_syntax=syntax)
        header = content[: content.rindex(b"\xe0\x7f\x10\x00", 0, len(content) - len(pixels) + 1)]
        assert not scan.finds(header, pixels, dataset, trace.uids)
        (out / file.name).write_bytes(content)


def anonymizer(files: list[Path], out: Path) -> None:
    from dicomanonymizer import anonymize

    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        for file in files:
            anonymize(str(file), str(out / file.name), {}, True)


def read_write(files: list[Path], out: Path) -> None:
    for file in files:
        pydicom.dcmread(file).save_as(out / file.name)


def seconds_per_slice(
    works: dict[str, Callable[[list[Path], Path], None]], files: list[Path], out: Path
) -> dict[str, float]:
    """Least CPU seconds of each; the rounds take turns, so that a busy minute hits all alike."""
    best = dict.fromkeys(works, np.inf)
    for _ in range(ROUNDS):
        for name, work in works.items():
            start = time.process_time()
            work(files, out)
            best[name] = min(best[name], (time.process_time() - start) / len(files))
    return best


def stream(files: list[Path], out: Path, count: int) -> tuple[float, float]:
    """GB that passed through and the highest resident memory of this process in MB."""
    process, highest, passed = psutil.Process(), 0.0, 0
    for _ in range(0, count, len(files)):
        ours(files, out)
        passed += sum(file.stat().st_size for file in files)
        highest = max(highest, process.memory_info().rss / 1e6)
    return passed / 1e9, highest


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--slices", type=int, default=60)
    parser.add_argument("--stream", type=int, default=15300, help="slices of 0.5 MB that pass for the memory")
    args = parser.parse_args()
    folder = Path(tempfile.mkdtemp())
    try:
        hu_ZYX = np.random.default_rng(0).integers(-1000, 1000, (args.slices, 512, 512), np.int16)
        files = write_ct_series(folder / "raw", hu_ZYX=hu_ZYX)
        del hu_ZYX
        out = folder / "out"
        out.mkdir()
        works = {
            "GLINT: read, clean, write, search": ours,
            "pydicom: read, write": read_write,
            "dicom-anonymizer": anonymizer,
        }
        times = seconds_per_slice(works, files, out)
        gigabytes, memory_MB = stream(files, out, args.stream)
    finally:
        shutil.rmtree(folder)
    reference = times["GLINT: read, clean, write, search"]
    lines = [
        "# De-identification of headers, 512 x 512 CT slices",
        "",
        "| | CPU ms per slice | times GLINT |",
        "|---|--:|--:|",
    ]
    lines += [f"| {name} | {1000 * value:.2f} | {value / reference:.2f} |" for name, value in times.items()]
    lines += ["", f"GLINT over pydicom's read and write: {reference / times['pydicom: read, write']:.2f}."]
    lines += [f"Memory: at most {memory_MB:.0f} MB resident while {gigabytes:.1f} GB of slices passed."]
    lines += [f"pydicom {pydicom.__version__}, {os.cpu_count()} cores, least of {ROUNDS} rounds."]
    peak_MB = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    lines += [f"Peak of the process with making the test series: {peak_MB:.0f} MB."]
    RESULT.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))


if __name__ == "__main__":
    main()

"""The feature cache's reader against np.memmap over the same bytes and against other HDF5 layouts, warm, as ratios.

Usage: OMP_NUM_THREADS=1 python benchmarks/features.py [--studies 64] [--rounds 9] [--out benchmarks/results/features.md]

Random batches of 8 studies of 1568 tokens of width 384 (float16), and 64 random tokens of each of 8 studies. CPU seconds (process_time), in
interleaved rounds, so that a busy machine spoils little; every reader is opened before the clock starts.
"""

from __future__ import annotations

import argparse
import os
import platform
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import h5py
import numpy as np

from glint.formats.feature_cache import FeatureCache, write_cache
from glint.formats.feature_rows import CacheHead

GRID, WIDTH, BATCH, FEW = (8, 14, 14), 384, 8, 64
Read = Callable[[np.ndarray, np.ndarray | None], np.ndarray]


def tokens_of(studies: int) -> np.ndarray:
    """(N, P, D) float16 with the spread of real tokens, which gzip shortens little."""
    return np.random.default_rng(0).normal(size=(studies, int(np.prod(GRID)), WIDTH)).astype(np.float16)


def readers(folder: Path, tokens: np.ndarray) -> dict[str, Read]:
    studies = tuple(f"s{number:04d}" for number in range(len(tokens)))
    found: dict[str, Read] = {}
    np.save(folder / "plain.npy", tokens)
    plain = np.load(folder / "plain.npy", mmap_mode="r")
    found["np.memmap"] = lambda rows, few: np.asarray(plain[rows] if few is None else plain[rows[:, None], few])
    kinds = [("float16", "contiguous"), ("float16", "chunked"), ("bfloat16", "contiguous"), ("int8", "contiguous")]
    for dtype, layout in kinds:
        head = CacheHead(study_ids=studies, layers=("final",), grid=GRID, width=WIDTH, dtype=dtype, layout=layout)
        path = folder / f"{dtype}_{layout}.h5"
        with write_cache(path, head) as writer:
            for row, one in enumerate(tokens):
                writer.put(row, {"final": one}, affine=np.eye(4), coverage_P=np.ones(one.shape[0], np.float32))
        cache = FeatureCache(path)
        found[f"feature cache, {dtype}, {layout}"] = lambda rows, few, cache=cache: cache.read("final", rows, few)
    others = {"HDF5, chunks=True": {"chunks": True}, "HDF5, gzip": {"compression": "gzip"}}
    for name, options in others.items():
        path = folder / f"{len(found)}.h5"
        with h5py.File(path, "w") as handle:
            handle.create_dataset("tokens", data=tokens, **options)
        dataset = h5py.File(path, "r")["tokens"]

        def chosen(rows: np.ndarray, few: np.ndarray | None, dataset: h5py.Dataset = dataset) -> np.ndarray:
            whole = dataset[rows]
            return whole if few is None else whole[:, few]

        def one_by_one(rows: np.ndarray, few: np.ndarray | None, dataset: h5py.Dataset = dataset) -> np.ndarray:
            whole = np.empty((len(rows), *dataset.shape[1:]), dataset.dtype)
            for place, row in enumerate(rows):
                dataset.read_direct(whole, np.s_[row], np.s_[place])
            return whole if few is None else whole[:, few]

        found[f"{name}, dataset[rows]"] = chosen
        found[f"{name}, read_direct row by row"] = one_by_one
    return found


def measured_s(works: dict[str, Callable[[], object]], rounds: int) -> tuple[dict[str, float], dict[str, float]]:
    """CPU seconds of the best of interleaved rounds, and the median over rounds of the speed to the first work in the same round."""
    best = dict.fromkeys(works, float("inf"))
    speeds: dict[str, list[float]] = {name: [] for name in works}
    for number in range(rounds + 1):
        base_s = 0.0
        for name, work in works.items():
            if number > 2 and best[name] > 0.1:
                continue  # what is slow by tens needs no more rounds
            started_s = time.process_time()
            work()
            taken_s = time.process_time() - started_s
            base_s = base_s or taken_s
            if number:  # the first round warms the page cache
                best[name] = min(best[name], taken_s)
                speeds[name].append(base_s / taken_s)
    return best, {name: float(np.median(found)) for name, found in speeds.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--studies", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    tokens = tokens_of(args.studies)
    rng = np.random.default_rng(1)
    draws = [np.sort(rng.choice(args.studies, BATCH, replace=False)) for _ in range(4)]
    few = np.sort(rng.choice(tokens.shape[1], FEW, replace=False))
    lines = [
        "# Reading feature caches",
        "",
        f"`python benchmarks/features.py --studies {args.studies} --rounds {args.rounds}`: {args.studies} × {tokens.shape[1]} × {WIDTH}, "
        f"{tokens.nbytes / 1e6:.0f} MB in float16, page cache warm. CPU time: least of the rounds; speed to np.memmap (1: as fast, more is faster): median of the rounds.",
        f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} at the start; "
        + ", ".join(f"{name} {version(name)}" for name in ("numpy", "h5py")),
        "",
        "| reader | 8 random studies, ms | speed to np.memmap | 64 tokens of each, ms | speed to np.memmap |",
        "|---|--:|--:|--:|--:|",
    ]
    with tempfile.TemporaryDirectory() as name:
        found = readers(Path(name), tokens)
        for read in list(found.values())[:3]:
            assert np.array_equal(read(draws[0], few), tokens[draws[0]][:, few])
        (whole, fast), (part, fast_part) = (
            measured_s(
                {n: lambda read=read, which=which: [read(rows, which) for rows in draws] for n, read in found.items()},
                args.rounds,
            )
            for which in (None, few)
        )
    for reader in found:
        milli = [1000 * taken[reader] / len(draws) for taken in (whole, part)]
        lines.append(f"| {reader} | {milli[0]:.2f} | {fast[reader]:.3g} | {milli[1]:.3f} | {fast_part[reader]:.3g} |")
    ours = fast["feature cache, float16, contiguous"]
    slow = {name: ours / speed for name, speed in fast.items() if name.startswith("HDF5")}
    lines += [
        "",
        f"Random batches of studies: {ours:.2f} times np.memmap (asked: 0.8). To other layouts (asked: 5): "
        + "; ".join(f"{name} {times:.1f} times" for name, times in slow.items())
        + ". bfloat16 and int8 are widened to float32 as they are read.",
    ]
    print("\n".join(lines))
    if args.out:
        args.out.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

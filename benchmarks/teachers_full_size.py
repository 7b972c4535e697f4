"""Every published architecture with random weights at its real input: tokens, memory, seconds, against what is documented.

Usage: python benchmarks/teachers_full_size.py [--names vjepa2_1_vitl ...] [--precision bfloat16] [--out benchmarks/results/teachers_full_size.md]

Each runs in a process of its own, one volume, two blocks kept; memory is the peak of that process. bfloat16 takes a third of the time of float32
where the processor knows it, and weights half as large.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import time
from math import prod
from pathlib import Path

from glint.core.config.families import PUBLISHED, grid_of

CT = (64, 256, 256)
"""The method's CT input; 384 has 18,432 tokens and takes four times as long."""
MOST_GB = 16.0


def shape_of(name: str, slices: int) -> tuple[int, int, int]:
    entry = PUBLISHED[name]
    return (slices, *CT[1:]) if entry.volume_zyx[0] > 1 else entry.volume_zyx


def one(name: str, precision: str, slices: int) -> dict[str, object]:
    """Build, run one volume; called in a process of its own."""
    import torch

    from glint.teachers.published import published_description
    from glint.teachers.registry import FrozenTeacher, build_encoder

    torch.set_num_threads(2)
    torch.manual_seed(0)
    shape = shape_of(name, slices)
    teacher = FrozenTeacher(build_encoder(published_description(name, shape)))
    dtype = getattr(torch, precision)
    teacher = teacher.to(dtype)
    volume = torch.rand(1, 3, *shape).to(dtype)
    layers = (teacher.depth // 2 - 1, teacher.depth - 1)
    wall_s, cpu_s = time.perf_counter(), time.process_time()
    encoded = teacher.encode(volume, layers)
    wall_s, cpu_s = time.perf_counter() - wall_s, time.process_time() - cpu_s
    tokens = encoded.patch_tokens_BND
    return {
        "grid": teacher.grid,
        "shape": tuple(tokens.shape),
        "type": str(tokens.dtype).removeprefix("torch."),
        "finite": bool(all(torch.isfinite(one).all() for one in (tokens, *encoded.hidden.values()))),
        "parameters": sum(parameter.numel() for parameter in teacher.parameters()),
        "wall_s": wall_s,
        "cpu_s": cpu_s,
        "peak_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--names", nargs="+", default=list(PUBLISHED), choices=list(PUBLISHED))
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--one", choices=list(PUBLISHED), help=argparse.SUPPRESS)
    parser.add_argument("--slices", type=int, default=CT[0], help="of volumes; fewer make a quick check")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(one(args.one, args.precision, args.slices)))
        return
    import torch

    load = os.getloadavg()[0]
    rows, peaks = [], {}
    for name in args.names:
        command = [sys.executable, __file__, "--one", name, "--precision", args.precision, "--slices", str(args.slices)]
        found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        entry, shape = PUBLISHED[name], shape_of(name, args.slices)
        grid = grid_of(shape, entry.family)
        documented = (list(grid), [1, prod(grid), entry.width], args.precision, True, entry.parameters)
        same = (found["grid"], found["shape"], found["type"], found["finite"], found["parameters"]) == documented
        size = " × ".join(map(str, shape))
        rows.append(
            f"| {name} | {size} | {' × '.join(map(str, found['grid']))} | {found['shape'][1]} | {found['shape'][2]} | {found['type']} | "
            f"{found['parameters'] / 1e6:.1f} M | {found['peak_gb']:.1f} | {found['wall_s']:.1f} | {found['cpu_s']:.1f} | {'yes' if same else 'NO'} |"
        )
        peaks[name] = found["peak_gb"]
        print(rows[-1], flush=True)
    largest = max(peaks, key=lambda name: peaks[name])
    fits = "fits" if peaks[largest] < MOST_GB else "does NOT fit"
    text = f"""# The published architectures at full size

`python benchmarks/teachers_full_size.py --names {" ".join(args.names)} --precision {args.precision} --slices {args.slices}`: random weights of the real configuration, one volume of noise, fused attention, two threads, two blocks' outputs kept.
Peak: resident memory of the whole process, GB of 10^9 bytes. As documented: grid, tokens, width, type, parameters and finite values equal `glint teachers list`.
{platform.machine()}, {os.cpu_count()} cores, load {load:.1f} at the start; torch {torch.__version__}

| weights | input (z, y, x) | grid | tokens | width | type | parameters | peak GB | wall s | CPU s | as documented |
|---|---|---|--:|--:|---|--:|--:|--:|--:|---|
{chr(10).join(rows)}

Most memory: {largest}, {peaks[largest]:.1f} GB, {fits} in {MOST_GB:.0f} GB.
"""
    if args.out is not None:
        args.out.write_text(text)


if __name__ == "__main__":
    main()

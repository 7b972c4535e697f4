"""Encoding on two cores: bfloat16 weights, fused or eager attention, compiled or not, as ratios to float32 with fused attention.

Usage: python benchmarks/teacher_cpu.py [--rounds 7] [--compile] [--out benchmarks/results/teacher_cpu.md]

Random weights. Every round runs every variant once, in turn; a ratio is that of the least seconds of each, so that a busy machine
spoils little; wall seconds it does spoil (1.4 to 7.6 for one kernel at load 15), so verdicts go by CPU seconds. `chosen` is what stage 08 would take from its own start-up measurement at that moment (four rounds).
"""

from __future__ import annotations

import argparse
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # threads that wait burn no CPU seconds

import torch
import torch.nn.functional as F
from torch import Tensor

from glint.teachers.encoder import Encoder
from glint.teachers.kernels import Kernel, TeacherPass, candidates, fastest_pass
from glint.teachers.registry import FrozenTeacher, build_encoder

TINY, SMALL = (192, 12, 3), (384, 12, 6)
CASES: tuple[tuple[str, str, tuple[int, int, int], tuple[int, int, int], int, float | None], ...] = (
    ("DINOv3 tiny, 256 px", "dinov3", (1, 256, 256), TINY, 8, 2.0),
    ("V-JEPA 2.1 tiny, 512 tokens", "vjepa2_1", (16, 128, 128), TINY, 4, 1.6),
    ("V-JEPA 2 tiny, 512 tokens", "vjepa2", (16, 128, 128), TINY, 4, 1.6),
    ("V-JEPA 2.1 small, 1568 tokens", "vjepa2_1", (16, 224, 224), SMALL, 1, None),
)


def encoder_of(family: str, volume: tuple[int, int, int], size: tuple[int, int, int]) -> Encoder:
    width, depth, heads = size
    architecture: dict[str, Any] = {"volume_zyx": list(volume)}
    if family == "vjepa2_1":
        architecture |= {"width": width, "depth": depth, "heads": heads}
    else:
        shape = {"hidden_size": width, "num_hidden_layers": depth, "num_attention_heads": heads, "patch_size": 16}
        own = {"tubelet_size": 2} if family == "vjepa2" else {"intermediate_size": 4 * width, "num_register_tokens": 4}
        architecture |= {"transformers": shape | own, "mean": [0.5] * 3, "deviation": [0.5] * 3}
    torch.manual_seed(0)
    return build_encoder({"family": family, "architecture": architecture})


def compiled(one: TeacherPass, volume: Tensor) -> tuple[Callable[[Tensor], Tensor], float]:
    """The pass through torch.compile, and the seconds until it had run once."""
    encoder = torch.compile(one.teacher.encoder)

    @torch.inference_mode()
    def run(batch: Tensor) -> Tensor:
        tokens: Tensor = encoder(batch.to(one.dtype)).patch_tokens_BND
        return tokens.float()

    started_s = time.perf_counter()
    run(volume)
    return run, time.perf_counter() - started_s


def measured(
    runs: dict[str, Callable[[Tensor], Tensor]], volume: Tensor, rounds: int
) -> dict[str, tuple[float, float]]:
    """Variant → least (wall, CPU) seconds of interleaved rounds, after one to warm up."""
    best = dict.fromkeys(runs, (float("inf"), float("inf")))
    for number in range(rounds + 1):
        for name, run in runs.items():
            wall_s, cpu_s = time.perf_counter(), time.process_time()
            run(volume)
            spent = time.perf_counter() - wall_s, time.process_time() - cpu_s
            if number:
                best[name] = min(best[name][0], spent[0]), min(best[name][1], spent[1])
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--compile", action="store_true", help="also torch.compile, which needs a C++ compiler")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(2)
    load = os.getloadavg()[0]
    rows, verdicts = [], []
    for title, family, shape, size, batch, target in CASES:
        teacher = FrozenTeacher(encoder_of(family, shape, size))
        volume = torch.rand(batch, 3, *shape, generator=torch.Generator().manual_seed(0))
        passes = {kernel.name: TeacherPass(teacher, kernel) for kernel in candidates("auto", "auto")}
        runs: dict[str, Callable[[Tensor], Tensor]] = {
            name: lambda batch, one=one: one(batch).patch_tokens_BND for name, one in passes.items()
        }
        told = {}
        if args.compile:
            for attention in ("sdpa", "eager"):
                name = f"bfloat16, {attention} attention"
                runs[f"{name}, compiled"], spent_s = compiled(passes[name], volume)
                told[f"{name}, compiled"] = f" (compiling took {spent_s:.0f} s)"
        exact = runs[Kernel().name](volume)
        cosines = {name: float(F.cosine_similarity(run(volume), exact, dim=-1).mean()) for name, run in runs.items()}
        best = measured(runs, volume, args.rounds)
        chosen = fastest_pass(teacher, candidates("auto", "auto"), volume).kernel.name
        first = best[Kernel().name]
        for name, (wall_s, cpu_s) in best.items():
            marked = f"**{name}**" if name == chosen else name
            rows.append(
                f"| {title}, batch {batch} | {marked}{told.get(name, '')} | {1000 * wall_s / batch:.0f} | {first[0] / wall_s:.2f} | "
                f"{first[1] / cpu_s:.2f} | {cosines[name]:.5f} |"
            )
        if target is not None:
            reached = first[1] / best[chosen][1]
            met = "met" if reached >= target else "not met"
            verdicts.append(
                f"- {title}, batch {batch}: {reached:.2f} in CPU seconds with the chosen kernel, asked for {target}: {met}"
            )
    flags = Path("/proc/cpuinfo").read_text().split("flags", 1)[-1].split("\n", 1)[0].split()
    units = ", ".join(flag for flag in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if flag in flags)
    command = f"python benchmarks/teacher_cpu.py --rounds {args.rounds}{' --compile' if args.compile else ''}"
    text = f"""# Encoding on two cores

`{command}`: random weights, two threads; ratios to float32 with fused attention in the same run, of the least seconds of {args.rounds} rounds. Bold: what
the start-up measurement of stage 08 chose.
{platform.machine()}, {os.cpu_count()} cores ({units}), load {load:.1f} at the start; torch {torch.__version__}

| case | pass | ms per volume | faster, wall | faster, CPU seconds | cosine to float32 |
|---|---|--:|--:|--:|--:|
{chr(10).join(rows)}

{chr(10).join(verdicts)}
"""
    print(text)
    if args.out is not None:
        args.out.write_text(text)


if __name__ == "__main__":
    main()

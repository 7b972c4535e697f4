"""A training step with cached teacher tokens against one in which the teacher runs, in float32 and in bfloat16, as ratios.

Usage: OMP_NUM_THREADS=1 python benchmarks/step_cached.py [--rounds 5] [--out benchmarks/results/step_cached.md]

Encoder of the demo's shape (7 windows, 56 × 56 × 72 voxels, patches of 8, width 128, 4 blocks), batches of 8, every loss on. CPU seconds
(process_time) of whole optimiser steps, reading included, in interleaved rounds.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import tempfile
import time
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch

from glint.core.config.teacher import TeacherConfig
from glint.core.config.train import TrainConfig
from glint.formats.feature_cache import FeatureCache, write_cache
from glint.formats.feature_rows import CacheHead
from glint.teachers.encode import encode_windows
from glint.teachers.kernels import Kernel, TeacherPass
from glint.teachers.registry import FrozenTeacher
from glint.teachers.vjepa import EncoderConfig, VisionTransformer3D
from glint.training.dataset import StudySet, study_texts, volume_tensor
from glint.training.loop import Run, batch_of, optimise
from glint.training.optimizer import make_optimizer
from glint.training.start import new_model
from glint.training.teacher_tokens import CachedTokens, OnlineTokens

TESTS = Path(__file__).resolve().parents[1] / "tests"
STUDIES, VOLUME, PATCH, BLOCKS = 16, (56, 56, 72), (8, 8, 8), (1, 2, 3)


def studies_of(windows: tuple[tuple[float, float], ...]) -> StudySet:
    from synthetic import cohort

    _, _, said, stated = cohort(STUDIES)
    ids = [f"s{number}" for number in range(STUDIES)]
    config = TrainConfig()
    statements, queries = study_texts(said, stated, ids, config.sentences)
    rng = np.random.default_rng(0)
    return StudySet(
        study_ids=tuple(ids),
        volume_BZYX=rng.integers(-1000, 400, (STUDIES, *VOLUME)).astype(np.int16),
        weight_BP=np.ones((STUDIES, 7 * 7 * 9), np.float32),
        windows=windows,
        statements=statements,
        queries=queries,
        patch_zyx=PATCH,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    sys.path[:0] = [str(TESTS / "training"), str(TESTS)]  # their cohort of reports and their small sentence encoder
    from sentence_stub import BagOfWords

    torch.set_num_threads(1)
    windows = TeacherConfig().windows
    torch.manual_seed(0)
    shape = EncoderConfig(volume_zyx=VOLUME, patch_zyx=PATCH, channels=len(windows), width=128, depth=4, heads=2)
    teacher, plain = FrozenTeacher(VisionTransformer3D(shape)), studies_of(windows)
    config = TrainConfig(threads=1, head_steps=0, steps=1000, batch_size=args.batch_size)
    with tempfile.TemporaryDirectory() as folder:
        layers = tuple(map(str, BLOCKS))
        head = CacheHead(study_ids=plain.study_ids, layers=layers, grid=teacher.grid, width=teacher.width)
        path, exact = Path(folder, "shard.h5"), TeacherPass(teacher, Kernel())
        with write_cache(path, head) as writer:
            for row in range(STUDIES):
                volume = torch.from_numpy(volume_tensor(plain, [row]))
                tokens = encode_windows(exact, volume, layers=BLOCKS, final=False)
                one = {layer: found[0] for layer, found in tokens.items()}
                writer.put(row, one, affine=np.eye(4), coverage_P=np.ones(head.patches, np.float32))
        cached = CachedTokens(
            caches=(FeatureCache(path),),
            cache_B=np.zeros(STUDIES, np.int64),
            rows_B=np.arange(STUDIES),
            patch_zyx=PATCH,
        )
        sources = {"cached": cached} | {
            f"online, {precision}": OnlineTokens(
                teacher=TeacherPass(teacher, Kernel(precision=precision)),
                volume_BZYX=plain.volume_BZYX,
                windows=windows,
            )
            for precision in ("float32", "bfloat16")
        }
        runs = {}
        for name, source in sources.items():
            training = replace(plain, teacher=source)
            model = new_model(config, teacher=teacher, sentence_encoder=BagOfWords(), training=training)
            model.train()
            runs[name] = (
                training,
                Run(model=model, optimizer=make_optimizer(model, config.optimizer), step=0, curves=[]),
            )
        taken: dict[str, list[float]] = {name: [] for name in runs}
        losses: dict[str, list[float]] = {name: [] for name in runs}
        for number in range(args.rounds + 1):
            for name, (training, run) in runs.items():
                started_s = time.process_time()
                losses[name].append(
                    optimise(run, batch_of(run.step, training, config, depth=shape.depth), config).numbers["loss"]
                )
                if number:
                    taken[name].append(time.process_time() - started_s)
    base = np.array(taken["cached"])
    lines = [
        "# A training step: cached against online teacher",
        "",
        f"`python benchmarks/step_cached.py --rounds {args.rounds} --batch-size {args.batch_size}`: one thread; ratios are medians over "
        "rounds of the same round's steps.",
        f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} at the end; torch {version('torch')}",
        "",
        "| teacher | step, CPU s | to cached | largest difference of a loss to cached |",
        "|---|--:|--:|--:|",
    ]
    for name, seconds in taken.items():
        apart = np.abs(np.array(losses[name]) / np.array(losses["cached"]) - 1).max()
        lines.append(
            f"| {name} | {np.median(seconds):.2f} | {np.median(np.array(seconds) / base):.2f} | {apart:.1e} relative |"
        )
    gain = np.median(np.array(taken["online, float32"]) / base)
    lines += ["", f"Cached is {gain:.2f} times as fast as the float32 teacher (asked: 1.2)."]
    print("\n".join(lines))
    if args.out:
        args.out.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

"""1,000 studies, 20 queries: all questions in one pass over cached tokens, against one pass per query; memory beside the cache's size.

Usage: python benchmarks/evaluate_tokens.py [--studies 1000] [--queries 20] [--out benchmarks/results/evaluate_tokens.md]

Tokens are random, 512 patches of width 384, float16 in a feature cache on disk; the heads are those of a GLINT with random weights.
"""

from __future__ import annotations

import argparse
import platform
import resource
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from glint.core.config.train import TrainConfig
from glint.evaluation.zero_shot import Question, ask
from glint.formats.feature_cache import FeatureCache, write_cache
from glint.formats.feature_rows import CacheHead
from glint.model.glint import Glint
from glint.model.student import Student
from glint.model.text_encoder import load_sentence_encoder
from glint.teachers.vjepa import EncoderConfig, VisionTransformer3D

GRID, WIDTH, BATCH = (8, 8, 8), 384, 16
PATCHES = 512


def model() -> Glint:
    torch.manual_seed(0)
    encoder = EncoderConfig(volume_zyx=(64, 64, 64), patch_zyx=(8, 8, 8), width=WIDTH, depth=1, heads=6)
    config = TrainConfig()
    return Glint(
        config, student=Student(VisionTransformer3D(encoder)), sentence_encoder=load_sentence_encoder(config.text)
    ).eval()


def write_tokens(path: Path, studies: int) -> None:
    rng = np.random.default_rng(0)
    head = CacheHead(study_ids=tuple(f"s{k}" for k in range(studies)), layers=("final",), grid=GRID, width=WIDTH)
    with write_cache(path, head) as writer:
        for row in range(studies):
            tokens = rng.standard_normal((PATCHES, WIDTH), dtype=np.float32)
            writer.put(row, {"final": tokens}, affine=np.eye(4), coverage_P=np.ones(PATCHES, np.float32))


def batches(glint: Glint, cache: FeatureCache, studies: int) -> Iterator[Any]:
    for start in range(0, studies, BATCH):
        rows = list(range(start, min(start + BATCH, studies)))
        yield glint.project(torch.from_numpy(np.asarray(cache.read("final", rows), dtype=np.float32)))


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=1000)
    parser.add_argument("--queries", type=int, default=20)
    parser.add_argument("--single", type=int, default=3, help="queries of the one-by-one way that are timed")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    glint = model()
    questions = [Question(sentences=(f"There is finding number {k}.",), mapped=True) for k in range(args.queries)]
    weight = np.ones((args.studies, PATCHES), np.float32)
    asked = {"grid": GRID, "batch_size": BATCH}
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        path = Path(folder) / "tokens.h5"
        write_tokens(path, args.studies)
        size_mb = path.stat().st_size / 2**20
        cache = FeatureCache(path)
        ask(glint, batches(glint, cache, BATCH), questions, weight_BP=weight[:BATCH], **asked)  # warm
        before_mb, wall, cpu = peak_mb(), time.perf_counter(), time.process_time()
        replies = ask(glint, batches(glint, cache, args.studies), questions, weight_BP=weight, **asked)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        after_mb = peak_mb()
        single = time.process_time()
        for question in questions[: args.single]:
            ask(glint, batches(glint, cache, args.studies), [question], weight_BP=weight, **asked)
        single = (time.process_time() - single) / args.single * args.queries
    held_mb = replies.logits_QBP.nbytes / 2**20
    lines = [
        "# Many questions, one pass",
        "",
        f"`python benchmarks/evaluate_tokens.py`, {platform.machine()}, torch {torch.__version__}, "
        f"{torch.get_num_threads()} threads. {args.studies} studies of {PATCHES} tokens, width {WIDTH}: "
        f"a cache of {size_mb:.0f} MB. {args.queries} queries, maps kept.",
        "",
        "| | |",
        "|---|--:|",
        f"| one pass, wall | {wall:.1f} s |",
        f"| one pass, processor | {cpu:.1f} s ({args.studies / cpu:.0f} studies a second) |",
        f"| a pass per query, processor (from {args.single}) | {single:.1f} s, {single / cpu:.1f} times as much |",
        f"| memory beyond the model, mapped pages of the cache included | {after_mb - before_mb:.0f} MB |",
        f"| of it the maps | {held_mb:.0f} MB |",
        "",
    ]
    print("\n".join(lines))
    if args.out:
        args.out.write_text("\n".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main()

"""What in-domain pretraining is worth: a linear probe on frozen patch tokens, pretrained against randomly initialised, over seeds.

Usage: OMP_NUM_THREADS=1 python benchmarks/pretrain_teacher.py RESULTS/ct [--recipe masked_latent] [--steps 320] [--seeds 3]
       [--studies 150] [--out benchmarks/results/pretrain_teacher.md]

RESULTS/ct holds the finished stages 04, 06 and 10 (truth) of a demo. The probe is a logistic regression per finding on single tokens, fitted
on patches of training studies, its ridge chosen on validation studies; the number is the average precision over the patches of the test
studies, macro over findings. Masks are the probe's alone. Two baselines: every weight random, and the same with the patch embedding fitted to
the cohort's densities, which is where our pretraining starts and no small thing.
"""

from __future__ import annotations

import argparse
import os
import platform
import time
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch

from glint.core.config.evaluate import ProbeConfig
from glint.core.config.teacher import DistillConfig, PretrainConfig, TeacherConfig
from glint.evaluation.cohort import positive_labels, read_cohort
from glint.evaluation.probe import Marked, fit_probe
from glint.metrics.classification import average_precision_score
from glint.model.alignment import valid_patches
from glint.prepare.resample import window_channels
from glint.teachers.appearance import fit_patch_embedding
from glint.teachers.distill import distill
from glint.teachers.make import encoder_config
from glint.teachers.pretrain import pretrain
from glint.teachers.steps import collapse_monitors, first_volumes
from glint.teachers.vjepa import EncoderConfig, VisionTransformer3D
from glint.teachers.volumes import shift_volume

SPLITS = ("train", "validation", "test")
WINDOWS = TeacherConfig().windows
MASKED_LATENT = {
    "batch_size": 4,
    "momentum_start": 0.95,
    "momentum_end": 0.98,
    "appearance_weight": 20.0,
    "masks": {"masked_fraction": 0.5},
}
"""Chosen on seed 7, which is not reported: batches of 8 with 80 % masked, appearance weight 2 and half the steps fell below the fitted start."""
PROBE = ProbeConfig(max_patches=25_000, pooled_patches=(1,))


class Held:
    """Volumes in memory."""

    def __init__(self, volumes: np.ndarray) -> None:
        self.volumes = volumes

    def __len__(self) -> int:
        return len(self.volumes)

    def window(self, index: int, shift_zyx: tuple[int, int, int] = (0, 0, 0)) -> np.ndarray:
        return window_channels(shift_volume(self.volumes[index], shift_zyx), WINDOWS)


def read(results: Path, studies: int) -> tuple[dict[str, dict[str, np.ndarray]], tuple[str, ...], EncoderConfig]:
    """Per split volumes, shares of patches that masks fill, valid patches and labels; the findings; the demo's encoder."""
    cohort = read_cohort(
        resampled=sorted(results.glob("04_resample/*/manifest.parquet")),
        split=results / "06_split/manifest.parquet",
        truth=results / "10_evaluate/truth/manifest.parquet",
        features=(),
    )
    found = {}
    for split in SPLITS:
        chosen = cohort.studies[split][:studies]
        volumes = np.stack([study.volume()[0] for study in chosen])
        shape = encoder_config(TeacherConfig(), volumes.shape[1:])
        split_zyx = [n for size, edge in zip(shape.grid, shape.patch_zyx, strict=True) for n in (size, edge)]
        bits = np.stack([study.bits() for study in chosen])
        fraction = [
            ((bits >> number) & 1).reshape(len(chosen), *split_zyx).mean(axis=(2, 4, 6), dtype=np.float32)
            for number in range(len(cohort.findings))
        ]
        found[split] = {
            "volumes": volumes,
            "fraction": np.stack(fraction).reshape(len(cohort.findings), len(chosen), -1),
            "valid": np.stack([valid_patches(one.valid_box, shape.volume_zyx, shape.patch_zyx) for one in chosen]),
            "positive": positive_labels(chosen, cohort.findings),
        }
    return found, cohort.findings, shape


@torch.no_grad()
def tokens_of(encoder: VisionTransformer3D, volumes: np.ndarray) -> np.ndarray:
    held = Held(volumes)
    batches = [range(start, min(start + 8, len(held))) for start in range(0, len(held), 8)]
    stacked = [torch.from_numpy(np.stack([held.window(index) for index in batch])) for batch in batches]
    return np.concatenate([encoder(batch).patch_tokens_BND.numpy() for batch in stacked])


def measured(
    encoder: VisionTransformer3D, data: Mapping[str, dict[str, np.ndarray]]
) -> tuple[np.ndarray, dict[str, float]]:
    """Average precision by finding, and the monitors of collapse."""
    marked = {
        split: Marked(
            tokens_BPD=tokens_of(encoder, one["volumes"]),
            fraction_FBP=one["fraction"],
            valid_BP=one["valid"],
            positive_FB=one["positive"],
        )
        for split, one in data.items()
    }
    probe = fit_probe(marked["train"], marked["validation"], PROBE, seed=0)
    test = marked["test"]
    wanted, logits = test.targets(PROBE.positive_fraction), probe.patch_logits(test.tokens_BPD)
    precision = [average_precision_score(one[test.valid_BP], wanted[:, f]) for f, one in enumerate(logits)]
    return np.array(precision), collapse_monitors(torch.from_numpy(test.tokens_BPD[:16]))


def encoders(
    shape: EncoderConfig, volumes: Held, *, recipe: str, steps: int, rate: float, seed: int
) -> dict[str, VisionTransformer3D]:
    """Randomly initialised, with a fitted patch embedding, pretrained."""
    torch.manual_seed(seed)
    plain, fitted = (VisionTransformer3D(shape).eval() for _ in range(2))
    fitted.load_state_dict(plain.state_dict())
    fit_patch_embedding(fitted, first_volumes(volumes, 48), generator=torch.Generator().manual_seed(seed))
    common = {"steps": steps, "learning_rate": rate, "monitor_every": max(1, steps // 4)}
    if recipe == "masked_latent":
        config = PretrainConfig.model_validate(common | MASKED_LATENT)
        made = pretrain(volumes, shape, config, seed=seed, key="benchmark")
    else:
        made = distill(volumes, shape, DistillConfig(**common), seed=seed, key="benchmark")
    return {"random": plain, "random, patch embedding fitted": fitted, f"pretrained, {recipe}": made.encoder.eval()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", type=Path)
    parser.add_argument("--recipe", choices=("masked_latent", "self_distillation"), default="masked_latent")
    parser.add_argument("--steps", type=int, default=320)
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--studies", type=int, default=150, help="training studies at most")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    data, findings, shape = read(args.results, args.studies)
    volumes, started_s = Held(data["train"]["volumes"]), time.process_time()
    rows: dict[str, list[np.ndarray]] = {}
    monitors: dict[str, list[dict[str, float]]] = {}
    for seed in range(args.seeds):
        made = encoders(shape, volumes, recipe=args.recipe, steps=args.steps, rate=args.rate, seed=seed)
        for name, encoder in made.items():
            precision, watched = measured(encoder, data)
            rows.setdefault(name, []).append(precision)
            monitors.setdefault(name, []).append(watched)
            print(
                f"seed {seed}, {name}: macro {precision.mean():.3f}, "
                + ", ".join(f"{key} {value:.2f}" for key, value in watched.items()),
                flush=True,
            )
    counted = ", ".join(f"{len(data[split]['volumes'])} {split}" for split in SPLITS)
    lines = [
        "# What pretraining is worth",
        "",
        f"`python benchmarks/pretrain_teacher.py … --recipe {args.recipe} --steps {args.steps} --rate {args.rate:g} --seeds {args.seeds} --studies "
        f"{args.studies}`: {counted} studies of the demo; average precision of patches, "
        f"linear probe on frozen final tokens, mean over seeds. {(time.process_time() - started_s) / 60:.0f} CPU minutes.",
        f"{platform.machine()}, {os.cpu_count()} cores; torch {version('torch')}",
        "",
        *([f"Recipe: {MASKED_LATENT}", ""] if args.recipe == "masked_latent" else []),
        "| encoder | macro | by seed | effective rank, by seed | token deviation | token cosine |",
        "|---|--:|---|---|---|---|",
    ]
    for name, found in rows.items():
        macro = [one.mean() for one in found]
        watched = [
            ", ".join(f"{one[key]:.2f}" for one in monitors[name])
            for key in ("effective_rank", "token_std", "token_cosine")
        ]
        lines.append(
            f"| {name} | {np.mean(macro):.3f} | {', '.join(f'{one:.3f}' for one in macro)} | {' | '.join(watched)} |"
        )
    lines += ["", f"| finding | {' | '.join(rows)} |", f"|---|{'--:|' * len(rows)}"]
    for number, finding in enumerate(findings):
        values = " | ".join(f"{np.mean([one[number] for one in found]):.2f}" for found in rows.values())
        lines.append(f"| {finding.replace('_', ' ')} | {values} |")
    plain, fitted, trained = (np.mean([one.mean() for one in found]) for found in rows.values())
    lines += [
        "",
        f"Pretrained {trained:.3f}: {trained - plain:+.3f} to random (asked: +0.15), {trained - fitted:+.3f} to the fitted start.",
    ]
    print("\n".join(lines))
    if args.out:
        args.out.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

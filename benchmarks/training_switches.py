"""What each switch of the training loop costs and saves, as ratios to a step without any.

Usage: python benchmarks/training_switches.py [--rounds 5] [--out benchmarks/results/training_switches.md]

One step of 8 random volumes with the encoder: forward, backward, optimiser. Processor seconds are the least of the rounds, and
every round runs every variant once, in turn. "held" is the most bytes that autograd keeps for the backward pass at one time
(storages seen by its hooks, weights left out), "optimiser" the bytes of AdamW's moments.
"""

from __future__ import annotations

import argparse
import platform
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from glint.core.config.train import LossConfig, ModelConfig, TextConfig, TrainConfig
from glint.model.glint import Glint
from glint.model.recomputation import recompute_blocks
from glint.model.student import Student
from glint.model.text_encoder import load_sentence_encoder
from glint.teachers.vjepa import EncoderConfig, VisionTransformer3D
from glint.training.accumulation import backward_step
from glint.training.averages import MovingAverage
from glint.training.optimizer import make_optimizer
from glint.training.start import adapt
from glint.training.step import Batch

STUDIES, SENTENCES = 8, 48
ENCODER = EncoderConfig(volume_zyx=(32, 64, 64), patch_zyx=(8, 8, 8), width=192, depth=6, heads=3)
BLOCKS = (2, 4)
VARIANTS: dict[str, dict[str, Any]] = {
    "none": {},
    "micro_batch_size: 4": {"micro_batch_size": 4},
    "micro_batch_size: 2": {"micro_batch_size": 2},
    "micro_batch_size: 1": {"micro_batch_size": 1},
    "activation_checkpointing: true": {"activation_checkpointing": True},
    "both, micro_batch_size: 2": {"micro_batch_size": 2, "activation_checkpointing": True},
    "model.adaptation: lora": {"adaptation": "lora"},
    "model.adaptation: frozen, adapter_blocks: 2": {"adaptation": "frozen", "adapter_blocks": 2},
    "ema_decay: 0.999": {"ema_decay": 0.999},
    "precision: bfloat16": {"precision": "bfloat16"},
}


def config_of(changes: dict[str, Any]) -> TrainConfig:
    model = {name: changes[name] for name in ("adaptation", "adapter_blocks") if name in changes}
    rest = {name: value for name, value in changes.items() if name not in model}
    return TrainConfig(model=ModelConfig(**model), loss=LossConfig(dense_blocks=BLOCKS, sigmoid=1.0), **rest)


def batch() -> Batch:
    torch.manual_seed(1)
    patches = ENCODER.tokens
    return Batch(
        volume_BCZYX=torch.rand(STUDIES, 3, *ENCODER.volume_zyx),
        patch_weight_BP=torch.ones(STUDIES, patches),
        sentences=tuple(f"There is finding number {number}." for number in range(SENTENCES)),
        relation_TB=torch.randint(-1, 3, (SENTENCES, STUDIES), dtype=torch.int8),
        teacher={block: torch.randn(STUDIES, patches, ENCODER.width) for block in BLOCKS},
    )


class Held:
    """The most bytes of storages that autograd keeps at one time."""

    def __init__(self, model: Glint) -> None:
        self.weights = {weight.untyped_storage().data_ptr() for weight in model.parameters()}
        self.users: dict[int, int] = {}
        self.bytes = self.most = 0

    def pack(self, tensor: Tensor) -> _Saved:
        return _Saved(self, tensor)


class _Saved:
    def __init__(self, held: Held, tensor: Tensor) -> None:
        self.held, self.tensor = held, tensor
        storage = tensor.untyped_storage()
        self.key, self.size = storage.data_ptr(), storage.nbytes()
        if self.key in held.weights:
            self.size = 0
        if held.users.get(self.key, 0) == 0:
            held.bytes += self.size
            held.most = max(held.most, held.bytes)
        held.users[self.key] = held.users.get(self.key, 0) + 1

    def __del__(self) -> None:
        self.held.users[self.key] -= 1
        if self.held.users[self.key] == 0:
            self.held.bytes -= self.size


class Variant:
    def __init__(self, changes: dict[str, Any]) -> None:
        torch.manual_seed(0)
        self.config = config_of(changes)
        student = Student(VisionTransformer3D(ENCODER), adapter_blocks=self.config.model.adapter_blocks)
        self.model = Glint(self.config, student=student, sentence_encoder=load_sentence_encoder(TextConfig()))
        adapt(self.model.student, self.config.model)
        if self.config.activation_checkpointing:
            recompute_blocks(self.model.student)
        self.optimizer = make_optimizer(self.model, self.config.optimizer)
        decay = self.config.ema_decay
        self.average = None if decay is None else MovingAverage(self.model, decay)
        self.seconds: list[float] = []

    def step(self, given: Batch) -> None:
        started_s = time.process_time()
        self.optimizer.zero_grad(set_to_none=True)
        backward_step(self.model, given, progress=0.5, gram_seed=0, at_once=self.config.micro_batch_size)
        self.optimizer.step()
        if self.average is not None:
            self.average.update(self.model, 1)
        self.seconds.append(time.process_time() - started_s)

    def held_mib(self, given: Batch) -> float:
        held = Held(self.model)
        with torch.autograd.graph.saved_tensors_hooks(held.pack, lambda saved: saved.tensor):
            backward_step(self.model, given, progress=0.5, gram_seed=0, at_once=self.config.micro_batch_size)
        return held.most / 2**20

    def optimizer_mib(self) -> float:
        return sum(8 * p.numel() for group in self.optimizer.param_groups for p in group["params"]) / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    given = batch()
    variants = {name: Variant(changes) for name, changes in VARIANTS.items()}
    for _ in range(args.rounds + 1):
        for variant in variants.values():
            variant.step(given)
    held = {name: variant.held_mib(given) for name, variant in variants.items()}
    first = variants["none"]
    least_s = min(first.seconds[1:])
    lines = [
        "# Switches of the training loop",
        "",
        f"`python benchmarks/training_switches.py`: {STUDIES} volumes of {ENCODER.tokens} patches, width {ENCODER.width}, depth "
        f"{ENCODER.depth}, {SENTENCES} sentences, one thread; a step without any takes {least_s:.2f} processor seconds and holds "
        f"{held['none']:.0f} MiB. {platform.machine()}, {platform.system()}, torch {torch.__version__}; no GPU.",
        "",
        "| switch | time | held for backward | optimiser |",
        "|---|--:|--:|--:|",
    ]
    for name, variant in variants.items():
        lines.append(
            f"| `{name}` | {min(variant.seconds[1:]) / least_s:.2f} | {held[name] / held['none']:.2f} | "
            f"{variant.optimizer_mib() / first.optimizer_mib():.2f} |"
        )
    text = "\n".join(lines) + "\n"
    print(text)
    if args.out:
        args.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()

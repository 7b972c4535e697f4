"""AdamW groups and the learning-rate schedule."""

import math
import re
from typing import Any

import torch
from torch import nn

from glint.core.config.train import OptimizerConfig, TrainConfig
from glint.model.glint import Glint
from glint.model.low_rank import DOWN, UP

ENCODER = "student.encoder."
SCALARS = ("gate.log_scale", "gate.bias", "log_inverse_temperature", "log_sigmoid_scale", "sigmoid_bias")
_BLOCK = re.compile(r"student\.encoder\.blocks\.(\d+)\.")


def base_learning_rate(name: str, *, depth: int, config: OptimizerConfig) -> float:
    """Rate of a parameter: encoder block l gets rate * decay^(depth - 1 - l), the patch embedding one power more."""
    if name.startswith("text.trunk."):
        return config.text_learning_rate
    if name in SCALARS:
        return config.scalar_learning_rate
    if name.endswith((DOWN, UP)):
        return config.lora_learning_rate
    if not name.startswith(ENCODER):
        return config.head_learning_rate
    block = _BLOCK.match(name)
    outside = 0 if name.startswith("student.encoder.norm.") else depth
    below_top = depth - 1 - int(block[1]) if block else outside
    return config.encoder_learning_rate * config.layer_decay**below_top


def decays(name: str, parameter: nn.Parameter) -> bool:
    """Weight decay is for matrices: not for biases, norms, scales, the no-evidence vector."""
    return parameter.ndim >= 2 and not name.endswith(".bias")


def make_optimizer(model: Glint, config: OptimizerConfig) -> torch.optim.AdamW:
    """One group per parameter that learns, named; parameters whose rate is 0 are frozen here."""
    depth = model.student.encoder.depth
    groups: list[dict[str, Any]] = []
    for name, parameter in model.named_parameters():
        rate = base_learning_rate(name, depth=depth, config=config)
        if rate == 0:
            parameter.requires_grad_(False)
        if not parameter.requires_grad:
            continue
        weight_decay = config.weight_decay if decays(name, parameter) else 0.0
        groups.append(
            {
                "params": [parameter],
                "lr": rate,
                "base_lr": rate,
                "weight_decay": weight_decay,
                "name": name,
                "encoder": name.startswith(ENCODER),
            }
        )
    return torch.optim.AdamW(merged(groups), betas=(0.9, config.beta2), eps=1e-8)


def merged(groups: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Groups of equal rate, decay and kind joined, so that the optimiser can work on many tensors at once."""
    joined: dict[tuple[float, float, bool], dict[str, Any]] = {}
    for group in groups:
        key = (group["base_lr"], group["weight_decay"], group["encoder"])
        into = joined.setdefault(key, {**group, "params": [], "names": []})
        into.pop("name", None)
        into["params"] += group["params"]
        into["names"].append(group["name"])
    return list(joined.values())


def schedule_factor(schedule: str, step: int, *, steps: int, warmup: int, final: float) -> float:
    """Linear warm-up, then half a cosine or a line down to `final`, or 1 throughout; `step` counts from 0."""
    if step < warmup:
        return (step + 1) / warmup
    if schedule == "constant":
        return 1.0
    done = min(1.0, (step - warmup) / max(1, steps - warmup))
    if schedule == "linear":
        return final + (1 - final) * (1 - done)
    return final + (1 - final) * 0.5 * (1 + math.cos(math.pi * done))


def rate_factors(step: int, config: TrainConfig) -> tuple[float, float]:
    """Factors on the rates of (encoder, everything else) at `step`: one warm-up and decay while the encoder rests, one more
    once it has joined in.
    """
    optimizer = config.optimizer
    resting = step < config.head_steps
    factor = schedule_factor(
        optimizer.schedule,
        step if resting else step - config.head_steps,
        steps=config.head_steps if resting else config.steps,
        warmup=optimizer.warmup_steps,
        final=optimizer.final_learning_rate,
    )
    if resting:
        return 0.0, factor
    return factor, factor * (optimizer.joint_head_share if config.head_steps else 1.0)


def set_rates(optimizer: torch.optim.Optimizer, factors: tuple[float, float]) -> None:
    """Every group's rate becomes its base rate times the factor of its kind."""
    for group in optimizer.param_groups:
        group["lr"] = group["base_lr"] * factors[0 if group["encoder"] else 1]

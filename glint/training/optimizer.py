"""AdamW groups and the learning-rate schedule."""

import math
import re
from typing import Any

import torch
from torch import nn

from glint.core.config.train import OptimizerConfig
from glint.model.glint import Glint

SCALARS = ("gate.log_scale", "gate.bias", "log_inverse_temperature", "log_sigmoid_scale", "sigmoid_bias")
_BLOCK = re.compile(r"student\.encoder\.blocks\.(\d+)\.")


def base_learning_rate(name: str, *, depth: int, config: OptimizerConfig) -> float:
    """Rate of a parameter: encoder block l gets rate * decay^(depth - 1 - l), the patch embedding one power more."""
    if name.startswith("text.trunk."):
        return config.text_learning_rate
    if name in SCALARS:
        return config.scalar_learning_rate
    if not name.startswith("student.encoder."):
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
        groups.append({"params": [parameter], "lr": rate, "base_lr": rate, "weight_decay": weight_decay, "name": name})
    return torch.optim.AdamW(merged(groups), betas=(0.9, config.beta2), eps=1e-8)


def merged(groups: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Groups of equal rate and decay joined, so that the optimiser can work on many tensors at once."""
    joined: dict[tuple[float, float], dict[str, Any]] = {}
    for group in groups:
        key = (group["base_lr"], group["weight_decay"])
        into = joined.setdefault(key, {**group, "params": [], "names": []})
        into.pop("name", None)
        into["params"] += group["params"]
        into["names"].append(group["name"])
    return list(joined.values())


def rate_factor(step: int, *, steps: int, config: OptimizerConfig) -> float:
    """Linear warm-up, then half a cosine down to `final_learning_rate`; `step` counts from 0."""
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    done = (step - config.warmup_steps) / max(1, steps - config.warmup_steps)
    return config.final_learning_rate + (1 - config.final_learning_rate) * 0.5 * (
        1 + math.cos(math.pi * min(1.0, done))
    )


def set_rates(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Every group's rate becomes its base rate times `factor`."""
    for group in optimizer.param_groups:
        group["lr"] = group["base_lr"] * factor

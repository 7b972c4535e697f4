"""Low-rank updates of a frozen encoder (LoRA, Hu et al., arXiv 2106.09685): W + (alpha / r) U V, merged for a checkpoint."""

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

DOWN, UP = "low_rank_down", "low_rank_up"


class LowRankLinear(nn.Linear):
    """A linear map at rest plus one of rank r that learns; names of the resting weights stay, so do their values."""

    def __init__(self, linear: nn.Linear, *, rank: int, alpha: float) -> None:
        super().__init__(linear.in_features, linear.out_features, bias=linear.bias is not None, device="meta")
        self.weight, self.bias = linear.weight, linear.bias
        self.factor = alpha / rank
        self.low_rank_down = nn.Parameter(linear.weight.new_empty(rank, linear.in_features))
        self.low_rank_up = nn.Parameter(linear.weight.new_zeros(linear.out_features, rank))
        nn.init.kaiming_uniform_(self.low_rank_down, a=math.sqrt(5))

    def forward(self, input: Tensor) -> Tensor:
        """x W^T + b + (alpha / r) x V^T U^T; at the start U is 0."""
        return super().forward(input) + self.factor * F.linear(F.linear(input, self.low_rank_down), self.low_rank_up)

    @torch.no_grad()
    def merged(self) -> nn.Linear:
        """One plain map that computes the same."""
        linear = nn.Linear(self.in_features, self.out_features, bias=self.bias is not None, device="meta")
        update = self.factor * (self.low_rank_up.double() @ self.low_rank_down.double())
        linear.weight = nn.Parameter((self.weight.double() + update).to(self.weight.dtype))
        linear.bias = self.bias
        return linear


def _replace(module: nn.Module, kind: type[nn.Module], make: Callable[[Any], nn.Module]) -> int:
    count = 0
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is kind:  # a subclass computes something else with its weight
                setattr(parent, name, make(child))
                count += 1
    return count


def add_low_rank(encoder: nn.Module, blocks: nn.Module, *, rank: int, alpha: float) -> int:
    """Freeze `encoder` and give every linear map of its `blocks` a low-rank update; how many there are."""
    encoder.requires_grad_(False)
    return _replace(blocks, nn.Linear, lambda linear: LowRankLinear(linear, rank=rank, alpha=alpha))


def merge_low_rank(module: nn.Module) -> None:
    """Every updated map becomes a plain one that computes the same; nothing where there is none."""
    _replace(module, LowRankLinear, lambda linear: linear.merged())

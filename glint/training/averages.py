"""Averages of weights over the steps: an exponential moving average, and the best weights that validation saw."""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn


class MovingAverage:
    """e ← d e + (1 - d) w after every step, with d = min(decay, (1 + step) / (10 + step)): early weights are forgotten soon.

    Source: Polyak averaging as in TensorFlow's ExponentialMovingAverage, whose warm-up this is.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.weights = {
            name: weight.detach().clone() for name, weight in model.named_parameters() if weight.requires_grad
        }

    def update(self, model: nn.Module, step: int) -> None:
        """Take in the weights after `step` steps."""
        share = 1 - min(self.decay, (1 + step) / (10 + step))
        own = dict(model.named_parameters())
        torch._foreach_lerp_(list(self.weights.values()), [own[name].detach() for name in self.weights], share)

    def load(self, weights: Mapping[str, Tensor]) -> None:
        """Go on from a saved average."""
        for name, held in self.weights.items():
            held.copy_(weights[name])

    @contextmanager
    def applied(self, model: nn.Module) -> Iterator[None]:
        """The model has the averaged weights inside."""
        own = {name: weight.detach().clone() for name, weight in model.named_parameters() if name in self.weights}
        put(model, self.weights)
        try:
            yield
        finally:
            put(model, own)


@torch.no_grad()
def put(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Copy `weights` into the parameters of those names."""
    own = dict(model.named_parameters())
    for name, weight in weights.items():
        own[name].copy_(weight)


@dataclass(kw_only=True)
class EarlyStop:
    """Stops after `patience` validations without a better score, and keeps the weights of the best one."""

    patience: int
    score: float = -math.inf
    waited: int = 0
    weights: dict[str, Tensor] = field(default_factory=dict)

    @property
    def over(self) -> bool:
        """Whether to stop."""
        return self.waited >= self.patience

    def see(self, score: float, model: nn.Module) -> None:
        """Judge one validation of `model`."""
        if score > self.score:
            self.score, self.waited = score, 0
            self.weights = {
                name: weight.detach().cpu().clone() for name, weight in model.named_parameters() if weight.requires_grad
            }
        else:
            self.waited += 1

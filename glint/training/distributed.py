"""One training step shared by several processes (ranks), started by torchrun.

Every rank holds the cohort and knows the whole batch of a step: studies, sentences and their relations are functions of seed
and step. It encodes the volumes of its own part alone. What the losses compare, numbers per sentence and study (T, B), is
gathered, so in-batch negatives cross ranks and `train.batch_size` is that of all ranks together. Patches never travel.

R ranks take the same steps as one, up to the order of floating-point sums; all ranks hold the same weights, bit for bit.
Gradients are averaged: a loss that every rank computes from gathered numbers gives each rank R times the gradient of its own
columns (`_Gather.backward`) and the whole gradient of what stands behind the gathering, so that the mean is right for both.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn

from glint.core.errors import ConfigError, GlintError

PATIENCE = timedelta(hours=2)
"""How long a rank waits for another: the first one validates and writes alone."""


@contextmanager
def told_of_losses() -> Iterator[None]:
    """Another process that is gone, killed or out of memory, is one line and not the backend's trace.

    Raises:
        GlintError: a message to the others failed.
    """
    try:
        yield
    except RuntimeError as error:  # gloo raises it plainly, NCCL as a subclass
        raise GlintError(
            "a process that shares this training is gone or can't be reached (killed, out of memory, or its node lost): see its own "
            "log; the same command goes on from the last saved state"
        ) from error


class _Gather(torch.autograd.Function):
    """(T, B / R) of each rank → (T, B) on every rank."""

    @staticmethod
    def forward(ctx: Any, local_TB: Tensor, rank: int, size: int) -> Tensor:
        """Columns in order of rank."""
        ctx.columns = slice(rank * local_TB.shape[1], (rank + 1) * local_TB.shape[1])
        ctx.size = size
        parts = [torch.empty_like(local_TB) for _ in range(size)]
        with told_of_losses():
            dist.all_gather(parts, local_TB.contiguous())
        return torch.cat(parts, dim=1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        """Own columns times R; the mean over ranks then makes a sum of them."""
        return gradients[0][:, ctx.columns] * ctx.size, None, None


@dataclass(frozen=True, kw_only=True)
class Ranks:
    """Which of how many processes this is. One alone communicates with nobody and changes nothing."""

    rank: int = 0
    size: int = 1

    def device(self, choice: Literal["auto", "cpu"]) -> torch.device:
        """Where this rank computes: its own GPU, or the processor where PyTorch sees none or `choice` is `cpu`."""
        if choice == "cpu" or not torch.cuda.is_available():
            return torch.device("cpu")
        return torch.device("cuda", torch.cuda.current_device())

    @property
    def first(self) -> bool:
        """Whether this rank writes, validates and reports."""
        return self.rank == 0

    def part(self, batch_size: int) -> slice:
        """This rank's rows of a batch.

        Raises:
            ConfigError: the batch can't be cut into equal parts.
        """
        if batch_size % self.size:
            raise ConfigError(
                f"train.batch_size: {batch_size} studies a step can't be shared equally by {self.size} processes; "
                "make it a multiple of them"
            )
        share = batch_size // self.size
        return slice(self.rank * share, (self.rank + 1) * share)

    def gather(self, local_TB: Tensor) -> Tensor:
        """Numbers per sentence and study of all ranks, differentiable."""
        if self.size == 1:
            return local_TB
        return _Gather.apply(local_TB, self.rank, self.size)  # type: ignore[no-any-return, no-untyped-call]

    def average_gradients(self, parameters: Iterable[Tensor]) -> None:
        """Every gradient becomes its mean over the ranks, in one message."""
        if self.size == 1:
            return
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        if not gradients:
            return
        sizes = [gradient.numel() for gradient in gradients]
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        with told_of_losses():
            dist.all_reduce(flat)
        flat /= self.size
        for gradient, mean in zip(gradients, torch.split(flat, sizes), strict=True):
            gradient.copy_(mean.view_as(gradient))

    def mean(self, numbers: Mapping[str, float]) -> dict[str, float]:
        """Mean over the ranks of numbers that every rank has by the same names."""
        if self.size == 1:
            return dict(numbers)
        values = torch.tensor(list(numbers.values()), dtype=torch.float64)
        with told_of_losses():
            dist.all_reduce(values)
        return dict(zip(numbers, (values / self.size).tolist(), strict=True))

    def any(self, asked: bool) -> bool:
        """Whether any rank says so: a signal may reach ranks at different steps, and all have to leave at the same one."""
        if self.size == 1:
            return asked
        flag = torch.tensor(int(asked))
        with told_of_losses():
            dist.all_reduce(flag, op=dist.ReduceOp.MAX)
        return bool(flag.item())

    def agree_on(self, number: int) -> bool:
        """Whether all ranks have the same number."""
        if self.size == 1:
            return True
        pair = torch.tensor([number, -number])
        with told_of_losses():
            dist.all_reduce(pair, op=dist.ReduceOp.MAX)
        return bool(pair[0] == -pair[1])

    def start_equal(self, model: nn.Module) -> None:
        """Every rank takes the first one's weights: machines may differ in the last bit of what was computed to make them."""
        if self.size == 1:
            return
        with torch.no_grad(), told_of_losses():
            for tensor in model.state_dict().values():
                dist.broadcast(tensor, src=0)

    def wait(self) -> None:
        """Return once every rank is here, so that none ends while the first still writes."""
        if self.size > 1:
            with told_of_losses():
                dist.barrier()


ALONE = Ranks()


@contextmanager
def ranks_of_this_job() -> Iterator[Ranks]:
    """What torchrun says in the environment; one process alone without it. Gloo between processors, NCCL between GPUs."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield ALONE
        return
    backend = "gloo"
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]) % torch.cuda.device_count())
        backend = "cpu:gloo,cuda:nccl"  # by where a tensor lies
    dist.init_process_group(backend, timeout=PATIENCE)
    try:
        yield Ranks(rank=dist.get_rank(), size=size)
    finally:
        dist.destroy_process_group()

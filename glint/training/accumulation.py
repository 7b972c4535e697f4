"""One optimiser step whose batch does not fit in memory at once: the gradient of the whole batch, piece by piece.

Contrastive losses compare every study with every sentence, so adding up the losses of small batches is another loss. Here a
first pass without gradient notes what the losses compare, numbers per sentence and study (T, B). A second pass takes one
piece of studies after the other: its own columns carry gradient, all others are the noted numbers, and the sum over the
pieces is the gradient of the whole batch by the chain rule. Source: GradCache (Gao et al., arXiv 2101.06983), which notes
embeddings; patches are far too many for that, pair numbers are not.

A piece is to its process what a process is to the job, so the losses see R x C ranks and know of nothing else. The price is a
second forward pass of the encoder; memory is that of one piece. Sentences are encoded once.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from glint.model.gate import TextQueries
from glint.model.glint import Glint
from glint.training.distributed import ALONE, Ranks
from glint.training.step import Batch, StepResult, encoded_sentences, training_step, unique_sentences


def number_of_pieces(studies: int, at_once: int | None) -> int:
    """The fewest equal pieces of `studies` with at most `at_once` in each; one where there is no limit."""
    if at_once is None or studies <= at_once:
        return 1
    return next(pieces for pieces in range(2, studies + 1) if studies % pieces == 0 and studies // pieces <= at_once)


class _Place(torch.autograd.Function):
    """Own columns among noted ones; as in a gathering over ranks, their gradient is that of all ranks' equal losses."""

    @staticmethod
    def forward(ctx: Any, local_TB: Tensor, noted_TB: Tensor, rank: int, size: int) -> Tensor:
        """(T, B / size), (T, B) → (T, B)."""
        ctx.columns, ctx.size = slice(rank * local_TB.shape[1], (rank + 1) * local_TB.shape[1]), size
        placed_TB = noted_TB.clone()
        placed_TB[:, ctx.columns] = local_TB
        return placed_TB

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        """Own columns times their number."""
        return gradients[0][:, ctx.columns] * ctx.size, None, None, None


@dataclass(frozen=True, kw_only=True)
class _Noting(Ranks):
    """First pass: what would be gathered, in the order of calls; the losses get numbers of the right shape."""

    seen: list[Tensor]

    def gather(self, local_TB: Tensor) -> Tensor:
        """Note (T, B / size)."""
        self.seen.append(local_TB.detach())
        return local_TB.detach().repeat(1, self.size)


@dataclass(frozen=True, kw_only=True)
class _Replaying(Ranks):
    """Second pass: the noted numbers of all, the own ones with gradient."""

    noted: Iterator[Tensor]

    def gather(self, local_TB: Tensor) -> Tensor:
        """(T, B / size) → (T, B)."""
        return _Place.apply(local_TB, next(self.noted), self.rank, self.size)  # type: ignore[no-any-return, no-untyped-call]


def backward_step(
    model: Glint,
    batch: Batch,
    *,
    progress: float,
    gram_seed: int,
    at_once: int | None = None,
    ranks: Ranks = ALONE,
) -> StepResult:
    """Gradients of the whole step into the parameters, with at most `at_once` studies of this process in memory.

    `batch` is this process's part and may lie on another device than the model; `gram_seed` draws the Gram term's patches.
    The gradients are this rank's, still to be averaged over `ranks`. `total` of the result is without graph.
    """

    def generator() -> torch.Generator:
        return torch.Generator().manual_seed(gram_seed)

    device, dtype = model.device, model.null_D.dtype
    pieces = number_of_pieces(len(batch), at_once)
    if pieces == 1:
        result = training_step(
            model, batch.to(device, dtype), progress=progress, gram_generator=generator(), ranks=ranks
        )
        if result.total.requires_grad:
            result.total.backward()  # type: ignore[no-untyped-call]
        return StepResult(total=result.total.detach(), numbers=result.numbers)
    parts = [batch.piece(number, pieces) for number in range(pieces)]
    place = {"size": ranks.size * pieces}
    rows = unique_sentences(batch.sentences, batch.relation_TB)
    queries = encoded_sentences(model, batch, rows) if rows else None
    shared = None if queries is None else _leaf(queries)
    noted: list[list[Tensor]] = []
    with torch.no_grad():
        for number, part in enumerate(parts):
            seen: list[Tensor] = []
            training_step(
                model,
                part.for_alignment().to(device, dtype),
                progress=progress,
                gram_generator=generator(),
                ranks=_Noting(rank=ranks.rank * pieces + number, seen=seen, **place),
                queries=shared,
            )
            noted.append(seen)
        gathered = [ranks.gather(torch.cat(columns, dim=1)) for columns in zip(*noted, strict=True)]
    results = []
    for number, part in enumerate(parts):
        result = training_step(
            model,
            part.to(device, dtype),
            progress=progress,
            gram_generator=generator(),
            ranks=_Replaying(rank=ranks.rank * pieces + number, noted=iter(gathered), **place),
            queries=shared,
        )
        if result.total.requires_grad:
            (result.total / pieces).backward()  # type: ignore[no-untyped-call]
        results.append(StepResult(total=result.total.detach(), numbers=result.numbers))
    if queries is not None and shared is not None:
        _backward_text(queries, shared)
    return StepResult(
        total=torch.stack([result.total for result in results]).mean(),
        numbers={name: sum(result.numbers[name] for result in results) / pieces for name in results[0].numbers},
    )


def _leaf(queries: TextQueries) -> TextQueries:
    """The same values; gradients stop there and add up."""
    return TextQueries(
        text_TD=queries.text_TD.detach().requires_grad_(), gate_TG=queries.gate_TG.detach().requires_grad_()
    )


def _backward_text(queries: TextQueries, shared: TextQueries) -> None:
    pairs = [
        (found, leaf.grad)
        for found, leaf in ((queries.text_TD, shared.text_TD), (queries.gate_TG, shared.gate_TG))
        if leaf.grad is not None and found.requires_grad
    ]
    if pairs:
        torch.autograd.backward([found for found, _ in pairs], [gradient for _, gradient in pairs])

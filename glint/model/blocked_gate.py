"""The gate for training, part by part: equal to `gate` and `alignment` in value and gradient, without their (T, B, P) matrices.

Two ways to the gradient:

- recompute, for losses that compare pairs with each other (contrastive): forward keeps three numbers per pair, backward opens
  every gate again. One third more products than the reference, O(T B) memory.
- one pass, for losses that are sums over pairs (sigmoid, area, evidence): dL/ds of a part is known once its scores are, so its
  gradients are formed while its gates are in the cache. Nothing is opened twice.

The denominator of the pooled vector cancels in the score, so what is pooled is never divided. With u = sum_p c_p g_p v_p + mu n0
and s = <t, u> / |u|:

    du = ds (t - s u/|u|) / |u|          dz_p = c_p [(<du, v_p> + dm) g_p (1 - g_p) + dE g_p]
    dv_p = c_p g_p du + alpha rho dz_p t       dk_p = alpha (1 - rho) dz_p q        db = sum dz     dalpha = sum dz (z - b) / alpha

Under autocast the products run in its precision; gates, dz and their sums are float32: rounded to bfloat16 first, the sum of
dz over millions of patches loses its leading digits.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from glint.model.alignment import Comparison
from glint.model.gate import PatchTokens, TextQueries, unit, without_autocast
from glint.model.gate_blocks import BlockSizes, block_sizes, cache_bytes
from glint.model.gate_parts import Part, Settings, Walk

PairLoss = Callable[..., Tensor]
"""(score, mass, evidence) of a part, its (sentences, volumes) slices, the loss's parameters → the part's share of the loss."""


class _Numbers:
    """(T, B) numbers of all parts."""

    def __init__(self, walk: Walk) -> None:
        shape = walk.text_TD.shape[0], walk.value_BPD.shape[0]
        self.score_TB = walk.text_TD.new_empty(shape)
        self.mass_TB, self.length_TB = walk.text_TD.new_empty(shape), walk.text_TD.new_empty(shape)
        self.evidence_TB = walk.text_TD.new_empty(shape) if walk.settings.evidence else walk.text_TD.new_zeros(shape)

    def put(self, part: Part) -> None:
        """Enter a part."""
        where = part.sentences, part.volumes
        self.score_TB[where], self.mass_TB[where], self.length_TB[where] = part.score_tb, part.mass_tb, part.length_tb
        if part.evidence_tb is not None:
            self.evidence_TB[where] = part.evidence_tb


class _Recompute(torch.autograd.Function):
    """Inputs → score, mass, evidence; backward opens the gates again."""

    @staticmethod
    def forward(ctx: Any, settings: Settings, *inputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """All parts; kept are the inputs and three numbers per pair."""
        ctx.settings = settings
        ctx.set_materialize_grads(False)
        with without_autocast(inputs[0].device):
            walk = Walk(inputs, settings)
            numbers = _Numbers(walk)
            for sentences, volumes in settings.blocks.parts(*numbers.score_TB.shape):
                numbers.put(walk.forward(sentences, volumes))
        ctx.save_for_backward(*inputs, numbers.score_TB, numbers.length_TB, numbers.mass_TB)
        return numbers.score_TB, numbers.mass_TB, numbers.evidence_TB

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        """All parts again, each with its share of the incoming gradients."""
        settings = ctx.settings
        with without_autocast(ctx.saved_tensors[0].device):
            *inputs, score_TB, length_TB, mass_TB = ctx.saved_tensors
            walk = Walk(inputs, settings)
            walk.start_gradients()
            for where in settings.blocks.parts(*score_TB.shape):
                part = walk.forward(where[0], where[1], (score_TB[where], length_TB[where], mass_TB[where]))
                walk.backward(part, *(None if one is None else one[where] for one in gradients))
            return None, *walk.gradients()


class _OnePass(torch.autograd.Function):
    """Inputs and a pair-local loss → its value, and score, mass, evidence to look at; all gradients are formed on the way."""

    @staticmethod
    def forward(ctx: Any, settings: Settings, loss: PairLoss, num_inputs: int, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Every part forward and backward at once."""
        ctx.made_with = settings, loss, num_inputs
        ctx.save_for_backward(*tensors)
        total, numbers, ctx.found = walk_once(settings, loss, tensors[:num_inputs], tensors[num_inputs:])
        ctx.mark_non_differentiable(numbers.score_TB, numbers.mass_TB, numbers.evidence_TB)
        return total, numbers.score_TB, numbers.mass_TB, numbers.evidence_TB

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """The gradients times that of the loss, in their own memory: handed out once, formed anew for whoever asks again."""
        found, ctx.found = ctx.found, None
        if found is None:
            settings, loss, num_inputs = ctx.made_with
            *_, found = walk_once(settings, loss, ctx.saved_tensors[:num_inputs], ctx.saved_tensors[num_inputs:])
        return None, None, None, *(None if grad is None else grad.mul_(gradients[0]) for grad in found)


def walk_once(
    settings: Settings, loss: PairLoss, inputs: Sequence[Tensor], parameters: Sequence[Tensor]
) -> tuple[Tensor, _Numbers, list[Tensor | None]]:
    """The loss, the numbers behind it, and its gradients by inputs and parameters."""
    with torch.no_grad(), without_autocast(inputs[0].device):
        walk = Walk(inputs, settings)
        walk.start_gradients()
        numbers = _Numbers(walk)
        total = walk.text_TD.new_zeros(())
        parameter_grads = [torch.zeros_like(one) for one in parameters]
        for where in settings.blocks.parts(*numbers.score_TB.shape):
            part = walk.forward(*where)
            numbers.put(part)
            value, grads = _part_of_loss(loss, part, parameters)
            total = total + value
            walk.backward(part, grads[0], grads[1], grads[2] if settings.evidence else None)
            for held, grad in zip(parameter_grads, grads[3:], strict=True):
                if grad is not None:
                    held += grad
        return total, numbers, [*walk.gradients(), *parameter_grads]


def _part_of_loss(loss: PairLoss, part: Part, parameters: Sequence[Tensor]) -> tuple[Tensor, tuple[Tensor | None, ...]]:
    """A part's share of the loss and its gradients by score, mass, evidence and the loss's parameters."""
    with torch.enable_grad():
        evidence_tb = torch.zeros_like(part.score_tb) if part.evidence_tb is None else part.evidence_tb
        numbers = [one.detach().requires_grad_() for one in (part.score_tb, part.mass_tb, evidence_tb)]
        leaves = [*numbers, *(one.detach().requires_grad_() for one in parameters)]
        value = loss(*numbers, (part.sentences, part.volumes), *leaves[3:])
        if not value.requires_grad:
            return value, (None,) * len(leaves)
        return value.detach(), torch.autograd.grad(value, leaves, allow_unused=True)


def product_dtype(device: torch.device, given: torch.dtype) -> torch.dtype:
    """Precision of the products: autocast's where it is on, else the inputs', never below what they hold."""
    if given != torch.float64 and torch.is_autocast_enabled(device.type):
        return torch.get_autocast_dtype(device.type)
    return given


@dataclass(frozen=True, kw_only=True)
class GateArguments:
    """Both sides of the gate and its parameters, as `gate.gate_logits` and `alignment.pool_evidence` take them."""

    queries: TextQueries
    tokens: PatchTokens
    weight_BP: Tensor
    null_D: Tensor
    scale: Tensor
    bias: Tensor
    rho: float
    null_weight: float

    def inputs(self) -> tuple[Tensor, ...]:
        """What is differentiated."""
        queries, tokens = self.queries, self.tokens
        return (
            queries.gate_TG,
            tokens.gate_BPG,
            queries.text_TD,
            tokens.value_BPD,
            unit(self.null_D),
            self.scale,
            self.bias,
        )

    def settings(self, *, evidence: bool, blocks: BlockSizes | None, compiled: bool | None) -> Settings:
        """What is not; block sizes from the cache of the device, fusing on a GPU, where the caller does not say."""
        value_BPD, device = self.tokens.value_BPD, self.tokens.value_BPD.device
        dtype = product_dtype(device, value_BPD.dtype)
        if blocks is None:
            blocks = block_sizes(
                self.queries.text_TD.shape[0],
                *value_BPD.shape[:2],
                cache=cache_bytes(device),
                item_bytes=4 if device.type == "cpu" else dtype.itemsize,
            )
        return Settings(
            weight_BP=self.weight_BP,
            rho=self.rho,
            null_weight=self.null_weight,
            evidence=evidence,
            product_dtype=dtype,
            blocks=blocks,
            compiled=device.type == "cuda" if compiled is None else compiled,
        )


def compare_recomputing(
    arguments: GateArguments, *, evidence: bool = True, blocks: BlockSizes | None = None, compiled: bool | None = None
) -> Comparison:
    """Score, mass and evidence of every pair, differentiable; without `evidence` that is 0."""
    settings = arguments.settings(evidence=evidence, blocks=blocks, compiled=compiled)
    score_TB, mass_TB, evidence_TB = _Recompute.apply(settings, *arguments.inputs())  # type: ignore[no-untyped-call]
    return Comparison(score_TB=score_TB, gate_mass_TB=mass_TB, evidence_TB=evidence_TB)


def one_pass_loss(
    arguments: GateArguments,
    loss: PairLoss,
    parameters: Sequence[Tensor] = (),
    *,
    evidence: bool = True,
    blocks: BlockSizes | None = None,
    compiled: bool | None = None,
) -> tuple[Tensor, Comparison]:
    """A loss that is a sum over pairs, differentiable, and the numbers behind it, which are not.

    `loss` is asked part by part and must add up: its constants (such as `glint.losses.pairs.count_pairs`) are of the whole.
    """
    settings = arguments.settings(evidence=evidence, blocks=blocks, compiled=compiled)
    inputs = arguments.inputs()
    total, score_TB, mass_TB, evidence_TB = _OnePass.apply(  # type: ignore[no-untyped-call]
        settings, loss, len(inputs), *inputs, *parameters
    )
    return total, Comparison(score_TB=score_TB, gate_mass_TB=mass_TB, evidence_TB=evidence_TB)

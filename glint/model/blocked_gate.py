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
import torch.nn.functional as F
from torch import Tensor

from glint.model.alignment import SMALLEST_MASS, Comparison
from glint.model.gate import SMALLEST_LENGTH, PatchTokens, TextQueries, at_least_float32, unit
from glint.model.gate_blocks import BlockSizes, block_sizes, cache_bytes

PairLoss = Callable[..., Tensor]
"""(score, mass, evidence) of a part, its (sentences, volumes) slices, the loss's parameters → the part's share of the loss."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What is not differentiated. `evidence`: whether sum_p c_p softplus(z) is asked for; it costs a pass over the gates."""

    weight_BP: Tensor
    rho: float
    null_weight: float
    evidence: bool
    product_dtype: torch.dtype
    blocks: BlockSizes
    compiled: bool


def open_gates(
    cosine_tbP: Tensor, weight_bP: Tensor, scale: Tensor, bias: Tensor, evidence: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """sigma(z), c sigma(z), gate mass and evidence of a part, at least float32."""
    logit_tbP = at_least_float32(cosine_tbP) * scale + bias
    evidence_tb = (F.softplus(logit_tbP) * weight_bP).sum(dim=-1) if evidence else None
    gate_tbP = torch.sigmoid(logit_tbP)
    open_tbP = gate_tbP * weight_bP
    return gate_tbP, open_tbP, open_tbP.sum(dim=-1), evidence_tb


def close_gates(
    gate_tbP: Tensor,
    pull_tbP: Tensor,
    cosine_tbP: Tensor,
    weight_bP: Tensor,
    dmass_tb: Tensor | None,
    devidence_tb: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """dz of a part, sum of dz, sum of dz * cosine: all at least float32. `pull_tbP` is <du, v_p>."""
    pull_tbP = at_least_float32(pull_tbP)
    if dmass_tb is not None:
        pull_tbP = pull_tbP + dmass_tb[..., None]
    grad_tbP = torch.ops.aten.sigmoid_backward(pull_tbP, gate_tbP)
    if devidence_tb is not None:
        grad_tbP = torch.addcmul(grad_tbP, gate_tbP, devidence_tb[..., None])
    grad_tbP = grad_tbP * weight_bP
    return grad_tbP, grad_tbP.sum(), (grad_tbP * at_least_float32(cosine_tbP)).sum()


def compare_pooled(
    pooled_btD: Tensor, text_tD: Tensor, mass_tb: Tensor, null_weight: float
) -> tuple[Tensor, Tensor, Tensor]:
    """(score, length, long enough) of a part: s = <t, u> / length, where length is |u|, or what `unit` puts in the place of a
    smaller one.
    """
    length_tb = torch.linalg.vector_norm(pooled_btD, dim=-1).T
    smallest_tb = SMALLEST_LENGTH * (mass_tb + null_weight).clamp_min(SMALLEST_MASS)
    dot_tb = (pooled_btD * text_tD).sum(dim=-1).T
    longest_tb = torch.maximum(length_tb, smallest_tb)
    return dot_tb / longest_tb, longest_tb, length_tb >= smallest_tb


def turn_pooled(pooled_btD: Tensor, text_tD: Tensor, pull_tb: Tensor, shrink_tb: Tensor) -> tuple[Tensor, Tensor]:
    """du = pull t - shrink u of a part, and the sum over its volumes of pull u, the sentences' gradient."""
    pull_bt1, shrink_bt1 = pull_tb.T[..., None], shrink_tb.T[..., None]
    return pull_bt1 * text_tD - shrink_bt1 * pooled_btD, (pull_bt1 * pooled_btD).sum(dim=0)


_compiled: dict[Callable[..., Any], Callable[..., Any]] = {}


def fused(function: Callable[..., Any], compiled: bool) -> Callable[..., Any]:
    """`function`, its elementwise chain fused into one pass where asked."""
    if not compiled:
        return function
    if function not in _compiled:
        _compiled[function] = torch.compile(function, dynamic=True)
    return _compiled[function]


@dataclass(kw_only=True)
class _Part:
    """One part's forward pass, and all that its backward pass reads again."""

    sentences: slice
    volumes: slice
    cosine_tbP: Tensor
    gate_tbP: Tensor
    open_tbP: Tensor
    pooled_btD: Tensor
    length_tb: Tensor
    long_enough_tb: Tensor
    score_tb: Tensor
    mass_tb: Tensor
    evidence_tb: Tensor | None


class _Walk:
    """The parts of one call: operands in the precision of the products, gradients summed in float32."""

    def __init__(self, inputs: Sequence[Tensor], settings: Settings) -> None:
        gate_TG, self.gate_BPG, text_TD, self.value_BPD, *scalars = inputs
        self.null_D, self.scale, self.bias = (at_least_float32(one) for one in scalars)
        self.inputs, self.settings = inputs, settings
        self.rho, self.dtype, self.compiled = settings.rho, settings.product_dtype, settings.compiled
        self.text_TD = at_least_float32(text_TD)
        queries = [] if self.rho == 1 else [(1 - self.rho) * at_least_float32(gate_TG)]
        queries += [] if self.rho == 0 else [self.rho * self.text_TD]
        self.query_TK = torch.cat(queries, dim=1).to(self.dtype)
        self.num_gate = 0 if self.rho == 1 else gate_TG.shape[1]
        self.patches_of: slice | None = None

    def read_patches(self, volumes: slice) -> None:
        """The patches of a part in the precision of the products; they serve all its sentences."""
        if volumes == self.patches_of:
            return
        self.patches_of = volumes
        self.weight_bP = at_least_float32(self.settings.weight_BP[volumes])
        self.value_bPD = self.value_BPD[volumes].to(self.dtype)
        keys = [] if self.rho == 1 else [self.gate_BPG[volumes].to(self.dtype)]
        keys += [] if self.rho == 0 else [self.value_bPD]
        self.key_bPK = keys[0] if len(keys) == 1 else torch.cat(keys, dim=2)

    def forward(self, sentences: slice, volumes: slice) -> _Part:
        """Cosines, gates, pooled vectors and numbers of a part."""
        self.read_patches(volumes)
        num_volumes, num_patches, _ = self.key_bPK.shape
        cosine_tbP = (self.query_TK[sentences] @ self.key_bPK.flatten(0, 1).T).view(-1, num_volumes, num_patches)
        gate_tbP, open_tbP, mass_tb, evidence_tb = fused(open_gates, self.compiled)(
            cosine_tbP, self.weight_bP, self.scale, self.bias, self.settings.evidence
        )
        open_tbP = open_tbP.to(self.dtype)
        pooled_btD = at_least_float32(open_tbP.transpose(0, 1) @ self.value_bPD)
        if self.settings.null_weight > 0:
            pooled_btD = pooled_btD + self.settings.null_weight * self.null_D
        score_tb, length_tb, long_enough_tb = fused(compare_pooled, self.compiled)(
            pooled_btD, self.text_TD[sentences], mass_tb, self.settings.null_weight
        )
        return _Part(
            sentences=sentences,
            volumes=volumes,
            cosine_tbP=cosine_tbP,
            gate_tbP=gate_tbP,
            open_tbP=open_tbP,
            pooled_btD=pooled_btD,
            length_tb=length_tb,
            long_enough_tb=long_enough_tb,
            score_tb=score_tb,
            mass_tb=mass_tb,
            evidence_tb=evidence_tb,
        )

    def start_gradients(self) -> None:
        """Zeros to sum into: text side, null vector, scale and bias in float32, patches in their own precision."""
        self.query_grad_TK = torch.zeros_like(self.query_TK, dtype=self.text_TD.dtype)
        self.text_grad_TD, self.null_grad_D = torch.zeros_like(self.text_TD), torch.zeros_like(self.null_D)
        self.scale_grad, self.bias_grad = torch.zeros_like(self.scale), torch.zeros_like(self.bias)
        self.gate_grad_BPG = torch.zeros_like(self.gate_BPG)
        self.value_grad_BPD = torch.zeros_like(self.value_BPD)

    def backward(
        self, part: _Part, dscore_tb: Tensor | None, dmass_tb: Tensor | None, devidence_tb: Tensor | None
    ) -> None:
        """Add a part's share to the gradients."""
        text_tD, volumes = self.text_TD[part.sentences], part.volumes
        if dscore_tb is None:
            dscore_tb = torch.zeros_like(part.score_tb)
        pull_tb = dscore_tb / part.length_tb
        lost_tb = pull_tb * part.score_tb
        shrink_tb = torch.where(part.long_enough_tb, lost_tb / part.length_tb, 0.0)
        dpooled_btD, text_grad_tD = fused(turn_pooled, self.compiled)(part.pooled_btD, text_tD, pull_tb, shrink_tb)
        self.text_grad_TD[part.sentences] += text_grad_tD
        if self.settings.null_weight > 0:
            self.null_grad_D += self.settings.null_weight * dpooled_btD.sum(dim=(0, 1))
        else:  # a null vector keeps u longer than that, but for exact cancellation
            steep_tb = ~part.long_enough_tb & (part.mass_tb > SMALLEST_MASS)
            short_tb = torch.where(steep_tb, -SMALLEST_LENGTH * lost_tb, 0.0)
            dmass_tb = short_tb if dmass_tb is None else dmass_tb + short_tb
        dpooled_btD = dpooled_btD.to(self.dtype)
        pull_tbP = (dpooled_btD @ self.value_bPD.transpose(1, 2)).transpose(0, 1)
        grad_tbP, sum_of_grad, sum_with_cosine = fused(close_gates, self.compiled)(
            part.gate_tbP, pull_tbP, part.cosine_tbP, self.weight_bP, dmass_tb, devidence_tb
        )
        self.bias_grad += sum_of_grad
        self.scale_grad += sum_with_cosine
        turned_tM = (grad_tbP * self.scale).to(self.dtype).flatten(1)
        self.query_grad_TK[part.sentences] += turned_tM @ self.key_bPK.flatten(0, 1)
        key_grad_bPK = (turned_tM.T @ self.query_TK[part.sentences]).view_as(self.key_bPK)
        value_grad_bPD = part.open_tbP.permute(1, 2, 0) @ dpooled_btD
        self.value_grad_BPD[volumes] += value_grad_bPD
        if self.rho < 1:
            self.gate_grad_BPG[volumes] += key_grad_bPK[..., : self.num_gate]
        if self.rho > 0:
            self.value_grad_BPD[volumes] += key_grad_bPK[..., self.num_gate :]

    def gradients(self) -> tuple[Tensor | None, ...]:
        """In the order and precision of the inputs."""
        gate_grad_TG = None if self.rho == 1 else (1 - self.rho) * self.query_grad_TK[:, : self.num_gate]
        if self.rho > 0:
            self.text_grad_TD += self.rho * self.query_grad_TK[:, self.num_gate :]
        found = (
            gate_grad_TG,
            None if self.rho == 1 else self.gate_grad_BPG,
            self.text_grad_TD,
            self.value_grad_BPD,
            self.null_grad_D,
            self.scale_grad,
            self.bias_grad,
        )
        return tuple(
            None if grad is None else grad.to(given.dtype) for grad, given in zip(found, self.inputs, strict=True)
        )


class _Numbers:
    """(T, B) numbers of all parts."""

    def __init__(self, walk: _Walk) -> None:
        shape = walk.text_TD.shape[0], walk.value_BPD.shape[0]
        self.score_TB = walk.text_TD.new_empty(shape)
        self.mass_TB = walk.text_TD.new_empty(shape)
        self.evidence_TB = walk.text_TD.new_empty(shape) if walk.settings.evidence else walk.text_TD.new_zeros(shape)

    def put(self, part: _Part) -> None:
        """Enter a part."""
        where = part.sentences, part.volumes
        self.score_TB[where], self.mass_TB[where] = part.score_tb, part.mass_tb
        if part.evidence_tb is not None:
            self.evidence_TB[where] = part.evidence_tb


class _Recompute(torch.autograd.Function):
    """Inputs → score, mass, evidence; backward opens the gates again."""

    @staticmethod
    def forward(ctx: Any, settings: Settings, *inputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """All parts, nothing kept but the inputs."""
        ctx.settings = settings
        ctx.save_for_backward(*inputs)
        ctx.set_materialize_grads(False)
        with torch.autocast(inputs[0].device.type, enabled=False):
            walk = _Walk(inputs, settings)
            numbers = _Numbers(walk)
            for sentences, volumes in settings.blocks.parts(*numbers.score_TB.shape):
                numbers.put(walk.forward(sentences, volumes))
        return numbers.score_TB, numbers.mass_TB, numbers.evidence_TB

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        """All parts again, each with its share of the incoming gradients."""
        settings = ctx.settings
        with torch.autocast(ctx.saved_tensors[0].device.type, enabled=False):
            walk = _Walk(ctx.saved_tensors, settings)
            walk.start_gradients()
            for where in settings.blocks.parts(walk.text_TD.shape[0], walk.value_BPD.shape[0]):
                walk.backward(walk.forward(*where), *(None if one is None else one[where] for one in gradients))
            return None, *walk.gradients()


class _OnePass(torch.autograd.Function):
    """Inputs and a pair-local loss → its value, and score, mass, evidence to look at; all gradients are formed on the way."""

    @staticmethod
    def forward(ctx: Any, settings: Settings, loss: PairLoss, num_inputs: int, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Every part forward and backward at once."""
        inputs, parameters = tensors[:num_inputs], tensors[num_inputs:]
        with torch.autocast(inputs[0].device.type, enabled=False):
            walk = _Walk(inputs, settings)
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
        found = [*walk.gradients(), *parameter_grads]
        ctx.known = [grad is not None for grad in found]
        ctx.save_for_backward(*(grad for grad in found if grad is not None))
        ctx.mark_non_differentiable(numbers.score_TB, numbers.mass_TB, numbers.evidence_TB)
        return total, numbers.score_TB, numbers.mass_TB, numbers.evidence_TB

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """The kept gradients times that of the loss."""
        held = iter(ctx.saved_tensors)
        return None, None, None, *(next(held) * gradients[0] if known else None for known in ctx.known)


def _part_of_loss(
    loss: PairLoss, part: _Part, parameters: Sequence[Tensor]
) -> tuple[Tensor, tuple[Tensor | None, ...]]:
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

"""One part of the gate's matrix, some sentences by some volumes, forward and backward; `blocked_gate` walks through all.

What is opened for a part is dropped with it. Elementwise chains are functions of their own, so that a compiler can fuse them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from glint.model.alignment import SMALLEST_MASS
from glint.model.gate import SMALLEST_LENGTH, at_least_float32
from glint.model.gate_blocks import BlockSizes


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
    """sigma(z), c sigma(z) in the precision of the products, gate mass and evidence of a part."""
    logit_tbP = at_least_float32(cosine_tbP) * scale + bias
    evidence_tb = (F.softplus(logit_tbP) * weight_bP).sum(dim=-1) if evidence else None
    gate_tbP = torch.sigmoid(logit_tbP)
    open_tbP = gate_tbP * weight_bP
    return gate_tbP, open_tbP.to(cosine_tbP.dtype), open_tbP.sum(dim=-1), evidence_tb


def open_again(cosine_tbP: Tensor, weight_bP: Tensor, scale: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """sigma(z), and c sigma(z) in the precision of the products, where mass and evidence are known already."""
    gate_tbP = torch.sigmoid(at_least_float32(cosine_tbP) * scale + bias)
    return gate_tbP, (gate_tbP * weight_bP).to(cosine_tbP.dtype)


def close_gates(
    gate_tbP: Tensor,
    pull_tbP: Tensor,
    cosine_tbP: Tensor,
    weight_bP: Tensor,
    scale: Tensor,
    dmass_tb: Tensor | None,
    devidence_tb: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """alpha dz of a part in the precision of the products; sum of dz and sum of dz * cosine, at least float32.

    `pull_tbP` is <du, v_p>.
    """
    dtype = pull_tbP.dtype
    pull_tbP = at_least_float32(pull_tbP)
    if dmass_tb is not None:
        pull_tbP = pull_tbP + dmass_tb[..., None]
    grad_tbP = torch.ops.aten.sigmoid_backward(pull_tbP, gate_tbP)
    if devidence_tb is not None:
        grad_tbP = torch.addcmul(grad_tbP, gate_tbP, devidence_tb[..., None])
    grad_tbP = grad_tbP * weight_bP
    return (grad_tbP * scale).to(dtype), grad_tbP.sum(), (grad_tbP * at_least_float32(cosine_tbP)).sum()


def compare_pooled(pooled_btD: Tensor, text_tD: Tensor, mass_tb: Tensor, null_weight: float) -> tuple[Tensor, Tensor]:
    """(score, length) of a part: s = <t, u> / length, where length is |u|, or what `unit` puts in the place of a smaller one;
    that is returned below 0.
    """
    length_tb = torch.linalg.vector_norm(pooled_btD, dim=-1).T
    smallest_tb = SMALLEST_LENGTH * (mass_tb + null_weight).clamp_min(SMALLEST_MASS)
    dot_tb = (pooled_btD * text_tD).sum(dim=-1).T
    score_tb = dot_tb / torch.maximum(length_tb, smallest_tb)
    return score_tb, torch.where(length_tb >= smallest_tb, length_tb, -smallest_tb)


def turn_pooled(
    pooled_btD: Tensor, text_tD: Tensor, pull_tb: Tensor, shrink_tb: Tensor, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    """du = pull t - shrink u of a part as `dtype`, its sum, and the sum over volumes of pull u, the sentences' gradient."""
    pull_bt1, shrink_bt1 = pull_tb.T[..., None], shrink_tb.T[..., None]
    turned_btD = pull_bt1 * text_tD - shrink_bt1 * pooled_btD
    return turned_btD.to(dtype), turned_btD.sum(dim=(0, 1)), (pull_bt1 * pooled_btD).sum(dim=0)


_compiled: dict[Callable[..., Any], Callable[..., Any]] = {}


def fused(function: Callable[..., Any], compiled: bool) -> Callable[..., Any]:
    """`function`, its elementwise chain fused into one pass where asked."""
    if not compiled:
        return function
    if function not in _compiled:
        _compiled[function] = torch.compile(function, dynamic=True)
    return _compiled[function]


@dataclass(kw_only=True)
class Part:
    """One part's forward pass, and all that its backward pass reads again."""

    sentences: slice
    volumes: slice
    cosine_tbP: Tensor
    gate_tbP: Tensor
    open_tbP: Tensor
    pooled_btD: Tensor
    length_tb: Tensor
    score_tb: Tensor
    mass_tb: Tensor
    evidence_tb: Tensor | None


class Walk:
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

    def forward(self, sentences: slice, volumes: slice, known: Sequence[Tensor] | None = None) -> Part:
        """Cosines, gates, pooled vectors and numbers of a part; `known` score, length and mass (t, b) are not made again."""
        self.read_patches(volumes)
        num_volumes, num_patches, _ = self.key_bPK.shape
        cosine_tbP = (self.query_TK[sentences] @ self.key_bPK.flatten(0, 1).T).view(-1, num_volumes, num_patches)
        evidence_tb = None
        if known is None:
            gate_tbP, open_tbP, mass_tb, evidence_tb = fused(open_gates, self.compiled)(
                cosine_tbP, self.weight_bP, self.scale, self.bias, self.settings.evidence
            )
        else:
            gate_tbP, open_tbP = fused(open_again, self.compiled)(cosine_tbP, self.weight_bP, self.scale, self.bias)
        pooled_btD = at_least_float32(open_tbP.transpose(0, 1) @ self.value_bPD)
        if self.settings.null_weight > 0:
            pooled_btD = pooled_btD + self.settings.null_weight * self.null_D
        if known is None:
            score_tb, length_tb = fused(compare_pooled, self.compiled)(
                pooled_btD, self.text_TD[sentences], mass_tb, self.settings.null_weight
            )
        else:
            score_tb, length_tb, mass_tb = known
        return Part(
            sentences=sentences,
            volumes=volumes,
            cosine_tbP=cosine_tbP,
            gate_tbP=gate_tbP,
            open_tbP=open_tbP,
            pooled_btD=pooled_btD,
            length_tb=length_tb,
            score_tb=score_tb,
            mass_tb=mass_tb,
            evidence_tb=evidence_tb,
        )

    def start_gradients(self) -> None:
        """Zeros to sum into: text side, null vector, scale and bias in float32, patches in their own precision."""
        self.query_grad_TK = torch.zeros_like(self.query_TK, dtype=self.text_TD.dtype)
        self.text_grad_TD, self.null_grad_D = torch.zeros_like(self.text_TD), torch.zeros_like(self.null_D)
        self.scale_grad, self.bias_grad = torch.zeros_like(self.scale), torch.zeros_like(self.bias)
        patches = torch.empty_like if len(self.text_TD) else torch.zeros_like  # the first sentences fill them
        self.gate_grad_BPG, self.value_grad_BPD = patches(self.gate_BPG), patches(self.value_BPD)

    def backward(
        self, part: Part, dscore_tb: Tensor | None, dmass_tb: Tensor | None, devidence_tb: Tensor | None
    ) -> None:
        """Add a part's share to the gradients."""
        text_tD, volumes = self.text_TD[part.sentences], part.volumes
        if dscore_tb is None:
            dscore_tb = torch.zeros_like(part.score_tb)
        length_tb, long_enough_tb = part.length_tb.abs(), part.length_tb > 0
        pull_tb = dscore_tb / length_tb
        lost_tb = pull_tb * part.score_tb
        shrink_tb = torch.where(long_enough_tb, lost_tb / length_tb, 0.0)
        dpooled_btD, null_grad_D, text_grad_tD = fused(turn_pooled, self.compiled)(
            part.pooled_btD, text_tD, pull_tb, shrink_tb, self.dtype
        )
        self.text_grad_TD[part.sentences] += text_grad_tD
        if self.settings.null_weight > 0:
            self.null_grad_D += self.settings.null_weight * null_grad_D
        else:  # a null vector keeps u longer than that, but for exact cancellation
            steep_tb = ~long_enough_tb & (part.mass_tb > SMALLEST_MASS)
            short_tb = torch.where(steep_tb, -SMALLEST_LENGTH * lost_tb, 0.0)
            dmass_tb = short_tb if dmass_tb is None else dmass_tb + short_tb
        pull_tbP = (dpooled_btD @ self.value_bPD.transpose(1, 2)).transpose(0, 1)
        turned_tbP, sum_of_grad, sum_with_cosine = fused(close_gates, self.compiled)(
            part.gate_tbP, pull_tbP, part.cosine_tbP, self.weight_bP, self.scale, dmass_tb, devidence_tb
        )
        self.bias_grad += sum_of_grad
        self.scale_grad += sum_with_cosine
        turned_tM = turned_tbP.flatten(1)
        self.query_grad_TK[part.sentences] += turned_tM @ self.key_bPK.flatten(0, 1)
        key_grad_bPK = (turned_tM.T @ self.query_TK[part.sentences]).view_as(self.key_bPK)
        value_grad_bPD = part.open_tbP.permute(1, 2, 0) @ dpooled_btD
        if self.rho > 0:
            value_grad_bPD = value_grad_bPD + key_grad_bPK[..., self.num_gate :]
        found = ((self.gate_grad_BPG, key_grad_bPK[..., : self.num_gate]), (self.value_grad_BPD, value_grad_bPD))
        for total_BPX, grad_bPX in found if self.rho < 1 else found[1:]:
            if part.sentences.start == 0:  # nothing is there yet
                total_BPX[volumes] = grad_bPX
            else:
                total_BPX[volumes] += grad_bPX

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

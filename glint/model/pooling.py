"""From patches to one score per sentence and volume: the gate's evidence, and the baselines in its place.

A pooling answers with the same fields as the gate, so that every baseline trains and is measured by the same code. Its map
(`gate_logits_TBP`) is above 0 where its own rule says that a patch shows the sentence.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from glint.model.alignment import Alignment, global_alignment, pool_evidence
from glint.model.gate import PatchTokens, TextQueries, at_least_float32, unit

if TYPE_CHECKING:
    from glint.model.glint import Glint

Align = Callable[["Glint", TextQueries, PatchTokens, Tensor], Alignment]
CLOSED = -1e9
"""Stands for -inf in a softmax over patches: a volume without a valid patch then has equal weights, never NaN."""


@dataclass(frozen=True, kw_only=True)
class Pooling:
    """`bias`: the part of its map that belongs to any patch. `gated`: the map is a gate, which the area and evidence losses may
    act on.
    """

    align: Align
    bias: Callable[["Glint"], Tensor]
    gated: bool = False


def pool_by_gate(model: "Glint", queries: TextQueries, tokens: PatchTokens, weight_BP: Tensor) -> Alignment:
    """The method: see `pool_evidence`."""
    return pool_evidence(
        model.gate(queries, tokens),
        queries,
        tokens,
        weight_BP,
        model.null_D,
        null_weight=model.config.model.null_weight,
        bias=model.gate.bias,
    )


def pool_by_mean(model: "Glint", queries: TextQueries, tokens: PatchTokens, weight_BP: Tensor) -> Alignment:
    """CLIP-style: the mean token, whichever the sentence; see `global_alignment`."""
    return global_alignment(queries, tokens, weight_BP, scale=model.sigmoid_scale, bias=model.sigmoid_bias)


def softmax_alignment(
    logits_TBP: Tensor, queries: TextQueries, tokens: PatchTokens, weight_BP: Tensor
) -> tuple[Tensor, Tensor]:
    """(score, mass): patches weighed by softmax of their logits among the valid ones, pooled, renormalised.

    s_t = <t, n(sum_p a_tp v_p)>,   a_tp = c_p e^{z_tp} / sum_p' c_p' e^{z_tp'}
    """
    size_BP = weight_BP.clamp_min(1e-12).log().masked_fill(weight_BP <= 0, CLOSED)
    attention_TBP = torch.softmax(logits_TBP + size_BP[None], dim=-1)
    pooled_TBD = torch.einsum("tbp,bpd->tbd", attention_TBP, at_least_float32(tokens.value_BPD))
    score_TB = torch.einsum("td,tbd->tb", at_least_float32(queries.text_TD), unit(pooled_TBD))
    return score_TB, (torch.sigmoid(logits_TBP) * weight_BP[None]).sum(dim=-1)


def pool_by_similarity(model: "Glint", queries: TextQueries, tokens: PatchTokens, weight_BP: Tensor) -> Alignment:
    """RadZero's VL-CABS: z = <t, v_p> / tau, one learned tau for attention and loss. Its map is cos / tau."""
    cosine_TBP = torch.einsum("td,bpd->tbp", at_least_float32(queries.text_TD), at_least_float32(tokens.value_BPD))
    logits_TBP = model.inverse_temperature * cosine_TBP
    score_TB, mass_TB = softmax_alignment(logits_TBP, queries, tokens, weight_BP)
    return Alignment(score_TB=score_TB, gate_logits_TBP=logits_TBP, gate_mass_TB=mass_TB, bias=logits_TBP.new_zeros(()))


def pool_by_softmax(model: "Glint", queries: TextQueries, tokens: PatchTokens, weight_BP: Tensor) -> Alignment:
    """The gate's own logits without a gate: patches compete instead of answering for themselves, and one always wins."""
    logits_TBP = model.gate(queries, tokens)
    score_TB, mass_TB = softmax_alignment(logits_TBP, queries, tokens, weight_BP)
    return Alignment(score_TB=score_TB, gate_logits_TBP=logits_TBP, gate_mass_TB=mass_TB, bias=model.gate.bias)


class ConditionedPooling(nn.Module):
    """FLAIR's pooling: sentences attend to patches by multi-head cross-attention, with an empty slot to attend to instead.

    Source: FLAIR (CVPR 2025), `add_zero_attn`: one more key of logit 0 and value 0.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.head_width = heads, width // heads
        self.to_query, self.to_key = nn.Linear(width, width), nn.Linear(width, width)
        self.to_value, self.to_output = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, text_TD: Tensor, patch_BPD: Tensor, weight_BP: Tensor) -> tuple[Tensor, Tensor]:
        """Pooled vectors (T, B, D) and the mean over heads of the attention logits (T, B, P), 0 being the empty slot's."""
        query = self.to_query(text_TD).unflatten(-1, (self.heads, self.head_width))
        key, value = (
            one(patch_BPD).unflatten(-1, (self.heads, self.head_width)) for one in (self.to_key, self.to_value)
        )
        logits_THBP = torch.einsum("thd,bphd->thbp", query, key) / self.head_width**0.5
        shut_THBP = logits_THBP.masked_fill(weight_BP <= 0, CLOSED)
        attention_THBP = torch.softmax(F.pad(shut_THBP, (0, 1)), dim=-1)[..., :-1]
        pooled_TBD = torch.einsum("thbp,bphd->tbhd", attention_THBP, value).flatten(2)
        return self.to_output(pooled_TBD), logits_THBP.mean(dim=1)


def pool_conditioned(model: "Glint", queries: TextQueries, tokens: PatchTokens, weight_BP: Tensor) -> Alignment:
    """FLAIR-style: s_t = <t, n(attention pooling of the patches, asked by t)>. Its map beats the empty slot above 0."""
    text_TD = at_least_float32(queries.text_TD)
    pooled_TBD, logits_TBP = model.conditioned(text_TD, at_least_float32(tokens.projected_BPD), weight_BP)
    score_TB = torch.einsum("td,tbd->tb", text_TD, unit(pooled_TBD))
    mass_TB = (torch.sigmoid(logits_TBP) * weight_BP[None]).sum(dim=-1)
    return Alignment(score_TB=score_TB, gate_logits_TBP=logits_TBP, gate_mass_TB=mass_TB, bias=logits_TBP.new_zeros(()))


POOLINGS: dict[str, Pooling] = {
    "gate": Pooling(align=pool_by_gate, bias=lambda model: model.gate.bias, gated=True),
    "mean": Pooling(align=pool_by_mean, bias=lambda model: model.sigmoid_bias),
    "softmax_similarity": Pooling(align=pool_by_similarity, bias=lambda _: torch.zeros(())),
    "softmax_gate": Pooling(align=pool_by_softmax, bias=lambda model: model.gate.bias),
    "conditioned": Pooling(align=pool_conditioned, bias=lambda _: torch.zeros(())),
}
"""`train.model.pooling` → how it pools."""

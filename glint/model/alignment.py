"""From gate logits to a score: pooling with a no-evidence slot. Reference implementation."""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from glint.model.gate import PatchTokens, TextQueries, at_least_float32, unit

SMALLEST_MASS = 1e-12


@dataclass(frozen=True, kw_only=True)
class Alignment:
    """What a model says of T sentences on B volumes of P patches.

    `score_TB`: cosine in [-1, 1], ranks volumes for a sentence. `gate_logits_TBP`: log-odds that a patch shows it.
    `bias`: the part of those log-odds that belongs to any patch before it is looked at; the rest is what the patch says.
    `gate_mass_TB`: evidence in reference patches; below the null weight a mask should be empty.
    """

    score_TB: Tensor
    gate_logits_TBP: Tensor
    gate_mass_TB: Tensor
    bias: Tensor


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What training reads of T sentences on B volumes, all (T, B): score, gate mass sum_p c_p sigma(z_p), and evidence
    sum_p c_p softplus(z_p), the noisy-or's sum.
    """

    score_TB: Tensor
    gate_mass_TB: Tensor
    evidence_TB: Tensor


def comparison_of(aligned: Alignment, patch_weight_BP: Tensor) -> Comparison:
    """The numbers of an alignment whose logits are at hand."""
    evidence_TB = (F.softplus(aligned.gate_logits_TBP) * patch_weight_BP[None]).sum(dim=-1)
    return Comparison(score_TB=aligned.score_TB, gate_mass_TB=aligned.gate_mass_TB, evidence_TB=evidence_TB)


def pool_evidence(
    gate_logits_TBP: Tensor,
    queries: TextQueries,
    tokens: PatchTokens,
    patch_weight_BP: Tensor,
    null_D: Tensor,
    *,
    null_weight: float,
    bias: Tensor,
) -> Alignment:
    """Score every sentence on every volume, in float32.

        m_t = sum_p c_p sigma(z_tp)
        u_t = (sum_p c_p sigma(z_tp) v_p + mu n0) / (m_t + mu)
        s_t = <t, n(u_t)>

    `patch_weight_BP` is c_p: 0 for invalid patches, else the physical patch size over the reference size. With all gates
    closed u is n0, so the score is finite and belongs to the sentence. `null_weight` 0 is the ablation without slot.
    `bias` is the gate's b, already inside the logits.
    """
    value_BPD, text_TD = at_least_float32(tokens.value_BPD), at_least_float32(queries.text_TD)
    evidence_TBP = patch_weight_BP[None] * torch.sigmoid(gate_logits_TBP)
    mass_TB = evidence_TBP.sum(dim=-1)
    gathered_TBD = torch.einsum("tbp,bpd->tbd", evidence_TBP, value_BPD) + null_weight * unit(null_D)
    pooled_TBD = gathered_TBD / (mass_TB + null_weight).clamp_min(SMALLEST_MASS)[..., None]
    score_TB = torch.einsum("td,tbd->tb", text_TD, unit(pooled_TBD))
    return Alignment(score_TB=score_TB, gate_logits_TBP=gate_logits_TBP, gate_mass_TB=mass_TB, bias=bias)


def global_alignment(
    queries: TextQueries, tokens: PatchTokens, patch_weight_BP: Tensor, *, scale: Tensor, bias: Tensor
) -> Alignment:
    """The baseline's score: cosine of sentence and mean-pooled volume, as CLIP does.

    Its map is the same calibrated read-out asked of each patch: scale * <t, v_p> + bias, where scale and bias turn the
    volume's cosine into the logit of presence.
    """
    text_TD = at_least_float32(queries.text_TD)
    logits_TBP = scale * torch.einsum("td,bpd->tbp", text_TD, at_least_float32(tokens.value_BPD)) + bias
    mass_TB = (patch_weight_BP[None] * torch.sigmoid(logits_TBP)).sum(dim=-1)
    pooled_BD = torch.einsum("bp,bpd->bd", patch_weight_BP, at_least_float32(tokens.projected_BPD))
    score_TB = text_TD @ unit(pooled_BD).T
    return Alignment(score_TB=score_TB, gate_logits_TBP=logits_TBP, gate_mass_TB=mass_TB, bias=bias)


def valid_patches(
    valid_box: tuple[int, ...], volume_zyx: tuple[int, int, int], patch_zyx: tuple[int, int, int]
) -> NDArray[np.bool_]:
    """(P,) patches that hold at least half scan, by volume; the rest is padding. In token order (x runs fastest).

    `valid_box`: (z0, z1, y0, y1, x0, x1), half-open voxel indices of the scan inside the padded grid.
    """
    shares = []
    for axis in range(3):
        inside = np.zeros(volume_zyx[axis])
        inside[valid_box[2 * axis] : valid_box[2 * axis + 1]] = 1
        shares.append(inside.reshape(-1, patch_zyx[axis]).mean(axis=1))
    share_zyx = shares[0][:, None, None] * shares[1][None, :, None] * shares[2][None, None, :]
    return np.asarray(share_zyx.reshape(-1) >= 0.5)

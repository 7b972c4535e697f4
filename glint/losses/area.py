"""Area loss: closed gates where the report contradicts the sentence, no flooding where it agrees."""

import torch
from torch import Tensor

from glint.core.relations import HARD_NEGATIVE, POSITIVE
from glint.losses.pairs import PairCounts, count_pairs


def mean_gate(gate_mass_TB: Tensor, patch_sum_B: Tensor) -> Tensor:
    """(T, B) mean of sigma(z) over the valid patches, weighted by size; 0 for a volume without any.

    `gate_mass_TB` is sum_p c_p sigma(z_tp), `patch_sum_B` is sum_p c_p.
    """
    return gate_mass_TB / patch_sum_B.clamp_min(1e-6)[None]


def area_loss(
    mean_gate_TB: Tensor, relation_TB: Tensor, *, area_max: float, counts: PairCounts | None = None
) -> Tensor:
    """Mean gate of explicitly contradicted pairs + mean over positives of relu(mean gate - area_max).

        L_area = mean over t contradicted in b of g_tb + mean over t in b of relu(g_tb - a_max),   g_tb = mean_p sigma(z_tbp)

    There is no global target of sparsity: findings differ a hundredfold in size. Source: METHOD equation for L_area.
    `counts` are of the whole batch where these pairs are a part of it.
    """
    counts = counts or count_pairs(relation_TB)
    closed = torch.where(relation_TB == HARD_NEGATIVE, mean_gate_TB, 0.0).sum() / counts.contradicted
    flood = torch.where(relation_TB == POSITIVE, torch.relu(mean_gate_TB - area_max), 0.0).sum() / counts.positives
    return closed + flood

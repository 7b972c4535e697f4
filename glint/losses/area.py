"""Area loss: closed gates where the report contradicts the sentence, no flooding where it agrees."""

from collections.abc import Callable

import torch
from torch import Tensor

from glint.core.relations import HARD_NEGATIVE, POSITIVE


def mean_gate(gate_logits_TBP: Tensor, patch_weight_BP: Tensor) -> Tensor:
    """(T, B) mean of sigma(z) over the valid patches; 0 for a volume without any."""
    weighted_TB = (torch.sigmoid(gate_logits_TBP) * patch_weight_BP[None]).sum(dim=-1)
    return weighted_TB / patch_weight_BP.sum(dim=-1).clamp_min(1e-6)[None]


def area_loss(
    gate_logits_TBP: Tensor,
    relation_TB: Tensor,
    patch_weight_BP: Tensor,
    *,
    area_max: float,
    gather: Callable[[Tensor], Tensor] = lambda local_TB: local_TB,
) -> Tensor:
    """Mean gate of explicitly contradicted pairs + mean over positives of relu(mean gate - area_max).

    There is no global target of sparsity: findings differ a hundredfold in size. Source: METHOD equation for L_area.
    `gather` brings in the studies of other processes, which `relation_TB` has too.
    """
    gate_TB = gather(mean_gate(gate_logits_TBP, patch_weight_BP))
    contradicted_TB, positive_TB = relation_TB == HARD_NEGATIVE, relation_TB == POSITIVE
    closed = torch.where(contradicted_TB, gate_TB, 0.0).sum() / contradicted_TB.sum().clamp_min(1)
    flood = torch.where(positive_TB, torch.relu(gate_TB - area_max), 0.0).sum() / positive_TB.sum().clamp_min(1)
    return closed + flood

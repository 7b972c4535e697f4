"""Evidence loss: a volume shows what a sentence says if any of its patches does."""

import torch
from torch import Tensor

from glint.core.relations import HARD_NEGATIVE, NEGATIVE, POSITIVE
from glint.losses.pairs import PairCounts, count_pairs

SMALLEST_EVIDENCE = 1e-6  # log(1 - e^-S) has slope 1/S


def evidence_loss(
    evidence_TB: Tensor, relation_TB: Tensor, *, extent: float = 1.0, counts: PairCounts | None = None
) -> Tensor:
    """½ (mean over positives of -log(1 - e^{-S / extent}) + mean over (hard) negatives of S), S_tb = sum_p c_p softplus(z_tbp).

    With extent 1 this is noisy-or, P(t in b) = 1 - prod_p (1 - sigma(z_tp))^c_p, whose positives are content with one open
    patch; a larger extent (in reference patches) asks for that much more, so that a lesion opens as a whole.

    The score alone fixes gates up to a common factor (pooling is blind to scale); here a gate answers for its patch, so
    that 0.5 means something. Both relations weigh the same however rare the finding; ignored pairs count nowhere.
    `counts` are of the whole batch where these pairs are a part of it. Source: noisy-or multiple-instance learning.
    """
    counts = counts or count_pairs(relation_TB)
    positive_TB = relation_TB == POSITIVE
    negative_TB = (relation_TB == NEGATIVE) | (relation_TB == HARD_NEGATIVE)
    missed_TB = -torch.log(-torch.expm1(-(evidence_TB / extent).clamp_min(SMALLEST_EVIDENCE)))
    missed = torch.where(positive_TB, missed_TB, 0.0).sum() / counts.positives
    invented = torch.where(negative_TB, evidence_TB, 0.0).sum() / counts.negatives
    return 0.5 * (missed + invented)

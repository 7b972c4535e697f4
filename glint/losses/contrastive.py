"""Multi-positive contrastive loss, both directions."""

import torch
import torch.nn.functional as F
from torch import Tensor

from glint.core.relations import HARD_NEGATIVE, NEGATIVE, POSITIVE

# Stands for -inf in a log-sum-exp: exp underflows to 0, and an all-masked row has a finite value and gradient 0.
MASKED = -1e9


def _one_direction(logits_RC: Tensor, positive_RC: Tensor, negative_RC: Tensor) -> Tensor:
    """Mean over positive pairs of -log e^l / (e^l + sum over the row's negatives of e^l')."""
    negatives_R1 = logits_RC.masked_fill(~negative_RC, MASKED).logsumexp(dim=1, keepdim=True)
    loss_RC = F.softplus(negatives_R1 - logits_RC)
    return torch.where(positive_RC, loss_RC, 0.0).sum() / positive_RC.sum().clamp_min(1)


def contrastive_loss(score_TB: Tensor, relation_TB: Tensor, *, inverse_temperature: Tensor | float) -> Tensor:
    """½ (L_t2i + L_i2t); 0 where the batch holds no positive pair.

        L_t2i = mean over t, i in A(t) of -log e^{k s_ti} / (e^{k s_ti} + sum_{j in N(t)} e^{k s_tj})

    and L_i2t the same with sentences and studies exchanged. Each positive stands alone against the negatives, so other
    positives are not pushed apart; ignored pairs enter nowhere; hard negatives are negatives here.
    Source: MP-NCE as in RadZero and FORA, with logsumexp instead of exp + 1e-8.

    Args:
        score_TB: (T, B) cosines of unique sentences and studies.
        relation_TB: (T, B) codes of `glint.core.relations`.
        inverse_temperature: kappa = 1 / tau.
    """
    logits_TB = inverse_temperature * score_TB
    positive_TB = relation_TB == POSITIVE
    negative_TB = (relation_TB == NEGATIVE) | (relation_TB == HARD_NEGATIVE)
    text_to_image = _one_direction(logits_TB, positive_TB, negative_TB)
    image_to_text = _one_direction(logits_TB.T, positive_TB.T, negative_TB.T)
    return 0.5 * (text_to_image + image_to_text)

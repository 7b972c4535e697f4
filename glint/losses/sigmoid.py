"""Pairwise sigmoid loss: each pair is a yes-or-no question, whatever else the batch holds."""

import torch
import torch.nn.functional as F
from torch import Tensor

from glint.core.relations import IGNORE, POSITIVE
from glint.losses.pairs import PairCounts, count_pairs


def sigmoid_loss(
    score_TB: Tensor,
    relation_TB: Tensor,
    *,
    scale: Tensor | float,
    bias: Tensor | float,
    counts: PairCounts | None = None,
) -> Tensor:
    """-(1/T) sum over pairs of log sigma(y (scale * s + bias)), y = 1 for positives, -1 for (hard) negatives, ignored left out.

    T counts the sentences with at least one pair that is not ignored; without any the loss is 0. Source: SigLIP.
    `counts` are of the whole batch where these pairs are a part of it.
    """
    counts = counts or count_pairs(relation_TB)
    used_TB = relation_TB != IGNORE
    sign_TB = torch.where(relation_TB == POSITIVE, 1.0, -1.0).to(score_TB.dtype)
    loss_TB = -F.logsigmoid(sign_TB * (scale * score_TB + bias))
    return torch.where(used_TB, loss_TB, 0.0).sum() / counts.sentences

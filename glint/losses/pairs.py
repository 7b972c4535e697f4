"""How many pairs of each kind a batch holds: what the losses divide by."""

from dataclasses import dataclass

from torch import Tensor

from glint.core.relations import HARD_NEGATIVE, IGNORE, NEGATIVE, POSITIVE


@dataclass(frozen=True, kw_only=True)
class PairCounts:
    """Numbers of pairs, and of sentences with at least one pair in use; each at least 1, so that an absent kind costs 0.

    A loss that is a sum over pairs can be formed part by part (of the studies, of the sentences) with the counts of the whole.
    """

    positives: Tensor
    negatives: Tensor
    contradicted: Tensor
    sentences: Tensor


def count_pairs(relation_TB: Tensor) -> PairCounts:
    """Counts of a whole batch; `relation_TB` holds codes of `glint.core.relations`."""
    contradicted_TB = relation_TB == HARD_NEGATIVE
    return PairCounts(
        positives=(relation_TB == POSITIVE).sum().clamp_min(1),
        negatives=((relation_TB == NEGATIVE) | contradicted_TB).sum().clamp_min(1),
        contradicted=contradicted_TB.sum().clamp_min(1),
        sentences=(relation_TB != IGNORE).any(dim=1).sum().clamp_min(1),
    )

"""Text to image and image to text: does the right one come first?"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def match_ranks(score_QC: NDArray[np.floating], match_QC: NDArray[np.bool_]) -> Floats:
    """(Q,) rank, from 1, of each query's best-scored match among C candidates; NaN for a query without a match.

    Candidates of equal score share their places evenly, so that a constant score has the rank of chance.

    Raises:
        ValueError: the shapes differ, or a score is NaN.
    """
    if score_QC.shape != match_QC.shape or np.isnan(score_QC).any():
        raise ValueError(f"scores {score_QC.shape} and matches {match_QC.shape} must agree, without NaN")
    ranks = np.full(len(score_QC), np.nan)
    for query, (score_C, match_C) in enumerate(zip(score_QC, match_QC, strict=True)):
        if not match_C.any():
            continue
        best = score_C[match_C].max()
        tied = score_C == best
        matches = np.count_nonzero(tied & match_C)
        # Expected place of the first of m matches among n equals in random order is (n + 1) / (m + 1).
        ranks[query] = np.count_nonzero(score_C > best) + (np.count_nonzero(tied) + 1) / (matches + 1)
    return ranks


def recall_scores(rank_Q: Floats, places: Sequence[int]) -> dict[int, float]:
    """R@k: the share of queries, of those with a match, whose match is among the first k; NaN without any."""
    known = rank_Q[~np.isnan(rank_Q)]
    return {k: float((known <= k).mean()) if known.size else float("nan") for k in places}


def random_recall_score(num_candidates: int, num_matches: int, k: int) -> float:
    """R@k of a random order: 1 - C(n - m, k) / C(n, k)."""
    from scipy.special import gammaln

    if num_matches < 1 or k < 1:
        return 0.0
    if k > num_candidates - num_matches:
        return 1.0
    n, m = num_candidates, num_matches
    return float(-np.expm1(gammaln(n - m + 1) - gammaln(n - m - k + 1) - gammaln(n + 1) + gammaln(n - k + 1)))

"""Does a map follow the word left or right?"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from glint.core.config.evaluate import PromptConfig
from glint.evaluation.cohort import Study
from glint.evaluation.maps import body_mask
from glint.evaluation.zero_shot import Grid, Question, Replies

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
SIDES = ("left", "right")
# A mask belongs to a side if this share of it lies there; a map follows if that much of its open weight changes sides.
ON_ONE_SIDE, MOVED = 0.9, 0.1


def side_questions(findings: Sequence[str], config: PromptConfig) -> list[Question]:
    """F mapped questions that name the left, then F that name the right."""
    words = [config.wording.get(finding, finding.replace("_", " ")) for finding in findings]
    return [
        Question(sentences=tuple(text.format(side=side, finding=word) for text in config.sided), mapped=True)
        for side in SIDES
        for word in words
    ]


def right_mm(affine: NDArray[np.float64], shape: tuple[int, ...], steps: tuple[int, ...] = (1, 1, 1)) -> Floats:
    """World x (RAS+: towards the patient's right) of the centres of blocks of `steps` voxels, array order (z, y, x)."""
    z, y, x = (
        ((np.arange(size // step) + 0.5) * step - 0.5).reshape([-1 if k == axis else 1 for k in range(3)])
        for axis, (size, step) in enumerate(zip(shape, steps, strict=True))
    )
    return np.asarray(affine[0, 0] * x + affine[0, 1] * y + affine[0, 2] * z + affine[0, 3], dtype=np.float64)


def side_values(
    studies: Sequence[Study], replies: Replies, grid: Grid, valid_BP: Bools, *, num_findings: int, body_above: float
) -> dict[str, Floats]:
    """(F, B) values of positives whose mask lies on one side of the body; NaN for all others.

    `side_moves`: 1 if "right" instead of "left" carries at least a tenth of the map's open weight to the right.
    `side_shift`: that share, positive towards the named side. `side_score`: 1 if the sentence with the true side scores
    higher than the one with the wrong side, ½ if equal.

    Args:
        replies: To `side_questions`: F of the left, F of the right.
    """
    shape = num_findings, len(studies)
    values = {name: np.full(shape, np.nan) for name in ("side_moves", "side_shift", "side_score")}
    for column, study in enumerate(studies):
        volume, affine = study.volume()
        steps = tuple(size // patches for size, patches in zip(volume.shape, grid, strict=True))
        right = right_mm(affine, volume.shape)
        body = body_mask(volume, body_above)
        if not body.any():
            continue
        midline = float(np.median(np.broadcast_to(right, volume.shape)[body]))
        on_right = np.broadcast_to(right > midline, volume.shape)
        right_P = np.broadcast_to(right_mm(affine, volume.shape, steps) > midline, grid).ravel()
        bits = study.bits()
        for row in range(num_findings):
            mask = (bits >> row & 1).astype(np.bool_)
            if not mask.any():
                continue
            share = float(on_right[mask].mean())
            if min(share, 1 - share) > 1 - ON_ONE_SIDE:
                continue
            shares = [
                _share(replies.logits_QBP[row + offset, column], valid_BP[column], right_P)
                for offset in (0, num_findings)
            ]
            shift = shares[1] - shares[0]
            scores = replies.score_QB[row, column], replies.score_QB[row + num_findings, column]
            true, wrong = scores[::-1] if share > 0.5 else scores
            values["side_shift"][row, column] = shift
            values["side_moves"][row, column] = float(shift >= MOVED)
            values["side_score"][row, column] = 0.5 if true == wrong else float(true > wrong)
    return values


def _share(logits_P: NDArray[np.floating], valid_P: Bools, right_P: Bools) -> float:
    """Share of a map's open weight that lies on the right."""
    weight = valid_P / (1 + np.exp(-np.asarray(logits_P, np.float64)))
    total = weight.sum()
    return float(weight[right_P].sum() / total) if total > 0 else 0.5

"""Dense feature regularization: the student's patch tokens stay near the frozen teacher's, block by block."""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

LARGEST = 65504.0
"""Of float16: what overflowed it in a cache or an encoder is taken for it, so that one loud channel makes no loss NaN."""


def plain_norm(tokens_BPD: Tensor) -> Tensor:
    """LayerNorm without weights, at least float32: what the teacher's trained norms would weigh is not trusted at every block."""
    exact_BPD = tokens_BPD if tokens_BPD.dtype == torch.float64 else tokens_BPD.float()
    return F.layer_norm(exact_BPD.nan_to_num(nan=0.0, posinf=LARGEST, neginf=-LARGEST), tokens_BPD.shape[-1:])


def patch_cosine(student_BPD: Tensor, teacher_BPD: Tensor) -> Tensor:
    """(B, P) cosine of student and teacher patches after `plain_norm`."""
    return F.cosine_similarity(plain_norm(student_BPD), plain_norm(teacher_BPD), dim=-1)


def gram_term(student_BPD: Tensor, teacher_BPD: Tensor) -> Tensor:
    """|| n(f) n(f)^T - n(F) n(F)^T ||_F^2 / P^2 per volume, averaged. Source: DINOv3's Gram anchoring."""
    student, teacher = (F.normalize(plain_norm(tokens), dim=-1) for tokens in (student_BPD, teacher_BPD))
    return (student @ student.mT - teacher @ teacher.mT).square().mean()


def dense_feature_loss(
    student: Mapping[int, Tensor],
    teacher: Mapping[int, Tensor],
    *,
    cosine_weight: float = 1.0,
    gram_weight: float = 1.0,
    gram_rows_S: Tensor | None = None,
) -> Tensor:
    """L_DFR = mean over blocks l of (mean_p [1 - cos(f_p, F_p)] + lambda_G L_gram). Source: METHOD equation for L_DFR.

    Args:
        student: block → (B, P, D) tokens with gradient.
        teacher: the same blocks of the frozen teacher.
        cosine_weight: 0 leaves the Gram term alone.
        gram_weight: lambda_G.
        gram_rows_S: patches of the Gram term; all where None.
    """
    terms = []
    for block, target_BPD in teacher.items():
        term = cosine_weight * (1 - patch_cosine(student[block], target_BPD)).mean()
        if gram_weight > 0:
            rows = slice(None) if gram_rows_S is None else gram_rows_S
            term = term + gram_weight * gram_term(student[block][:, rows], target_BPD[:, rows])
        terms.append(term)
    return torch.stack(terms).mean()

"""Two probes for labels of studies on frozen tokens: logistic regression on pooled tokens, and attention that is learned."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from glint.core.config.downstream import ProbeTaskConfig
from glint.core.seeds import derived_seed, generator
from glint.evaluation.probe import fit_logistic

Floats = NDArray[np.float32]
Bools = NDArray[np.bool_]
STUDIES_PER_PASS = 32


def pooled_tokens(
    tokens_BPD: NDArray[np.floating], valid_BP: Bools, pooling: Literal["mean", "mean_max"]
) -> NDArray[np.float32]:
    """(B, D) mean over patches of scan, or (B, 2 D) with the maximum of each channel behind it."""
    rows = []
    for tokens_PD, valid_P in zip(tokens_BPD, valid_BP, strict=True):
        held = np.asarray(tokens_PD[valid_P], dtype=np.float32)
        parts = [held.mean(axis=0)] + ([held.max(axis=0)] if pooling == "mean_max" else [])
        rows.append(np.concatenate(parts))
    return np.stack(rows)


def one_class(target_NF: Bools, used_NF: Bools) -> Bools:
    """(F,) findings of which the used studies hold one class only: there is nothing to learn."""
    return np.asarray(~((target_NF & used_NF).any(axis=0) & (~target_NF & used_NF).any(axis=0)))


def linear_scores(
    pooled_ND: Floats, target_NF: Bools, used_NF: Bools, asked_BD: Floats, config: ProbeTaskConfig
) -> Floats:
    """(B, F) logits of one logistic regression per finding, each fitted on its used studies; 0 where they hold one class.

    Channels are standardised by the used studies.
    """
    scores = np.zeros((len(asked_BD), target_NF.shape[1]), np.float32)
    # Findings that share their studies are fitted together.
    groups: dict[bytes, list[int]] = {}
    for finding in np.flatnonzero(~one_class(target_NF, used_NF)):
        groups.setdefault(used_NF[:, finding].tobytes(), []).append(int(finding))
    for findings in groups.values():
        rows = np.flatnonzero(used_NF[:, findings[0]])
        seen = pooled_ND[rows]
        mean, deviation = seen.mean(axis=0), seen.std(axis=0) + np.float32(1e-6)
        weight, bias = fit_logistic(
            (seen - mean) / deviation,
            target_NF[rows][:, findings],
            np.ones(len(rows), np.float32),
            ridges=(1 / (config.strength * len(rows)),),
            iterations=config.iterations,
        )[0]
        scores[:, findings] = (asked_BD - mean) / deviation @ weight + bias
    return scores


class AttentiveProbe(nn.Module):
    """Per finding and head a query that attends and a direction that reads: logit = b + sum_h softmax_p(q_h x_p) x_p w_h.

    Cross-attention to a learned query per finding whose key map is folded into the query and whose value and output maps
    are folded into the direction; findings share nothing, so that each may have training studies of its own.
    """

    def __init__(self, width: int, num_findings: int, *, heads: int, seed: int) -> None:
        super().__init__()
        rng = torch.Generator().manual_seed(seed % 2**63)
        self.query_FHD = nn.Parameter(0.1 * torch.randn(num_findings, heads, width, generator=rng))
        self.direction_FHD = nn.Parameter(torch.zeros(num_findings, heads, width))
        self.bias_F = nn.Parameter(torch.zeros(num_findings))

    def forward(self, tokens_BPD: Tensor, valid_BP: Tensor) -> Tensor:
        """(B, F) logits of standardised tokens."""
        num, heads, width = self.query_FHD.shape
        both = torch.cat([self.query_FHD / width**0.5, self.direction_FHD]).flatten(0, 1)
        attention, value = (tokens_BPD @ both.T).transpose(1, 2).chunk(2, dim=1)
        attention = attention.masked_fill(~valid_BP[:, None], -torch.inf).softmax(dim=-1)
        logits: Tensor = (attention * value).sum(dim=-1).reshape(-1, num, heads).sum(dim=-1) + self.bias_F
        return logits


@dataclass(frozen=True, kw_only=True)
class Standard:
    """Mean and deviation of each channel of tokens."""

    mean_D: Floats
    deviation_D: Floats

    def apply(self, tokens_BPD: NDArray[np.floating]) -> Tensor:
        """Standardised tokens."""
        return torch.from_numpy((np.asarray(tokens_BPD, dtype=np.float32) - self.mean_D) / self.deviation_D)


def standard_of(tokens_BPD: NDArray[np.floating], valid_BP: Bools, rows: NDArray[np.intp]) -> Standard:
    """Moments over the patches of scan of the studies `rows`, one study in memory at a time."""
    total, squares, count = np.zeros(tokens_BPD.shape[2]), np.zeros(tokens_BPD.shape[2]), 0
    for row in rows:
        held = np.asarray(tokens_BPD[row][valid_BP[row]], dtype=np.float64)
        total, squares, count = total + held.sum(axis=0), squares + np.square(held).sum(axis=0), count + len(held)
    mean = total / count
    deviation = np.sqrt(np.maximum(0, squares / count - mean**2)) + 1e-6
    return Standard(mean_D=mean.astype(np.float32), deviation_D=deviation.astype(np.float32))


def attentive_scores(
    tokens_BPD: NDArray[np.floating],
    valid_BP: Bools,
    *,
    training: NDArray[np.intp],
    target_NF: Bools,
    used_NF: Bools,
    asked: NDArray[np.intp],
    config: ProbeTaskConfig,
    seed: int,
) -> Floats:
    """(len(asked), F) logits of a probe trained on the rows `training`, each finding on its used ones; 0 where those hold
    one class. Deterministic on one machine.
    """
    blank_F = one_class(target_NF, used_NF)
    used = np.flatnonzero(used_NF.any(axis=1))
    if not len(used) or blank_F.all():
        return np.zeros((len(asked), target_NF.shape[1]), np.float32)
    standard = standard_of(tokens_BPD, valid_BP, training[used])
    probe = AttentiveProbe(
        tokens_BPD.shape[2], target_NF.shape[1], heads=config.heads, seed=derived_seed(seed, "attentive probe")
    )
    optimizer = torch.optim.AdamW(probe.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, config.steps)
    # Every finding counts alike, however many studies it has.
    share_NF = torch.from_numpy((used_NF / np.maximum(1, used_NF.sum(axis=0)) * len(used)).astype(np.float32))
    target = torch.from_numpy(target_NF.astype(np.float32))
    rng = generator(seed, "attentive probe batches")
    order = np.zeros(0, np.intp)
    for _ in range(config.steps):
        if len(order) < min(config.batch_size, len(used)):
            order = np.concatenate([order, rng.permutation(used)])
        rows, order = order[: config.batch_size], order[config.batch_size :]
        places = training[rows]
        logits = probe(standard.apply(tokens_BPD[places]), torch.from_numpy(valid_BP[places]))
        losses = nn.functional.binary_cross_entropy_with_logits(logits, target[rows], reduction="none")
        optimizer.zero_grad()
        (losses * share_NF[rows]).mean(dim=0).sum().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
    parts = []
    with torch.inference_mode():
        for start in range(0, len(asked), STUDIES_PER_PASS):
            rows = asked[start : start + STUDIES_PER_PASS]
            parts.append(probe(standard.apply(tokens_BPD[rows]), torch.from_numpy(valid_BP[rows])).numpy())
    scores = np.concatenate(parts)
    scores[:, blank_F] = 0
    return np.asarray(scores, dtype=np.float32)

"""Two supervised yardsticks that may see masks: what single teacher tokens tell, and what the place alone tells.

They say how hard the task is, and are never part of the model: nothing of them reaches a stage below.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from glint.core.config.evaluate import ProbeConfig
from glint.core.seeds import generator
from glint.evaluation.maps import extend_over_padding
from glint.evaluation.zero_shot import Answers, Grid
from glint.metrics.classification import auroc_score

Floats = NDArray[np.float32]
Bools = NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class Probe:
    """Logistic regressions on standardised tokens: logit = (token - mean) / deviation @ weight + bias.

    `pooled_F`: how many of a study's highest patch logits make its score, per finding.
    """

    mean_D: Floats
    deviation_D: Floats
    weight_DF: Floats
    bias_F: Floats
    pooled_F: tuple[int, ...]

    def patch_logits(self, tokens_BPD: NDArray[np.floating]) -> Floats:
        """(F, B, P)."""
        standard = (np.asarray(tokens_BPD, dtype=np.float32) - self.mean_D) / self.deviation_D
        return np.ascontiguousarray((standard @ self.weight_DF + self.bias_F).transpose(2, 0, 1))

    def answers(self, tokens_BPD: NDArray[np.floating], valid_BP: Bools, grid: Grid) -> Answers:
        """Scores and maps in the form of a model's; contrast equals score, for a probe is asked no negative sentence."""
        logits = self.patch_logits(tokens_BPD)
        score = np.stack([pooled_scores(one, valid_BP, k) for one, k in zip(logits, self.pooled_F, strict=True)])
        return Answers(
            score_FB=score,
            contrast_FB=score,
            logits_FBP=extend_over_padding(logits, valid_BP, grid),
            mass_FB=gate_mass(logits, valid_BP),
            grid=grid,
        )


def gate_mass(logits_FBP: Floats, valid_BP: Bools) -> Floats:
    """(F, B) expected number of positive patches."""
    probability = 1 / (1 + np.exp(-np.clip(logits_FBP, -60, 60)))
    return np.asarray((probability * valid_BP).sum(axis=-1), dtype=np.float32)


def pooled_scores(logits_BP: Floats, valid_BP: Bools, num: int) -> Floats:
    """(B,) mean of a study's `num` highest valid patch logits (of all, where it has fewer)."""
    ranked = -np.sort(-np.where(valid_BP, logits_BP, -np.inf), axis=1)[:, :num]
    known = np.isfinite(ranked)
    return np.asarray(np.where(known, ranked, 0).sum(axis=1) / np.maximum(1, known.sum(axis=1)), dtype=np.float32)


def draw_patches(target_NF: Bools, *, limit: int, seed: int) -> tuple[NDArray[np.intp], Floats]:
    """Rows to fit on and their weights: all that hold a finding, and a draw of the others weighted up to their number.

    Patches with findings beyond the limit are drawn too; the weights keep the prevalence, so that probabilities stay true.
    """
    rng = generator(seed, "probe")
    rows: list[NDArray[np.intp]] = []
    weights: list[Floats] = []
    held = target_NF.any(axis=1)
    left = limit
    for group in (np.flatnonzero(held), np.flatnonzero(~held)):
        taken = group if len(group) <= left else np.sort(rng.choice(group, max(1, left), replace=False))
        rows.append(taken)
        weights.append(np.full(len(taken), len(group) / max(1, len(taken)), np.float32))
        left = max(0, left - len(taken))
    return np.concatenate(rows), np.concatenate(weights)


def fit_logistic(
    standard_ND: Floats, target_NF: Bools, weight_N: Floats, *, ridges: Sequence[float], iterations: int
) -> list[tuple[Floats, Floats]]:
    """For every ridge the weights (D, F) and biases (F,) that minimise, per finding, the weighted mean log loss plus
    ridge / 2 * |w|². By L-BFGS; the strongest ridge is fitted first and each next one starts from the last.
    """
    import torch

    tokens = torch.from_numpy(standard_ND)
    target_FN = torch.from_numpy(np.ascontiguousarray(target_NF.T, dtype=np.float32))
    share = torch.from_numpy(weight_N / weight_N.sum())
    prevalence = (target_FN @ share).clamp(1e-6, 1 - 1e-6)
    weight_FD = torch.zeros(len(target_FN), tokens.shape[1], requires_grad=True)
    bias = torch.logit(prevalence).requires_grad_(True)
    fitted = {}
    for ridge in sorted(set(ridges), reverse=True):
        optimizer = torch.optim.LBFGS(
            [weight_FD, bias], max_iter=iterations, history_size=20, line_search_fn="strong_wolfe"
        )

        @torch.no_grad()
        def loss(ridge: float = ridge) -> float:
            # Gradient by hand and findings first: autograd took four times as long, products of 10 columns three times.
            logits = weight_FD @ tokens.T + bias[:, None]
            total = ((torch.nn.functional.softplus(logits) - target_FN * logits) @ share).sum()
            slope = share * (torch.sigmoid(logits) - target_FN)
            weight_FD.grad, bias.grad = slope @ tokens + ridge * weight_FD, slope.sum(dim=1)
            return float(total + ridge / 2 * weight_FD.square().sum())

        optimizer.step(loss)  # type: ignore[no-untyped-call]
        fitted[ridge] = weight_FD.detach().T.clone().numpy(), bias.detach().clone().numpy()
    return [fitted[ridge] for ridge in ridges]


@dataclass(frozen=True, kw_only=True)
class Marked:
    """Studies with masks: frozen tokens, share of every patch that each mask fills, patches that hold scan, labels."""

    tokens_BPD: NDArray[np.floating]
    fraction_FBP: Floats
    valid_BP: Bools
    positive_FB: Bools

    def targets(self, positive_fraction: float) -> Bools:
        """(N, F) positive patches among the valid ones: filled enough, or the fullest of a mask that fills no patch enough."""
        fullest_FB1 = self.fraction_FBP.max(axis=2, keepdims=True)
        target_FBP = (self.fraction_FBP >= np.minimum(positive_fraction, fullest_FB1)) & (self.fraction_FBP > 0)
        return np.asarray(target_FBP.reshape(len(target_FBP), -1).T[self.valid_BP.ravel()])


def fit_probe(training: Marked, validation: Marked | None, config: ProbeConfig, *, seed: int) -> Probe:
    """Fit on training patches; the ridge is chosen per finding by the log loss of validation patches, the pooling by the
    AUROC of all studies given. Without validation the weakest ridge is taken.
    """
    target = training.targets(config.positive_fraction)
    rows, weight = draw_patches(target, limit=config.max_patches, seed=seed)
    chosen = np.flatnonzero(training.valid_BP.ravel())[rows]
    width = training.tokens_BPD.shape[-1]
    drawn = np.asarray(training.tokens_BPD.reshape(-1, width)[chosen], dtype=np.float32)
    mean, deviation = drawn.mean(axis=0), drawn.std(axis=0) + np.float32(1e-6)
    standard = (drawn - mean) / deviation
    fitted = fit_logistic(
        standard,
        target[rows],
        weight,
        ridges=config.ridges if validation is not None else config.ridges[:1],
        iterations=config.iterations,
    )
    best_F = np.zeros(target.shape[1], np.intp)
    if validation is not None:
        seen = np.asarray(validation.tokens_BPD.reshape(-1, width)[validation.valid_BP.ravel()], dtype=np.float32)
        asked, wanted = (seen - mean) / deviation, validation.targets(config.positive_fraction)
        best_F = np.argmin([log_losses(asked @ w + b, wanted) for w, b in fitted], axis=0)
    weight_DF = np.stack([fitted[best][0][:, f] for f, best in enumerate(best_F)], axis=1)
    bias_F = np.array([fitted[best][1][f] for f, best in enumerate(best_F)], np.float32)
    blank = (1,) * len(bias_F)
    probe = Probe(mean_D=mean, deviation_D=deviation, weight_DF=weight_DF, bias_F=bias_F, pooled_F=blank)
    pooled = choose_pooling(probe, [training, *([validation] if validation else [])], config.pooled_patches)
    return replace(probe, pooled_F=pooled)


def log_losses(logits_NF: Floats, target_NF: Bools) -> NDArray[np.float64]:
    """(F,) mean negative log likelihood."""
    signed = np.where(target_NF, -logits_NF, logits_NF).astype(np.float64)
    return np.asarray(np.logaddexp(0, signed).mean(axis=0))


def choose_pooling(probe: Probe, marked: Sequence[Marked], choices: Sequence[int]) -> tuple[int, ...]:
    """Per finding the number of patches whose mean ranks the studies best; the first where none is defined."""
    logits = [probe.patch_logits(one.tokens_BPD) for one in marked]
    positive_FB = np.concatenate([one.positive_FB for one in marked], axis=1)

    def quality(finding: int, num: int) -> float:
        scores = [pooled_scores(z[finding], one.valid_BP, num) for z, one in zip(logits, marked, strict=True)]
        return float(np.nan_to_num(auroc_score(np.concatenate(scores), positive_FB[finding])))

    return tuple(max(choices, key=lambda num: quality(finding, num)) for finding in range(len(positive_FB)))


def location_answers(fraction_FBP: Floats, valid_BP: Bools, grid: Grid) -> Answers:
    """A prior that never looks at the image: where training masks lie, the same map for every study.

    Args:
        fraction_FBP: Of the training studies.
        valid_BP: Of the studies to answer for.
    """
    share = np.clip(fraction_FBP.mean(axis=1), 1e-6, 1 - 1e-6)
    logits = np.log(share / (1 - share)).astype(np.float32)
    logits_FBP = np.repeat(logits[:, None], len(valid_BP), axis=1)
    nothing = np.zeros(logits_FBP.shape[:2], np.float32)
    return Answers(
        score_FB=nothing,
        contrast_FB=nothing,
        logits_FBP=extend_over_padding(logits_FBP, valid_BP, grid),
        mass_FB=gate_mass(logits_FBP, valid_BP),
        grid=grid,
    )

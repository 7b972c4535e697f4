"""One step: from a batch to the terms of the objective."""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from glint.core.config.train import LossConfig
from glint.core.relations import POSITIVE
from glint.losses.area import area_loss, mean_gate
from glint.losses.contrastive import contrastive_loss
from glint.losses.dense_feature import dense_feature_loss, patch_cosine
from glint.losses.evidence import evidence_loss
from glint.losses.pairs import PairCounts, count_pairs
from glint.losses.sigmoid import sigmoid_loss
from glint.model.alignment import Comparison
from glint.model.gate import PatchTokens, TextQueries, at_least_float32
from glint.model.glint import Glint
from glint.training.distributed import ALONE, Ranks


@dataclass(frozen=True, kw_only=True)
class Batch:
    """B studies and T sentences; shared by R processes, one holds B / R of the studies and the relations of all.

    `volume_BCZYX` window channels in [0, 1], None while the encoder rests; `patch_weight_BP` c_p; `relation_TB` int8
    codes; `teacher` block → (B, P, D); `valid_P` patches of which the teacher has tokens, None for all.
    """

    volume_BCZYX: Tensor | None
    patch_weight_BP: Tensor
    sentences: tuple[str, ...]
    relation_TB: Tensor
    teacher: Mapping[int, Tensor]
    valid_P: Tensor | None = None

    def __len__(self) -> int:
        return len(self.patch_weight_BP)

    def to(self, device: torch.device, dtype: torch.dtype | None = None) -> "Batch":
        """The same batch with its tensors on `device`, its real numbers as `dtype`."""
        return replace(
            self,
            volume_BCZYX=None if self.volume_BCZYX is None else self.volume_BCZYX.to(device, dtype),
            patch_weight_BP=self.patch_weight_BP.to(device, dtype),
            relation_TB=self.relation_TB.to(device),
            teacher={block: tokens_BPD.to(device, dtype) for block, tokens_BPD in self.teacher.items()},
            valid_P=None if self.valid_P is None else self.valid_P.to(device),
        )

    def piece(self, number: int, pieces: int) -> "Batch":
        """The studies of one of several equal pieces, with the relations of all."""
        share = len(self) // pieces
        own = slice(number * share, (number + 1) * share)
        return replace(
            self,
            volume_BCZYX=None if self.volume_BCZYX is None else self.volume_BCZYX[own],
            patch_weight_BP=self.patch_weight_BP[own],
            teacher={block: tokens_BPD[own] for block, tokens_BPD in self.teacher.items()},
        )

    def for_alignment(self) -> "Batch":
        """Without the teacher's tokens, where volumes are encoded: what compares sentences and studies reads none."""
        return self if self.volume_BCZYX is None else replace(self, teacher={})


@dataclass(frozen=True, kw_only=True)
class StepResult:
    """`total` to differentiate; `numbers` to plot: loss terms, gate density, cosine to the teacher per block."""

    total: Tensor
    numbers: dict[str, float]


def unique_sentences(sentences: Sequence[str], relation_TB: Tensor) -> list[int]:
    """Rows of the first occurrence of each text with its relations, so that a repeated text neither counts twice nor costs twice."""
    first: dict[tuple[str, bytes], int] = {}
    for row, (sentence, codes) in enumerate(zip(sentences, relation_TB.cpu().numpy(), strict=True)):
        first.setdefault((sentence, codes.tobytes()), row)
    return list(first.values())


@contextmanager
def reduced_precision(model: Glint) -> Iterator[None]:
    """Encoders and projections in bfloat16 where the configuration says so; scores and losses never are."""
    with torch.autocast(model.device.type, dtype=torch.bfloat16, enabled=model.config.precision == "bfloat16"):
        yield


def encoded_sentences(model: Glint, batch: Batch, rows: Sequence[int]) -> TextQueries:
    """Queries of the sentences `rows` of a batch."""
    with reduced_precision(model):
        return model.encode_text([batch.sentences[row] for row in rows])


def area_weight(config: LossConfig, progress: float) -> float:
    """lambda_a at `progress` in [0, 1]: off at first, when a closed gate would only starve the positives."""
    return config.area if progress >= config.area_start else 0.0


def training_step(
    model: Glint,
    batch: Batch,
    *,
    progress: float,
    gram_generator: torch.Generator,
    ranks: Ranks = ALONE,
    queries: TextQueries | None = None,
) -> StepResult:
    """Forward pass and objective

        L = w_c L_nce + lambda_s L_sig + lambda_a L_area + lambda_D L_DFR

    An empty or all-ignored set of pairs leaves L_DFR alone. `progress` is the share of steps done. Without volumes the
    encoder rests: the teacher's last block stands for the student's, and L_DFR is 0 by definition. Shared by `ranks`, what
    is compared is gathered; L_DFR is of the own volumes, and the mean of its gradients is that of all. `queries` are those
    of the unique sentences where they are known already.
    """
    with reduced_precision(model):
        if batch.volume_BCZYX is None:
            tokens = model.project(model.student.resting_tokens(batch.teacher[model.student.encoder.depth - 1]))
        else:
            tokens = model.encode_volume(batch.volume_BCZYX, layers=batch.teacher.keys())
    total = torch.zeros(())
    numbers: dict[str, float] = {}
    rows = unique_sentences(batch.sentences, batch.relation_TB)
    if rows:
        if queries is None:
            queries = encoded_sentences(model, batch, rows)
        weights = loss_weights(model, progress)
        aligned, numbers = _alignment_terms(model, tokens, queries, batch, batch.relation_TB[rows], weights, ranks)
        total = total + aligned
    if tokens.hidden:
        hidden = {block: at_least_float32(tokens_BPD) for block, tokens_BPD in tokens.hidden.items()}
        teacher = batch.teacher
        if batch.valid_P is not None:
            hidden, teacher = (
                {block: one[:, batch.valid_P] for block, one in held.items()} for held in (hidden, teacher)
            )
        total = total + _dense_term(model, hidden, teacher, gram_generator, numbers)
    numbers["loss"] = float(total.detach())
    return StepResult(total=total, numbers=numbers)


def loss_weights(model: Glint, progress: float) -> dict[str, float]:
    """Weight of every term that compares sentences with volumes; 0 is plotted and not differentiated."""
    config = model.config.loss
    # Without weight the sigmoid loss still fits its scale and bias, on scores that it does not move.
    weights = {"contrastive": config.contrastive, "sigmoid": config.sigmoid or 1.0}
    if model.pooling.gated:
        weights["area"] = area_weight(config, progress)
        if config.evidence > 0:
            weights["evidence"] = config.evidence
    return weights


def pair_local_terms(
    model: Glint,
    compared: Comparison,
    patch_sum_B: Tensor,
    relation_TB: Tensor,
    counts: PairCounts,
    *,
    scale: Tensor,
    bias: Tensor,
) -> dict[str, Tensor]:
    """The terms that are sums over pairs, of some pairs, divided by the `counts` of all. `patch_sum_B` is sum_p c_p."""
    config = model.config.loss
    judged_TB = compared.score_TB if config.sigmoid > 0 else compared.score_TB.detach()
    terms = {"sigmoid": sigmoid_loss(judged_TB, relation_TB, scale=scale, bias=bias, counts=counts)}
    if model.pooling.gated:
        gate_TB = mean_gate(compared.gate_mass_TB, patch_sum_B)
        terms["area"] = area_loss(gate_TB, relation_TB, area_max=config.area_max, counts=counts)
        terms["evidence"] = evidence_loss(
            compared.evidence_TB, relation_TB, extent=config.evidence_extent, counts=counts
        )
    return terms


def weighted(terms: Mapping[str, Tensor], weights: Mapping[str, float]) -> Tensor:
    """Sum of the terms that have a weight."""
    return sum((weights[name] * term for name, term in terms.items() if weights.get(name, 0) > 0), torch.zeros(()))


def _alignment_terms(
    model: Glint,
    tokens: PatchTokens,
    queries: TextQueries,
    batch: Batch,
    relation_TB: Tensor,
    weights: Mapping[str, float],
    ranks: Ranks,
) -> tuple[Tensor, dict[str, float]]:
    """What compares sentences with volumes: its weighted sum, and every term as a number."""
    weight_BP = batch.patch_weight_BP
    counts, scale, bias = count_pairs(relation_TB), model.sigmoid_scale, model.sigmoid_bias
    patch_sum_B = weight_BP.sum(dim=-1)
    if model.gate_mode(len(queries.text_TD), weight_BP) == "one_pass":
        own_TB = relation_TB[:, ranks.part(relation_TB.shape[1])]

        def loss(
            score: Tensor, mass: Tensor, evidence: Tensor, part: tuple[slice, slice], scale: Tensor, bias: Tensor
        ) -> Tensor:
            some = Comparison(score_TB=score, gate_mass_TB=mass, evidence_TB=evidence)
            terms = pair_local_terms(model, some, patch_sum_B[part[1]], own_TB[part], counts, scale=scale, bias=bias)
            return ranks.size * weighted(terms, weights)  # the mean over ranks then is the sum over all pairs

        total, compared = model.compare_in_one_pass(tokens, queries, weight_BP, loss, (scale, bias))
    else:
        total, compared = None, model.compare(tokens, queries, weight_BP)
    gathered = Comparison(
        score_TB=ranks.gather(compared.score_TB),
        gate_mass_TB=ranks.gather(compared.gate_mass_TB),
        evidence_TB=ranks.gather(compared.evidence_TB),
    )
    patch_sum_B = ranks.gather(patch_sum_B[None])[0]
    terms = {
        "contrastive": contrastive_loss(gathered.score_TB, relation_TB, inverse_temperature=model.inverse_temperature)
    } | pair_local_terms(model, gathered, patch_sum_B, relation_TB, counts, scale=scale, bias=bias)
    numbers = {name: float(term.detach()) for name, term in terms.items() if name in weights}
    if model.pooling.gated:
        gate_TB = mean_gate(gathered.gate_mass_TB.detach(), patch_sum_B)
        numbers["gate_density_positive"] = _mean(gate_TB[relation_TB == POSITIVE])
        numbers["gate_density_other"] = _mean(gate_TB[relation_TB != POSITIVE])
    return weighted(terms, weights) if total is None else total, numbers


def _mean(values: Tensor) -> float:
    return float(values.mean()) if values.numel() else math.nan


def _dense_term(
    model: Glint,
    hidden: Mapping[int, Tensor],
    teacher: Mapping[int, Tensor],
    gram_generator: torch.Generator,
    numbers: dict[str, float],
) -> Tensor:
    config = model.config.loss
    patches = next(iter(teacher.values())).shape[1]
    rows_S = None
    if patches > config.gram_patches:
        rows_S = torch.randperm(patches, generator=gram_generator)[: config.gram_patches]
    dense = dense_feature_loss(
        hidden, teacher, cosine_weight=config.cosine, gram_weight=config.gram, gram_rows_S=rows_S
    )
    numbers["dense"] = float(dense.detach())
    with torch.no_grad():
        for block, target_BPD in teacher.items():
            numbers[f"teacher_cosine_{block}"] = float(patch_cosine(hidden[block], target_BPD).mean())
    return config.dense * dense

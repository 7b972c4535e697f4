"""One step: from a batch to the terms of the objective."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from glint.core.config.train import LossConfig
from glint.core.relations import POSITIVE
from glint.losses.area import area_loss, mean_gate
from glint.losses.contrastive import contrastive_loss
from glint.losses.dense_feature import dense_feature_loss, patch_cosine
from glint.losses.evidence import evidence_loss
from glint.losses.sigmoid import sigmoid_loss
from glint.model.glint import Glint
from glint.training.distributed import ALONE, Ranks


@dataclass(frozen=True, kw_only=True)
class Batch:
    """B studies and T sentences; shared by R processes, one holds B / R of the studies and the relations of all.

    `volume_BCZYX` window channels in [0, 1], None while the encoder rests; `patch_weight_BP` c_p; `relation_TB` int8
    codes; `teacher` block → (B, P, D).
    """

    volume_BCZYX: Tensor | None
    patch_weight_BP: Tensor
    sentences: tuple[str, ...]
    relation_TB: Tensor
    teacher: Mapping[int, Tensor]

    def to(self, device: torch.device) -> "Batch":
        """The same batch with its tensors on `device`."""
        return replace(
            self,
            volume_BCZYX=None if self.volume_BCZYX is None else self.volume_BCZYX.to(device),
            patch_weight_BP=self.patch_weight_BP.to(device),
            relation_TB=self.relation_TB.to(device),
            teacher={block: tokens_BPD.to(device) for block, tokens_BPD in self.teacher.items()},
        )


@dataclass(frozen=True, kw_only=True)
class StepResult:
    """`total` to differentiate; `numbers` to plot: loss terms, gate density, cosine to the teacher per block."""

    total: Tensor
    numbers: dict[str, float]


def unique_sentences(sentences: Sequence[str]) -> list[int]:
    """Rows of the first occurrence of each text, so that a repeated text neither counts twice nor costs twice."""
    first: dict[str, int] = {}
    for row, sentence in enumerate(sentences):
        first.setdefault(sentence, row)
    return list(first.values())


def area_weight(config: LossConfig, progress: float) -> float:
    """lambda_a at `progress` in [0, 1]: off at first, when a closed gate would only starve the positives."""
    return config.area if progress >= config.area_start else 0.0


def training_step(
    model: Glint, batch: Batch, *, progress: float, gram_generator: torch.Generator, ranks: Ranks = ALONE
) -> StepResult:
    """Forward pass and objective

        L = w_c L_nce + lambda_s L_sig + lambda_a L_area + lambda_D L_DFR

    An empty or all-ignored set of pairs leaves L_DFR alone. `progress` is the share of steps done. Without volumes the
    encoder rests: the teacher's last block stands for the student's, and L_DFR is 0 by definition. Shared by `ranks`, what
    is compared is gathered; L_DFR is of the own volumes, and the mean of its gradients is that of all.
    """
    config = model.config.loss
    if batch.volume_BCZYX is None:
        tokens = model.project(model.student.resting_tokens(batch.teacher[model.student.encoder.depth - 1]))
    else:
        tokens = model.encode_volume(batch.volume_BCZYX, layers=batch.teacher.keys())
    total = torch.zeros(())
    numbers: dict[str, float] = {}
    rows = unique_sentences(batch.sentences)
    if rows:
        queries = model.encode_text([batch.sentences[row] for row in rows])
        relation_TB = batch.relation_TB[rows]
        aligned = model.score(tokens, queries, batch.patch_weight_BP)
        # Without weight the sigmoid loss still fits its scale and bias, on scores that it does not move.
        score_TB = ranks.gather(aligned.score_TB)
        judged_TB = score_TB if config.sigmoid > 0 else score_TB.detach()
        weights = {"contrastive": config.contrastive, "sigmoid": config.sigmoid or 1.0}
        terms = {
            "contrastive": contrastive_loss(score_TB, relation_TB, inverse_temperature=model.inverse_temperature),
            "sigmoid": sigmoid_loss(judged_TB, relation_TB, scale=model.sigmoid_scale, bias=model.sigmoid_bias),
        }
        if model.arm == "glint":
            weights["area"] = area_weight(config, progress)
            terms["area"] = area_loss(
                aligned.gate_logits_TBP,
                relation_TB,
                batch.patch_weight_BP,
                area_max=config.area_max,
                gather=ranks.gather,
            )
            weights["evidence"] = config.evidence
            terms["evidence"] = evidence_loss(
                aligned.gate_logits_TBP,
                relation_TB,
                batch.patch_weight_BP,
                extent=config.evidence_extent,
                gather=ranks.gather,
            )
            with torch.no_grad():
                gate_TB = ranks.gather(mean_gate(aligned.gate_logits_TBP, batch.patch_weight_BP))
                positive_TB = relation_TB == POSITIVE
                numbers["gate_density_positive"] = _mean(gate_TB[positive_TB])
                numbers["gate_density_other"] = _mean(gate_TB[~positive_TB])
        for name, term in terms.items():
            if weights[name] > 0:
                total = total + weights[name] * term
            numbers[name] = float(term.detach())
    if tokens.hidden:
        total = total + _dense_term(model, tokens.hidden, batch.teacher, gram_generator, numbers)
    numbers["loss"] = float(total.detach())
    return StepResult(total=total, numbers=numbers)


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

"""Zero-shot classification of a split by its own reports, with gate maps to look at; never masks."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray

from glint.core.prompts import finding_prompt
from glint.core.relations import HARD_NEGATIVE, IGNORE, NEGATIVE, POSITIVE
from glint.model.glint import Glint
from glint.prepare.sections.sentence_classes import SentenceQueries, pair_relations
from glint.prepare.sections.sentence_identity import sentence_class
from glint.training.dataset import StudySet, volume_tensor

STUDIES_PER_PASS = 16


def auroc(score_N: NDArray[np.float64], positive_N: NDArray[np.bool_]) -> float:
    """Probability that a positive scores above a negative, ties half; NaN without either."""
    positives, negatives = score_N[positive_N], score_N[~positive_N]
    if not len(positives) or not len(negatives):
        return math.nan
    difference = positives[:, None] - negatives[None, :]
    return float(((difference > 0) + 0.5 * (difference == 0)).mean())


def finding_queries(findings: Sequence[str]) -> SentenceQueries:
    """One canonical query per finding."""
    texts = [finding_prompt(finding) for finding in findings]
    index = list(range(len(texts)))
    study = ["prompt"] * len(texts)
    nothing = pl.Series([None] * len(texts), dtype=pl.String)
    sentences = pl.DataFrame(
        {
            "study_id": study,
            "sentence_index": index,
            "text": texts,
            "sentence_class": [sentence_class(t) for t in texts],
        }
    )
    stated = pl.DataFrame(
        {"study_id": study, "sentence_index": index, "finding": list(findings), "polarity": ["present"] * len(texts)}
    ).with_columns(laterality=nothing, region=nothing)
    return SentenceQueries.from_tables(sentences, stated, ["prompt"])


@dataclass(frozen=True, kw_only=True)
class GatePicture:
    """What a finding's prompt opens in one study: `image_ZYX` the mean of the windows in [0, 1], `gate_zyx` gates of the patch grid."""

    finding: str
    stated: bool
    image_ZYX: NDArray[np.float32]
    gate_zyx: NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Validation:
    """Finding → AUROC of its prompt's score against what the reports state; NaN without positives or negatives."""

    auroc: dict[str, float]
    pictures: list[GatePicture]


def pictured_pairs(relation_TB: NDArray[np.int8], limit: int) -> list[tuple[int, int]]:
    """(finding, study) to draw: of the `limit` findings that most reports state, the first study that does and that does not."""
    pairs = []
    stated_T = (relation_TB == POSITIVE).sum(axis=1)
    for finding in [row for row in np.argsort(-stated_T, kind="stable")[:limit] if stated_T[row]]:
        for wanted in (relation_TB[finding] == POSITIVE, np.isin(relation_TB[finding], (NEGATIVE, HARD_NEGATIVE))):
            pairs += [(int(finding), int(study)) for study in np.flatnonzero(wanted)[:1]]
    return pairs


@torch.no_grad()
def zero_shot(model: Glint, studies: StudySet, findings: Sequence[str], *, pictured: int = 0) -> Validation:
    """Classify by prompts; undecided studies are left out. Gate maps of the `pictured` most stated findings."""
    queries = finding_queries(findings)
    relation_TB = pair_relations(queries, studies.statements)
    pairs = pictured_pairs(relation_TB, pictured)
    training = model.training
    model.eval()
    encoded_text = model.encode_text(queries.texts)
    scores, pictures = [], {}
    for start in range(0, len(studies), STUDIES_PER_PASS):
        rows = list(range(start, min(start + STUDIES_PER_PASS, len(studies))))
        volume_BCZYX = torch.from_numpy(volume_tensor(studies, rows))
        tokens = model.encode_volume(volume_BCZYX.to(model.device, model.null_D.dtype))
        weight_BP = torch.from_numpy(studies.weight_BP[rows]).to(model.device)
        found = model.score(tokens, encoded_text, weight_BP)
        scores.append(found.score_TB.double().cpu().numpy())
        for finding, study in pairs:
            if study in rows:
                gate_P = torch.sigmoid(found.gate_logits_TBP[finding, study - start]).float().cpu().numpy()
                pictures[finding, study] = GatePicture(
                    finding=findings[finding],
                    stated=bool(relation_TB[finding, study] == POSITIVE),
                    image_ZYX=volume_BCZYX[study - start].mean(dim=0).numpy(),
                    gate_zyx=np.where(studies.weight_BP[study] > 0, gate_P, 0).reshape(model.student.encoder.grid),
                )
    model.train(training)
    score_TB = np.concatenate(scores, axis=1)
    aurocs = {}
    for row, finding_name in enumerate(findings):
        decided = relation_TB[row] != IGNORE
        aurocs[finding_name] = auroc(score_TB[row, decided], relation_TB[row, decided] == POSITIVE)
    return Validation(auroc=aurocs, pictures=[pictures[pair] for pair in pairs])

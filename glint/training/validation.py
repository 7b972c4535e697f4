"""Zero-shot classification of a split by its own reports: a curve to watch, never masks."""

import math
from collections.abc import Sequence

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray

from glint.core.prompts import finding_prompt
from glint.core.relations import IGNORE, POSITIVE
from glint.model.glint import Glint
from glint.prepare.sections.sentence_classes import SentenceQueries, pair_relations, sentence_class
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


@torch.no_grad()
def zero_shot_auroc(model: Glint, studies: StudySet, findings: Sequence[str]) -> dict[str, float]:
    """Finding → AUROC of its prompt's score against what the reports state; undecided studies are left out."""
    queries = finding_queries(findings)
    relation_TB = pair_relations(queries, studies.statements)
    training = model.training
    model.eval()
    encoded_text = model.encode_text(queries.texts)
    scores = []
    for start in range(0, len(studies), STUDIES_PER_PASS):
        rows = list(range(start, min(start + STUDIES_PER_PASS, len(studies))))
        tokens = model.encode_volume(torch.from_numpy(volume_tensor(studies, rows)).to(model.device))
        weight_BP = torch.from_numpy(studies.weight_BP[rows]).to(model.device)
        scores.append(model.score(tokens, encoded_text, weight_BP).score_TB.double().cpu().numpy())
    model.train(training)
    score_TB = np.concatenate(scores, axis=1)
    found = {}
    for row, finding in enumerate(findings):
        decided = relation_TB[row] != IGNORE
        found[finding] = auroc(score_TB[row, decided], relation_TB[row, decided] == POSITIVE)
    return found

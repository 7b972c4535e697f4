"""Generated reports beside written ones: overlap of words, and of what they state.

BLEU by sacrebleu, ROUGE-L by rouge-score, METEOR by nltk; CIDEr-D here, as no maintained package has it without Java.
"""

import math
import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
CIDER_SIGMA = 6.0
"""Words; width of CIDEr-D's penalty on a difference in length."""


def words(text: str) -> list[str]:
    """Words in lower case and numbers, without punctuation."""
    return re.findall(r"\d+(?:\.\d+)?|[^\W\d_]+", text.lower())


def bleu_score(generated: Sequence[str], reference: Sequence[str], *, order: int) -> float:
    """Corpus BLEU up to n-grams of `order`, 0 to 1, no smoothing, lower case, 13a tokens."""
    from sacrebleu.metrics.bleu import BLEU

    measure = BLEU(lowercase=True, max_ngram_order=order, smooth_method="none")
    return float(measure.corpus_score(list(generated), [list(reference)]).score / 100)


def rouge_l_scores(generated: Sequence[str], reference: Sequence[str]) -> Floats:
    """(N,) F of the longest common subsequence of words."""
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(["rougeL"])
    return np.array([scorer.score(b, a)["rougeL"].fmeasure for a, b in zip(generated, reference, strict=True)])


class _NoSynonyms:
    """What nltk asks of WordNet, which it would download: no word has a synonym."""

    def synsets(self, word: str) -> list[Any]:
        return []


def meteor_scores(generated: Sequence[str], reference: Sequence[str]) -> Floats:
    """(N,) METEOR of equal words and equal stems; without WordNet's synonyms it is at most the full measure."""
    from nltk.translate.meteor_score import single_meteor_score

    pairs = [(words(a), words(b)) for a, b in zip(generated, reference, strict=True)]
    return np.array([single_meteor_score(b, a, wordnet=_NoSynonyms()) if a and b else 0.0 for a, b in pairs])


def cider_scores(generated: Sequence[str], reference: Sequence[str]) -> Floats:
    """(N,) CIDEr-D (Vedantam et al., arXiv 1411.5726), one reference each: 10 x mean over n = 1 … 4 of the clipped cosine
    of tf-idf vectors, times exp(-(difference in words)² / 2 sigma²). Document frequencies are those of the references.
    """
    made, written = [words(text) for text in generated], [words(text) for text in reference]
    length = np.array([len(a) - len(b) for a, b in zip(made, written, strict=True)], dtype=np.float64)
    total = np.zeros(len(made))
    for n in range(1, 5):
        counts = [_ngrams(text, n) for text in written]
        frequency = Counter(gram for count in counts for gram in count)
        for row, (text, count) in enumerate(zip(made, counts, strict=True)):
            first = _tf_idf(_ngrams(text, n), frequency, len(counts))
            second = _tf_idf(count, frequency, len(counts))
            norms = math.sqrt(sum(v * v for v in first.values()) * sum(v * v for v in second.values()))
            if norms:
                total[row] += sum(min(first.get(gram, 0.0), value) * value for gram, value in second.items()) / norms
    return np.asarray(10 * total / 4 * np.exp(-(length**2) / (2 * CIDER_SIGMA**2)))


def _ngrams(text: Sequence[str], n: int) -> Counter[tuple[str, ...]]:
    return Counter(tuple(text[k : k + n]) for k in range(len(text) - n + 1))


def _tf_idf(
    counts: Counter[tuple[str, ...]], frequency: Counter[tuple[str, ...]], documents: int
) -> dict[tuple[str, ...], float]:
    return {gram: num * (math.log(documents) - math.log(max(1, frequency[gram]))) for gram, num in counts.items()}


def finding_f1_scores(stated_NF: ArrayLike, written_NF: ArrayLike, weight_RN: ArrayLike) -> tuple[Floats, Floats]:
    """(R,) micro and macro F1 of findings that the generated reports state, against those that the written ones do.

    Macro is over findings that a written report of the resample states; NaN where none does.
    """
    stated, written = np.asarray(stated_NF, dtype=np.bool_), np.asarray(written_NF, dtype=np.bool_)
    weight = np.atleast_2d(np.asarray(weight_RN, dtype=np.float64))
    both_RF, stated_RF, written_RF = weight @ (stated & written), weight @ stated, weight @ written
    micro = _ratio(2 * both_RF.sum(axis=1), (stated_RF + written_RF).sum(axis=1))
    single = np.where(written_RF > 0, _ratio(2 * both_RF, stated_RF + written_RF), np.nan)
    asked = written_RF > 0
    return micro, _ratio(np.where(asked, single, 0.0).sum(axis=1), asked.sum(axis=1).astype(np.float64))


def _ratio(numerator: Floats, denominator: Floats) -> Floats:
    out = np.full(numerator.shape, np.nan)
    return np.asarray(np.divide(numerator, denominator, out=out, where=denominator > 0))

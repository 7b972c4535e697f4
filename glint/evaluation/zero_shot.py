"""Ask a trained model for findings by sentence: scores that rank studies, maps that point."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from glint.core.config.evaluate import PromptConfig
from glint.core.progress import track
from glint.evaluation.cohort import ImagedStudy, Study
from glint.evaluation.maps import extend_over_padding
from glint.prepare.resample import window_channels

Floats = NDArray[np.float32]
Grid = tuple[int, int, int]
MaskRule = Literal["likelihood", "posterior"]


class AsksVolumes(Protocol):
    """What evaluation needs of a model; `glint.model.glint.Glint` is one."""

    def encode_text(self, sentences: Sequence[str]) -> Any:
        """Queries of T sentences."""
        ...

    def encode_volume(self, volume_BCZYX: Any) -> Any:
        """Patch tokens of B volumes."""
        ...

    def score(self, tokens: Any, queries: Any, patch_weight_BP: Any) -> Any:
        """score_TB, gate_logits_TBP (T, B, P), gate_mass_TB and bias of T sentences on B volumes, as
        `glint.model.alignment.Alignment`."""
        ...


@dataclass(frozen=True, kw_only=True)
class Answers:
    """What one arm says of F findings on B studies of P patches.

    score_FB ranks studies by the positive prompt; contrast_FB is positive minus negative prompt; logits_FBP is the map
    whose 0 is the fixed threshold, extended over padding; mass_FB is its evidence in reference patches.
    """

    score_FB: Floats
    contrast_FB: Floats
    logits_FBP: Floats
    mass_FB: Floats
    grid: Grid


@dataclass(frozen=True, kw_only=True)
class Prompts:
    """Sentences of every finding: positive_FT and negative_FT hold one per template."""

    positive_FT: tuple[tuple[str, ...], ...]
    negative_FT: tuple[tuple[str, ...], ...]


def make_prompts(findings: Sequence[str], config: PromptConfig) -> Prompts:
    """Fill every template with every finding's wording."""
    words = [config.wording.get(finding, finding.replace("_", " ")) for finding in findings]

    def filled(templates: Sequence[str]) -> tuple[tuple[str, ...], ...]:
        return tuple(tuple(template.format(finding=word) for template in templates) for word in words)

    return Prompts(positive_FT=filled(config.positive), negative_FT=filled(config.negative))


@dataclass(frozen=True, kw_only=True)
class Question:
    """One thing that is asked: the mean over its sentences. Its map is kept only where `mapped`."""

    sentences: tuple[str, ...]
    mapped: bool = False


@dataclass(frozen=True, kw_only=True)
class Replies:
    """What a model says to Q questions on B studies; logits_QBP holds the mapped questions alone, in their order."""

    score_QB: Floats
    mass_QB: Floats
    logits_QBP: Floats


def prompt_questions(prompts: Prompts) -> list[Question]:
    """F mapped questions that state the findings, then F that deny them."""
    stated = [Question(sentences=sentences, mapped=True) for sentences in prompts.positive_FT]
    return stated + [Question(sentences=sentences) for sentences in prompts.negative_FT]


def answers_of(replies: Replies, num_findings: int, grid: Grid) -> Answers:
    """The answers to `prompt_questions`, which must come first."""
    score_FB, denied_FB = replies.score_QB[:num_findings], replies.score_QB[num_findings : 2 * num_findings]
    return Answers(
        score_FB=score_FB,
        contrast_FB=score_FB - denied_FB,
        logits_FBP=replies.logits_QBP[:num_findings],
        mass_FB=replies.mass_QB[:num_findings],
        grid=grid,
    )


def encoded_batches(
    model: AsksVolumes,
    studies: Sequence[ImagedStudy],
    windows: Sequence[tuple[float, float]],
    *,
    batch_size: int,
    description: str,
) -> Iterator[Any]:
    """Patch tokens of the studies, `batch_size` at a time."""
    import torch

    starts = range(0, len(studies), batch_size)
    for start in track(starts, description):
        batch = studies[start : start + batch_size]
        channels = np.stack([window_channels(study.volume()[0], windows) for study in batch])
        yield model.encode_volume(torch.from_numpy(channels))


def ask(
    model: AsksVolumes,
    token_batches: Iterable[Any],
    questions: Sequence[Question],
    *,
    grid: Grid,
    weight_BP: Floats,
    batch_size: int,
    mask_rule: MaskRule = "likelihood",
) -> Replies:
    """Put every question to every study in one pass over their tokens, which may come from an encoder or from a cache.

    Args:
        model: In eval mode, on the CPU.
        token_batches: What `model.score` takes, `batch_size` studies at a time, in the order of `weight_BP`.
        grid: Patches along (z, y, x).
        weight_BP: c_p of every patch, 0 for padding.
        mask_rule: Whether a map keeps the learned bias. By Bayes' rule logit = bias + log-likelihood ratio; once the
            sentence is taken as said of this volume, the odds of a patch no longer are those of a patch drawn blindly,
            and the ratio alone tells lesion from surroundings.
    """
    import torch

    sentences = [sentence for question in questions for sentence in question.sentences]
    edges = np.cumsum([0, *(len(question.sentences) for question in questions)])
    mapped = [place for place, question in enumerate(questions) if question.mapped]
    parts: list[tuple[Floats, Floats, Floats]] = []
    with torch.inference_mode():
        queries = model.encode_text(sentences)
        for place, tokens in enumerate(token_batches):
            weight = torch.from_numpy(weight_BP[place * batch_size : (place + 1) * batch_size])
            aligned = model.score(tokens, queries, weight)
            map_TBP = aligned.gate_logits_TBP - (aligned.bias if mask_rule == "likelihood" else 0)
            means = [
                _means(tensor, edges, range(len(questions))) for tensor in (aligned.score_TB, aligned.gate_mass_TB)
            ]
            parts.append((means[0], means[1], _means(map_TBP, edges, mapped)))
    score_QB, mass_QB, logits_QBP = (np.concatenate([part[i] for part in parts], axis=1) for i in range(3))
    return Replies(score_QB=score_QB, mass_QB=mass_QB, logits_QBP=extend_over_padding(logits_QBP, weight_BP > 0, grid))


def _means(tensor: Any, edges: NDArray[np.integer], wanted: Iterable[int]) -> Floats:
    """Mean over the sentences of each wanted question: (T, B, ...) → (Q, B, ...)."""
    array = tensor.float().cpu().numpy()
    rows = [array[edges[place] : edges[place + 1]].mean(axis=0) for place in wanted]
    return np.stack(rows) if rows else np.zeros((0, *array.shape[1:]), np.float32)


def ask_model(
    model: AsksVolumes,
    studies: Sequence[Study],
    prompts: Prompts,
    *,
    grid: Grid,
    windows: Sequence[tuple[float, float]],
    weight_BP: Floats,
    batch_size: int,
    mask_rule: MaskRule = "likelihood",
    description: str = "zero-shot",
) -> Answers:
    """Score every finding on every study; templates of an ensemble are averaged, scores and logits alike. See `ask`.

    Args:
        model: In eval mode, on the CPU.
        windows: HU (low, high) of each input channel.
    """
    import torch

    with torch.inference_mode():
        batches = encoded_batches(model, studies, windows, batch_size=batch_size, description=description)
        replies = ask(
            model,
            batches,
            prompt_questions(prompts),
            grid=grid,
            weight_BP=weight_BP,
            batch_size=batch_size,
            mask_rule=mask_rule,
        )
    return answers_of(replies, len(prompts.positive_FT), grid)

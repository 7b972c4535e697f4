"""Ask a trained model for findings by sentence: scores that rank studies, maps that point."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from glint.core.config.evaluate import PromptConfig
from glint.core.progress import track
from glint.evaluation.cohort import Study
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
    """Score every finding on every study; templates of an ensemble are averaged, scores and logits alike.

    Args:
        model: In eval mode, on the CPU.
        grid: Patches along (z, y, x).
        windows: HU (low, high) of each input channel.
        weight_BP: c_p of every patch, 0 for padding.
        mask_rule: Whether the map keeps the learned bias. By Bayes' rule logit = bias + log-likelihood ratio; once the
            sentence is taken as said of this volume, the odds of a patch no longer are those of a patch drawn blindly,
            and the ratio alone tells lesion from surroundings.
    """
    import torch

    num_findings, num_positive = len(prompts.positive_FT), len(prompts.positive_FT[0])
    sentences = [s for texts in (*prompts.positive_FT, *prompts.negative_FT) for s in texts]
    parts: list[tuple[Floats, Floats, Floats, Floats]] = []
    with torch.inference_mode():
        queries = model.encode_text(sentences)
        starts = range(0, len(studies), batch_size)
        for start in track(starts, description):
            batch = studies[start : start + batch_size]
            channels = np.stack([window_channels(study.volume()[0], windows) for study in batch])
            weight = torch.from_numpy(weight_BP[start : start + batch_size])
            tokens = model.encode_volume(torch.from_numpy(channels))
            aligned = model.score(tokens, queries, weight)
            parts.append(_ensembled(aligned, num_findings, num_positive, mask_rule))
    score_FB, denied_FB, mass_FB = (np.concatenate([part[i] for part in parts], axis=1) for i in range(3))
    logits_FBP = extend_over_padding(np.concatenate([part[3] for part in parts], axis=1), weight_BP > 0, grid)
    return Answers(
        score_FB=score_FB, contrast_FB=score_FB - denied_FB, logits_FBP=logits_FBP, mass_FB=mass_FB, grid=grid
    )


def _ensembled(
    aligned: Any, num_findings: int, num_positive: int, mask_rule: MaskRule
) -> tuple[Floats, Floats, Floats, Floats]:
    """Means over templates: score of the positive and of the negative prompts, mass and logits of the positive ones."""
    cut = num_findings * num_positive
    map_TBP = aligned.gate_logits_TBP - (aligned.bias if mask_rule == "likelihood" else 0)

    def mean(tensor: Any) -> Floats:
        array = tensor.float().cpu().numpy()
        return np.asarray(array.reshape(num_findings, -1, *array.shape[1:]).mean(axis=1))

    return (
        mean(aligned.score_TB[:cut]),
        mean(aligned.score_TB[cut:]),
        mean(aligned.gate_mass_TB[:cut]),
        mean(map_TBP[:cut]),
    )

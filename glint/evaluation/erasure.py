"""Faithfulness: erase the patches that a map calls, and the score must fall; erase as many others, and it must not."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from glint.core.config.evaluate import EvaluateConfig
from glint.core.progress import track
from glint.core.seeds import generator
from glint.evaluation.arms import LoadedArm
from glint.evaluation.cohort import Study
from glint.evaluation.maps import body_mask, patch_fractions
from glint.evaluation.zero_shot import Answers, Prompts
from glint.prepare.resample import window_channels

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
# Beyond half of the body there are not as many other patches to erase.
LARGEST_SHARE = 0.5


def erase_patches(volume_ZYX: NDArray[Any], erased_P: Bools, grid: tuple[int, int, int]) -> NDArray[Any]:
    """The volume with each erased patch filled by the mean of the nearest patch that stands.

    A constant such as air would itself be a finding.

    Raises:
        ValueError: nothing stands.
    """
    from scipy.ndimage import distance_transform_edt

    erased = erased_P.reshape(grid)
    if erased.all():
        raise ValueError("every patch is erased; nothing is left to fill with")
    steps = [size // patches for size, patches in zip(volume_ZYX.shape, grid, strict=True)]
    blocks = volume_ZYX.reshape(grid[0], steps[0], grid[1], steps[1], grid[2], steps[2])
    nearest = distance_transform_edt(erased, sampling=steps, return_distances=False, return_indices=True)
    fill = blocks.mean(axis=(1, 3, 5))[tuple(nearest)]
    filled = np.where(
        erased[:, None, :, None, :, None], np.rint(fill).astype(volume_ZYX.dtype)[:, None, :, None, :, None], blocks
    )
    return np.asarray(filled.reshape(volume_ZYX.shape), dtype=volume_ZYX.dtype)


def choose_patches(
    logits_P: NDArray[np.floating], body_P: Bools, *, offset: float, rng: np.random.Generator
) -> tuple[Bools, Bools] | None:
    """Patches of the body that the map calls (at least its highest), and as many of the others by lot; None if too many."""
    called = body_P & (logits_P > -offset)
    if not called.any():
        called = np.zeros_like(body_P)
        called[np.flatnonzero(body_P)[np.argmax(logits_P[body_P])]] = True
    others = np.flatnonzero(body_P & ~called)
    if called.sum() > LARGEST_SHARE * body_P.sum() or len(others) < called.sum():
        return None
    by_lot = np.zeros_like(body_P)
    by_lot[rng.choice(others, int(called.sum()), replace=False)] = True
    return called, by_lot


def erasure_values(
    arm: LoadedArm,
    studies: Sequence[Study],
    answers: Answers,
    prompts: Prompts,
    valid_BP: Bools,
    positive_FB: Bools,
    config: EvaluateConfig,
) -> dict[str, Floats]:
    """(F, B) values of up to `config.erased_cases` positives per finding; NaN for all others.

    `erasure_drop`: fall of the positive prompt's score once the called patches are erased. `erasure_excess`: that fall
    minus the fall after erasing as many other patches of the body. `erasure_faithful`: 1 if the excess is above 0.
    """
    import torch

    num_findings = len(positive_FB)
    values = {
        name: np.full(positive_FB.shape, np.nan) for name in ("erasure_drop", "erasure_excess", "erasure_faithful")
    }
    rng = generator(config.seed, "erasure")
    cases: dict[int, list[int]] = {}
    for row in range(num_findings):
        known = np.flatnonzero(positive_FB[row])
        for column in np.sort(rng.permutation(known)[: config.erased_cases]):
            cases.setdefault(int(column), []).append(row)
    for column in track(sorted(cases), "erase patches"):
        study = studies[column]
        volume, _ = study.volume()
        body_P = _body_patches(volume, arm.grid, config.body_above) & valid_BP[column]
        drawn = {
            row: pair
            for row in cases[column]
            if (pair := choose_patches(answers.logits_FBP[row, column], body_P, offset=config.mask_offset, rng=rng))
        }
        if not drawn:
            continue
        erased = [erase_patches(volume, patches, arm.grid) for pair in drawn.values() for patches in pair]
        channels = np.stack([window_channels(one, arm.windows) for one in erased])
        weight = torch.from_numpy(np.repeat(valid_BP[column][None].astype(np.float32), len(erased), axis=0))
        with torch.inference_mode():
            queries = arm.model.encode_text([text for row in drawn for text in prompts.positive_FT[row]])
            score_TB = arm.model.score(arm.model.encode_volume(torch.from_numpy(channels)), queries, weight).score_TB
        score = score_TB.float().cpu().numpy()
        start = 0
        for place, row in enumerate(drawn):
            end = start + len(prompts.positive_FT[row])
            called, other = score[start:end, 2 * place : 2 * place + 2].mean(axis=0)
            start = end
            values["erasure_drop"][row, column] = answers.score_FB[row, column] - called
            values["erasure_excess"][row, column] = other - called
            values["erasure_faithful"][row, column] = float(other > called)
    return values


def _body_patches(volume_ZYX: NDArray[Any], grid: tuple[int, int, int], body_above: float) -> Bools:
    """(P,) patches at least half of which is body."""
    return np.asarray(patch_fractions(body_mask(volume_ZYX, body_above).astype(np.uint16), grid, 1)[0] >= 0.5)

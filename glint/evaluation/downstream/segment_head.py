"""A supervised decoder from patch tokens to masks, and its training, which survives a kill."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from glint.core.config.downstream import SegmentTaskConfig
from glint.core.seeds import derived_seed, generator
from glint.evaluation.downstream.resumable import minimise

Sizes = tuple[int, int, int]
Batch = Callable[[NDArray[np.intp]], tuple[Tensor, Tensor]]
"""Rows of studies → what the network takes, and the target (B, F, z, y, x)."""


class Decoder(nn.Module):
    """Patch tokens (B, P, D) → logits (B, F, z, y, x) on a finer grid, `shape`.

    A linear map, then per stage: twice as fine along every axis where that is not finer than voxels, 3³ convolution, group
    norm, GELU. Progressive upsampling as in SETR (arXiv 2012.15840). A film's single slice stays one.
    """

    def __init__(
        self,
        width: int,
        num_findings: int,
        *,
        grid: Sizes,
        volume_zyx: Sizes,
        widths: Sequence[int],
        prevalence: float = 0.01,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.grid = grid
        shape, stages = list(grid), []
        before = widths[0]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derived_seed(seed, "decoder"))
            self.narrow = nn.Linear(width, before)
            for channels in widths:
                scale = tuple(2 if (volume_zyx[k] // shape[k]) % 2 == 0 else 1 for k in range(3))
                shape = [size * factor for size, factor in zip(shape, scale, strict=True)]
                kernel = (1 if volume_zyx[0] == 1 else 3, 3, 3)
                stages += [
                    nn.Upsample(scale_factor=scale, mode="trilinear"),
                    nn.Conv3d(before, channels, kernel, padding=(kernel[0] // 2, 1, 1)),
                    nn.GroupNorm(math.gcd(8, channels), channels),
                    nn.GELU(),
                ]
                before = channels
            self.stages = nn.Sequential(*stages)
            self.logits = nn.Conv3d(before, num_findings, 1)
        # Lesions are rare: without this the first steps go into saying so.
        nn.init.constant_(self.logits.bias, math.log(prevalence / (1 - prevalence)))  # type: ignore[arg-type]
        self.shape: Sizes = (shape[0], shape[1], shape[2])

    def forward(self, tokens_BPD: Tensor) -> Tensor:
        """Logits (B, F, z, y, x)."""
        coarse = self.narrow(tokens_BPD).transpose(1, 2).unflatten(2, self.grid)
        found: Tensor = self.logits(self.stages(coarse))
        return found


class Segmenter(nn.Module):
    """An encoder in training and the decoder on its tokens."""

    def __init__(self, student: nn.Module, decoder: Decoder) -> None:
        super().__init__()
        self.student, self.decoder = student, decoder

    def forward(self, volume_BCZYX: Tensor) -> Tensor:
        """Logits (B, F, z, y, x)."""
        found: Tensor = self.decoder(self.student(volume_BCZYX).patch_tokens_BND)
        return found


def train_segmenter(
    network: nn.Module,
    groups: Sequence[dict[str, Any]],
    batch: Batch,
    *,
    num_studies: int,
    steps: int,
    config: SegmentTaskConfig,
    seed: int,
    state: Path,
    fingerprint: str,
    description: str,
) -> list[float]:
    """Minimise Dice and cross-entropy; the losses of all steps. `state` is what a killed job resumes from."""
    from monai.losses import DiceCELoss

    # Dice over the batch: most studies lack most findings, and the Dice of an absent one has no slope that helps.
    measure = DiceCELoss(sigmoid=True, batch=True)

    def loss_of(step: int) -> Tensor:
        rows = generator(seed, description, step).permutation(num_studies)[: config.batch_size]
        given, target = batch(rows)
        loss: Tensor = measure(network(given), target)
        return loss

    return minimise(
        network,
        groups,
        loss_of,
        steps=steps,
        weight_decay=config.weight_decay,
        save_every=config.save_every,
        state=state,
        fingerprint=fingerprint,
        description=description,
    )

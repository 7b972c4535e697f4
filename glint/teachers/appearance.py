"""What patches look like: a first patch embedding that sees it, and a target that asks for it.

Latent prediction alone is content with what neighbours tell about each other, and a few hundred volumes don't teach a tiny
encoder much more than where it is. Two measures keep the lesion in the token, both from the training volumes alone:

- `fit_patch_embedding` starts the encoder from standardised octant means instead of voxel noise;
- `AppearanceCode` is a fixed random network of a patch's statistics and its place (random-projection targets as in BEST-RQ,
  Chiu et al. 2022, but continuous and whitened). To predict it, a token must hold non-linear functions of density, texture
  and place, rare ones with the weight of common ones.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from glint.teachers.vjepa import EncoderConfig, VisionTransformer3D, grid_coordinates, patchify, sincos_embedding

EXCEEDED = (0.125, 0.375, 0.5, 0.625, 0.875)
NUMBERS_PER_CHANNEL = 8 + 3 + len(EXCEEDED)
LEAST_DEVIATION = 0.02
"""Of a channel in [0, 1]: what varies less is not blown up to variance 1."""


def cells_of(patch_zyx: tuple[int, int, int]) -> tuple[int, int, int]:
    """Blocks (z, y, x) of a patch whose means the first embedding sees: eight octants, or sixteen squares of a film's single slice."""
    return (1, 4, 4) if patch_zyx[0] == 1 else (2, 2, 2)


def block_means(
    voxels_MV: Tensor, channels: int, patch_zyx: tuple[int, int, int], cells_zyx: tuple[int, int, int]
) -> Tensor:
    """(M, C · cells) means of every channel over the blocks of flat patches (M, C · pz · py · px)."""
    return F.adaptive_avg_pool3d(voxels_MV.reshape(-1, channels, *patch_zyx), cells_zyx).flatten(1)


def octant_means(voxels_MV: Tensor, channels: int, patch_zyx: tuple[int, int, int]) -> Tensor:
    """(M, C · 8) means of every channel over the eight octants of flat patches (M, C · pz · py · px)."""
    return block_means(voxels_MV, channels, patch_zyx, (2, 2, 2))


def patch_statistics(voxels_MV: Tensor, channels: int, patch_zyx: tuple[int, int, int]) -> Tensor:
    """(M, C · 16) numbers of flat patches.

    Per channel: means of the eight octants, deviation, lowest and highest mean of its blocks of 2 × 2 × 2 voxels, and
    the shares of voxels above 1/8, 3/8, 1/2, 5/8 and 7/8 of the window.
    """
    patches = voxels_MV.reshape(-1, channels, *patch_zyx)
    smooth = F.avg_pool3d(patches, 2).flatten(2) if min(patch_zyx) > 1 else patches.flatten(2)
    flat = patches.flatten(2)
    above = [(flat > level).float().mean(dim=-1) for level in EXCEEDED]
    texture = torch.stack([flat.std(dim=-1), smooth.amin(dim=-1), smooth.amax(dim=-1), *above], dim=-1)
    return torch.cat([octant_means(voxels_MV, channels, patch_zyx), texture.flatten(1)], dim=-1)


def _moments(values_MS: Tensor) -> tuple[Tensor, Tensor]:
    return values_MS.mean(dim=0), values_MS.std(dim=0) + LEAST_DEVIATION


@torch.no_grad()
def fit_patch_embedding(encoder: VisionTransformer3D, volume_BCZYX: Tensor, *, generator: torch.Generator) -> None:
    """Set the patch embedding to a random projection of standardised block means (`cells_of`); training goes on from there.

    A projection of raw voxels with independent weights is mostly noise and one overall brightness: rare densities and
    gradients within the patch come out too small to be learned from in some hundred steps.
    """
    config = encoder.config
    voxels = patchify(volume_BCZYX, config.patch_zyx).flatten(0, 1)
    cells = cells_of(config.patch_zyx)
    mean, deviation = _moments(block_means(voxels, config.channels, config.patch_zyx, cells))
    weight = torch.randn(config.width, mean.shape[0], generator=generator) / mean.shape[0] ** 0.5 / deviation
    # Blocks of edges that don't divide overlap: their means are this linear map of the voxels.
    pooling = block_means(torch.eye(voxels.shape[1]), config.channels, config.patch_zyx, cells)
    encoder.patch_embedding.project.weight.copy_(weight @ pooling.T)
    encoder.patch_embedding.project.bias.copy_(-(weight @ mean))


class AppearanceCode(nn.Module):
    """Flat patches (R, K, V) and their places (R, K) → whitened code (R, K, T), without parameters to train.

    code = whiten( relu( random · [standardised statistics, place] ) ); moments and whitening come from `volume_BCZYX`, the
    first training volumes.
    """

    mean: Tensor
    deviation: Tensor
    random: Tensor
    centre: Tensor
    whitening: Tensor
    place: Tensor

    def __init__(
        self, config: EncoderConfig, volume_BCZYX: Tensor, *, units: int, width: int, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.channels, self.patch_zyx = config.channels, config.patch_zyx
        # sqrt(2): sine and cosine have variance 1/2, statistics 1.
        place = sincos_embedding(grid_coordinates(config.grid), 54, config.position_base) * 2**0.5
        statistics = patch_statistics(
            patchify(volume_BCZYX, config.patch_zyx).flatten(0, 1), config.channels, config.patch_zyx
        )
        mean, deviation = _moments(statistics)
        inputs = torch.cat([(statistics - mean) / deviation, place.repeat(volume_BCZYX.shape[0], 1)], dim=1)
        random = torch.randn(inputs.shape[1], units, generator=generator) / inputs.shape[1] ** 0.5
        code = torch.relu(inputs @ random)
        centre = code.mean(dim=0)
        covariance = ((code - centre).T @ (code - centre)).double() / code.shape[0]
        eigenvalues, vectors = torch.linalg.eigh(covariance)
        kept = slice(max(0, units - width), units)
        whitening = vectors[:, kept] / (eigenvalues[kept].clamp_min(0).sqrt() + LEAST_DEVIATION)
        for name, value in {
            "mean": mean,
            "deviation": deviation,
            "random": random,
            "centre": centre,
            "whitening": whitening.float(),
            "place": place,
        }.items():
            self.register_buffer(name, value, persistent=False)

    @property
    def width(self) -> int:
        """Numbers of one code, T."""
        return self.whitening.shape[1]

    @torch.no_grad()
    def forward(self, voxels_RKV: Tensor, places_RK: Tensor) -> Tensor:
        """Codes of some patches; `places_RK` are their token indices."""
        statistics = patch_statistics(voxels_RKV.flatten(0, 1), self.channels, self.patch_zyx)
        inputs = torch.cat([(statistics - self.mean) / self.deviation, self.place[places_RK.flatten()]], dim=1)
        code = (torch.relu(inputs @ self.random) - self.centre) @ self.whitening
        return code.reshape(*places_RK.shape, -1)

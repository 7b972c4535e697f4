"""What every image encoder is, whatever its family: teacher when it is frozen, student when it trains.

Shape letters: B volumes, C channels, Z Y X voxels, N patch tokens, D width.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from glint.core.errors import InputError

Size = tuple[int, int, int]
Triple = tuple[float, float, float]


@dataclass(frozen=True, kw_only=True)
class Encoded:
    """What an encoder returns.

    `patch_tokens_BND` are the final tokens after the last LayerNorm. `hidden[l]` (B, N, D) is the output of block l
    before that LayerNorm, for the asked layers only; block 0 is the first block, not the embedding.
    """

    patch_tokens_BND: Tensor
    hidden: dict[int, Tensor] = field(default_factory=dict)


def check_layers(layers: Iterable[int], depth: int) -> frozenset[int]:
    """The asked layers as a set. Raises InputError for a layer the encoder does not have."""
    wanted = frozenset(layers)
    if unknown := sorted(layer for layer in wanted if not 0 <= layer < depth):
        raise InputError(f"encoder has blocks 0 to {depth - 1}, not {unknown}")
    return wanted


class Encoder(nn.Module):
    """Arrays (B, C, Z, Y, X) with values in [0, 1] → patch tokens (B, N, D), N = gz · gy · gx, x running fastest.

    A film is a volume of one slice: (B, C, 1, Y, X), grid (1, gy, gx), whatever the family. C is `channels`; where that is 3
    (the families that were trained on photographs and videos) one grey channel is taken too and repeated. The mean and
    deviation of those families' inputs are applied in here, so callers hand over plain windows.

    A 2-D family sees a volume slice by slice and has the grid (Z, gy, gx). CLS and register tokens never leave the encoder.

    The computation is the same in train and eval mode (no dropout, no drop path, no jitter of positions), so that a fresh
    student in `.train()` equals its teacher. Weights sit in `blocks` (block l of the first to the last), `norm` (the last
    LayerNorm: `norm(hidden[depth - 1])` are the final tokens) and, before the blocks, in modules of other names.
    """

    family: ClassVar[str]
    volume_zyx: Size
    patch_zyx: Size
    channels: int
    width: int
    heads: int
    mlp_ratio: float = 4.0
    blocks: nn.ModuleList
    norm: nn.Module
    rotary: nn.Module | None
    idle: tuple[str, ...] = ()
    """Prefixes of weights that inputs of this shape never touch."""

    @property
    def grid(self) -> Size:
        """Patches along (z, y, x); token n is patch (n // (gy * gx), n // gx % gy, n % gx)."""
        (z, y, x), (pz, py, px) = self.volume_zyx, self.patch_zyx
        return z // pz, y // py, x // px

    @property
    def depth(self) -> int:
        """Number of blocks."""
        return len(self.blocks)

    @property
    def architecture(self) -> dict[str, Any]:
        """What fixes the computation besides the weights, as JSON values; `from_architecture` takes it."""
        raise NotImplementedError

    @classmethod
    def from_architecture(cls, architecture: Mapping[str, Any]) -> Self:
        """An encoder with fresh weights.

        Raises:
            InputError: sizes that don't fit.
            KeyError, TypeError, ValueError: not an architecture of this family.
        """
        raise NotImplementedError

    def forward(self, volume_BCZYX: Tensor, *, layers: Iterable[int] = ()) -> Encoded:
        """Tokens, and the outputs of the blocks `layers`.

        Raises:
            InputError: a volume of another shape, or a layer that is not there.
        """
        wanted = check_layers(layers, self.depth)
        tokens, places = self.embed(self.checked(volume_BCZYX))
        hidden: dict[int, Tensor] = {}
        for index, block in enumerate(self.blocks):
            tokens = self.apply_block(block, tokens, places)
            if index in wanted:
                hidden[index] = self.patches_of(tokens)
        return Encoded(patch_tokens_BND=self.norm(self.patches_of(tokens)), hidden=hidden)

    def embed(self, volume_BCZYX: Tensor) -> tuple[Tensor, Any]:
        """Tokens before the first block, and what the blocks need besides them (positions)."""
        raise NotImplementedError

    def apply_block(self, block: nn.Module, tokens: Tensor, places: Any) -> Tensor:
        """One block's output."""
        raise NotImplementedError

    def patches_of(self, tokens: Tensor) -> Tensor:
        """Patch tokens (B, N, D) of what flows through the blocks."""
        return tokens

    def checked(self, volume_BCZYX: Tensor) -> Tensor:
        """The volume with `channels` channels.

        Raises:
            InputError: it has another shape than the encoder was built for.
        """
        expected = (self.channels, *self.volume_zyx)
        found = tuple(volume_BCZYX.shape[1:])
        if found == (1, *self.volume_zyx) and self.channels == 3:
            return volume_BCZYX.expand(-1, 3, -1, -1, -1)
        if found != expected:
            raise InputError(
                f"encoder takes volumes of shape (C, Z, Y, X) = {expected}, got {found}: "
                "resample to the encoder's grid, or build the encoder for this one"
            )
        return volume_BCZYX

    def made_trainable(self) -> Self:
        """All weights learn but those that this input never touches."""
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(not name.startswith(self.idle))
        return self

    def attention_kernel(self, kind: str) -> None:
        """`sdpa` (fused) or `eager` (two matrix products with a softmax between); equal up to rounding."""
        raise NotImplementedError


class Standardisation(nn.Module):
    """(x - mean) / deviation per channel: the input statistics that a published encoder was trained with."""

    mean_C111: Tensor
    deviation_C111: Tensor

    def __init__(self, mean: Triple, deviation: Triple) -> None:
        super().__init__()
        self.mean, self.deviation = tuple(mean), tuple(deviation)
        self.register_buffer("mean_C111", torch.tensor(mean)[:, None, None, None], persistent=False)
        self.register_buffer("deviation_C111", torch.tensor(deviation)[:, None, None, None], persistent=False)

    def forward(self, volume_BCZYX: Tensor) -> Tensor:
        """(B, 3, Z, Y, X) in [0, 1] → standardised."""
        return (volume_BCZYX - self.mean_C111) / self.deviation_C111

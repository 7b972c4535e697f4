"""The V-JEPA-style 3-D encoder: patch embedding, rotary positions, pre-norm blocks.

The student of stage 09 is this same architecture and starts from the teacher's weights, so nothing in here may depend on
train or eval mode: no position jitter, no dropout, no stochastic depth. Student in `.train()` then equals teacher exactly.

Shape letters: B volumes, C window channels, Z Y X voxels, N patch tokens, K kept tokens, D width, H heads, E head width.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, Literal, Self

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn

from glint.teachers.attention import eager_attention
from glint.teachers.encoder import Encoded, Encoder, check_layers

LAYER_NORM_EPSILON = 1e-6


class EncoderConfig(BaseModel):
    """Everything that fixes the encoder's shape. Sizes are (z, y, x)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    volume_zyx: tuple[int, int, int] = Field(description="voxels of one input volume")
    patch_zyx: tuple[int, int, int] = Field(description="voxels of one patch; divides the volume")
    channels: int = Field(default=3, ge=1, description="window channels")
    width: int = Field(default=128, ge=6, description="token width D")
    depth: int = Field(default=4, ge=1, description="blocks")
    heads: int = Field(default=2, ge=1, description="attention heads; width / heads is even, 64 is fastest")
    mlp_ratio: float = Field(default=4.0, gt=0, description="hidden width of the MLP / D")
    positions: Literal["rope", "sincos", "both"] = Field(default="both", description="rotary, absolute or both")
    position_base: float = Field(default=100.0, gt=1, description="longest wavelength / 2 pi, in patches")
    stem: tuple[int, ...] = Field(
        default=(), description="channels after each halving inside a patch; () is one linear map"
    )

    @model_validator(mode="after")
    def _sizes_fit(self) -> EncoderConfig:
        if any(size % patch for size, patch in zip(self.volume_zyx, self.patch_zyx, strict=True)):
            raise ValueError(f"volume_zyx {self.volume_zyx} is not a multiple of patch_zyx {self.patch_zyx}")
        if self.width % self.heads or (self.width // self.heads) % 2 or self.width // self.heads < 6:
            raise ValueError(f"width {self.width} / heads {self.heads} must be even and at least 6")
        if any(edge % 2 ** len(self.stem) for edge in self.patch_zyx):
            raise ValueError(f"stem {self.stem} halves patch_zyx {self.patch_zyx} more often than it can be halved")
        return self

    @property
    def grid(self) -> tuple[int, int, int]:
        """Patches along (z, y, x)."""
        (z, y, x), (pz, py, px) = self.volume_zyx, self.patch_zyx
        return z // pz, y // py, x // px

    @property
    def tokens(self) -> int:
        """Patches of one volume."""
        return math.prod(self.grid)


def grid_coordinates(grid: tuple[int, int, int]) -> Tensor:
    """(N, 3) float patch indices (z, y, x) in token order (x runs fastest)."""
    axes = [torch.arange(size, dtype=torch.float32) for size in grid]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).reshape(-1, 3)


def _frequencies(count: int, base: float) -> Tensor:
    return base ** (-torch.arange(count, dtype=torch.float32) / max(count, 1))


def rotary_angles(coordinates_N3: Tensor, head_width: int, base: float) -> Tensor:
    """(N, E/2) angles in radians: a third of the pairs turns with each axis, left-over pairs do not turn.

    V-JEPA 2 splits the head the same way (int(2 * ((E // 3) // 2)) channels per axis), but repeats its sines in an order
    that does not match its pairs, so its map is no rotation; here scores depend on the offset of two patches alone.
    """
    pairs = (head_width // 3) // 2
    frequencies = _frequencies(pairs, base)
    angles = torch.zeros(coordinates_N3.shape[0], head_width // 2)
    for axis in range(3):
        angles[:, axis * pairs : (axis + 1) * pairs] = coordinates_N3[:, axis, None] * frequencies
    return angles


def rotate(tokens: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn channel pairs (i, i + E/2) of tokens (…, N, E) by angles; `cos` and `sin` as `RotaryTable` gives them."""
    first, second = tokens.chunk(2, dim=-1)
    return torch.addcmul(tokens * cos, torch.cat([second, first], dim=-1), sin)


def sincos_embedding(coordinates_N3: Tensor, width: int, base: float) -> Tensor:
    """(N, D) fixed absolute embedding: sines and cosines of each axis over D // 6 frequencies, zeros after them."""
    pairs = width // 6
    angles = coordinates_N3[:, :, None] * _frequencies(pairs, base)
    embedding = torch.zeros(coordinates_N3.shape[0], width)
    embedding[:, : 6 * pairs] = torch.cat([angles.sin(), angles.cos()], dim=-1).reshape(-1, 6 * pairs)
    return embedding


def patchify(volume_BCZYX: Tensor, patch_zyx: tuple[int, int, int]) -> Tensor:
    """(B, N, C * pz * py * px) voxels of every patch, channel first, in the order of a Conv3d kernel's weight."""
    batch, channels, *sizes = volume_BCZYX.shape
    (pz, py, px), (gz, gy, gx) = patch_zyx, [size // patch for size, patch in zip(sizes, patch_zyx, strict=True)]
    blocks = volume_BCZYX.reshape(batch, channels, gz, pz, gy, py, gx, px)
    return blocks.permute(0, 2, 4, 6, 1, 3, 5, 7).reshape(batch, gz * gy * gx, channels * pz * py * px)


def select_tokens(tokens_BND: Tensor, keep_BK: Tensor) -> Tensor:
    """(B, K, D): row b takes its tokens keep_BK[b]."""
    return tokens_BND[torch.arange(keep_BK.shape[0], device=keep_BK.device)[:, None], keep_BK]


def halve(blocks_MZYXC: Tensor) -> Tensor:
    """(M, Z/2, Y/2, X/2, 8 C): the channels of every 2 × 2 × 2 voxels side by side."""
    count, z, y, x, channels = blocks_MZYXC.shape
    split = blocks_MZYXC.reshape(count, z // 2, 2, y // 2, 2, x // 2, 2, channels)
    return split.permute(0, 1, 3, 5, 2, 4, 6, 7).reshape(count, z // 2, y // 2, x // 2, 8 * channels)


class PatchEmbedding(nn.Module):
    """Flat patches (B, K, C · pz · py · px) of `patchify` → tokens (B, K, D).

    Without a stem this is the usual Conv3d with stride = kernel = patch. A stem puts strided 2 × 2 × 2 convolutions with
    GELU before it, all inside the patch: what a lesion smaller than a patch looks like is no linear function of voxels
    (its share of a density range, its edge), and a dropped patch still costs nothing.
    """

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.shape = (config.channels, *config.patch_zyx)
        widths = (config.channels, *config.stem)
        self.stem = nn.ModuleList(
            nn.Linear(8 * before, after) for before, after in zip(widths, config.stem, strict=False)
        )
        voxels = math.prod(config.patch_zyx) // 8 ** len(config.stem)
        self.project = nn.Linear(widths[-1] * voxels, config.width)

    def forward(self, voxels_BKV: Tensor) -> Tensor:
        """(B, K, C · pz · py · px) → (B, K, D)."""
        if not self.stem:
            return self.project(voxels_BKV)  # type: ignore[no-any-return]
        blocks = voxels_BKV.reshape(-1, *self.shape).permute(0, 2, 3, 4, 1)
        for linear in self.stem:
            blocks = F.gelu(linear(halve(blocks)))
        return self.project(blocks.reshape(*voxels_BKV.shape[:2], -1))  # type: ignore[no-any-return]

    def initialise(self) -> None:
        """Kaiming weights and spread biases, so that the stem's units fire at different densities from the start."""
        for linear in self.stem:
            assert isinstance(linear, nn.Linear)
            nn.init.kaiming_normal_(linear.weight, nonlinearity="relu")
            nn.init.uniform_(linear.bias, -0.5, 0.5)


class Attention(nn.Module):
    """Multi-head self-attention with optional rotary positions and key mask."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.kernel = heads, "sdpa"
        self.qkv = nn.Linear(width, 3 * width)
        self.output = nn.Linear(width, width)

    def forward(self, tokens_BND: Tensor, rotation: tuple[Tensor, Tensor] | None, mask_B11N: Tensor | None) -> Tensor:
        """(B, N, D) → (B, N, D); `rotation` as `RotaryTable` gives it, `mask_B11N` false where a key is hidden."""
        batch, count, width = tokens_BND.shape
        qkv = self.qkv(tokens_BND).view(batch, count, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        query_key, value = qkv[:2], qkv[2]
        query, key = query_key if rotation is None else rotate(query_key, *rotation)
        if self.kernel == "eager":
            mixed = eager_attention(query, key, value, mask_B11N)
        else:
            mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=mask_B11N)
        return self.output(mixed.transpose(1, 2).reshape(batch, count, width))  # type: ignore[no-any-return]


class Block(nn.Module):
    """Pre-norm transformer block."""

    def __init__(self, width: int, heads: int, mlp_ratio: float) -> None:
        super().__init__()
        hidden = int(width * mlp_ratio)
        self.norm_attention = nn.LayerNorm(width, eps=LAYER_NORM_EPSILON)
        self.attention = Attention(width, heads)
        self.norm_mlp = nn.LayerNorm(width, eps=LAYER_NORM_EPSILON)
        self.mlp = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))

    def forward(
        self, tokens_BND: Tensor, rotation: tuple[Tensor, Tensor] | None = None, mask_B11N: Tensor | None = None
    ) -> Tensor:
        """(B, N, D) → (B, N, D)."""
        tokens_BND = tokens_BND + self.attention(self.norm_attention(tokens_BND), rotation, mask_B11N)
        return tokens_BND + self.mlp(self.norm_mlp(tokens_BND))  # type: ignore[no-any-return]


def initialise(module: nn.Module, blocks: Iterable[Block]) -> None:
    """Truncated normal of deviation 1 / sqrt(fan-in); the outputs of block l are scaled by 1 / sqrt(2 (l + 1)).

    The usual 0.02 is that of a width of 2,500: at width 128 it leaves GELUs in their linear part, and a short pretraining
    hardly moves them.
    """
    for part in module.modules():
        if isinstance(part, nn.Linear):
            nn.init.trunc_normal_(part.weight, std=part.in_features**-0.5)
            if part.bias is not None:
                nn.init.zeros_(part.bias)
    with torch.no_grad():
        for index, block in enumerate(blocks):
            for linear in (block.attention.output, block.mlp[2]):
                linear.weight.div_(math.sqrt(2 * (index + 1)))  # type: ignore[operator]


class RotaryTable(nn.Module):
    """Cosines and sines of every position (N, 3), computed once; picked per volume when tokens were dropped."""

    cos: Tensor
    sin: Tensor

    def __init__(self, coordinates_N3: Tensor, head_width: int, base: float) -> None:
        super().__init__()
        angles = rotary_angles(coordinates_N3, head_width, base)
        self.register_buffer("cos", angles.cos(), persistent=False)
        self.register_buffer("sin", angles.sin(), persistent=False)

    def forward(self, dtype: torch.dtype, keep_BK: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Cos twice and sin with both signs, one for each half of the channels: (1, 1, N, E), or (B, 1, K, E) for kept tokens."""
        cos, sin = torch.cat([self.cos, self.cos], dim=-1).to(dtype), torch.cat([-self.sin, self.sin], dim=-1).to(dtype)
        if keep_BK is None:
            return cos[None, None], sin[None, None]
        return cos[keep_BK][:, None], sin[keep_BK][:, None]


class VisionTransformer3D(Encoder):
    """Our own encoder, pretrained on the training split. No CLS token, no registers."""

    family = "vjepa_small"
    absolute: Tensor

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.volume_zyx, self.patch_zyx, self.channels = config.volume_zyx, config.patch_zyx, config.channels
        self.width, self.heads, self.mlp_ratio = config.width, config.heads, config.mlp_ratio
        self.patch_embedding = PatchEmbedding(config)
        self.blocks = nn.ModuleList(Block(config.width, config.heads, config.mlp_ratio) for _ in range(config.depth))
        self.norm = nn.LayerNorm(config.width, eps=LAYER_NORM_EPSILON)
        self.rotary = (
            None
            if config.positions == "sincos"
            else RotaryTable(grid_coordinates(config.grid), config.width // config.heads, config.position_base)
        )
        absolute = sincos_embedding(grid_coordinates(config.grid), config.width, config.position_base)
        self.register_buffer(
            "absolute", torch.zeros_like(absolute) if config.positions == "rope" else absolute, persistent=False
        )
        initialise(self, (block for block in self.blocks if isinstance(block, Block)))
        self.patch_embedding.initialise()

    @property
    def architecture(self) -> dict[str, Any]:
        """The configuration."""
        return self.config.model_dump(mode="json")

    @classmethod
    def from_architecture(cls, architecture: Mapping[str, Any]) -> Self:
        """An encoder with fresh weights."""
        return cls(EncoderConfig.model_validate(architecture))

    def attention_kernel(self, kind: str) -> None:
        """`sdpa` or `eager`."""
        for block in self.blocks:
            assert isinstance(block, Block)
            block.attention.kernel = kind

    def patches(self, volume_BCZYX: Tensor) -> Tensor:
        """Flat patches (B, N, C · pz · py · px).

        Raises InputError when the volume has another shape than the encoder was built for.
        """
        return patchify(self.checked(volume_BCZYX), self.patch_zyx)

    def forward(
        self,
        volume_BCZYX: Tensor,
        *,
        layers: Iterable[int] = (),
        keep_BK: Tensor | None = None,
        valid_BN: Tensor | None = None,
    ) -> Encoded:
        """Encode volumes.

        `layers`: blocks whose output is returned in `hidden`. `keep_BK` (int64): only these patches enter the encoder,
        at their true positions. `valid_BN` (bool over the tokens that enter: N, or K with keep_BK): false tokens are
        never attended to. Raises InputError for a volume of another shape or a layer that is not there.
        """
        voxels = self.patches(volume_BCZYX)
        if keep_BK is not None:
            voxels = select_tokens(voxels, keep_BK)
        return self.encode_patches(voxels, layers=layers, keep_BK=keep_BK, valid_BN=valid_BN)

    def encode_patches(
        self,
        voxels_BKV: Tensor,
        *,
        layers: Iterable[int] = (),
        keep_BK: Tensor | None = None,
        valid_BN: Tensor | None = None,
    ) -> Encoded:
        """`forward` from flat patches: all of them, or those at the places `keep_BK`."""
        wanted = check_layers(layers, self.depth)
        absolute = self.absolute.to(voxels_BKV.dtype)
        tokens = self.patch_embedding(voxels_BKV) + (absolute if keep_BK is None else absolute[keep_BK])
        rotation = None if self.rotary is None else self.rotary(tokens.dtype, keep_BK)
        mask = None if valid_BN is None else key_mask(valid_BN)
        hidden: dict[int, Tensor] = {}
        for index, block in enumerate(self.blocks):
            tokens = block(tokens, rotation, mask)
            if index in wanted:
                hidden[index] = tokens
        return Encoded(patch_tokens_BND=self.norm(tokens), hidden=hidden)


def key_mask(valid_BN: Tensor) -> Tensor:
    """Boolean SDPA mask (B, 1, 1, N). A volume without any valid token attends everywhere, for a softmax over nothing is NaN."""
    usable = valid_BN | ~valid_BN.any(dim=1, keepdim=True)
    return usable[:, None, None, :]

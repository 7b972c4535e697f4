"""V-JEPA 2.1: a video transformer with an image tokenizer beside its video tokenizer, read from its official checkpoints.

Facts from facebookresearch/vjepa2, app/vjepa_2_1/models and src/hub/backbones.py; the code is ours. Each modality has its own patch
embedding (2 × 16 × 16 voxels, or 1 × 16 × 16 for a single slice) and a learned vector that is added to its tokens. Positions are
rotary: of the E channels of a head 2 · ((E // 3) // 2) turn with each axis, the rest stand still. Depth counts in tubelets; rows
and columns are stretched to the 16 × 16 patches of a 256-pixel frame, whatever the frame.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn

from glint.core.config.families import IMAGENET_DEVIATION, IMAGENET_MEAN
from glint.core.errors import InputError
from glint.teachers.encoder import Encoder, Standardisation, Triple
from glint.teachers.vjepa import LAYER_NORM_EPSILON, Block, RotaryTable, grid_coordinates, initialise, patchify

ROTARY_BASE = 10_000.0
REFERENCE_GRID = 16  # 256-pixel frames of 16-pixel patches
HEAD_WIDTH = 64  # of every published size
NORMS = 4  # normalised levels, the last block's among them
CHECKPOINT_KEYS = ("ema_encoder",)  # of the distilled ViT-B and ViT-L
WRAPPERS = ("module.", "backbone.")


class Vjepa21Config(BaseModel):
    """Everything that fixes the encoder's shape."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    volume_zyx: tuple[int, int, int] = Field(
        description="voxels; z is 1 (image tokenizer) or a multiple of the tubelet"
    )
    width: int = Field(ge=6, description="token width D")
    depth: int = Field(ge=1, description="blocks")
    heads: int = Field(ge=1, description="attention heads")
    patch: int = Field(default=16, ge=1, description="pixels")
    tubelet: int = Field(default=2, ge=1, description="slices")
    mlp_ratio: float = Field(default=4.0, gt=0, description="hidden width of the MLP / D")
    mean: Triple = Field(default=IMAGENET_MEAN, description="of the input's channels")
    deviation: Triple = Field(default=IMAGENET_DEVIATION, description="of the input's channels")

    @model_validator(mode="after")
    def _sizes_fit(self) -> Vjepa21Config:
        if any(size % edge for size, edge in zip(self.volume_zyx, self.patch_zyx, strict=True)):
            raise ValueError(
                f"volume {self.volume_zyx} (z, y, x) is no multiple of {self.patch_zyx}; a single slice may have z = 1"
            )
        if self.width % self.heads or (self.width // self.heads) % 2 or self.width // self.heads < 6:
            raise ValueError(f"width {self.width} / heads {self.heads} must be even and at least 6")
        return self

    @property
    def patch_zyx(self) -> tuple[int, int, int]:
        """Voxels of one patch."""
        return (1 if self.volume_zyx[0] == 1 else self.tubelet), self.patch, self.patch


def stretched_coordinates(grid: tuple[int, int, int]) -> Tensor:
    """(N, 3) positions (z, y, x): z in tubelets, y and x stretched so that the last patch is at 15."""
    coordinates_N3 = grid_coordinates(grid)
    for axis in (1, 2):
        coordinates_N3[:, axis] *= (REFERENCE_GRID - 1) / max(grid[axis] - 1, 1)
    return coordinates_N3


class Tokenizer(nn.Module):
    """Non-overlapping patches of one modality → tokens, its modality vector added."""

    def __init__(self, patch_zyx: tuple[int, int, int], width: int) -> None:
        super().__init__()
        self.patch_zyx = patch_zyx
        pz, py, px = patch_zyx
        self.project = nn.Linear(3 * pz * py * px, width)
        self.modality_D = nn.Parameter(torch.zeros(width))

    def forward(self, volume_BCZYX: Tensor) -> Tensor:
        """(B, 3, Z, Y, X) → (B, N, D)."""
        return self.project(patchify(volume_BCZYX, self.patch_zyx)) + self.modality_D  # type: ignore[no-any-return]


class Vjepa21(Encoder):
    """V-JEPA 2.1's encoder for volumes of one shape.

    The published models normalise four levels; the distilled ViT-B and ViT-L were trained on the last alone, so the LayerNorms of
    the other three are not kept: whoever compares blocks uses LayerNorm without weights.
    """

    family = "vjepa2_1"

    def __init__(self, config: Vjepa21Config) -> None:
        super().__init__()
        self.config = config
        self.volume_zyx, self.patch_zyx, self.channels = config.volume_zyx, config.patch_zyx, 3
        self.width, self.heads, self.mlp_ratio = config.width, config.heads, config.mlp_ratio
        self.standardise = Standardisation(config.mean, config.deviation)
        self.video = Tokenizer((config.tubelet, config.patch, config.patch), config.width)
        self.image = Tokenizer((1, config.patch, config.patch), config.width)
        self.idle = ("video.",) if config.volume_zyx[0] == 1 else ("image.",)
        self.blocks = nn.ModuleList(Block(config.width, config.heads, config.mlp_ratio) for _ in range(config.depth))
        self.norm = nn.LayerNorm(config.width, eps=LAYER_NORM_EPSILON)
        self.rotary = RotaryTable(stretched_coordinates(self.grid), config.width // config.heads, ROTARY_BASE)
        initialise(self, (block for block in self.blocks if isinstance(block, Block)))

    @property
    def architecture(self) -> dict[str, Any]:
        """The configuration."""
        return self.config.model_dump(mode="json")

    @classmethod
    def from_architecture(cls, architecture: Mapping[str, Any]) -> Self:
        """An encoder with fresh weights."""
        return cls(Vjepa21Config.model_validate(architecture))

    def embed(self, volume_BCZYX: Tensor) -> tuple[Tensor, Any]:
        """The tokenizer of the volume's modality: one slice is an image."""
        tokenizer = self.image if self.volume_zyx[0] == 1 else self.video
        tokens = tokenizer(self.standardise(volume_BCZYX))
        assert self.rotary is not None
        return tokens, self.rotary(tokens.dtype)

    def apply_block(self, block: nn.Module, tokens: Tensor, places: Any) -> Tensor:
        """Attention with rotary positions, then the MLP."""
        return block(tokens, places)  # type: ignore[no-any-return]

    def attention_kernel(self, kind: str) -> None:
        """`sdpa` or `eager`."""
        for block in self.blocks:
            assert isinstance(block, Block)
            block.attention.kernel = kind


def encoder_of_checkpoint(state: Mapping[str, Any], volume_zyx: tuple[int, int, int]) -> Vjepa21:
    """The encoder of an official checkpoint (its width and depth are read off the tensors), built for one shape of volume.

    Raises:
        InputError: no encoder inside, a weight is missing, unknown or of another shape.
    """
    weights = official_weights(state)
    blocks = {int(name.split(".")[1]) for name in weights if name.startswith("blocks.")}
    try:
        width, _, tubelet, patch, _ = weights["patch_embed.proj.weight"].shape
        config = Vjepa21Config(
            volume_zyx=volume_zyx,
            width=width,
            depth=max(blocks) + 1,
            heads=max(1, width // HEAD_WIDTH),
            patch=patch,
            tubelet=tubelet,
            mlp_ratio=weights["blocks.0.mlp.fc1.weight"].shape[0] / width,
        )
    except (KeyError, ValueError) as error:
        raise InputError(f"not a V-JEPA 2.1 encoder ({' '.join(str(error).split())[:200]})") from error
    encoder = Vjepa21(config)
    encoder.load_state_dict(renamed(weights, config), strict=True)
    return encoder


def official_weights(state: Mapping[str, Any]) -> dict[str, Tensor]:
    """The encoder's tensors under their plain names: wrappers' prefixes gone, nothing else changed.

    A checkpoint of the trainer holds them under `ema_encoder`, next to a predictor and an optimiser; other keys are never taken
    in its place, since `encoder` is another, unaveraged model. A file of plain tensors is taken as the encoder itself.
    """
    if not all(isinstance(value, Tensor) for value in state.values()):
        key = next((key for key in CHECKPOINT_KEYS if key in state), None)
        if key is None or not isinstance(state[key], Mapping):
            raise InputError(
                f"no {' or '.join(CHECKPOINT_KEYS)} among the checkpoint's entries {sorted(map(str, state))[:8]}"
            )
        state = state[key]
    plain: dict[str, Tensor] = {}
    for name, value in state.items():
        stripped = name
        while stripped.startswith(WRAPPERS):
            stripped = stripped.removeprefix(WRAPPERS[0]).removeprefix(WRAPPERS[1])
        if stripped in plain:
            raise InputError(f"the weight {stripped} is there twice")
        plain[stripped] = value
    return plain


def _pairs_apart(weight: Tensor, heads: int) -> Tensor:
    """Rows of query, key and value: the official pairs of channels (2i, 2i + 1) of each head go to (i, i + E / 2), where ours turn."""
    by_head = weight.reshape(3, heads, -1, 2, *weight.shape[1:])
    apart = by_head.transpose(2, 3).clone()
    apart[2] = by_head[2].reshape(apart[2].shape)  # values don't turn
    return apart.reshape(weight.shape)


def renamed(weights: Mapping[str, Tensor], config: Vjepa21Config) -> dict[str, Tensor]:
    """Our names for the official ones, every tensor accounted for.

    Raises:
        InputError: a tensor is missing, unknown or of another shape.
    """
    width, hidden = config.width, int(config.width * config.mlp_ratio)
    left = dict(weights)

    def take(name: str, *shape: int) -> Tensor:
        value = left.pop(name, None)
        if value is None or tuple(value.shape) != shape:
            found = "is missing" if value is None else f"has shape {tuple(value.shape)}, expected {shape}"
            raise InputError(f"the V-JEPA 2.1 weight {name} {found}")
        return value.float()

    made: dict[str, Tensor] = {}
    for ours, theirs, modality, depth in (
        ("video", "patch_embed", "video_mod_embed", config.tubelet),
        ("image", "patch_embed_img", "img_mod_embed", 1),
    ):
        kernel = take(f"{theirs}.proj.weight", width, 3, depth, config.patch, config.patch)
        made[f"{ours}.project.weight"] = kernel.flatten(1)
        made[f"{ours}.project.bias"] = take(f"{theirs}.proj.bias", width)
        made[f"{ours}.modality_D"] = take(modality, 1, 1, width).reshape(width)
    for index in range(config.depth):
        block = f"blocks.{index}"
        for kind, rows in (("weight", (width,)), ("bias", ())):
            made[f"{block}.norm_attention.{kind}"] = take(f"{block}.norm1.{kind}", width)
            qkv = take(f"{block}.attn.qkv.{kind}", 3 * width, *rows)
            made[f"{block}.attention.qkv.{kind}"] = _pairs_apart(qkv, config.heads)
            made[f"{block}.attention.output.{kind}"] = take(f"{block}.attn.proj.{kind}", width, *rows)
            made[f"{block}.norm_mlp.{kind}"] = take(f"{block}.norm2.{kind}", width)
            made[f"{block}.mlp.0.{kind}"] = take(f"{block}.mlp.fc1.{kind}", hidden, *rows)
            made[f"{block}.mlp.2.{kind}"] = take(f"{block}.mlp.fc2.{kind}", width, *((hidden,) if rows else ()))
    for kind in ("weight", "bias"):
        for level in range(NORMS):
            norm = take(f"norms_block.{level}.{kind}", width)
            if level == NORMS - 1:
                made[f"norm.{kind}"] = norm
    if left:
        raise InputError(f"{len(left)} weights that V-JEPA 2.1 has not, first {sorted(left)[0]}")
    return made

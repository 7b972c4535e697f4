"""The architectures of the published weights, so that what they need can be told before anything is fetched."""

from __future__ import annotations

from typing import Any

import torch

from glint.core.config.families import PUBLISHED, Published
from glint.core.errors import InputError
from glint.teachers.encoder import Encoder, Size
from glint.teachers.registry import build_encoder
from glint.teachers.vjepa2_1 import Vjepa21Config

PRETRAINED_IMAGE = {"dinov2_xray": 224, "rad_dino": 518}
"""Pixels that a DINOv2's learned positions were made for."""


def published_entry(name: str) -> Published:
    """The entry of a published name. Raises InputError for an unknown one."""
    if name not in PUBLISHED:
        raise InputError(f"no published weights {name!r}; known are {', '.join(PUBLISHED)}")
    return PUBLISHED[name]


def published_description(name: str, volume_zyx: Size | None = None) -> dict[str, Any]:
    """Family and architecture, as `build_encoder` takes them, for volumes of a shape (None: the documented one).

    The values are those of the published config.json files and, for V-JEPA 2.1, of src/hub/backbones.py.
    """
    entry = published_entry(name)
    shape = volume_zyx or entry.volume_zyx
    if entry.family == "vjepa2_1":
        config = Vjepa21Config(volume_zyx=shape, width=entry.width, depth=entry.depth, heads=entry.heads)
        return {"family": entry.family, "architecture": config.model_dump(mode="json")}
    settings: dict[str, Any] = {
        "hidden_size": entry.width,
        "num_hidden_layers": entry.depth,
        "num_attention_heads": entry.heads,
        "mlp_ratio": 4,
    }
    if entry.family == "dinov3":
        settings = {**settings, "intermediate_size": 4 * entry.width, "patch_size": 16, "num_register_tokens": 4}
        del settings["mlp_ratio"]
    elif entry.family == "dinov2":
        settings = {**settings, "patch_size": 14, "image_size": PRETRAINED_IMAGE[name]}
    else:
        settings = {**settings, "patch_size": 16, "tubelet_size": 2, "mlp_ratio": 4.0}
    statistics = {"mean": list(entry.mean), "deviation": list(entry.deviation)}
    return {
        "family": entry.family,
        "architecture": {"transformers": settings, "volume_zyx": list(shape), **statistics},
    }


def published_shape(name: str, volume_zyx: Size | None = None) -> Encoder:
    """The encoder without memory for its weights (on the meta device): grid, width and sizes can be asked."""
    with torch.device("meta"):
        return build_encoder(published_description(name, volume_zyx))

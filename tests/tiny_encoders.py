"""A small encoder of every family with lively random weights, and tensors as V-JEPA 2.1's official checkpoints name them."""

import math

import torch

from glint.core.config.families import FAMILIES
from glint.teachers.registry import build_encoder

VIDEO, FILM = (4, 16, 16), (1, 16, 24)
TRANSFORMERS = {
    "dinov3": {
        "model_type": "dinov3_vit",
        "hidden_size": 24,
        "intermediate_size": 48,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "num_register_tokens": 3,
        "patch_size": 4,
        "image_size": 16,
        "initializer_range": 0.5,  # at the usual 0.02 attention hardly looks at places
        "drop_path_rate": 0.3,
        "attention_dropout": 0.3,
    },
    "dinov2": {
        "model_type": "dinov2",
        "hidden_size": 24,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "patch_size": 4,
        "image_size": 16,
        "initializer_range": 0.5,
        "hidden_dropout_prob": 0.3,
        "drop_path_rate": 0.3,
    },
    "vjepa2": {
        "model_type": "vjepa2",
        "patch_size": 4,
        "crop_size": 32,  # other than our volumes'
        "frames_per_clip": 8,
        "tubelet_size": 2,
        "hidden_size": 24,
        "num_attention_heads": 2,
        "num_hidden_layers": 3,
        "pred_hidden_size": 24,
        "pred_num_attention_heads": 2,
        "pred_num_hidden_layers": 1,
        "pred_num_mask_tokens": 2,
        "initializer_range": 0.5,
        "drop_path_rate": 0.3,
        "attention_probs_dropout_prob": 0.3,
    },
}
IMAGENET = {"mean": [0.485, 0.456, 0.406], "deviation": [0.229, 0.224, 0.225]}


def description(family, volume_zyx):
    """What config.json of a stage-07 folder says of a tiny encoder."""
    if family in TRANSFORMERS:
        architecture = {"transformers": TRANSFORMERS[family], "volume_zyx": list(volume_zyx), **IMAGENET}
    elif family == "vjepa2_1":
        architecture = {"volume_zyx": volume_zyx, "width": 24, "depth": 3, "heads": 2, "patch": 4, "tubelet": 2}
    else:
        patch = (1 if volume_zyx[0] == 1 else 2, 4, 4)
        architecture = {
            "volume_zyx": volume_zyx,
            "patch_zyx": patch,
            "channels": 3,
            "width": 24,
            "depth": 3,
            "heads": 2,
        }
    return {"family": family, "architecture": architecture}


def tiny_encoder(family, volume_zyx, seed=0):
    """Random weights, none of them zero or one."""
    torch.manual_seed(seed)
    encoder = build_encoder(description(family, volume_zyx))
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return encoder


def shapes(family):
    """Volumes that a family takes."""
    return [VIDEO, (1, 16, 16) if FAMILIES[family].square else FILM]


CASES = [(family, shape) for family in FAMILIES for shape in shapes(family)]

WIDTH, DEPTH, PATCH, TUBELET = 128, 3, 4, 2  # two heads of 64, as in every published size


def official_state(seed=0, depth=DEPTH):
    """Tensors under their official names, none of them zero or one."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape, scale=None):
        return torch.randn(*shape, generator=generator) * (scale or math.prod(shape[1:]) ** -0.5)

    state = {
        "patch_embed.proj.weight": draw(WIDTH, 3, TUBELET, PATCH, PATCH),
        "patch_embed.proj.bias": draw(WIDTH, scale=0.1),
        "patch_embed_img.proj.weight": draw(WIDTH, 3, 1, PATCH, PATCH),
        "patch_embed_img.proj.bias": draw(WIDTH, scale=0.1),
        "img_mod_embed": draw(1, 1, WIDTH, scale=0.5),
        "video_mod_embed": draw(1, 1, WIDTH, scale=0.5),
    }
    for block in range(depth):
        for name, shape in (("attn.qkv", 3 * WIDTH), ("attn.proj", WIDTH), ("mlp.fc1", 4 * WIDTH)):
            state[f"blocks.{block}.{name}.weight"] = draw(shape, WIDTH) * (1.5 if name == "attn.qkv" else 1)
            state[f"blocks.{block}.{name}.bias"] = draw(shape, scale=0.1)
        state[f"blocks.{block}.mlp.fc2.weight"] = draw(WIDTH, 4 * WIDTH)
        state[f"blocks.{block}.mlp.fc2.bias"] = draw(WIDTH, scale=0.1)
        for name in ("norm1", "norm2"):
            state[f"blocks.{block}.{name}.weight"] = 1 + draw(WIDTH, scale=0.2)
            state[f"blocks.{block}.{name}.bias"] = draw(WIDTH, scale=0.2)
    for level in range(4):
        state[f"norms_block.{level}.weight"] = 1 + draw(WIDTH, scale=0.2)
        state[f"norms_block.{level}.bias"] = draw(WIDTH, scale=0.2)
    return state

"""Encoder families by name, and the frozen teacher of a stage-07 folder.

A folder of weights holds config.json (family and architecture), model.safetensors (float32, our names) and, from stage 07, teacher.json.
It is complete in itself: nothing is fetched again when it is opened. `glint.core.config.families` says what is published of each family.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor, nn

from glint.core.atomic import write_json
from glint.core.errors import FingerprintError, InputError
from glint.core.provenance import sha256_file
from glint.teachers.encoder import Encoded, Encoder, Size
from glint.teachers.transformers_encoders import DinoV2, DinoV3, Vjepa2
from glint.teachers.vjepa import VisionTransformer3D
from glint.teachers.vjepa2_1 import Vjepa21

CONFIG_NAME, WEIGHTS_NAME, TEACHER_NAME = "config.json", "model.safetensors", "teacher.json"
ENCODERS: dict[str, type[Encoder]] = {
    kind.family: kind for kind in (VisionTransformer3D, Vjepa21, Vjepa2, DinoV3, DinoV2)
}


@dataclass(frozen=True, kw_only=True)
class TeacherRecord:
    """teacher.json: what a teacher is and what it was made from.

    `windows` are the (low, high) HU of its input channels; stages 08 and 09 must use these.
    """

    name: str
    source: str
    sha256: str
    windows: tuple[tuple[float, float], ...]
    architecture: dict[str, Any]
    grid: tuple[int, int, int]
    patch: tuple[int, int, int]
    width: int
    depth: int
    seed: int
    training_studies: int
    summary: dict[str, float]

    def recipe(self) -> dict[str, Any]:
        """What of a feature cache's recipe follows from the teacher alone: what a reader that has the teacher can check."""
        return {
            "weights": self.sha256,
            "name": self.name,
            "architecture": self.architecture,
            "windows_hu": self.windows,
        }


class FrozenTeacher(nn.Module):
    """An encoder that never trains: gradients are off, and `.train()` leaves it in eval mode.

    Films are volumes of one slice: (B, C, 1, Y, X), grid (1, gy, gx); see `Encoder`.
    """

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder
        self.requires_grad_(False)
        self.eval()

    @property
    def name(self) -> str:
        """The family."""
        return self.encoder.family

    @property
    def grid(self) -> Size:
        """Patches along (z, y, x)."""
        return self.encoder.grid

    @property
    def patch_zyx(self) -> Size:
        """Voxels of one patch."""
        return self.encoder.patch_zyx

    @property
    def width(self) -> int:
        """Token width D."""
        return self.encoder.width

    @property
    def depth(self) -> int:
        """Number of blocks."""
        return self.encoder.depth

    @property
    def architecture(self) -> dict[str, Any]:
        """What fixes the computation besides the weights, as JSON values."""
        return self.encoder.architecture

    def train(self, mode: bool = True) -> FrozenTeacher:
        """Stay in eval mode whatever is asked: a parent's `.train()` must not wake dropout or position jitter."""
        super().train(False)
        return self

    @torch.no_grad()
    def encode(self, volume_BCZYX: Tensor, layers: Iterable[int] = ()) -> Encoded:
        """Final tokens and block outputs of volumes in [0, 1], without gradient."""
        encoded: Encoded = self.encoder(volume_BCZYX, layers=layers)
        return encoded

    def save_weights(self, folder: Path) -> None:
        """Write config.json and model.safetensors."""
        write_encoder(self.encoder, folder)


def description_of(encoder: Encoder) -> dict[str, Any]:
    """Family and architecture: what config.json and a GLINT checkpoint say of an encoder."""
    return {"family": encoder.family, "architecture": encoder.architecture}


def build_encoder(description: Mapping[str, Any]) -> Encoder:
    """The encoder of a `description_of`, with fresh weights.

    Raises:
        InputError: an unknown family, or not an architecture of it.
    """
    family = description.get("family")
    if family not in ENCODERS:
        raise InputError(f"unknown encoder family {family!r}; known: {', '.join(ENCODERS)}")
    try:
        return ENCODERS[family].from_architecture(description["architecture"])
    except (ValidationError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"not a {family} of this version: {' '.join(str(error).split())[:300]}") from error


def write_encoder(encoder: Encoder, folder: Path) -> None:
    """config.json and model.safetensors into an existing folder; weights in float32."""
    from safetensors.torch import save_file

    weights = {name: tensor.detach().float().contiguous() for name, tensor in encoder.state_dict().items()}
    save_file(weights, folder / WEIGHTS_NAME)
    (folder / WEIGHTS_NAME).chmod(0o644)  # safetensors leaves files that only their owner can read
    write_json(folder / CONFIG_NAME, description_of(encoder))


def read_encoder(folder: Path, *, volume_zyx: Size | None = None) -> Encoder:
    """Encoder from a folder of `write_encoder`, for volumes of another shape where one is named.

    Raises:
        InputError: naming the file and what is wrong with it.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    config_path, weights_path = folder / CONFIG_NAME, folder / WEIGHTS_NAME
    for path in (config_path, weights_path):
        if not path.is_file():
            raise InputError(f"{path}: no such file; an encoder folder holds {CONFIG_NAME} and {WEIGHTS_NAME}")
    try:
        described = json.loads(config_path.read_text(encoding="utf-8"))
        if volume_zyx is not None:
            described["architecture"]["volume_zyx"] = list(volume_zyx)
        encoder = build_encoder(described)
        encoder.load_state_dict(load_file(weights_path), strict=True)
    except (KeyError, TypeError, AttributeError, ValueError, RuntimeError, SafetensorError, InputError) as error:
        raise InputError(f"{folder}: not an encoder of this version: {' '.join(str(error).split())[:300]}") from error
    return encoder


def read_record(folder: Path) -> TeacherRecord:
    """teacher.json of a stage-07 folder.

    Raises:
        InputError: it is absent or of another version.
    """
    path = folder / TEACHER_NAME
    if not path.is_file():
        raise InputError(f"{path}: no such file; run the teacher stage first")
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        value["windows"] = tuple((float(low), float(high)) for low, high in value["windows"])
        value["grid"], value["patch"] = tuple(value["grid"]), tuple(value["patch"])
        return TeacherRecord(**value)
    except (json.JSONDecodeError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path}: not a teacher record of this version; run the teacher stage again") from error


def load_teacher(folder: Path) -> tuple[FrozenTeacher, TeacherRecord]:
    """The frozen teacher of a stage-07 folder, and its record.

    Raises:
        InputError: a file is absent, damaged or of an unknown family.
        FingerprintError: the weights are not those of the record.
    """
    record = read_record(folder)
    if record.name not in ENCODERS:
        raise InputError(f"{folder / TEACHER_NAME}: unknown family {record.name!r}; known: {', '.join(ENCODERS)}")
    check_sha256(folder / WEIGHTS_NAME, record.sha256)
    return FrozenTeacher(read_encoder(folder)), record


def check_sha256(path: Path, expected: str) -> None:
    """Raises FingerprintError when the file's SHA-256 is another, InputError when there is no file."""
    if not path.is_file():
        raise InputError(f"{path}: no such weights file")
    if (actual := sha256_file(path)) != expected:
        raise FingerprintError(
            f"{path}: SHA-256 is {actual[:12]}…, expected {expected[:12]}…: the weights were changed or mixed up"
        )

"""Frozen teachers by family name, one protocol for all: `encode(volume, layers)`, `grid`, `width`, `depth`.

A teacher folder (stage 07) holds config.json, model.safetensors and teacher.json, and is complete in itself: nothing
is fetched again when it is opened.
"""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from glint.core.errors import FingerprintError, InputError
from glint.core.provenance import sha256_file
from glint.teachers.vjepa import (
    CONFIG_NAME,
    WEIGHTS_NAME,
    Encoded,
    EncoderConfig,
    VisionTransformer3D,
    check_layers,
    read_encoder,
    write_encoder,
)

TEACHER_NAME = "teacher.json"
NOT_ARCHITECTURE = frozenset({"_name_or_path", "architectures", "transformers_version", "dtype"})
IMAGENET_MEAN, IMAGENET_DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


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


class FrozenTeacher(nn.Module):
    """Never trains: gradients are off, and `.train()` leaves it in eval mode."""

    name: str
    grid: tuple[int, int, int]
    patch_zyx: tuple[int, int, int]
    width: int
    depth: int

    def freeze(self) -> None:
        """No gradients, eval mode; subclasses call it once they are built."""
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> FrozenTeacher:
        """Stay in eval mode whatever is asked: a parent's `.train()` must not wake dropout or position jitter."""
        super().train(False)
        return self

    @property
    @abstractmethod
    def architecture(self) -> dict[str, Any]:
        """What fixes the computation besides the weights, as JSON values."""

    @abstractmethod
    def encode(self, volume_BCZYX: Tensor, layers: Iterable[int] = ()) -> Encoded:
        """Final tokens and block outputs of volumes in [0, 1], without gradient."""

    @abstractmethod
    def save_weights(self, folder: Path) -> None:
        """Write config.json and model.safetensors."""


class SmallVjepa(FrozenTeacher):
    """Our own encoder."""

    name = "vjepa_small"

    def __init__(self, encoder: VisionTransformer3D) -> None:
        super().__init__()
        self.encoder = encoder
        self.grid, self.width, self.depth = encoder.grid, encoder.width, encoder.depth
        self.patch_zyx = encoder.config.patch_zyx
        self.freeze()

    @property
    def architecture(self) -> dict[str, Any]:
        """The encoder's configuration."""
        return self.encoder.config.model_dump(mode="json")

    @torch.no_grad()
    def encode(self, volume_BCZYX: Tensor, layers: Iterable[int] = ()) -> Encoded:
        """Tokens of volumes (B, C, Z, Y, X)."""
        encoded: Encoded = self.encoder(volume_BCZYX, layers=layers)
        return encoded

    def save_weights(self, folder: Path) -> None:
        """Write config.json and model.safetensors."""
        write_encoder(self.encoder, folder)

    @classmethod
    def load(cls, folder: Path) -> SmallVjepa:
        """From a stage-07 folder."""
        return cls(read_encoder(folder))


class HubVjepa2(FrozenTeacher):
    """`transformers` VJEPA2Model with our axes: depth of the volume is its time, height and width its frame.

    Its positions come from `config.crop_size`, not from the input (a smaller frame would silently get wrong places), so
    crop_size is set to the volume's edge; its `hidden_states[0]` is the embedding, so block l is `hidden_states[l + 1]`.
    """

    name = "vjepa2_hub"
    mean: Tensor
    deviation: Tensor

    def __init__(self, model: Any, volume_zyx: tuple[int, int, int]) -> None:
        super().__init__()
        config = model.config
        depth, height, width = volume_zyx
        if height != width or height != config.crop_size or config.in_chans != 3:
            raise InputError(
                f"VJEPA2Model takes 3 channels and square frames, its crop_size is {config.crop_size}; the volumes are "
                f"{volume_zyx} (z, y, x): set resample.grid to a square and teacher.windows to three windows"
            )
        self.model, self.volume_zyx = model, volume_zyx
        self.patch_zyx = (config.tubelet_size, config.patch_size, config.patch_size)
        self.grid = (depth // config.tubelet_size, height // config.patch_size, width // config.patch_size)
        self.width, self.depth = config.hidden_size, config.num_hidden_layers
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN)[:, None, None, None], persistent=False)
        self.register_buffer("deviation", torch.tensor(IMAGENET_DEVIATION)[:, None, None, None], persistent=False)
        self.freeze()

    @property
    def architecture(self) -> dict[str, Any]:
        """The model's own configuration and the volumes it was fitted to."""
        told = json.loads(self.model.config.to_json_string(use_diff=False))
        described = {key: value for key, value in told.items() if key not in NOT_ARCHITECTURE}
        return {"transformers": described, "volume_zyx": list(self.volume_zyx)}

    @torch.no_grad()
    def encode(self, volume_BCZYX: Tensor, layers: Iterable[int] = ()) -> Encoded:
        """Tokens of volumes (B, 3, Z, Y, X); the model's own image normalisation is applied here."""
        wanted = check_layers(layers, self.depth)
        frames_BTCHW = ((volume_BCZYX - self.mean) / self.deviation).transpose(1, 2)
        output = self.model(pixel_values_videos=frames_BTCHW, skip_predictor=True, output_hidden_states=bool(wanted))
        hidden = {layer: output.hidden_states[layer + 1] for layer in sorted(wanted)}
        return Encoded(patch_tokens_BND=output.last_hidden_state, hidden=hidden)

    def save_weights(self, folder: Path) -> None:
        """Write config.json and model.safetensors as `transformers` does."""
        self.model.save_pretrained(folder, safe_serialization=True)

    @classmethod
    def fetch(cls, location: str, volume_zyx: tuple[int, int, int], *, revision: str | None = None) -> HubVjepa2:
        """From the local transformers cache or a local folder; never from the network.

        Raises:
            InputError: the weights are not on this machine.
        """
        from transformers import VJEPA2Config, VJEPA2Model

        fitting = {"crop_size": volume_zyx[2], "frames_per_clip": volume_zyx[0]}
        try:
            config = VJEPA2Config.from_pretrained(location, revision=revision, local_files_only=True, **fitting)
            model = VJEPA2Model.from_pretrained(location, revision=revision, local_files_only=True, config=config)
        except (OSError, ValueError) as error:
            raise InputError(
                f"teacher.location {location!r}: these weights are not on this machine; fetch them where there is network with "
                f"'hf download {location}', or set teacher.source to pretrain"
            ) from error
        return cls(model, volume_zyx)

    @classmethod
    def load(cls, folder: Path) -> HubVjepa2:
        """From a stage-07 folder, which holds the weights."""
        z, y, x = read_record(folder).architecture["volume_zyx"]
        return cls.fetch(str(folder), (z, y, x))


FAMILIES: dict[str, Callable[[Path], FrozenTeacher]] = {
    SmallVjepa.name: SmallVjepa.load,
    HubVjepa2.name: HubVjepa2.load,
}


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
    if record.name not in FAMILIES:
        raise InputError(f"{folder / TEACHER_NAME}: unknown family {record.name!r}; known: {', '.join(FAMILIES)}")
    check_sha256(folder / WEIGHTS_NAME, record.sha256)
    return FAMILIES[record.name](folder), record


def check_sha256(path: Path, expected: str) -> None:
    """Raises FingerprintError when the file's SHA-256 is another, InputError when there is no file."""
    if not path.is_file():
        raise InputError(f"{path}: no such weights file")
    if (actual := sha256_file(path)) != expected:
        raise FingerprintError(
            f"{path}: SHA-256 is {actual[:12]}…, expected {expected[:12]}…: the weights were changed or mixed up"
        )


def encoder_from_path(location: Path, config: EncoderConfig, *, sha256: str | None) -> VisionTransformer3D:
    """Our encoder from a folder (with its own config.json), a .safetensors or a .pt file of its state dict.

    `sha256` pins the weights file. Raises InputError for what can't be read, FingerprintError for other weights.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    weights = location / WEIGHTS_NAME if location.is_dir() else location
    if sha256 is not None:
        check_sha256(weights, sha256)
    if location.is_dir():
        return read_encoder(location)
    if not location.is_file() or location.suffix not in {".safetensors", ".pt", ".pth"}:
        raise InputError(
            f"{location}: teacher.location must be a folder with {CONFIG_NAME}, a .safetensors or a .pt file"
        )
    try:
        state = (
            load_file(location)
            if location.suffix == ".safetensors"
            else torch.load(location, map_location="cpu", weights_only=True)
        )
        encoder = VisionTransformer3D(config)
        encoder.load_state_dict(state, strict=True)
    except (SafetensorError, RuntimeError, TypeError, AttributeError, EOFError, OSError, ValueError) as error:
        raise InputError(f"{location}: no weights of teacher.encoder: {' '.join(str(error).split())[:200]}") from error
    except Exception as error:  # torch.load: pickle.UnpicklingError, which weights_only raises for anything but tensors
        raise InputError(f"{location}: not a file of plain tensors; save a state dict") from error
    return encoder

"""Weights from where a configuration says they lie: a stage-07 folder, a `transformers` folder, a file, the hub's local cache.

Nothing is fetched here: stages run where there is no network. `glint teachers fetch` fetches.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from glint.core.config.families import FAMILIES, PUBLISHED, Published, published_at
from glint.core.errors import InputError
from glint.teachers.encoder import Encoder, Size, Triple
from glint.teachers.registry import CONFIG_NAME, ENCODERS, WEIGHTS_NAME, check_sha256, read_encoder
from glint.teachers.transformers_encoders import TransformersEncoder
from glint.teachers.vjepa import EncoderConfig, VisionTransformer3D
from glint.teachers.vjepa2_1 import Vjepa21, encoder_of_checkpoint

PREPROCESSOR_NAME = "preprocessor_config.json"
TORCH_SUFFIXES = frozenset({".pt", ".pth", ".bin"})
WEIGHT_FILES = (WEIGHTS_NAME, "pytorch_model.bin")
HUB_FILES = (CONFIG_NAME, PREPROCESSOR_NAME, *WEIGHT_FILES)


def open_encoder(
    name: str,
    source: str,
    location: str,
    volume_zyx: Size,
    *,
    revision: str | None = None,
    sha256: str | None = None,
    small: EncoderConfig | None = None,
) -> Encoder:
    """The encoder of family `name` with the weights at `location`, for volumes of one shape.

    Args:
        name: Family.
        source: `path` or `hub`.
        location: Folder, weights file or hub id.
        volume_zyx: Voxels of the volumes; a film has one slice.
        revision: Commit of a hub model.
        sha256: Pin of the weights file, refused if different.
        small: Shape of our own encoder, for weights files without a config.json.

    Raises:
        InputError: absent, unreadable, foreign or incomplete weights, or sizes that don't fit.
        FingerprintError: the file is not the pinned one.
    """
    place = hub_folder(location, revision) if source == "hub" else Path(location)
    weights = weights_file(place)
    if sha256 is not None:
        check_sha256(weights, sha256)
    try:
        encoder = _opened(name, place, weights, volume_zyx, small)
    except InputError as error:
        raise InputError(f"{place}: {error}" if str(place) not in str(error) else str(error)) from error
    if encoder.family != name:
        raise InputError(f"{place}: holds a {encoder.family}, teacher.name says {name}")
    if (known := published_at(location)) and (encoder.width, encoder.depth) != (known[1].width, known[1].depth):
        raise InputError(
            f"{place}: width {encoder.width} and {encoder.depth} blocks, {known[0]} has {known[1].width} and {known[1].depth}"
        )
    return encoder


def _opened(name: str, place: Path, weights: Path, volume_zyx: Size, small: EncoderConfig | None) -> Encoder:
    config_path = weights.parent / CONFIG_NAME
    described = _json(config_path) if config_path.is_file() else {}
    if "family" in described and weights.name == WEIGHTS_NAME:
        return read_encoder(weights.parent, volume_zyx=volume_zyx)
    kind = ENCODERS[name]
    state = tensors_of(weights)
    if kind is Vjepa21:
        return encoder_of_checkpoint(state, volume_zyx)
    if issubclass(kind, TransformersEncoder):
        if not described:
            raise InputError(
                f"{config_path}: no such file; {name} weights need the config.json they were published with"
            )
        return kind.filled(described, state, volume_zyx, **input_statistics(weights.parent))
    if place.is_dir() or small is None:
        raise InputError(f"{place}: no encoder folder of this version; teacher.location must hold {CONFIG_NAME}")
    return _small(small, state)


def _small(config: EncoderConfig, state: Mapping[str, Any]) -> Encoder:
    encoder = VisionTransformer3D(config)
    try:
        encoder.load_state_dict(state, strict=True)
    except (RuntimeError, TypeError, AttributeError) as error:
        raise InputError(f"no weights of teacher.encoder: {' '.join(str(error).split())[:200]}") from error
    return encoder


def weights_file(place: Path) -> Path:
    """The file that holds the weights of a folder, or the file itself.

    Raises:
        InputError: neither.
    """
    if place.is_dir():
        found = next((place / name for name in WEIGHT_FILES if (place / name).is_file()), None)
        if found is None:
            raise InputError(f"{place}: no {' or '.join(WEIGHT_FILES)} in this folder")
        return found
    if not place.exists():
        raise InputError(
            f"{place}: no such file or folder" + (f"; {way_out(str(place))}" if published_at(str(place)) else "")
        )
    if not place.is_file() or place.suffix not in {".safetensors", *TORCH_SUFFIXES}:
        raise InputError(f"{place}: teacher.location must be a folder with {CONFIG_NAME}, a .safetensors or a .pt file")
    return place


def tensors_of(path: Path) -> Mapping[str, Any]:
    """What a weights file holds: tensors by name, or a trainer's checkpoint. Code in it is never run.

    Raises:
        InputError: damaged, or with objects that are no plain tensors.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        if path.suffix == ".safetensors":
            tensors: dict[str, Any] = load_file(path)
            return tensors
        # Mapped, so that a trainer's optimiser and predictor stay on disk; older files can't be.
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except (SafetensorError, RuntimeError, EOFError, OSError, ValueError) as error:
        raise InputError(f"{path}: no readable weights: {' '.join(str(error).split())[:200]}") from error
    except Exception as error:  # torch.load: pickle.UnpicklingError, which weights_only raises for anything but tensors
        raise InputError(f"{path}: not a file of plain tensors; save a state dict") from error
    if not isinstance(state, Mapping):
        raise InputError(f"{path}: holds a {type(state).__name__}, not tensors by name; save a state dict")
    return state


def input_statistics(folder: Path) -> dict[str, Triple]:
    """Mean and deviation of a published model's input from its preprocessor_config.json; empty: ImageNet's, the family's default.

    Raises:
        InputError: the file is damaged.
    """
    path = folder / PREPROCESSOR_NAME
    if not path.is_file():
        return {}
    value = _json(path)
    found: dict[str, Triple] = {}
    for ours, theirs in (("mean", "image_mean"), ("deviation", "image_std")):
        numbers = value.get(theirs)
        if numbers is None:
            continue
        if not isinstance(numbers, list) or len(numbers) != 3 or (ours == "deviation" and min(numbers) <= 0):
            raise InputError(f"{path}: {theirs} must be three numbers")
        found[ours] = (float(numbers[0]), float(numbers[1]), float(numbers[2]))
    return found


def _json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not JSON") from error
    if not isinstance(value, dict):
        raise InputError(f"{path}: not a JSON object")
    return value


def hub_folder(location: str, revision: str | None) -> Path:
    """The folder of a hub model in this machine's cache; a local folder is taken as it is.

    Raises:
        InputError: it is not in the cache.
    """
    if Path(location).is_dir():
        return Path(location)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return Path(
            snapshot_download(location, revision=revision, local_files_only=True, allow_patterns=list(HUB_FILES))
        )
    except (LocalEntryNotFoundError, HFValidationError, OSError, ValueError) as error:
        at = f" at revision {revision}" if revision else ""
        raise InputError(f"teacher.location {location!r}: not on this machine{at}; {way_out(location)}") from error


def way_out(location: str) -> str:
    """What to do for weights that are not here: how they are fetched, and what stands in where they are refused."""
    known = published_at(location)
    text = f"fetch them where there is network: glint teachers fetch {known[0] if known else location}"
    if known and known[1].gated:
        text += f" (gated: accept its licence at https://huggingface.co/{location} and log in with `hf auth login`)"
    return f"{text}; or {fallback(known[1] if known else None)}"


def fallback(entry: Published | None) -> str:
    """The ungated weights that can take the place, or pretraining here."""
    if entry is not None and entry.instead is not None:
        other = PUBLISHED[entry.instead]
        return f"take {entry.instead} instead: teacher.name {other.family}, teacher.location {other.location}"
    return "set teacher.source to pretrain" + ("" if entry is None else f" (name {next(iter(FAMILIES))})")

"""Checkpoint files: tensors as safetensors, everything else as JSON, never a pickle.

A checkpoint folder holds `model.safetensors`, `config.json`, `fingerprint.json`, `text_encoder.json`. A training state is
one safetensors file whose header carries JSON, so that a single rename makes it whole.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from glint.core.atomic import atomic_directory, atomic_file, write_json
from glint.core.errors import InputError

WEIGHTS, CONFIG, FINGERPRINT, TEXT = "model.safetensors", "config.json", "fingerprint.json", "text_encoder.json"
STATE_KEY = "glint_state"


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """What a checkpoint folder holds: weights by name, the resolved config, what it was made from, the text encoder."""

    tensors: Mapping[str, Tensor]
    config: Mapping[str, Any]
    fingerprint: Mapping[str, Any]
    text_encoder: Mapping[str, Any]


def write_checkpoint(folder: Path, checkpoint: Checkpoint, *, more: Mapping[str, bytes] | None = None) -> None:
    """Write the folder whole; `more` adds files by name (curves, figures)."""
    from safetensors.torch import save_file

    with atomic_directory(folder) as temporary:
        save_file(
            {name: tensor.detach().cpu().contiguous() for name, tensor in checkpoint.tensors.items()},
            temporary / WEIGHTS,
        )
        write_json(temporary / CONFIG, dict(checkpoint.config))
        write_json(temporary / FINGERPRINT, dict(checkpoint.fingerprint))
        write_json(temporary / TEXT, dict(checkpoint.text_encoder))
        for name, content in (more or {}).items():
            (temporary / name).write_bytes(content)


def read_checkpoint(folder: Path) -> Checkpoint:
    """Read a folder of `write_checkpoint` onto the CPU.

    Raises:
        InputError: a file is absent or unreadable.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    for name in (WEIGHTS, CONFIG, FINGERPRINT, TEXT):
        if not (folder / name).is_file():
            raise InputError(
                f"{folder / name}: no such file; a GLINT checkpoint is the folder that `glint train` writes"
            )
    try:
        tensors = load_file(folder / WEIGHTS)
        config, fingerprint, text = (
            json.loads((folder / name).read_text("utf-8")) for name in (CONFIG, FINGERPRINT, TEXT)
        )
    except (SafetensorError, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(
            f"{folder}: damaged checkpoint ({' '.join(str(error).split())[:200]}); train it again"
        ) from error
    return Checkpoint(tensors=tensors, config=config, fingerprint=fingerprint, text_encoder=text)


def write_state(path: Path, tensors: Mapping[str, Tensor], record: Mapping[str, Any]) -> None:
    """Save a training state atomically: a kill leaves the former state or this one, never half of either."""
    from safetensors.torch import save_file

    with atomic_file(path) as temporary:
        held = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        save_file(held, temporary, metadata={STATE_KEY: json.dumps(record)})


def read_state(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and record of `write_state`.

    Raises:
        InputError: not such a file.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as handle:
            record = json.loads((handle.metadata() or {})[STATE_KEY])
            return {name: handle.get_tensor(name) for name in handle.keys()}, record  # noqa: SIM118 (no mapping)
    except (SafetensorError, KeyError, json.JSONDecodeError) as error:
        raise InputError(f"{path}: not a training state; remove it to start training anew") from error

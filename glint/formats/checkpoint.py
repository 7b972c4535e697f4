"""Checkpoint files: tensors as safetensors, everything else as JSON, never a pickle.

A checkpoint folder needs nothing beside itself:

| file | holds |
|---|---|
| `model.safetensors`, `config.json` | the model's own weights, and what it takes to build it |
| `text_encoder/` | sentence encoder and tokenizer, a folder that transformers loads (no weights where `model.safetensors` has them) |
| `preprocessor_config.json` | how a scan becomes the model's grid: windows, grid, the slices of stages 03 and 04 |
| `label_prompts.json` | finding → the sentences that ask for it |
| `calibration.json` | what turns scores and gates into probabilities and masks |
| `fingerprint.json` | what it was made from, and the SHA-256 of its weights |
| `README.md` | the model card |

A training state is one safetensors file whose header carries JSON, so that a single rename makes it whole.
"""

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError
from torch import Tensor

from glint.core.atomic import atomic_directory, atomic_file, write_json
from glint.core.config.base import StageConfig
from glint.core.errors import FingerprintError, InputError
from glint.core.provenance import sha256_file

WEIGHTS, CONFIG, FINGERPRINT, TEXT_FOLDER = "model.safetensors", "config.json", "fingerprint.json", "text_encoder"
PREPROCESSING, PROMPTS, CALIBRATION, CARD = (
    "preprocessor_config.json", "label_prompts.json", "calibration.json", "README.md",
)  # fmt: skip
NEEDED = (WEIGHTS, CONFIG, FINGERPRINT, PREPROCESSING, PROMPTS, CALIBRATION)
WEIGHTS_SHA256, TEXT_SHA256 = "weights_sha256", "text_encoder_sha256"
STATE_KEY = "glint_state"


class Preprocessing(StageConfig):
    """From a scan to the model's input. Sizes are (z, y, x)."""

    modality: Literal["ct", "cxr"] = Field(default="ct", description="what the images are")
    windows: tuple[tuple[float, float], ...] = Field(
        description="(low, high) of each input channel, HU for CT, taken to 0 and 1"
    )
    volume: tuple[int, ...] = Field(description="voxels of the model's grid")
    patch: tuple[int, ...] = Field(description="voxels of a patch")
    grid: tuple[int, ...] = Field(description="patches of a volume")
    convert: dict[str, Any] = Field(default={}, description="section `convert` of the training's configuration")
    resample: dict[str, Any] = Field(default={}, description="section `resample`, with the grid's spacing")


class Calibration(StageConfig):
    """A score's probability is sigma(score_scale * s + score_bias); a mask is sigma(z + mask_offset) > 0.5."""

    score_scale: float = Field(description="factor on the score")
    score_bias: float = Field(description="added to the scaled score")
    mask_offset: float = Field(description="added to a gate's logit; minus the learned bias: likelihood ratio above 1")
    fitted_on: Literal["training", "validation"] = Field(default="training", description="where the numbers come from")
    findings: dict[str, dict[str, float]] = Field(
        default={}, description="finding → numbers of its own by name, where a validation set gave some"
    )


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """What a checkpoint folder holds.

    `tensors`: weights by name. `config`: what builds the model. `label_prompts`: finding → {"present": …, "absent": …}.
    `text_files`: name in `text_encoder/` → the file that is copied there, or that lies there.
    """

    tensors: Mapping[str, Tensor]
    config: Mapping[str, Any]
    fingerprint: Mapping[str, Any]
    preprocessing: Preprocessing
    calibration: Calibration
    label_prompts: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    text_files: Mapping[str, Path] = field(default_factory=dict)


def write_checkpoint(folder: Path, checkpoint: Checkpoint, *, more: Mapping[str, bytes] | None = None) -> None:
    """Write the folder whole; `more` adds files by name (model card, curves, figures)."""
    from safetensors.torch import save_file

    with atomic_directory(folder) as temporary:
        save_file(
            {name: tensor.detach().cpu().contiguous() for name, tensor in checkpoint.tensors.items()},
            temporary / WEIGHTS,
            metadata={"format": "pt"},
        )
        for name, source in checkpoint.text_files.items():
            target = temporary / TEXT_FOLDER / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)
        weights = {WEIGHTS_SHA256: temporary / WEIGHTS, TEXT_SHA256: temporary / TEXT_FOLDER / WEIGHTS}
        sha256 = {name: sha256_file(path) for name, path in weights.items() if path.is_file()}
        write_json(temporary / CONFIG, dict(checkpoint.config))
        write_json(temporary / FINGERPRINT, {**checkpoint.fingerprint, **sha256})
        write_json(temporary / PREPROCESSING, checkpoint.preprocessing.model_dump(mode="json"))
        write_json(temporary / PROMPTS, {name: dict(prompts) for name, prompts in checkpoint.label_prompts.items()})
        write_json(temporary / CALIBRATION, checkpoint.calibration.model_dump(mode="json"))
        for name, content in (more or {}).items():
            (temporary / name).write_bytes(content)


def read_checkpoint(folder: Path) -> Checkpoint:
    """Read a folder of `write_checkpoint` onto the CPU.

    Raises:
        InputError: a file is absent or unreadable.
        FingerprintError: weights are not those that were written with the fingerprint.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not folder.is_dir():
        raise InputError(
            f"{folder}: no such folder; a GLINT checkpoint is the folder that `glint train` writes "
            "(one on a hub: `hf download OWNER/NAME --local-dir FOLDER` first)"
        )
    for name in NEEDED:
        if not (folder / name).is_file():
            raise InputError(
                f"{folder / name}: no such file; a GLINT checkpoint is the folder that `glint train` writes"
            )
    try:
        tensors = load_file(folder / WEIGHTS)
        config, fingerprint, prompts = (
            json.loads((folder / name).read_text("utf-8")) for name in (CONFIG, FINGERPRINT, PROMPTS)
        )
        preprocessing = Preprocessing.model_validate_json((folder / PREPROCESSING).read_bytes())
        calibration = Calibration.model_validate_json((folder / CALIBRATION).read_bytes())
    except (SafetensorError, json.JSONDecodeError, UnicodeDecodeError, ValidationError) as error:
        raise InputError(
            f"{folder}: damaged checkpoint ({' '.join(str(error).split())[:200]}); train it again"
        ) from error
    check_weights(folder, fingerprint)
    text_folder = folder / TEXT_FOLDER
    return Checkpoint(
        tensors=tensors,
        config=config,
        fingerprint=fingerprint,
        preprocessing=preprocessing,
        calibration=calibration,
        label_prompts=prompts,
        text_files={
            str(path.relative_to(text_folder)): path for path in sorted(text_folder.rglob("*")) if path.is_file()
        },
    )


def check_weights(folder: Path, fingerprint: Mapping[str, Any]) -> None:
    """Refuse weights that were changed, mixed up or left behind since the fingerprint was written.

    Raises:
        InputError: the sentence encoder's weights are absent.
        FingerprintError: a SHA-256 differs.
    """
    for name, path in ((WEIGHTS_SHA256, folder / WEIGHTS), (TEXT_SHA256, folder / TEXT_FOLDER / WEIGHTS)):
        if name not in fingerprint:
            continue
        if not path.is_file():
            raise InputError(f"{path}: no such file; copy the whole checkpoint folder")
        if (found := sha256_file(path)) != fingerprint[name]:
            raise FingerprintError(
                f"{path}: SHA-256 is {found[:12]}…, {FINGERPRINT} says {str(fingerprint[name])[:12]}…; "
                "copy the checkpoint folder again, whole"
            )


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

"""A trained GLINT from its folder, and back."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from glint.core.config.train import TextConfig, TrainConfig
from glint.core.errors import InputError
from glint.formats.checkpoint import Checkpoint, read_checkpoint
from glint.model.glint import ARMS, Arm, Glint
from glint.model.student import Student
from glint.model.text_encoder import SentenceEncoder, load_sentence_encoder
from glint.teachers.vjepa import EncoderConfig


def checkpoint_of(model: Glint, *, fingerprint: Mapping[str, Any], input_recipe: Mapping[str, Any]) -> Checkpoint:
    """Everything `load_glint` needs but a frozen sentence encoder, which is named with its SHA-256 instead."""
    config = {
        "arm": model.arm,
        "encoder": model.student.encoder.config.model_dump(mode="json"),
        "input": dict(input_recipe),
        "train": model.config.model_dump(mode="json"),
    }
    return Checkpoint(
        tensors=model.state_dict(),
        config=config,
        fingerprint=fingerprint,
        text_encoder=model.config.text.model_dump(mode="json"),
    )


def load_glint(folder: Path | str, *, sentence_encoder: SentenceEncoder | None = None) -> Glint:
    """The model of a checkpoint folder, on the CPU, in eval mode; every weight must fit.

    `sentence_encoder` takes the place of the one that `text_encoder.json` names.

    Raises:
        InputError: the folder is no checkpoint of this version.
        FingerprintError: the sentence encoder's weights are not those of training.
    """
    checkpoint = read_checkpoint(Path(folder))
    try:
        config = TrainConfig.model_validate(checkpoint.config["train"], strict=False)
        encoder_config = EncoderConfig.model_validate(checkpoint.config["encoder"])
        text = TextConfig.model_validate(checkpoint.text_encoder, strict=False)
        arm: Arm = checkpoint.config["arm"]
        if arm not in ARMS:
            raise ValueError(f"unknown arm {arm!r}")
        student = Student(encoder_config, adapter_blocks=config.model.adapter_blocks)
        model = Glint(
            config, arm=arm, student=student, sentence_encoder=sentence_encoder or load_sentence_encoder(text)
        )
        model.load_state_dict(dict(checkpoint.tensors), strict=True)
    except (ValidationError, KeyError, ValueError, RuntimeError) as error:
        raise InputError(
            f"{folder}: not a checkpoint of this version ({' '.join(str(error).split())[:200]}); train it again"
        ) from error
    return model.eval()

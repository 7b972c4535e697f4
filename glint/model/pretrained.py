"""A trained GLINT from its folder, and back."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from glint.core.config.train import TextConfig, TrainConfig
from glint.core.errors import InputError
from glint.core.prompts import finding_prompt
from glint.formats.checkpoint import TEXT_FOLDER, Calibration, Checkpoint, Preprocessing, read_checkpoint
from glint.model.glint import Glint
from glint.model.student import Student
from glint.model.text_encoder import SentenceEncoder, TransformerSentenceEncoder, load_sentence_encoder
from glint.teachers.registry import build_encoder, description_of

MODEL_TYPE = "glint"


def label_prompts(findings: Sequence[str]) -> dict[str, dict[str, str]]:
    """Finding → the sentences that state and deny it, those of training."""
    return {
        finding: {"present": finding_prompt(finding), "absent": finding_prompt(finding, absent=True)}
        for finding in findings
    }


def calibration_of(model: Glint) -> Calibration:
    """What training itself knows: the sigmoid loss fits scale and bias; a mask opens where the evidence outweighs the prior."""
    return Calibration(
        score_scale=model.sigmoid_scale.item(),
        score_bias=model.sigmoid_bias.item(),
        mask_offset=-model.pooling.bias(model).item(),
    )


def checkpoint_of(
    model: Glint, *, fingerprint: Mapping[str, Any], preprocessing: Preprocessing, findings: Sequence[str]
) -> Checkpoint:
    """Everything `load_glint` needs; `findings` are those that label prompts are written for."""
    encoder, trained_with = model.text.sentence_encoder, model.config.model_dump(mode="json")
    if model.config.text.source == "path" and model.config.text.in_checkpoint:
        trained_with["text"]["name"] = Path(model.config.text.name).name  # where it lay tells of the machine alone
    config = {
        "model_type": MODEL_TYPE,
        "architectures": ["Glint"],
        "encoder": description_of(model.student.encoder),
        "train": trained_with,
    }
    text, held = model.config.text, {}
    if isinstance(encoder, TransformerSentenceEncoder) and (text.in_checkpoint or text.trainable):
        held = encoder.files(weights=not text.trainable)
    return Checkpoint(
        tensors=model.state_dict(),
        config=config,
        fingerprint=fingerprint,
        preprocessing=preprocessing,
        calibration=calibration_of(model),
        label_prompts=label_prompts(findings),
        text_files=held,
    )


def _sentence_encoder(folder: Path, text: TextConfig) -> TransformerSentenceEncoder:
    """The encoder in the folder, or the one that the folder names."""
    if not (text.in_checkpoint or text.trainable):
        return load_sentence_encoder(text)
    inside = str(folder / TEXT_FOLDER)
    encoder = TransformerSentenceEncoder(inside, max_tokens=text.max_tokens, weights=not text.trainable)
    return encoder.requires_grad_(text.trainable)


def load_glint(folder: Path | str, *, sentence_encoder: SentenceEncoder | None = None) -> Glint:
    """The model of a checkpoint folder, on the CPU, in eval mode; every weight must fit. Nothing is fetched, but
    for a sentence encoder from a hub that `train.text.in_checkpoint: false` left outside.

    `sentence_encoder` takes the place of the one in the folder.

    Raises:
        InputError: the folder is no checkpoint of this version.
        FingerprintError: weights are not those of training.
    """
    checkpoint = read_checkpoint(Path(folder))
    try:
        config = TrainConfig.model_validate(checkpoint.config["train"], strict=False)
        student = Student(build_encoder(checkpoint.config["encoder"]), adapter_blocks=config.model.adapter_blocks)
        sentence_encoder = sentence_encoder or _sentence_encoder(Path(folder), config.text)
        model = Glint(config, student=student, sentence_encoder=sentence_encoder)
        model.load_state_dict(dict(checkpoint.tensors), strict=True)
    except (InputError, ValidationError, KeyError, TypeError, ValueError, RuntimeError, OSError) as error:
        raise InputError(
            f"{folder}: not a checkpoint of this version ({' '.join(str(error).split())[:200]}); train it again"
        ) from error
    model.preprocessing, model.calibration = checkpoint.preprocessing, checkpoint.calibration
    model.label_prompts = {name: dict(prompts) for name, prompts in checkpoint.label_prompts.items()}
    return model.eval()

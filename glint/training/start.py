"""A model before its first step: the teacher's weights, heads fitted to the training data's statistics."""

from collections.abc import Mapping
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor

from glint.core.config.train import ModelConfig, TrainConfig
from glint.core.errors import ConfigError
from glint.core.seeds import derived_seed
from glint.formats.checkpoint import Preprocessing
from glint.model.glint import Glint
from glint.model.low_rank import add_low_rank
from glint.model.student import Student
from glint.model.text_encoder import SentenceEncoder
from glint.teachers.registry import FrozenTeacher, TeacherRecord
from glint.training.dataset import StudySet

WHITENING_TOKENS = 100_000


def new_model(
    config: TrainConfig, *, teacher: FrozenTeacher, sentence_encoder: SentenceEncoder, training: StudySet
) -> Glint:
    """The model at step 0, the same for the same seed and data. Leaves the global generator as it found it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derived_seed(config.seed, "model"))
        student = Student.from_teacher(teacher.encoder, adapter_blocks=config.model.adapter_blocks)
        model = Glint(config, student=student, sentence_encoder=sentence_encoder)
        model.text.fit_standardisation(training.queries.texts)
        last = model.student.encoder.depth - 1
        if config.model.whiten_ridge is not None:
            resting_ND = model.student.resting_tokens(some_tokens(training, last))
            model.whiten_heads(resting_ND, ridge=config.model.whiten_ridge)
        adapt(model.student, config.model)
    return model


def adapt(student: Student, config: ModelConfig) -> None:
    """Leave to the encoder what of it may learn: everything, low-rank updates of its blocks, or nothing."""
    if config.adaptation == "lora":
        add_low_rank(student.encoder, student.encoder.blocks, rank=config.lora_rank, alpha=config.lora_alpha)
    elif config.adaptation == "frozen":
        student.encoder.requires_grad_(False)


def some_tokens(training: StudySet, block: int) -> Tensor:
    """(N, D) tokens of a block, evenly drawn from all studies, at most `WHITENING_TOKENS`.

    Raises:
        ConfigError: the studies come without teacher.
    """
    if training.teacher is None:
        raise ConfigError("train.model.whiten_ridge: needs the teacher's tokens; set it to null, or give them")
    patches = training.weight_BP.shape[1]
    stride = -(-len(training) * patches // WHITENING_TOKENS)
    found = []
    for row in range(len(training)):
        first = -row * patches % stride
        if first < patches:
            found.append(training.teacher.read([block], [row])[block][0, first::stride].cpu())
    return torch.cat(found)


def preprocessing_of(teacher: TeacherRecord, preparation: Mapping[str, Any]) -> Preprocessing:
    """How a scan becomes the input of `teacher` and of its student; `preparation` are the sections of stages 03 and 04.

    Raises:
        ConfigError: `preparation` names something else.
    """
    volume = tuple(count * edge for count, edge in zip(teacher.grid, teacher.patch, strict=True))
    try:
        return Preprocessing.model_validate(
            {
                **preparation,
                "windows": teacher.windows,
                "volume": volume,
                "patch": tuple(teacher.patch),
                "grid": tuple(teacher.grid),
            }
        )
    except ValidationError as error:
        raise ConfigError(f"--preparation: {' '.join(str(error).split())[:200]}") from error

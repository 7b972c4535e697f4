"""A tiny cohort: noise volumes with whole-patch lesions of their own brightness, and reports that name them."""

import numpy as np
import polars as pl
import torch
from sentence_stub import BagOfWords

from glint.core.config.train import SentenceConfig, TrainConfig
from glint.model.glint import Glint
from glint.prepare.resample import window_channels
from glint.prepare.sections.sentence_identity import sentence_class
from glint.teachers.registry import FrozenTeacher
from glint.teachers.vjepa import EncoderConfig, VisionTransformer3D
from glint.training.dataset import StudySet, study_texts
from glint.training.start import new_model
from glint.training.teacher_tokens import PLAIN

GRID, PATCH = (24, 24, 32), (8, 8, 8)
PATCHES = 36
FINDINGS = {"mass": 600, "pleural_effusion": -400, "emphysema": -980}
ENCODER = EncoderConfig(volume_zyx=GRID, patch_zyx=PATCH, width=48, depth=2, heads=1)
WINDOWS = ((-1400.0, -200.0), (-150.0, 350.0), (-1000.0, 1000.0))


def cohort(studies: int, *, seed: int = 0) -> tuple[np.ndarray, np.ndarray, pl.DataFrame, pl.DataFrame]:
    """Volumes (study, z, y, x), lesions (study, finding, patch), sentences, findings."""
    rng = np.random.default_rng(seed)
    volume = rng.normal(0, 60, (studies, *GRID)).astype(np.int16)
    lesion = np.zeros((studies, len(FINDINGS), PATCHES), dtype=bool)
    said, stated = [], []
    for study in range(studies):
        for number, (finding, hu) in enumerate(FINDINGS.items()):
            present = rng.random() < 0.4
            if present:
                for patch in rng.choice(PATCHES, size=2, replace=False):
                    lesion[study, number, patch] = True
                    z, y, x = (8 * int(i) for i in np.unravel_index(patch, (3, 3, 4)))
                    volume[study, z : z + 8, y : y + 8, x : x + 8] += np.int16(hu)
            elif rng.random() < 0.5:
                continue
            text = f"{'' if present else 'no '}{finding.replace('_', ' ')} is seen"
            said.append((f"s{study}", number, text, sentence_class(text)))
            stated.append((f"s{study}", number, finding, "present" if present else "absent", None, None))
    text = pl.String
    sentences = {"study_id": text, "sentence_index": pl.Int64, "text": text, "sentence_class": text}
    findings = {"study_id": text, "sentence_index": pl.Int64}
    findings |= dict.fromkeys(("finding", "polarity", "laterality", "region"), text)
    return (
        volume,
        lesion,
        pl.DataFrame(said, orient="row", schema=sentences),
        pl.DataFrame(stated, orient="row", schema=findings),
    )


class HeldTokens:
    """What a cache would give, from memory: float16 tokens of the volumes as they are."""

    def __init__(self, tokens):
        self.tokens = tokens

    def read(self, blocks, rows, view=PLAIN):
        assert view == PLAIN
        return {block: self.tokens[block][list(rows)].float() for block in blocks}


def study_set(
    studies: int, *, seed: int = 0, sentences: SentenceConfig | None = None, teacher: FrozenTeacher | None = None
) -> tuple[StudySet, np.ndarray]:
    """The studies, and their lesions as (study, finding, patch) booleans."""
    volume, lesion, said, stated = cohort(studies, seed=seed)
    ids = [f"s{study}" for study in range(studies)]
    statements, queries = study_texts(said, stated, ids, sentences or SentenceConfig())
    tokens = None
    if teacher is not None:
        channels = torch.from_numpy(np.stack([window_channels(one, WINDOWS) for one in volume]))
        tokens = HeldTokens(
            {block: one.half() for block, one in teacher.encode(channels, layers=(0, 1)).hidden.items()}
        )
    return (
        StudySet(
            study_ids=tuple(ids),
            volume_BZYX=volume,
            weight_BP=np.ones((studies, PATCHES), dtype=np.float32),
            windows=WINDOWS,
            statements=statements,
            queries=queries,
            teacher=tokens,
            findings=tuple(FINDINGS),
        ),
        lesion,
    )


def small_teacher() -> FrozenTeacher:
    torch.manual_seed(11)
    return FrozenTeacher(VisionTransformer3D(ENCODER))


def small_model(config: TrainConfig, training: StudySet, *, pooling: str | None = None) -> Glint:
    if pooling is not None:
        config = config.model_copy(update={"model": config.model.model_copy(update={"pooling": pooling})})
    return new_model(config, teacher=small_teacher(), sentence_encoder=BagOfWords(), training=training)

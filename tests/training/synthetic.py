"""A tiny cohort: noise volumes with whole-patch lesions of their own brightness, and reports that name them."""

import numpy as np
import polars as pl
import torch
from sentence_stub import BagOfWords

from glint.core.config.train import SentenceConfig, TrainConfig
from glint.model.glint import Arm, Glint
from glint.model.student import Student
from glint.prepare.sections.sentence_classes import sentence_class
from glint.teachers.vjepa import EncoderConfig, VisionTransformer3D
from glint.training.dataset import StudySet, study_texts

GRID, PATCH = (24, 24, 32), (8, 8, 8)
PATCHES = 36
FINDINGS = {"mass": 600, "pleural_effusion": -400, "emphysema": -980}
ENCODER = EncoderConfig(volume_zyx=GRID, patch_zyx=PATCH, width=48, depth=2, heads=1)
WINDOWS = ((-1400.0, -200.0), (-150.0, 350.0), (-1000.0, 1000.0))


def study_set(studies: int, *, seed: int = 0, sentences: SentenceConfig | None = None, teacher: bool = False) -> tuple[StudySet, np.ndarray]:
    """The studies, and their lesions as (study, finding, patch) booleans."""
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
    ids = [f"s{study}" for study in range(studies)]
    text = pl.String
    said_frame = pl.DataFrame(
        said, orient="row", schema={"study_id": text, "sentence_index": pl.Int64, "text": text, "sentence_class": text}
    )
    columns = {"study_id": text, "sentence_index": pl.Int64, "finding": text, "polarity": text, "laterality": text, "region": text}
    stated_frame = pl.DataFrame(stated, orient="row", schema=columns)
    statements, queries = study_texts(said_frame, stated_frame, ids, sentences or SentenceConfig())
    tokens = {1: rng.normal(size=(studies, PATCHES, ENCODER.width)).astype(np.float16)} if teacher else {}
    return (
        StudySet(
            study_ids=tuple(ids),
            volume_BZYX=volume,
            weight_BP=np.ones((studies, PATCHES), dtype=np.float32),
            windows=WINDOWS,
            statements=statements,
            queries=queries,
            teacher=tokens,
        ),
        lesion,
    )


def small_model(config: TrainConfig, *, arm: Arm = "glint") -> Glint:
    torch.manual_seed(config.seed)
    student = Student.from_teacher(VisionTransformer3D(ENCODER), adapter_blocks=config.model.adapter_blocks)
    return Glint(config, arm=arm, student=student, sentence_encoder=BagOfWords())

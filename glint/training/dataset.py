"""What training reads: volumes, valid patches, teacher tokens, sentences and what studies state."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from torch import Tensor

from glint.core.config.train import AugmentConfig, SentenceConfig, TrainConfig
from glint.core.prompts import finding_prompt
from glint.core.relations import NEGATIVE, POSITIVE
from glint.core.seeds import generator
from glint.prepare.resample import window_channels
from glint.prepare.sections.sentence_classes import (
    SentenceQueries,
    StudyStatements,
    pair_relations,
)
from glint.prepare.sections.sentence_identity import sentence_class
from glint.teachers.crops import moved_tokens
from glint.training.distributed import ALONE, Ranks
from glint.training.mirror import mirrored_text
from glint.training.sampler import batch_rows, repeats_of, sentence_draw
from glint.training.step import Batch
from glint.training.teacher_tokens import PLAIN, TeacherTokens, View, seen_volume
from glint.training.volumes import Volumes

FIRST_PROMPT_INDEX = 1_000_000  # sentence_index of generated sentences, above every real one
Windows = Sequence[tuple[float, float]]


@dataclass(frozen=True, kw_only=True)
class StudySet:
    """Studies of one split; row b is study_ids[b].

    `volume_BZYX` int16 HU, or uint16 grey of films, on the model grid, in memory or on disk; `weight_BP` c_p; `teacher` the frozen teacher's tokens, cached or computed when
    asked; `patch_zyx` voxels of a patch; `findings`: names that some report states as present.
    """

    study_ids: tuple[str, ...]
    volume_BZYX: Volumes
    weight_BP: NDArray[np.float32]
    windows: Windows
    statements: StudyStatements
    queries: SentenceQueries
    teacher: TeacherTokens | None = None
    patch_zyx: tuple[int, int, int] = (8, 8, 8)
    findings: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.study_ids)

    def repeats(self, *, below: float) -> NDArray[np.float64] | None:
        """How often each study comes per epoch where rare findings are balanced; None where all come once."""
        if below == 0:
            return None
        return repeats_of(self.statements.present != 0, below=below)


def prompt_tables(findings: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Sentences and findings of the canonical prompts of every stated finding: by name alone, and with its side.

    Only finding, polarity and side enter the text, so only they are stated by it; uncertain findings have no prompt.
    """
    stated = findings.filter(pl.col("polarity") != "uncertain").select("study_id", "finding", "polarity", "laterality")
    sided = stated.filter(pl.col("laterality").is_not_null() & (pl.col("polarity") == "present"))
    bare = stated.with_columns(laterality=pl.lit(None, dtype=pl.String))
    rows = (
        pl.concat([bare, sided])
        .unique(maintain_order=True)
        .sort("study_id", "finding", "polarity", "laterality", maintain_order=True)
    )
    rows = rows.with_columns(
        sentence_index=FIRST_PROMPT_INDEX + pl.int_range(pl.len()).over("study_id"),
        region=pl.lit(None, dtype=pl.String),
    )
    texts = [
        finding_prompt(finding, laterality=laterality, absent=polarity == "absent")
        for finding, laterality, polarity in rows.select("finding", "laterality", "polarity").iter_rows()
    ]
    sentences = rows.select("study_id", "sentence_index").with_columns(
        text=pl.Series(texts, dtype=pl.String),
        sentence_class=pl.Series([sentence_class(text) for text in texts], dtype=pl.String),
    )
    return sentences, rows.select("study_id", "sentence_index", "finding", "polarity", "laterality", "region")


def study_texts(
    sentences: pl.DataFrame, findings: pl.DataFrame, study_ids: Sequence[str], config: SentenceConfig
) -> tuple[StudyStatements, SentenceQueries]:
    """What the studies state, and the sentences to train on: those of the reports and, if asked, their prompts."""
    sentences = sentences.select("study_id", pl.col("sentence_index").cast(pl.Int64), "text", "sentence_class")
    findings = findings.select(
        "study_id", pl.col("sentence_index").cast(pl.Int64), "finding", "polarity", "laterality", "region"
    )
    statements = StudyStatements.from_tables(sentences, findings, study_ids)
    if not config.negated:
        denying = findings.filter(pl.col("polarity") == "absent").select("study_id", "sentence_index").unique()
        sentences = sentences.join(denying, on=["study_id", "sentence_index"], how="anti")
    if config.prompts:
        used = findings if config.negated else findings.filter(pl.col("polarity") != "absent")
        more_sentences, more_findings = prompt_tables(used)
        sentences, findings = pl.concat([sentences, more_sentences]), pl.concat([findings, more_findings])
    return statements, SentenceQueries.from_tables(sentences, findings, study_ids)


def photometric(
    channels_BCZYX: NDArray[np.float32],
    config: AugmentConfig,
    rng: np.random.Generator,
    *,
    batch_size: int | None = None,
    first: int = 0,
) -> NDArray[np.float32]:
    """Contrast, offset and noise per volume and channel, clipped back to [0, 1]; unchanged where all are 0.

    Where the volumes are those from `first` on of a batch of `batch_size`, they are changed as they would be within it.
    """
    if config.gain == config.offset == config.noise == 0:
        return channels_BCZYX
    own = slice(first, first + len(channels_BCZYX))
    shape = (batch_size or len(channels_BCZYX), channels_BCZYX.shape[1], 1, 1, 1)
    gain = 1 + config.gain * rng.uniform(-1, 1, shape)[own]
    offset = config.offset * rng.uniform(-1, 1, shape)[own]
    changed = (channels_BCZYX - 0.5) * gain + 0.5 + offset
    if config.noise > 0:
        for _ in range(first):  # the noise of the volumes before them is drawn and left
            rng.standard_normal(channels_BCZYX.shape[1:], dtype=np.float32)
        changed = changed + config.noise * rng.standard_normal(channels_BCZYX.shape, dtype=np.float32)
    return np.clip(changed, 0, 1).astype(np.float32)


def volume_tensor(
    studies: StudySet, rows: Sequence[int] | NDArray[np.int64], view: View = PLAIN
) -> NDArray[np.float32]:
    """(B, C, Z, Y, X) window channels of the studies `rows`, in this view."""
    return np.stack([window_channels(seen_volume(studies.volume_BZYX[row], view), studies.windows) for row in rows])


def view_of(config: AugmentConfig, *, seed: int, step: int, depth: int) -> View:
    """How all studies of a step are seen; one view for all, so that sides stated by reports agree across the batch.

    Images of a `depth` of one slice, films, are not moved along it.
    """
    rng = generator(seed, "view", step)
    far = config.shift_voxels
    shift = tuple(int(one) for one in rng.integers(-far, far + 1, size=3)) if far else (0, 0, 0)
    mirrored = bool(rng.random() < config.flip)
    return View(shift_zyx=(shift[0] if depth > 1 else 0, shift[1], shift[2]), mirrored=mirrored)


def grid_of(studies: StudySet) -> tuple[int, int, int]:
    """Patches along (z, y, x)."""
    z, y, x = (size // edge for size, edge in zip(studies.volume_BZYX.shape[1:], studies.patch_zyx, strict=True))
    return z, y, x


def known_patches(studies: StudySet, view: View) -> Tensor | None:
    """(P,) patches whose centre lies on the teacher's canvas; None for all."""
    if view.shift_zyx == (0, 0, 0):
        return None
    grid = grid_of(studies)
    valid = moved_tokens(torch.zeros(1, math.prod(grid), 1), grid, studies.patch_zyx, view.shift_zyx)[1]
    return valid.reshape(grid).flip(2).flatten() if view.mirrored else valid


def seen_weights(studies: StudySet, rows: NDArray[np.int64], view: View) -> Tensor:
    """(B, P) c_p in this view: 0 where a patch's centre comes from outside the volume."""
    weight_BP = torch.from_numpy(studies.weight_BP[rows])
    if view == PLAIN:
        return weight_BP
    grid = grid_of(studies)
    moved, valid = moved_tokens(weight_BP[..., None], grid, studies.patch_zyx, view.shift_zyx)
    # A patch of which half comes from the padding belongs to it: the weight is c_p or 0, never between.
    largest = weight_BP.amax(dim=1, keepdim=True)
    kept = torch.where((moved[..., 0] >= 0.5 * largest) & valid, largest, torch.zeros_like(largest))
    if view.mirrored:
        kept = kept.reshape(-1, *grid).flip(3).reshape(len(rows), -1)
    return kept


def make_batch(
    studies: StudySet,
    config: TrainConfig,
    *,
    step: int,
    blocks: Sequence[int] = (),
    resting: bool = False,
    ranks: Ranks = ALONE,
) -> Batch:
    """The batch of `step`, with the teacher's tokens of `blocks`; the same arguments give the same batch.

    `resting` leaves out the volumes, for steps that read the teacher's tokens instead. Of `ranks` each gets its part of the
    volumes, weights and tokens, and every sentence and relation.
    """
    seed, sentences = config.seed, config.sentences
    repeats_B = studies.repeats(below=config.balance_below)
    rows = batch_rows(studies=len(studies), batch_size=config.batch_size, step=step, seed=seed, repeats_B=repeats_B)
    queries = studies.queries
    candidates = np.flatnonzero(np.isin(queries.study, rows))
    asked = queries.unique(candidates) if sentences.classes else candidates[queries.usable[candidates]]
    taken = queries.take(sentence_draw(asked, limit=sentences.per_batch, step=step, seed=seed))
    if sentences.classes:
        relation_TB = pair_relations(taken, studies.statements.take(rows))
    else:
        relation_TB = np.where(taken.study[:, None] == rows[None, :], POSITIVE, NEGATIVE).astype(np.int8)
    part = ranks.part(len(rows))
    own = rows[part]
    view = view_of(config.augment, seed=seed, step=step, depth=studies.volume_BZYX.shape[1])
    volume_BCZYX = None
    if not resting:
        channels = photometric(
            volume_tensor(studies, own, view),
            config.augment,
            generator(seed, "augment", step),
            batch_size=len(rows),
            first=part.start,
        )
        volume_BCZYX = torch.from_numpy(channels)
    return Batch(
        volume_BCZYX=volume_BCZYX,
        patch_weight_BP=seen_weights(studies, own, view),
        sentences=tuple(map(mirrored_text, taken.texts)) if view.mirrored else taken.texts,
        relation_TB=torch.from_numpy(relation_TB),
        teacher=studies.teacher.read(blocks, own, view) if studies.teacher is not None and blocks else {},
        valid_P=known_patches(studies, view),
    )

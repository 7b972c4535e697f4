"""From the files of stages 04 to 08 to what training reads."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from glint.core.config.train import TrainConfig
from glint.core.errors import ConfigError, FingerprintError, InputError
from glint.core.provenance import digest, sha256_file
from glint.formats.feature_cache import FeatureCache
from glint.formats.manifest import read_manifest, read_manifests
from glint.formats.model_image import read_image_rows
from glint.model.alignment import valid_patches
from glint.teachers.kernels import TeacherPass
from glint.teachers.registry import TeacherRecord
from glint.training.dataset import StudySet, study_texts
from glint.training.teacher_tokens import CachedTokens, OnlineTokens, TeacherTokens
from glint.training.volumes import Volumes, gather_volumes

SPLITS = ("train", "validation")


@dataclass(frozen=True, kw_only=True)
class InputFiles:
    """Manifests of the stages below; sentences and findings lie beside each sections manifest."""

    resampled: tuple[Path, ...]
    sections: tuple[Path, ...]
    split: Path
    features: tuple[Path, ...]

    def tables(self) -> tuple[Path, ...]:
        """Every table that decides what is learned."""
        beside = [
            manifest.parent / f"{name}.parquet" for manifest in self.sections for name in ("sentences", "findings")
        ]
        return (*self.resampled, *self.sections, *beside, self.split, *self.features)

    def fingerprint(self, *, teacher_sha256: str) -> dict[str, Any]:
        """What a checkpoint is made from. Manifests carry the digests of what they list.

        Raises:
            InputError: a table is absent.
        """
        for path in self.tables():
            if not path.is_file():
                raise InputError(f"{path}: no such file; run the stage that makes it first")
        return {
            "teacher_sha256": teacher_sha256,
            "resampled": digest([sha256_file(path) for path in self.resampled]),
            "sections": digest(
                [sha256_file(path) for path in self.tables()[len(self.resampled) : -1 - len(self.features)]]
            ),
            "split": sha256_file(self.split),
            "features": digest([sha256_file(path) for path in self.features]),
        }


def read_text_tables(sections: Sequence[Path]) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Sentences and findings of every sections manifest."""
    sentences = [read_manifest(path.parent / "sentences.parquet", "sentences") for path in sections]
    findings = [read_manifest(path.parent / "findings.parquet", "findings") for path in sections]
    return pl.concat(sentences), pl.concat(findings)


def usable_studies(files: InputFiles, *, views: Sequence[str] | None = None) -> dict[str, list[str]]:
    """Split → sorted study ids that every stage accepted; of films those of the named `views`, None: all."""
    accepted = read_manifest(files.split, "split").filter(pl.col("status") == "ok")
    images = read_image_rows(files.resampled)
    if views is not None:
        images = images.filter(pl.col("view").is_null() | pl.col("view").is_in(list(views)))
    tables = [(files.resampled, images)]
    for paths, schema in ((files.sections, "sections"), (files.features, "features")):
        tables.append((paths, read_manifests(list(paths), schema)))
    for paths, rows in tables:
        ok = rows.filter(pl.col("status") == "ok").select("study_id").unique()
        accepted = accepted.join(ok, on="study_id", how="semi") if paths else accepted
    return {name: sorted(accepted.filter(pl.col("split") == name)["study_id"]) for name in SPLITS}


def read_volumes(
    resampled: Sequence[Path],
    study_ids: Sequence[str],
    *,
    teacher: TeacherRecord,
    reference_patch_mm3: float | None,
    memory_gib: float,
) -> tuple[Volumes, NDArray[np.float32]]:
    """Volumes (B, Z, Y, X) in HU, or films as volumes of one slice, and patch weights c_p (B, P) of the studies, in their order.

    Volumes are held in memory where they take at most `memory_gib`.

    c_p is 0 in the padding, else the patch's volume over `reference_patch_mm3` (None: over itself, so 1).

    Raises:
        InputError: a volume is absent or has another grid than the teacher.
    """
    rows = {row["study_id"]: row for row in read_image_rows(resampled).iter_rows(named=True)}
    z, y, x = (count * edge for count, edge in zip(teacher.grid, teacher.patch, strict=True))
    weights = []
    for study_id in study_ids:
        row = rows[study_id]
        affine = np.array(row["affine"], np.float64).reshape(4, 4)
        patch_mm3 = abs(float(np.linalg.det(affine[:3, :3]))) * math.prod(teacher.patch)
        size = 1.0 if reference_patch_mm3 is None else patch_mm3 / reference_patch_mm3
        weights.append(size * valid_patches(tuple(row["valid_box"]), (z, y, x), teacher.patch))
    paths = [Path(rows[study_id]["folder"], rows[study_id]["path"]) for study_id in study_ids]
    return gather_volumes(paths, (z, y, x), memory_gib=memory_gib), np.stack(weights).astype(np.float32)


def volume_digests(resampled: Sequence[Path], study_ids: Sequence[str]) -> dict[str, str]:
    """study → SHA-256 of its volume of stage 04, as it lies there now."""
    rows = {row["study_id"]: row for row in read_image_rows(resampled).iter_rows(named=True)}
    return {study: sha256_file(Path(rows[study]["folder"], rows[study]["path"])) for study in study_ids}


def cached_tokens(
    features: Sequence[Path],
    study_ids: Sequence[str],
    blocks: Sequence[int],
    *,
    teacher: TeacherRecord,
    sources: Mapping[str, str],
) -> CachedTokens:
    """Mapped tokens of the studies, in their order. `sources`: study → SHA-256 of its volume.

    Raises:
        InputError: the cache lacks a study or a block.
        FingerprintError: the cache is not the one its manifest describes, or was made with another teacher or from other volumes.
    """
    rows = {row["study_id"]: row for row in read_manifests(list(features), "features").iter_rows(named=True)}
    caches: dict[Path, FeatureCache] = {}
    place_B, rows_B = [], []
    for study_id in study_ids:
        path = Path(rows[study_id]["folder"], rows[study_id]["path"])
        if path not in caches:
            caches[path] = FeatureCache(
                path, fingerprint=rows[study_id]["fingerprint"], recipe=teacher.recipe(), sources=sources
            )
            if caches[path].grid != teacher.grid:
                raise FingerprintError(
                    f"{path}: grid {caches[path].grid}, the teacher's is {teacher.grid}; run stage 08 again"
                )
            for block in blocks:
                caches[path].read(block, [])
        place_B.append(list(caches).index(path))
        rows_B.append(caches[path].row(study_id))
    return CachedTokens(
        caches=tuple(caches.values()),
        cache_B=np.array(place_B, np.int64),
        rows_B=np.array(rows_B, np.int64),
        patch_zyx=teacher.patch,
    )


def needed_blocks(config: TrainConfig, *, depth: int) -> tuple[int, ...]:
    """Teacher blocks that training reads: the regularized ones, and the last where heads learn alone first.

    Raises:
        ConfigError: the teacher has fewer blocks.
    """
    blocks = set(config.loss.dense_blocks if config.loss.dense > 0 else ())
    if beyond := sorted(block for block in blocks if not 0 <= block < depth):
        raise ConfigError(f"train.loss.dense_blocks: the teacher has blocks 0 to {depth - 1}, not {beyond}")
    return tuple(sorted(blocks | ({depth - 1} if config.head_steps or config.model.whiten_ridge else set())))


def read_study_sets(
    files: InputFiles, config: TrainConfig, *, teacher: TeacherRecord, online: TeacherPass | None = None
) -> Mapping[str, StudySet]:
    """Training and validation studies: volumes in memory or on disk; the teacher's tokens mapped, or computed by `online` when asked.

    Raises:
        InputError: no study is left to train on, or a file is absent or damaged.
        ConfigError: views are asked for that cached tokens don't have.
    """
    if online is None and config.augment.flip > 0:
        raise ConfigError(
            "train.augment.flip: the cached tokens of a volume are not those of its mirror image; set teacher.features to online"
        )
    studies = usable_studies(files, views=config.views)
    if not studies["train"]:
        raise InputError(
            f"{files.split}: no training study has a volume, a report and teacher tokens; see the manifests"
        )
    sentences, findings = read_text_tables(files.sections)
    present = findings.filter(pl.col("polarity") == "present")
    blocks = needed_blocks(config, depth=teacher.depth)
    sets = {}
    for name, study_ids in studies.items():
        if not study_ids:
            continue
        volumes, weight_BP = read_volumes(
            files.resampled,
            study_ids,
            teacher=teacher,
            reference_patch_mm3=config.model.reference_patch_mm3,
            memory_gib=config.memory_gib,
        )
        statements, queries = study_texts(sentences, findings, study_ids, config.sentences)
        tokens: TeacherTokens | None = None
        if name == "train" and blocks and online is not None:
            tokens = OnlineTokens(teacher=online, volume_BZYX=volumes, windows=teacher.windows)
        elif name == "train" and blocks:
            sources = volume_digests(files.resampled, study_ids)
            tokens = cached_tokens(files.features, study_ids, blocks, teacher=teacher, sources=sources)
        sets[name] = StudySet(
            study_ids=tuple(study_ids),
            volume_BZYX=volumes,
            weight_BP=weight_BP,
            windows=teacher.windows,
            statements=statements,
            queries=queries,
            teacher=tokens,
            patch_zyx=teacher.patch,
            findings=tuple(sorted(present.filter(pl.col("study_id").is_in(study_ids))["finding"].unique())),
        )
    return sets

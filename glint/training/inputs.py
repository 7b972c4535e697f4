"""From the files of stages 04 to 08 to what training holds in memory."""

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
from glint.formats.nifti import load_model_volume
from glint.model.alignment import valid_patches
from glint.teachers.registry import TeacherRecord
from glint.training.dataset import StudySet, study_texts

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


def usable_studies(files: InputFiles) -> dict[str, list[str]]:
    """Split → sorted study ids that every stage accepted."""
    accepted = read_manifest(files.split, "split").filter(pl.col("status") == "ok")
    for paths, schema in ((files.resampled, "resample"), (files.sections, "sections"), (files.features, "features")):
        ok = read_manifests(list(paths), schema).filter(pl.col("status") == "ok").select("study_id").unique()
        accepted = accepted.join(ok, on="study_id", how="semi") if paths else accepted
    return {name: sorted(accepted.filter(pl.col("split") == name)["study_id"]) for name in SPLITS}


def read_volumes(
    resampled: Sequence[Path], study_ids: Sequence[str], *, teacher: TeacherRecord, reference_patch_mm3: float | None
) -> tuple[NDArray[np.int16], NDArray[np.float32]]:
    """Volumes (B, Z, Y, X) in HU and patch weights c_p (B, P) of the studies, in their order.

    c_p is 0 in the padding, else the patch's volume over `reference_patch_mm3` (None: over itself, so 1).

    Raises:
        InputError: a volume is absent or has another grid than the teacher.
    """
    rows = {row["study_id"]: row for row in read_manifests(list(resampled), "resample").iter_rows(named=True)}
    z, y, x = (count * edge for count, edge in zip(teacher.grid, teacher.patch, strict=True))
    volumes, weights = [], []
    for study_id in study_ids:
        row = rows[study_id]
        path = Path(row["folder"], row["path"])
        volume, affine = load_model_volume(path)
        if volume.shape != (z, y, x):
            raise InputError(
                f"{path}: shape {volume.shape}, the teacher was made for {(z, y, x)}; run stages 04 to 08 again"
            )
        patch_mm3 = abs(float(np.linalg.det(affine[:3, :3]))) * math.prod(teacher.patch)
        size = 1.0 if reference_patch_mm3 is None else patch_mm3 / reference_patch_mm3
        volumes.append(volume)
        weights.append(size * valid_patches(tuple(row["valid_box"]), (z, y, x), teacher.patch))
    return np.stack(volumes), np.stack(weights).astype(np.float32)


def volume_digests(resampled: Sequence[Path], study_ids: Sequence[str]) -> dict[str, str]:
    """study → SHA-256 of its volume of stage 04, as it lies there now."""
    rows = {row["study_id"]: row for row in read_manifests(list(resampled), "resample").iter_rows(named=True)}
    return {study: sha256_file(Path(rows[study]["folder"], rows[study]["path"])) for study in study_ids}


def read_teacher_tokens(
    features: Sequence[Path],
    study_ids: Sequence[str],
    blocks: Sequence[int],
    *,
    teacher: TeacherRecord,
    sources: Mapping[str, str],
) -> dict[int, NDArray[np.float16]]:
    """Block → tokens (B, P, D) of the studies, in their order. `sources`: study → SHA-256 of its volume.

    Raises:
        InputError: the cache lacks a study or a block.
        FingerprintError: the cache is not the one its manifest describes, or was made with another teacher or from other volumes.
    """
    rows = {row["study_id"]: row for row in read_manifests(list(features), "features").iter_rows(named=True)}
    caches: dict[Path, FeatureCache] = {}
    found: dict[int, list[NDArray[np.float16]]] = {block: [] for block in blocks}
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
        cache = caches[path]
        for block in blocks:
            found[block].append(cache.read(block, [cache.row(study_id)])[0])
    return {block: np.stack(tokens) for block, tokens in found.items()}


def needed_blocks(config: TrainConfig, *, depth: int) -> tuple[int, ...]:
    """Teacher blocks that training reads: the regularized ones, and the last where heads learn alone first.

    Raises:
        ConfigError: the teacher has fewer blocks.
    """
    blocks = set(config.loss.dense_blocks if config.loss.dense > 0 else ())
    if beyond := sorted(block for block in blocks if not 0 <= block < depth):
        raise ConfigError(f"train.loss.dense_blocks: the teacher has blocks 0 to {depth - 1}, not {beyond}")
    return tuple(sorted(blocks | ({depth - 1} if config.head_steps or config.model.whiten_ridge else set())))


def read_study_sets(files: InputFiles, config: TrainConfig, *, teacher: TeacherRecord) -> Mapping[str, StudySet]:
    """Training and validation studies, whole in memory (int16 volumes, float16 tokens).

    Raises:
        InputError: no study is left to train on, or a file is absent or damaged.
    """
    studies = usable_studies(files)
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
            files.resampled, study_ids, teacher=teacher, reference_patch_mm3=config.model.reference_patch_mm3
        )
        statements, queries = study_texts(sentences, findings, study_ids, config.sentences)
        tokens = (
            read_teacher_tokens(
                files.features,
                study_ids,
                blocks,
                teacher=teacher,
                sources=volume_digests(files.resampled, study_ids),
            )
            if name == "train" and blocks
            else {}
        )
        sets[name] = StudySet(
            study_ids=tuple(study_ids),
            volume_BZYX=volumes,
            weight_BP=weight_BP,
            windows=teacher.windows,
            statements=statements,
            queries=queries,
            teacher=tokens,
            findings=tuple(sorted(present.filter(pl.col("study_id").is_in(study_ids))["finding"].unique())),
        )
    return sets

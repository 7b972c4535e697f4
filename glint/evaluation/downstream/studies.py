"""What the downstream tasks read: labels of studies, and frozen tokens of every study held outside the memory."""

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from glint.core.errors import InputError
from glint.core.progress import track
from glint.evaluation.arms import LoadedArm
from glint.evaluation.cohort import ImagedStudy
from glint.evaluation.tokens import teacher_tokens
from glint.evaluation.truth import read_truth
from glint.formats.manifest import read_manifest, read_manifests
from glint.model.alignment import valid_patches
from glint.prepare.resample import window_channels
from glint.prepare.sections.label_sets import with_children

Bools = NDArray[np.bool_]
Tokens = NDArray[np.float16]
Encode = Callable[[Sequence[ImagedStudy]], NDArray[np.floating]]
"""Studies → tokens (B, P, D)."""
STUDIES_PER_READ = 32


def stated_findings(sections: Sequence[Path]) -> dict[str, frozenset[str]]:
    """Findings that each report states as present, by study; a study whose report was not read is absent.

    Raises:
        InputError: a table of stage 05 is absent.
    """
    read = read_manifests(list(sections), "sections").filter(pl.col("status") == "ok")["study_id"].to_list()
    tables = [read_manifest(path.parent / "findings.parquet", "findings") for path in sections]
    present = pl.concat(tables).filter(pl.col("polarity") == "present").group_by("study_id").agg("finding")
    said = {study: frozenset(names) for study, names in present.select("study_id", "finding").iter_rows()}
    return {study: said.get(study, frozenset()) for study in read}


def drawn_findings(truth: Path) -> tuple[dict[str, frozenset[str]], tuple[str, ...]]:
    """Findings that each study's masks hold, and all findings that masks are drawn of.

    Raises:
        InputError: no such manifest.
    """
    table, findings = read_truth(truth)
    return {row["study_id"]: frozenset(row["findings"]) for row in table.to_dicts()}, findings


def labels_of(
    known: dict[str, frozenset[str]], studies: Sequence[ImagedStudy], findings: Sequence[str]
) -> tuple[list[ImagedStudy], Bools]:
    """The studies that have labels, and (B, F) which has which finding, a more specific one counted as its parent too."""
    held = [study for study in studies if study.study_id in known]
    wider = [with_children([finding]) for finding in findings]
    rows = [[not names.isdisjoint(known[study.study_id]) for names in wider] for study in held]
    return held, np.array(rows, dtype=np.bool_).reshape(len(held), len(findings))


def student_encoder(arm: LoadedArm) -> Encode:
    """Final tokens of a checkpoint's encoder."""
    import torch

    def encode(studies: Sequence[ImagedStudy]) -> NDArray[np.floating]:
        volumes = np.stack([window_channels(study.volume()[0], arm.windows) for study in studies])
        with torch.inference_mode():
            found = arm.model.student(torch.from_numpy(volumes))  # type: ignore[attr-defined]
        return np.asarray(found.patch_tokens_BND.float().numpy())

    return encode


def teacher_reader(features: Sequence[Path]) -> Encode:
    """Final tokens of the frozen teacher, from stage 08's cache.

    Raises:
        InputError: no cache was named.
    """
    if not features:
        raise InputError("evaluate.downstream.tokens is teacher: name stage 08's manifests with --features")
    return lambda studies: teacher_tokens(features, [study.study_id for study in studies])


def store_tokens(
    studies: Sequence[ImagedStudy], encode: Encode, *, batch_size: int, folder: Path, description: str = "tokens"
) -> Tokens:
    """(B, P, D) tokens of all studies in a nameless file of `folder` that is gone with the process.

    Raises:
        InputError: there is no study.
    """
    if not studies:
        raise InputError("no study has both an image and labels: check the splits of stage 06 and the tables given")
    folder.mkdir(parents=True, exist_ok=True)
    store: Tokens | None = None
    for start in track(range(0, len(studies), batch_size), description):
        found = encode(studies[start : start + batch_size])
        if store is None:
            with tempfile.TemporaryFile(dir=folder) as file:
                store = np.memmap(file, np.float16, "w+", shape=(len(studies), *found.shape[1:]))
        store[start : start + len(found)] = found
    assert store is not None
    return store


def valid_of_studies(
    studies: Sequence[ImagedStudy], grid: tuple[int, int, int], volume_zyx: tuple[int, int, int]
) -> Bools:
    """(B, P) patches that hold scan; all of a study where none does."""
    patch = (volume_zyx[0] // grid[0], volume_zyx[1] // grid[1], volume_zyx[2] // grid[2])
    valid = np.stack([valid_patches(study.valid_box, volume_zyx, patch) for study in studies])
    return np.asarray(valid | ~valid.any(axis=1, keepdims=True))

"""Frozen teacher tokens of the studies that the supervised yardstick sees."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from glint.core.errors import InputError
from glint.formats.feature_cache import FeatureCache
from glint.formats.manifest import read_manifests
from glint.formats.model_image import load_model_image, read_image_rows

FINAL = "final"


def teacher_tokens(
    manifests: Sequence[Path], study_ids: Sequence[str], *, block: int | None = None
) -> NDArray[np.floating]:
    """(B, P, D) final tokens in the order of `study_ids`, or those of a `block`; the last stored block's where the final ones were
    not stored.

    Raises:
        InputError: a study has no tokens, a cache is absent or unfinished, or lacks the block.
        FingerprintError: a cache is not the one its manifest names.
    """
    table = read_manifests(list(manifests), "features").filter(pl.col("status") == "ok")
    rows = {row["study_id"]: row for row in table.to_dicts()}
    if missing := [study for study in study_ids if study not in rows]:
        raise InputError(
            f"{manifests[0]}: no tokens of study {missing[0]} and {len(missing) - 1} more; run stage 08 again"
        )
    caches: dict[Path, FeatureCache] = {}
    tokens = []
    for study in study_ids:
        path = Path(rows[study]["folder"], rows[study]["path"])
        if path not in caches:
            caches[path] = FeatureCache(path, fingerprint=rows[study]["fingerprint"])
        cache = caches[path]
        layer = str(block) if block is not None else FINAL if FINAL in cache.layers else cache.layers[-1]
        tokens.append(cache.read(layer, [cache.row(study)])[0])
    return np.stack(tokens)


def tokens_computed(teacher: Path, resampled: Sequence[Path]) -> Callable[..., NDArray[np.floating]]:
    """What `teacher_tokens` reads, computed by the teacher of a stage-07 folder where stage 08 kept none."""

    def read(_manifests: Sequence[Path], study_ids: Sequence[str]) -> NDArray[np.floating]:
        import torch

        from glint.prepare.resample import window_channels
        from glint.teachers.registry import load_teacher

        encoder, record = load_teacher(teacher)
        paths = {
            row["study_id"]: Path(row["folder"], row["path"])
            for row in read_image_rows(resampled).filter(pl.col("status") == "ok").to_dicts()
        }
        found = []
        for study in study_ids:
            channels = window_channels(load_model_image(paths[study])[0], record.windows)
            found.append(
                encoder.encode(torch.from_numpy(channels)[None]).patch_tokens_BND[0].numpy().astype(np.float16)
            )
        return np.stack(found)

    return read

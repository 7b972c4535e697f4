"""Frozen teacher tokens of the studies that the supervised yardstick sees."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from glint.core.errors import InputError
from glint.formats.feature_cache import FeatureCache
from glint.formats.manifest import read_manifests

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

"""Looking after feature caches: what is in one, whether it still holds, which of them nobody reads any more."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from glint.core.errors import GlintError, InputError
from glint.core.provenance import code_digest, sha256_file
from glint.formats.feature_cache import FeatureCache
from glint.formats.manifest import read_manifest
from glint.teachers.registry import TeacherRecord
from glint.teachers.volumes import read_sources


def cache_files(places: Sequence[Path]) -> list[Path]:
    """HDF5 files among `places` and below those that are folders.

    Raises:
        InputError: there is none.
    """
    found = sorted({path for place in places for path in (place.rglob("*.h5") if place.is_dir() else [place])})
    if not found:
        raise InputError(f"{', '.join(map(str, places))}: no feature cache (*.h5) here; run the features stage first")
    return found


def described(path: Path) -> list[str]:
    """Lines that tell what a cache holds and what it was made from.

    Raises:
        InputError: not a cache, or an unfinished or damaged one.
    """
    cache = FeatureCache(path)
    head, recipe = cache.head, cache.head.recipe
    grid = " x ".join(map(str, head.grid))
    current = recipe.get("code") == code_digest("glint.teachers.encode")
    return [
        f"{path}: complete, fingerprint {cache.fingerprint[:12]}, {path.stat().st_size / 1e6:.1f} MB",
        f"  studies   {int(cache.row_ok.sum())} of {len(cache)} with tokens",
        f"  tokens    layers {', '.join(head.layers)}; grid {grid} (z, y, x), width {head.width}, {head.dtype}, {head.layout}",
        f"  teacher   {recipe.get('name')}, weights {str(recipe.get('weights'))[:12]}",
        f"  pass      {recipe.get('kernel')}, batches of {recipe.get('batch_size')}",
        f"  code      {'this version' if current else 'another version: Snakemake will make it again'}",
        f"  in scan   {float(cache.valid[cache.row_ok].mean()) if cache.row_ok.any() else 0.0:.0%} of patches",
    ]


def volumes_now(manifests: Sequence[Path]) -> dict[str, str]:
    """study → SHA-256 of its volume of stage 04, as it lies there now; "" where it is gone."""
    return {one.study_id: sha256_file(one.path) if one.path.is_file() else "" for one in read_sources(list(manifests))}


def faults(path: Path, *, teacher: TeacherRecord | None, volumes: dict[str, str]) -> Iterator[str]:
    """One line per thing that does not hold: rows that changed on disk, another teacher, other volumes."""
    try:
        cache = FeatureCache(path)
    except GlintError as error:
        yield str(error)
        return
    for row, study in enumerate(cache.study_ids):
        if not cache.holds(row):
            yield f"{path}: row {row} (study {study}) is not what was written; run the features stage again"
    checks = [(teacher.recipe() if teacher else {}, {}), *(({}, {study: sha}) for study, sha in volumes.items())]
    for recipe, sources in checks:
        try:
            cache.check(recipe=recipe, sources=sources)
        except GlintError as error:
            yield str(error)


@dataclass(frozen=True, kw_only=True)
class Litter:
    """A file that nothing reads, and why."""

    path: Path
    reason: str
    size_bytes: int


def litter(root: Path) -> list[Litter]:
    """Files below a stage-08 folder that no manifest names: caches of earlier fingerprints, leavings of killed runs.

    What a living process writes is not among them.

    Raises:
        InputError: no manifest there, so that nothing could be told apart.
    """
    manifests = sorted(root.glob("*/manifest.parquet"))
    if not manifests:
        raise InputError(f"{root}: no manifest of stage 08 in its folders; give results/<modality>/08_features")
    read: set[Path] = set()
    for manifest in manifests:
        paths = read_manifest(manifest, "features")["path"].drop_nulls().unique()
        read |= {(manifest.parent / path).resolve() for path in paths}
    found = {path: "no manifest names it" for path in root.rglob("*.h5") if path.resolve() not in read}
    for pattern in (".*.h5.partial", ".*.tmp.*", ".*.h5.lock"):
        found |= {path: "left by a killed run" for path in root.rglob(pattern) if path.is_file() and not _written(path)}
    return [Litter(path=path, reason=why, size_bytes=path.stat().st_size) for path, why in sorted(found.items())]


def _written(path: Path) -> bool:
    """Whether a living process holds the lock of the cache that `path` belongs to, on this machine."""
    name = path.name.lstrip(".").split(".h5")[0]
    lock = path.parent / f".{name}.h5.lock"
    if not lock.is_file():
        return False
    with lock.open() as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def removed(found: Sequence[Litter]) -> int:
    """Remove them, and folders that they leave empty; returns the bytes freed."""
    for one in found:
        one.path.unlink(missing_ok=True)
        folder = one.path.parent
        if not any(folder.iterdir()):
            folder.rmdir()
    return sum(one.size_bytes for one in found)

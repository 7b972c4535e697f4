"""Frozen teacher → feature cache: one shard of volumes at a time, each file with its fingerprint."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from torch import Tensor

from glint.core.atomic import atomic_directory
from glint.core.config.features import FeaturesConfig
from glint.core.errors import GlintError, Quarantine
from glint.core.progress import log, track
from glint.core.provenance import code_digest, digest, sha256_file
from glint.formats.feature_cache import partial_path, write_cache
from glint.formats.feature_rows import CacheHead
from glint.formats.manifest import manifest_frame, write_manifest
from glint.formats.model_image import read_image_rows
from glint.teachers.encoder import check_layers
from glint.teachers.kernels import Kernel, TeacherPass, candidates, fastest_pass
from glint.teachers.registry import FrozenTeacher, TeacherRecord
from glint.teachers.volumes import Channels, Source, VolumeWindows, patch_coverage, read_sources

FINAL = "final"


def layer_names(config: FeaturesConfig) -> tuple[str, ...]:
    """Names of the stored token sets: block numbers, then "final"."""
    return (*map(str, config.layers), *((FINAL,) if config.final else ()))


def pass_for(
    teacher: FrozenTeacher, config: FeaturesConfig, *, channels: int, kernels: Sequence[Kernel] | None = None
) -> TeacherPass:
    """The teacher under the configured kernel, or the one of `kernels` that a start-up measurement finds, on the configured device."""
    device = torch.device("cuda" if config.device == "auto" and torch.cuda.is_available() else "cpu")
    shape = [grid * patch for grid, patch in zip(teacher.grid, teacher.patch_zyx, strict=True)]
    noise = torch.rand(config.batch_size, channels, *shape, generator=torch.Generator().manual_seed(0))
    kernels = kernels or candidates(config.precision, config.attention)
    return fastest_pass(teacher.to(device), kernels, noise.to(device))


def encode_windows(
    encoder: TeacherPass, volume_BCZYX: Tensor, *, layers: Sequence[int], final: bool
) -> dict[str, NDArray[np.float32]]:
    """Tokens (B, P, D) float32 by layer name."""
    device = next(encoder.teacher.parameters()).device
    encoded = encoder(volume_BCZYX.to(device), layers)
    tokens = {str(layer): encoded.hidden[layer] for layer in layers}
    if final:
        tokens[FINAL] = encoded.patch_tokens_BND
    return {name: value.cpu().numpy() for name, value in tokens.items()}


def cache_head(
    teacher: FrozenTeacher,
    record: TeacherRecord,
    config: FeaturesConfig,
    *,
    kernel: Kernel,
    sources: Mapping[str, str],
) -> CacheHead:
    """Everything that decides the bytes of a cache: weights, architecture, recipe, code, volumes."""
    made_by = {"kernel": kernel.name, "batch_size": config.batch_size, "code": code_digest("glint.teachers.encode")}
    return CacheHead(
        study_ids=tuple(sources),
        layers=layer_names(config),
        grid=teacher.grid,
        width=teacher.width,
        recipe=record.recipe() | made_by,
        sources=sources,
        dtype=config.dtype,
        layout=config.layout,
    )


def _encode_batch(
    encoder: TeacherPass, windows: VolumeWindows, batch: Sequence[int], config: FeaturesConfig
) -> list[dict[str, NDArray[np.float32]] | Quarantine]:
    """Tokens of some volumes, or why a study has none: an unreadable or strange volume never takes others with it."""
    volumes: dict[int, NDArray[np.float32]] = {}
    outcome: dict[int, dict[str, NDArray[np.float32]] | Quarantine] = {}
    for index in batch:
        try:
            volumes[index] = _checked(windows.window(index), encoder.teacher)
        except Quarantine as refusal:
            outcome[index] = refusal
        except GlintError as error:
            outcome[index] = Quarantine("unreadable_volume", str(error))
    if volumes:
        stacked = torch.from_numpy(np.stack(list(volumes.values())))
        tokens = encode_windows(encoder, stacked, layers=config.layers, final=config.final)
        for place, index in enumerate(volumes):
            outcome[index] = {name: values[place] for name, values in tokens.items()}
    return [outcome[index] for index in batch]


def _checked(volume_CZYX: NDArray[np.float32], teacher: FrozenTeacher) -> NDArray[np.float32]:
    expected = tuple(grid * patch for grid, patch in zip(teacher.grid, teacher.patch_zyx, strict=True))
    if volume_CZYX.shape[1:] != expected:
        raise Quarantine("other_grid", f"the volume is {volume_CZYX.shape[1:]} voxels, the teacher takes {expected}")
    if not np.isfinite(volume_CZYX).all():
        raise Quarantine("voxels_not_finite", "the volume holds NaN or infinity")
    return volume_CZYX


def encode_shard(
    manifest: Path,
    out: Path,
    *,
    teacher: FrozenTeacher,
    record: TeacherRecord,
    channels: Channels,
    config: FeaturesConfig,
) -> Path:
    """Encode the accepted volumes of one stage-04 manifest; returns the HDF5 file.

    `out` is the manifest (.../08_features/<shard>/manifest.parquet), whose folder is made whole; the tokens go to
    .../08_features/<teacher>/<fingerprint[:12]>/<shard>.h5 beside it, and caches of this shard with other fingerprints are removed.
    A killed run's rows are kept and the next run starts at the first study without one.

    Raises:
        InputError: a manifest is absent or of another schema, or the teacher lacks a layer.
    """
    check_layers(config.layers, teacher.depth)
    sources = read_sources([manifest])
    digests = {one.study_id: sha256_file(one.path) if one.path.is_file() else "" for one in sources}
    root, shard = out.parent.parent, out.parent.name
    heads = {
        kernel: cache_head(teacher, record, config, kernel=kernel, sources=digests)
        for kernel in candidates(config.precision, config.attention)
    }
    caches = {kernel: root / record.name / head.fingerprint[:12] / f"{shard}.h5" for kernel, head in heads.items()}
    begun = [kernel for kernel, path in caches.items() if partial_path(path).is_file()]
    # A killed run's kernel, or its rows were lost whenever a measurement comes out otherwise.
    encoder = pass_for(teacher, config, channels=len(record.windows), kernels=begun[:1])
    head, cache = heads[encoder.kernel], caches[encoder.kernel]
    outcomes = _write_tokens(cache, head, sources, encoder, channels, config)
    rows = [
        _manifest_row(
            row, outcomes, digests, cache=f"../{cache.relative_to(root)}", fingerprint=head.fingerprint, config=config
        )
        for row in read_image_rows([manifest]).sort("study_id").to_dicts()
    ]
    frame = manifest_frame(rows, "features")
    with atomic_directory(out.parent) as folder:
        write_manifest(folder / out.name, frame, "features")
    for stale in (*root.glob(f"*/*/{shard}.h5"), *root.glob(f"*/*/.{shard}.h5.*")):  # leavings of killed runs too
        if stale != cache:
            stale.unlink()
            if not any(stale.parent.iterdir()):
                stale.parent.rmdir()
    accepted = frame.filter(pl.col("status") == "ok").height
    log(
        f"features: {accepted} of {frame.height} studies, layers {', '.join(head.layers)}, {encoder.kernel.name}, in {cache}"
    )
    return cache


def _write_tokens(
    cache: Path,
    head: CacheHead,
    sources: Sequence[Source],
    encoder: TeacherPass,
    channels: Channels,
    config: FeaturesConfig,
) -> dict[str, int | Quarantine]:
    """Write the cache; the row of each study in it, or why it has none.

    A batch with a missing row is encoded whole, for a token's last bit may depend on what it shares its batch with.
    """
    windows = VolumeWindows(sources=tuple(sources), channels=channels)
    teacher = encoder.teacher
    volume_zyx = _product(teacher.grid, teacher.patch_zyx)
    outcomes: dict[str, int | Quarantine] = {}
    with write_cache(cache, head) as writer:
        if writer.done:
            log(f"features: {len(writer.done)} of {len(sources)} studies are already there; going on with the next")
        for start in track(range(0, len(sources), config.batch_size), "features"):
            batch = range(start, min(start + config.batch_size, len(sources)))
            if writer.done.issuperset(batch):
                outcomes |= {sources[row].study_id: row for row in batch}
                continue
            for row, tokens in zip(batch, _encode_batch(encoder, windows, batch, config), strict=True):
                source = sources[row]
                try:
                    if isinstance(tokens, Quarantine):
                        raise tokens
                    if row not in writer.done:
                        coverage = patch_coverage(source.valid_box, volume_zyx, teacher.patch_zyx)
                        writer.put(row, tokens, affine=source.affine, coverage_P=coverage)
                    outcomes[source.study_id] = row
                except Quarantine as refusal:
                    outcomes[source.study_id] = refusal
    return outcomes


def _product(first: Iterable[int], second: Iterable[int]) -> tuple[int, int, int]:
    z, y, x = (a * b for a, b in zip(first, second, strict=True))
    return z, y, x


def _manifest_row(
    row: dict[str, Any],
    outcomes: dict[str, int | Quarantine],
    digests: dict[str, str],
    *,
    cache: str,
    fingerprint: str,
    config: FeaturesConfig,
) -> dict[str, Any]:
    """One row of the features manifest; a study refused before this stage keeps its reason."""
    made = {key: row[key] for key in ("study_id", "patient_id", "status", "reason", "detail")}
    made |= {"fingerprint": fingerprint, "params_digest": digest(config.model_dump(mode="json"))}
    made["input_digest"] = digests.get(row["study_id"], row["input_digest"])
    outcome = outcomes.get(row["study_id"])
    if isinstance(outcome, Quarantine):
        return {**made, "status": "quarantined", "reason": outcome.reason, "detail": outcome.detail}
    return made if outcome is None else {**made, "path": cache, "row": outcome}

"""Frozen teacher → feature cache: one shard of volumes at a time, each file with its fingerprint."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from glint.core.atomic import atomic_directory
from glint.core.config.features import FeaturesConfig
from glint.core.errors import GlintError, Quarantine
from glint.core.progress import log, track
from glint.core.provenance import code_digest, digest, sha256_file
from glint.formats.feature_cache import SCHEMA_VERSION, Tokens, as_float16, write_cache
from glint.formats.manifest import manifest_frame, read_manifest, write_manifest
from glint.teachers.encoder import check_layers
from glint.teachers.registry import FrozenTeacher, TeacherRecord
from glint.teachers.volumes import Channels, Source, VolumeWindows, patch_coverage, read_sources

FINAL = "final"
CLEARLY_FASTER = 1.5


def fastest_dtype(model: nn.Module, volume_BCZYX: Tensor, *, repeats: int = 3) -> torch.dtype:
    """torch.bfloat16 where a pass under autocast is clearly faster than in float32, else torch.float32.

    Measured, because no table knows: on processors without bfloat16 units autocast is ten times slower. Interleaved
    rounds, best of each; the margin keeps the answer the same from run to run.
    """
    best = {torch.float32: float("inf"), torch.bfloat16: float("inf")}
    with torch.no_grad():
        for round_number in range(repeats + 1):  # the first round only warms up
            for dtype in best:
                started_s = time.perf_counter()
                with torch.autocast(volume_BCZYX.device.type, dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
                    model(volume_BCZYX)
                elapsed_s = time.perf_counter() - started_s
                if round_number > 0:
                    best[dtype] = min(best[dtype], elapsed_s)
    return torch.bfloat16 if best[torch.float32] > CLEARLY_FASTER * best[torch.bfloat16] else torch.float32


class _Encode(nn.Module):
    """A teacher's `encode` as a module call, for `fastest_dtype`."""

    def __init__(self, teacher: FrozenTeacher) -> None:
        super().__init__()
        self.teacher = teacher

    def forward(self, volume_BCZYX: Tensor) -> Tensor:
        return self.teacher.encode(volume_BCZYX).patch_tokens_BND


def resolved_precision(teacher: FrozenTeacher, config: FeaturesConfig, *, channels: int) -> str:
    """float32 or bfloat16: what `config.precision` says, or what the start-up measurement finds."""
    if config.precision != "auto":
        return config.precision
    shape = [grid * patch for grid, patch in zip(teacher.grid, teacher.patch_zyx, strict=True)]
    probe = torch.zeros(1, channels, *shape)
    return "bfloat16" if fastest_dtype(_Encode(teacher), probe) == torch.bfloat16 else "float32"


def layer_names(config: FeaturesConfig) -> tuple[str, ...]:
    """Names of the stored token sets: block numbers, then "final"."""
    return (*map(str, config.layers), *((FINAL,) if config.final else ()))


def encode_windows(
    teacher: FrozenTeacher, volume_BCZYX: Tensor, *, layers: Sequence[int], final: bool, precision: str
) -> dict[str, NDArray[np.float32]]:
    """Tokens (B, P, D) float32 by layer name."""
    with torch.autocast(volume_BCZYX.device.type, dtype=torch.bfloat16, enabled=precision == "bfloat16"):
        encoded = teacher.encode(volume_BCZYX, layers)
    tokens = {str(layer): encoded.hidden[layer] for layer in layers}
    if final:
        tokens[FINAL] = encoded.patch_tokens_BND
    return {name: value.float().cpu().numpy() for name, value in tokens.items()}


def fingerprint_of(
    teacher: FrozenTeacher,
    record: TeacherRecord,
    config: FeaturesConfig,
    *,
    precision: str,
    volume_digests: dict[str, str],
) -> str:
    """SHA-256 over everything that decides the bytes of a cache: weights, architecture, recipe, code, volumes."""
    return digest(
        {
            "weights": record.sha256,
            "name": record.name,
            "architecture": teacher.architecture,
            "windows_hu": record.windows,
            "layers": layer_names(config),
            "precision": precision,
            "schema": SCHEMA_VERSION,
            "code": code_digest("glint.teachers.encode"),
            "volumes": volume_digests,
        }
    )


def _encode_batch(
    teacher: FrozenTeacher, windows: VolumeWindows, batch: Sequence[int], config: FeaturesConfig, precision: str
) -> list[dict[str, Tokens] | Quarantine]:
    """Tokens of some volumes, or why a study has none: an unreadable or strange volume never takes others with it."""
    volumes: dict[int, NDArray[np.float32]] = {}
    outcome: dict[int, dict[str, Tokens] | Quarantine] = {}
    for index in batch:
        try:
            volumes[index] = _checked(windows.window(index), teacher)
        except Quarantine as refusal:
            outcome[index] = refusal
        except GlintError as error:
            outcome[index] = Quarantine("unreadable_volume", str(error))
    if volumes:
        stacked = torch.from_numpy(np.stack(list(volumes.values())))
        tokens = encode_windows(teacher, stacked, layers=config.layers, final=config.final, precision=precision)
        for place, index in enumerate(volumes):
            try:
                outcome[index] = {name: as_float16(values[place]) for name, values in tokens.items()}
            except Quarantine as refusal:
                outcome[index] = refusal
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

    Raises:
        InputError: a manifest is absent or of another schema, or the teacher lacks a layer.
    """
    check_layers(config.layers, teacher.depth)
    sources = read_sources([manifest])
    digests = {source.study_id: sha256_file(source.path) for source in sources if source.path.is_file()}
    precision = resolved_precision(teacher, config, channels=len(record.windows))
    fingerprint = fingerprint_of(teacher, record, config, precision=precision, volume_digests=digests)
    root, shard = out.parent.parent, out.parent.name
    cache = root / record.name / fingerprint[:12] / f"{shard}.h5"
    outcomes = _write_tokens(cache, sources, teacher, channels, config, precision=precision, fingerprint=fingerprint)
    rows = [
        _manifest_row(
            row, outcomes, digests, cache=f"../{cache.relative_to(root)}", fingerprint=fingerprint, config=config
        )
        for row in read_manifest(manifest, "resample").sort("study_id").to_dicts()
    ]
    frame = manifest_frame(rows, "features")
    with atomic_directory(out.parent) as folder:
        write_manifest(folder / out.name, frame, "features")
    for stale in root.glob(f"*/*/{shard}.h5"):
        if stale != cache:
            stale.unlink()
            if not any(stale.parent.iterdir()):
                stale.parent.rmdir()
    accepted = frame.filter(pl.col("status") == "ok").height
    log(
        f"features: {accepted} of {frame.height} studies, layers {', '.join(layer_names(config))}, {precision}, in {cache}"
    )
    return cache


def _write_tokens(
    cache: Path,
    sources: Sequence[Source],
    teacher: FrozenTeacher,
    channels: Channels,
    config: FeaturesConfig,
    *,
    precision: str,
    fingerprint: str,
) -> dict[str, int | Quarantine]:
    """Write the cache; the row of each study in it, or why it has none."""
    windows = VolumeWindows(sources=tuple(sources), channels=channels)
    volume_zyx = _product(teacher.grid, teacher.patch_zyx)
    outcomes: dict[str, int | Quarantine] = {}
    starts = range(0, len(sources), config.batch_size)
    with write_cache(
        cache,
        study_ids=[source.study_id for source in sources],
        layers=layer_names(config),
        grid=teacher.grid,
        width=teacher.width,
        fingerprint=fingerprint,
    ) as writer:
        for start in track(starts, "features"):
            batch = range(start, min(start + config.batch_size, len(sources)))
            for row, tokens in zip(batch, _encode_batch(teacher, windows, batch, config, precision), strict=True):
                source = sources[row]
                outcomes[source.study_id] = tokens if isinstance(tokens, Quarantine) else row
                if not isinstance(tokens, Quarantine):
                    coverage = patch_coverage(source.valid_box, volume_zyx, teacher.patch_zyx)
                    writer.put(row, tokens, affine=source.affine, coverage_P=coverage)
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

"""Feature cache: teacher tokens of one shard of studies in one HDF5 file that knows what it was made from.

Layout (N rows, P patches, D channels):

    tokens/<layer>   (N, P, D) float16, contiguous     study_id    (N,) bytes       row_ok   (N,) uint8, 0: quarantined
    affine           (N, 4, 4) float64, RAS mm         coverage    (N, P) float32   row_digest (N, 32) uint8, SHA-256 of the row

Attributes: schema, fingerprint, grid, dtype, layers, complete = 1, written last. Contiguous datasets are memory-mapped at
their offset: as fast as a plain array, where row chunks or gzip cost tens of times as much.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from glint.core.atomic import atomic_file
from glint.core.errors import FingerprintError, InputError, Quarantine

SCHEMA_VERSION = 1
Tokens = NDArray[np.float16]


def as_float16(tokens: NDArray[Any]) -> Tokens:
    """Tokens as float16. Raises Quarantine when one is not finite, before or after: float16 ends at 65504."""
    with np.errstate(over="ignore"):
        narrowed: Tokens = np.asarray(tokens).astype(np.float16)
    if not np.isfinite(narrowed).all():
        raise Quarantine("tokens_not_finite", "the teacher's tokens hold NaN, infinity or values beyond float16")
    return narrowed


class FeatureWriter:
    """Rows of an open cache, one `put` per study. Made by `write_cache`."""

    def __init__(self, handle: h5py.File, layers: tuple[str, ...]) -> None:
        self._handle, self._layers = handle, layers

    def put(
        self, row: int, tokens: Mapping[str, Tokens], *, affine: NDArray[np.float64], coverage_P: NDArray[np.float32]
    ) -> None:
        """Store row `row`: tokens (P, D) by layer, affine (4, 4), coverage (P,)."""
        for layer in self._layers:
            self._handle[f"tokens/{layer}"][row] = tokens[layer]
        self._handle["affine"][row] = affine
        self._handle["coverage"][row] = coverage_P
        self._handle["row_ok"][row] = 1
        study = bytes(self._handle["study_id"][row])
        parts = [np.ascontiguousarray(tokens[layer], np.float16) for layer in self._layers]
        digest = _row_digest(study, parts, np.asarray(affine, np.float64), np.asarray(coverage_P, np.float32))
        self._handle["row_digest"][row] = np.frombuffer(digest, np.uint8)


def _row_digest(
    study: bytes, tokens: Sequence[NDArray[Any]], affine: NDArray[np.float64], coverage_P: NDArray[np.float32]
) -> bytes:
    sha = hashlib.sha256(study)
    for part in (*tokens, affine, coverage_P):
        sha.update(np.ascontiguousarray(part).tobytes())
    return sha.digest()


@contextmanager
def write_cache(
    path: Path,
    *,
    study_ids: Sequence[str],
    layers: Sequence[str],
    grid: tuple[int, int, int],
    width: int,
    fingerprint: str,
) -> Iterator[FeatureWriter]:
    """Yield a writer; the file takes its name, complete, when the block ends well, and vanishes when it doesn't.

    HDF5 of the default version opens after a kill with the rows written so far, so completeness rests on the rename and
    on the attribute `complete`, which is written after everything else.
    """
    patches, count = int(np.prod(grid)), len(study_ids)
    longest = max((len(study.encode()) for study in study_ids), default=1)
    shapes: dict[str, tuple[tuple[int, ...], Any]] = {
        **{f"tokens/{layer}": ((count, patches, width), np.dtype("<f2")) for layer in layers},
        "affine": ((count, 4, 4), np.dtype("<f8")),
        "coverage": ((count, patches), np.dtype("<f4")),
        "row_ok": ((count,), np.dtype("u1")),
        "row_digest": ((count, 32), np.dtype("u1")),
    }
    with atomic_file(path) as temporary:
        with h5py.File(temporary, "w", track_order=False) as handle:
            names = np.array([study.encode() for study in study_ids], dtype=f"S{longest}")
            handle.create_dataset("study_id", data=names, track_times=False)
            for name, (shape, dtype) in shapes.items():
                handle.create_dataset(name, shape=shape, dtype=dtype, track_times=False, fillvalue=0)
            yield FeatureWriter(handle, tuple(layers))
            handle.attrs.update(
                schema=SCHEMA_VERSION, fingerprint=fingerprint, grid=grid, dtype="float16", layers=",".join(layers)
            )
            handle.flush()
            handle.attrs["complete"] = 1
        with temporary.open("rb") as written:
            os.fsync(written.fileno())


class FeatureCache:
    """Reader: checks the file once, then maps it. Picklable: a worker process opens its own map.

    Args:
        path: The shard's HDF5 file.
        fingerprint: What the reader's manifest says the file was made from; None takes what is there.

    Raises:
        InputError: no such file, not HDF5, unfinished, or of another schema.
        FingerprintError: made from something else than the reader expects.
    """

    def __init__(self, path: Path, *, fingerprint: str | None = None) -> None:
        self.path, self._expected = Path(path), fingerprint
        self._open()

    def _open(self) -> None:
        offsets: dict[str, tuple[int | None, tuple[int, ...], Any]] = {}
        try:
            with h5py.File(self.path, "r") as handle:
                self._check(handle)
                self.fingerprint = str(handle.attrs["fingerprint"])
                self.layers = tuple(str(handle.attrs["layers"]).split(","))
                grid = [int(size) for size in handle.attrs["grid"]]
                self.grid = (grid[0], grid[1], grid[2])
                self.study_ids = tuple(bytes(name).decode() for name in handle["study_id"][:])
                for name in (
                    *(f"tokens/{layer}" for layer in self.layers),
                    "affine",
                    "coverage",
                    "row_ok",
                    "row_digest",
                ):
                    dataset = handle[name]
                    offsets[name] = (dataset.id.get_offset(), dataset.shape, dataset.dtype)
        except FileNotFoundError as error:
            raise InputError(f"{self.path}: no such feature cache; run the features stage first") from error
        except (OSError, KeyError) as error:
            raise InputError(
                f"{self.path}: not a feature cache, or a damaged one; run the features stage again"
            ) from error
        self._rows = {study: row for row, study in enumerate(self.study_ids)}
        self._arrays = {name: self._map(*place) for name, place in offsets.items()}

    def _check(self, handle: h5py.File) -> None:
        if handle.attrs.get("complete", 0) != 1:
            raise InputError(f"{self.path}: this feature cache was never finished; run the features stage again")
        if (schema := handle.attrs.get("schema")) != SCHEMA_VERSION:
            raise InputError(
                f"{self.path}: feature cache of schema {schema}, this reader knows {SCHEMA_VERSION}; run the stage again"
            )
        if self._expected is not None and (actual := str(handle.attrs["fingerprint"])) != self._expected:
            raise FingerprintError(
                f"{self.path}: cache has fingerprint {actual[:12]}, the manifest expects {self._expected[:12]}; "
                "run the features stage again"
            )

    def _map(self, offset: int | None, shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
        if offset is None:  # a dataset without rows was never given a place
            return np.zeros(shape, dtype)
        return np.memmap(self.path, dtype=dtype, mode="r", offset=offset, shape=shape)

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "_expected": self.fingerprint}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._open()

    def __len__(self) -> int:
        return len(self.study_ids)

    def row(self, study_id: str) -> int:
        """Row of a study. Raises InputError when the cache has none, or a quarantined one."""
        if study_id not in self._rows or not self._arrays["row_ok"][self._rows[study_id]]:
            raise InputError(f"{self.path}: holds no tokens of study {study_id}; see the manifest for the reason")
        return self._rows[study_id]

    def tokens(self, layer: int | str) -> Tokens:
        """(N, P, D) float16, mapped. Raises InputError for a layer that was not stored."""
        if str(layer) not in self.layers:
            raise InputError(
                f"{self.path}: has layers {', '.join(self.layers)}, not {layer}; add it to features.layers"
            )
        return self._arrays[f"tokens/{layer}"]

    @property
    def coverage(self) -> NDArray[np.float32]:
        """(N, P) share of every patch that lies within the scan."""
        return self._arrays["coverage"]

    @property
    def affine(self) -> NDArray[np.float64]:
        """(N, 4, 4) voxel index (x, y, z) → RAS mm."""
        return self._arrays["affine"]

    @property
    def row_ok(self) -> NDArray[np.bool_]:
        """(N,) whether the row holds tokens."""
        return np.asarray(self._arrays["row_ok"], dtype=np.bool_)

    def verify(self) -> None:
        """Compare every row with its SHA-256. Raises InputError naming the first row that changed on disk."""
        for row, study in enumerate(self.study_ids):
            if not self.row_ok[row]:
                continue
            parts = [self.tokens(layer)[row] for layer in self.layers]
            if (
                _row_digest(study.encode(), parts, self.affine[row], self.coverage[row])
                != self._arrays["row_digest"][row].tobytes()
            ):
                raise InputError(f"{self.path}: row {row} is not what was written; run the features stage again")

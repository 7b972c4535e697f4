"""Feature cache: teacher tokens of one shard of studies in one HDF5 file that knows what it was made from.

Layout (N rows, P patches, D channels), contiguous, or one chunk per row; never compressed, so that rows are mapped at their offset:

    tokens/<layer>  (N, P, D) float16 | uint16 (the bits of bfloat16) | int8      scale, offset/<layer>  (N, D) float32, int8 alone
    head            (bytes) JSON: recipe, layers, grid, width, dtype, layout      affine    (N, 4, 4) float64, RAS mm
    study_id        (N,) bytes                                                    coverage  (N, P) float32, share within the scan
    source_digest   (N, 32) uint8, SHA-256 of the volume                          row_digest (N, 32) uint8, SHA-256 of the row
    row_ok          (N,) uint8, 0: quarantined

Attributes: schema, fingerprint (SHA-256 of head, studies and source digests), complete = 1, written last.

A writer lays the empty file out once as `.<name>.partial` and then writes rows at their offsets, without HDF5: a kill can
tear one row and nothing else, and the next writer keeps every row whose digest holds. Only a whole file takes the name.
"""

from __future__ import annotations

import fcntl
import json
import mmap
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from glint.core.atomic import atomic_file, settle
from glint.core.errors import FingerprintError, InputError
from glint.core.provenance import canonical_json
from glint.formats.feature_rows import SCHEMA_VERSION, CacheHead, Floats, bfloat16_values, row_digest, stored_tokens


class FeatureWriter:
    """Rows of an open cache, one `put` per study. Made by `write_cache`. `done`: rows that an earlier writer left whole."""

    def __init__(
        self, descriptor: int, head: CacheHead, offsets: Mapping[str, Sequence[int]], done: frozenset[int]
    ) -> None:
        self.head, self.done = head, done
        self._descriptor, self._offsets, self._datasets = descriptor, offsets, head.datasets()

    def put(
        self, row: int, tokens: Mapping[str, NDArray[Any]], *, affine: NDArray[np.float64], coverage_P: Floats
    ) -> None:
        """Store row `row`: tokens (P, D) by layer, affine (4, 4), coverage (P,).

        Raises:
            Quarantine: a token is not finite in the type on disk; nothing was written.
        """
        parts: dict[str, NDArray[Any]] = {"affine": affine, "coverage": coverage_P}
        for layer in self.head.layers:
            parts |= {f"{part}/{layer}": value for part, value in stored_tokens(tokens[layer], self.head.dtype).items()}
        for name, value in parts.items():
            shape, dtype = self._datasets[name]
            parts[name] = np.ascontiguousarray(value, dtype=dtype).reshape(shape[1:])
        study = self.head.study_ids[row]
        found = row_digest(study, self.head.sources.get(study, ""), parts)
        for name, value in parts.items():
            self._write(name, row, value.tobytes())
        self._write("row_digest", row, found)
        self._write("row_ok", row, b"\x01")

    def _write(self, name: str, row: int, content: bytes) -> None:
        written = 0
        while written < len(content):  # a write may be short, on a full disk above all
            written += os.pwrite(self._descriptor, content[written:], self._offsets[name][row] + written)


def partial_path(path: Path) -> Path:
    """Name of the unfinished twin of a cache."""
    return path.parent / f".{path.name}.partial"


@contextmanager
def write_cache(path: Path, head: CacheHead) -> Iterator[FeatureWriter]:
    """Yield a writer; the file takes its name, complete, when the block ends well. Otherwise its rows wait for the next writer.

    Raises:
        InputError: another process writes this file.
    """
    partial, final = partial_path(path), Path(path)
    final.parent.mkdir(parents=True, exist_ok=True)
    with _sole_writer(final):
        done = _whole_rows(partial, head)
        if done is None:
            done = frozenset()
            with atomic_file(partial) as temporary:
                _lay_out(temporary, head)
        with h5py.File(partial, "r") as handle:
            offsets = {name: _row_offsets(handle[name]) for name in head.datasets()}
        descriptor = os.open(partial, os.O_RDWR)
        try:
            yield FeatureWriter(descriptor, head, offsets, done)
            os.fsync(descriptor)  # before `complete`, which says that they are there
        finally:
            os.close(descriptor)
        with h5py.File(partial, "r+") as handle:
            handle.attrs.modify("complete", 1)
        settle(partial, final)


@contextmanager
def _sole_writer(path: Path) -> Iterator[None]:
    """Hold `.<name>.lock`; the system frees it when its holder dies."""
    lock = path.parent / f".{path.name}.lock"
    with lock.open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InputError(f"{path}: another process is writing this feature cache; wait for it") from error
        try:
            yield
        finally:
            lock.unlink(missing_ok=True)


def _lay_out(path: Path, head: CacheHead) -> None:
    """The whole file but for its rows, which read as quarantined: space reserved, every offset final."""
    reserved = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    reserved.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    longest = max((len(study.encode()) for study in head.study_ids), default=1)
    sources = [bytes.fromhex(head.sources.get(study, "")).ljust(32, b"\0") for study in head.study_ids]
    with h5py.File(path, "w", track_order=False) as handle:
        names = np.array([study.encode() for study in head.study_ids], dtype=f"S{longest}")
        told = np.frombuffer(canonical_json(head.described()).encode(), np.uint8)
        digests = np.frombuffer(b"".join(sources), np.uint8).reshape(-1, 32)
        for name, value in {"study_id": names, "head": told, "source_digest": digests}.items():
            handle.create_dataset(name, data=value, track_times=False)
        for name, (shape, dtype) in head.datasets().items():
            chunks = (1, *shape[1:]) if head.layout == "chunked" and name.startswith("tokens/") and shape[0] else None
            small = not name.startswith("tokens/")
            handle.create_dataset(
                name,
                shape=shape,
                dtype=dtype,
                chunks=chunks,
                track_times=False,
                dcpl=reserved.copy(),
                fillvalue=0 if small else None,
                fill_time="alloc" if small else "never",
            )
        handle.attrs.update(schema=SCHEMA_VERSION, fingerprint=head.fingerprint, complete=0)


def _row_offsets(dataset: h5py.Dataset) -> tuple[int, ...]:
    """Byte offset of every row; rows lie together in the file, in one block or in a chunk each."""
    count, size = dataset.shape[0], int(np.prod(dataset.shape[1:])) * dataset.dtype.itemsize
    if count == 0:
        return ()
    if dataset.chunks is None:
        return tuple(dataset.id.get_offset() + row * size for row in range(count))
    if dataset.compression is not None or dataset.chunks != (1, *dataset.shape[1:]):
        raise InputError(f"tokens in chunks {dataset.chunks}, compressed or not of one study each, can't be mapped")
    zeros = (0,) * (dataset.ndim - 1)
    return tuple(dataset.id.get_chunk_info_by_coord((row, *zeros)).byte_offset for row in range(count))


def _whole_rows(partial: Path, head: CacheHead) -> frozenset[int] | None:
    """Rows of an unfinished file that are what was written; None where there is no file to go on with."""
    try:
        cache = FeatureCache(partial, fingerprint=head.fingerprint, finished=False)
        return frozenset(row for row in range(len(cache)) if cache.row_ok[row] and cache.holds(row))
    except (InputError, FingerprintError):
        return None


class FeatureCache:
    """Reader: checks the file once, then maps it. No HDF5 handle stays open; every process maps the file anew, forked or spawned.

    Args:
        path: The shard's HDF5 file.
        fingerprint: What the reader's manifest says the file was made from; None takes what is there.
        recipe: Parts of the recipe that the reader relies on, such as the weights; a difference is named.
        sources: study → SHA-256 of the volume that the reader has.

    Raises:
        InputError: no such file, not HDF5, unfinished, damaged or of another schema.
        FingerprintError: made from something else than the reader expects.
    """

    def __init__(
        self,
        path: Path,
        *,
        fingerprint: str | None = None,
        recipe: Mapping[str, Any] | None = None,
        sources: Mapping[str, str] | None = None,
        finished: bool = True,
    ) -> None:
        self.path, self._finished = Path(path), finished
        self._open(fingerprint)
        self.check(recipe=recipe or {}, sources=sources or {})

    def _open(self, expected: str | None) -> None:
        try:
            with h5py.File(self.path, "r") as handle:
                if self._finished and handle.attrs.get("complete", 0) != 1:
                    raise InputError(
                        f"{self.path}: this feature cache was never finished; run the features stage again"
                    )
                if (schema := handle.attrs.get("schema")) != SCHEMA_VERSION:
                    raise InputError(
                        f"{self.path}: feature cache of schema {schema}, this reader knows {SCHEMA_VERSION}; "
                        "run the features stage again"
                    )
                self.head = _read_head(handle)
                self.fingerprint = str(handle.attrs["fingerprint"])
                self._offsets = {name: _row_offsets(handle[name]) for name in self.head.datasets()}
                place = self.path.stat()
            self._identity = (place.st_dev, place.st_ino, place.st_size, place.st_mtime_ns)
        except FileNotFoundError as error:
            raise InputError(f"{self.path}: no such feature cache; run the features stage first") from error
        except (OSError, KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
            raise InputError(
                f"{self.path}: not a feature cache, or a damaged one; run the features stage again"
            ) from error
        if self.fingerprint != self.head.fingerprint:
            raise InputError(f"{self.path}: its head is not what was written; run the features stage again")
        if expected is not None and self.fingerprint != expected:
            raise FingerprintError(
                f"{self.path}: cache has fingerprint {self.fingerprint[:12]}, the reader expects {expected[:12]}; "
                "run the features stage again"
            )
        self._rows = {study: row for row, study in enumerate(self.head.study_ids)}
        self._process = -1
        self._arrays: dict[str, Any] = {}

    def check(self, *, recipe: Mapping[str, Any], sources: Mapping[str, str]) -> None:
        """Compare what the cache was made from with what the reader has. Raises FingerprintError naming the first difference."""
        for name, wanted in recipe.items():
            if (found := self.head.recipe.get(name)) != json.loads(canonical_json(wanted)):
                raise FingerprintError(
                    f"{self.path}: made with {name} {_brief(found)}, here it is {_brief(wanted)}; run the features stage again"
                )
        for study, wanted in sources.items():
            if study in self._rows and (volume := self.head.sources.get(study, "")) != wanted:
                raise FingerprintError(
                    f"{self.path}: the volume of study {study} was {volume[:12] or 'unreadable'}, it is {wanted[:12]} now; "
                    "run the features stage again"
                )

    def _mapped(self, name: str) -> Any:
        """(N, …) array over the mapped file, or a tuple of rows where every row is a chunk of its own."""
        if self._process != os.getpid():
            self._map()
        return self._arrays[name]

    def _map(self) -> None:
        with self.path.open("rb") as handle:
            place = os.fstat(handle.fileno())
            if (place.st_dev, place.st_ino, place.st_size, place.st_mtime_ns) != self._identity:
                self._open(self.fingerprint)
                return self._map()
            mapped = mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ)
        self._arrays = {}
        for name, (shape, dtype) in self.head.datasets().items():
            offsets, size = self._offsets[name], int(np.prod(shape[1:])) * dtype.itemsize
            if offsets and max(offsets) + size > len(mapped):
                raise InputError(f"{self.path}: the file ends before its rows do; run the features stage again")
            if all(later - offset == size for offset, later in pairwise(offsets)):
                start, count = (offsets[0], shape[0]) if offsets else (0, 0)
                self._arrays[name] = np.frombuffer(mapped, dtype, count * size // dtype.itemsize, start).reshape(shape)
            else:
                self._arrays[name] = tuple(
                    np.frombuffer(mapped, dtype, size // dtype.itemsize, offset).reshape(shape[1:])
                    for offset in offsets
                )
        self._process = os.getpid()

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "fingerprint": self.fingerprint, "_finished": self._finished}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.path, self._finished = state["path"], state["_finished"]
        self._open(state["fingerprint"])

    def __len__(self) -> int:
        return len(self.head.study_ids)

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of the stored token sets."""
        return self.head.layers

    @property
    def grid(self) -> tuple[int, int, int]:
        """Patches along (z, y, x)."""
        return self.head.grid

    @property
    def study_ids(self) -> tuple[str, ...]:
        """Studies, by row."""
        return self.head.study_ids

    def row(self, study_id: str) -> int:
        """Row of a study. Raises InputError when the cache has none, or a quarantined one."""
        if study_id not in self._rows or not self.row_ok[self._rows[study_id]]:
            raise InputError(f"{self.path}: holds no tokens of study {study_id}; see the manifest for the reason")
        return self._rows[study_id]

    def read(
        self, layer: int | str, rows: Sequence[int] | NDArray[np.intp], patches: NDArray[np.intp] | None = None
    ) -> NDArray[Any]:
        """(B, P', D) tokens of some rows, and of some patches where given: float16 as stored, float32 of the other types.

        Raises:
            InputError: the layer was not stored.
        """
        name = str(layer)
        if name not in self.layers:
            raise InputError(
                f"{self.path}: has layers {', '.join(self.layers)}, not {layer}; add it to features.layers"
            )
        stored = _gathered(self._mapped(f"tokens/{name}"), rows, patches)
        if self.head.dtype == "float16":
            return stored
        if self.head.dtype == "bfloat16":
            return bfloat16_values(stored)
        chosen = np.asarray(rows, dtype=np.intp)
        scale, offset = (self._mapped(f"{part}/{name}")[chosen, None, :] for part in ("scale", "offset"))
        return np.asarray(stored * scale + offset, dtype=np.float32)

    @property
    def coverage(self) -> Floats:
        """(N, P) share of every patch that lies within the scan."""
        return self._mapped("coverage")  # type: ignore[no-any-return]

    @property
    def valid(self) -> NDArray[np.bool_]:
        """(N, P) patches that hold at least half scan; the rest is padding."""
        return np.asarray(self.coverage >= 0.5)

    @property
    def affine(self) -> NDArray[np.float64]:
        """(N, 4, 4) voxel index (x, y, z) → RAS mm."""
        return self._mapped("affine")  # type: ignore[no-any-return]

    @property
    def row_ok(self) -> NDArray[np.bool_]:
        """(N,) whether the row holds tokens."""
        return np.asarray(self._mapped("row_ok"), dtype=np.bool_)

    def holds(self, row: int) -> bool:
        """Whether a row is what was written, by its SHA-256; a quarantined one must be empty."""
        told: bytes = self._mapped("row_digest")[row].tobytes()
        if not self.row_ok[row]:
            return told == bytes(32)
        study = self.study_ids[row]
        parts = {name: self._mapped(name)[row] for name in self.head.datasets() if name not in ("row_ok", "row_digest")}
        return row_digest(study, self.head.sources.get(study, ""), parts) == told

    def verify(self) -> None:
        """Compare every row with its SHA-256. Raises InputError naming the first row that changed on disk."""
        for row in range(len(self)):
            if not self.holds(row):
                raise InputError(f"{self.path}: row {row} is not what was written; run the features stage again")


def _read_head(handle: h5py.File) -> CacheHead:
    told = json.loads(handle["head"][:].tobytes())
    names = tuple(bytes(name).decode() for name in handle["study_id"][:])
    digests = [one.tobytes() for one in handle["source_digest"][:]]
    if len(digests) != len(names):
        raise ValueError("as many source digests as studies")
    return CacheHead(
        study_ids=names,
        sources={name: one.hex() for name, one in zip(names, digests, strict=True) if any(one)},
        recipe=told["recipe"],
        layers=tuple(told["layers"]),
        grid=(int(told["grid"][0]), int(told["grid"][1]), int(told["grid"][2])),
        width=int(told["width"]),
        dtype=told["dtype"],
        layout=told["layout"],
    )


def _gathered(stored: Any, rows: Sequence[int] | NDArray[np.intp], patches: NDArray[np.intp] | None) -> NDArray[Any]:
    """Rows (B, …) out of an array, or out of a tuple of rows."""
    if isinstance(stored, tuple):
        return np.stack([stored[row] if patches is None else stored[row][patches] for row in rows])
    chosen = np.asarray(rows, dtype=np.intp)
    return np.asarray(stored[chosen] if patches is None else stored[chosen[:, None], patches])


def _brief(value: Any) -> str:
    text = value if isinstance(value, str) else canonical_json(value)
    return text[:12] if isinstance(value, str) else text if len(text) <= 60 else f"{text[:57]}..."

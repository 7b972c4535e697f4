"""What a feature cache is made of, without HDF5: the head that fixes it, tokens as they lie on disk, the digest of a row."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from glint.core.errors import Quarantine
from glint.core.provenance import digest

SCHEMA_VERSION = 2
INT8_STEPS = 127
StoredType = Literal["float16", "bfloat16", "int8"]
Layout = Literal["contiguous", "chunked"]
Floats = NDArray[np.float32]
ON_DISK: dict[str, np.dtype[Any]] = {"float16": np.dtype("<f2"), "bfloat16": np.dtype("<u2"), "int8": np.dtype("i1")}


@dataclass(frozen=True, kw_only=True)
class CacheHead:
    """What fixes a cache before its first row. `recipe`: JSON values; `sources`: study → SHA-256 of its volume, "" where unreadable.

    The recipe holds whatever decides the tokens besides the volumes: weights, architecture, windows, precision, code.
    """

    study_ids: tuple[str, ...]
    layers: tuple[str, ...]
    grid: tuple[int, int, int]
    width: int
    recipe: Mapping[str, Any] = field(default_factory=dict)
    sources: Mapping[str, str] = field(default_factory=dict)
    dtype: StoredType = "float16"
    layout: Layout = "contiguous"

    @property
    def patches(self) -> int:
        """Tokens of one study."""
        return int(np.prod(self.grid))

    def described(self) -> dict[str, Any]:
        """All but the studies, as JSON values."""
        return {
            "recipe": dict(self.recipe),
            "layers": list(self.layers),
            "grid": list(self.grid),
            "width": self.width,
            "dtype": self.dtype,
            "layout": self.layout,
            "schema": SCHEMA_VERSION,
        }

    @property
    def fingerprint(self) -> str:
        """Hexadecimal SHA-256 over the head and every study's source."""
        return digest([self.described(), [[study, self.sources.get(study, "")] for study in self.study_ids]])

    def datasets(self) -> dict[str, tuple[tuple[int, ...], np.dtype[Any]]]:
        """Shape and type of everything that has a row per study and is written row by row."""
        count = len(self.study_ids)
        shapes: dict[str, tuple[tuple[int, ...], np.dtype[Any]]] = {}
        for layer in self.layers:
            shapes[f"tokens/{layer}"] = ((count, self.patches, self.width), ON_DISK[self.dtype])
            if self.dtype == "int8":
                shapes[f"scale/{layer}"] = shapes[f"offset/{layer}"] = ((count, self.width), np.dtype("<f4"))
        return shapes | {
            "affine": ((count, 4, 4), np.dtype("<f8")),
            "coverage": ((count, self.patches), np.dtype("<f4")),
            "row_digest": ((count, 32), np.dtype("u1")),
            "row_ok": ((count,), np.dtype("u1")),
        }


def stored_tokens(tokens_PD: NDArray[Any], dtype: StoredType) -> dict[str, NDArray[Any]]:
    """Tokens (P, D) as they lie on disk: `tokens`, and for int8 `scale` and `offset` (D,) of every channel of this study.

    Raises:
        Quarantine: one is not finite, before or after: float16 ends at 65504.
    """
    exact = np.asarray(tokens_PD, dtype=np.float32)
    if not np.isfinite(exact).all():
        raise Quarantine("tokens_not_finite", "the teacher's tokens hold NaN or infinity")
    if dtype == "int8":
        low, high = exact.min(axis=0), exact.max(axis=0)
        offset = low / 2 + high / 2
        scale = (high / 2 - low / 2) / INT8_STEPS
        steps = np.rint((exact - offset) / np.where(scale > 0, scale, 1))
        return {"tokens": steps.clip(-INT8_STEPS, INT8_STEPS).astype(np.int8), "scale": scale, "offset": offset}
    if dtype == "bfloat16":
        bits = exact.view(np.uint32)
        stored = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)  # to nearest, ties to even
        finite = bool(((stored & 0x7F80) != 0x7F80).all())
    else:
        with np.errstate(over="ignore"):
            stored = exact.astype(np.float16)
        finite = bool(np.isfinite(stored).all())
    if not finite:
        raise Quarantine("tokens_not_finite", f"the teacher's tokens hold values beyond {dtype}")
    return {"tokens": stored}


def bfloat16_values(bits: NDArray[np.uint16]) -> Floats:
    """float32 of bfloat16 bits."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def row_digest(study: str, source: str, parts: Mapping[str, NDArray[Any]]) -> bytes:
    """`parts`: name → the row's values as they lie on disk."""
    sha = hashlib.sha256(f"{study} {source}".encode())
    for name in sorted(parts):
        sha.update(np.ascontiguousarray(parts[name]).tobytes())
    return sha.digest()

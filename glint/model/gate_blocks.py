"""In which parts the gate's matrix is worked through: sentences by volumes, whole volumes each."""

import functools
import os
from collections.abc import Iterator
from dataclasses import dataclass

import torch

WORKING_MATRICES = 3
"""Matrices of one part in use at a time: cosines, open gates, their gradient."""
FALLBACK_CACHE_BYTES = 2**20
FEWEST_SENTENCES = 64
"""Below it a part's matrix products are too flat to run at the library's rate."""


@dataclass(frozen=True, kw_only=True)
class BlockSizes:
    """`sentences` and `volumes` of one part."""

    sentences: int
    volumes: int

    def parts(self, num_sentences: int, num_volumes: int) -> Iterator[tuple[slice, slice]]:
        """(sentences, volumes) of every part, all sentences of some volumes before the next volumes."""
        for volume in range(0, num_volumes, self.volumes):
            for sentence in range(0, num_sentences, self.sentences):
                yield (
                    slice(sentence, min(sentence + self.sentences, num_sentences)),
                    slice(volume, min(volume + self.volumes, num_volumes)),
                )


@functools.cache
def cache_bytes(device: torch.device) -> int:
    """Second-level cache of a core, or of the whole GPU."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).L2_cache_size)
    names = os.sysconf_names if hasattr(os, "sysconf_names") else {}
    found = os.sysconf("SC_LEVEL2_CACHE_SIZE") if "SC_LEVEL2_CACHE_SIZE" in names else 0
    return found if found > 0 else FALLBACK_CACHE_BYTES


def block_sizes(num_sentences: int, num_volumes: int, num_patches: int, *, cache: int, item_bytes: int) -> BlockSizes:
    """The largest part whose working matrices fit the cache, sentences first: they share a volume's patches.

    Never fewer than `FEWEST_SENTENCES` sentences (or all), whatever the cache. Measured: benchmarks/results/gate.md.
    """
    elements = cache // (WORKING_MATRICES * item_bytes)
    sentences = min(num_sentences, max(FEWEST_SENTENCES, elements // max(1, num_patches)))
    volumes = max(1, min(num_volumes, elements // max(1, sentences * num_patches)))
    return BlockSizes(sentences=max(1, sentences), volumes=volumes)

"""In which parts the gate's matrix is worked through: sentences by volumes, whole volumes each."""

import functools
import os
from collections.abc import Iterator
from dataclasses import dataclass

import torch

WORKING_MATRICES = 3
"""Matrices of one part in use at a time: cosines, open gates, their gradient."""
FALLBACK_CACHE_BYTES = 2**23
LAST_LEVELS = ("SC_LEVEL4_CACHE_SIZE", "SC_LEVEL3_CACHE_SIZE", "SC_LEVEL2_CACHE_SIZE")
FEWEST_SENTENCES = 128
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
    """Half the last-level cache, which other cores use too; of a GPU its second level."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).L2_cache_size)
    names = [name for name in LAST_LEVELS if name in getattr(os, "sysconf_names", {})]
    sizes = [size for name in names if (size := os.sysconf(name)) > 0]
    return (sizes[0] if sizes else FALLBACK_CACHE_BYTES) // 2


def block_sizes(num_sentences: int, num_volumes: int, num_patches: int, *, cache: int, item_bytes: int) -> BlockSizes:
    """The largest part whose working matrices fit the cache, sentences first: they share a volume's patches.

    Never fewer than `FEWEST_SENTENCES` sentences (or all), whatever the cache. Measured: benchmarks/results/gate.md.
    """
    elements = cache // (WORKING_MATRICES * item_bytes)
    sentences = min(num_sentences, max(FEWEST_SENTENCES, elements // max(1, num_patches)))
    volumes = max(1, min(num_volumes, elements // max(1, sentences * num_patches)))
    return BlockSizes(sentences=max(1, sentences), volumes=volumes)

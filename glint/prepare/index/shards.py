"""Append-only assignment of studies to shards: a new study touches one shard, a known one stays where it is."""

import heapq
from collections import Counter
from collections.abc import Iterable, Mapping


def shard_names(num_shards: int) -> tuple[str, ...]:
    """`shard-000`, `shard-001`, …"""
    return tuple(f"shard-{index:03d}" for index in range(num_shards))


def assign_shards(study_ids: Iterable[str], known: Mapping[str, str], *, num_shards: int) -> dict[str, str]:
    """The shard of every study: as in `known` where that shard still exists, else the smallest, lowest name first."""
    names = shard_names(num_shards)
    wanted = sorted(set(study_ids))
    assigned = {study: known[study] for study in wanted if known.get(study) in names}
    sizes = Counter(assigned.values())
    heap = [(sizes[name], name) for name in names]
    heapq.heapify(heap)
    for study in wanted:
        if study not in assigned:
            size, name = heapq.heappop(heap)
            assigned[study] = name
            heapq.heappush(heap, (size + 1, name))
    return assigned

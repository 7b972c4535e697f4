"""Work on many items in several processes, results in order."""

import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import TypeVar

from glint.core.progress import track

FORKABLE = ("numpy", "scipy.ndimage", "nibabel", "pydicom.pixels")
"""Libraries that are slow to import and start no thread by that, so that a server that has them can be forked."""

Item = TypeVar("Item")
Result = TypeVar("Result")


def parallel_map(
    function: Callable[[Item], Result], items: Sequence[Item], *, workers: int, description: str
) -> list[Result]:
    """Apply `function` to every item; `workers` ≤ 1 stays in this process.

    Processes are forked from a clean server rather than spawned, so that the slow imports are paid once. Threads are
    of no use here: pydicom and numpy's small operations hold the interpreter lock.
    """
    if workers <= 1 or len(items) <= 1:
        return [function(item) for item in track(items, description)]
    chunk = max(1, min(32, len(items) // (workers * 4)))
    context = get_context("forkserver")
    context.set_forkserver_preload(["__main__", *(name for name in FORKABLE if name in sys.modules)])
    with ProcessPoolExecutor(max_workers=min(workers, len(items)), mp_context=context) as pool:
        return list(track(pool.map(function, items, chunksize=chunk), description, total=len(items)))

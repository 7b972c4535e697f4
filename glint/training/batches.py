"""Batches made while the step before them is computed."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Self

from glint.training.step import Batch


class BatchesAhead:
    """Batches by step, up to `ahead` of them made beforehand by a thread of its own.

    A batch is a function of its step alone (and of the seed in the config), so what comes is the same however many are
    made ahead, in whatever order they are asked for, and after a resume. An error of a batch is raised where it is asked for.
    """

    def __init__(self, make: Callable[[int], Batch], *, last: int, ahead: int) -> None:
        """`make`: step -> batch; none is made ahead from step `last` on."""
        self._make, self._last, self._ahead = make, last, ahead
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="batches") if ahead else None
        self._made: dict[int, Future[Batch]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)

    def __call__(self, step: int) -> Batch:
        """The batch of a step."""
        if self._pool is None:
            return self._make(step)
        wanted = self._made.pop(step, None) or self._pool.submit(self._make, step)
        for one in range(step + 1, min(step + 1 + self._ahead, self._last)):
            if one not in self._made:
                self._made[one] = self._pool.submit(self._make, one)
        return wanted.result()

"""Leaving early without losing work: a signal or a time limit asks, the loop answers after its step."""

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType

REQUEUE_EXIT_CODE = 75  # EX_TEMPFAIL of sysexits.h: schedulers read "try again"
LARGEST_MARGIN_S = 300.0
MARGIN_SHARE = 0.25
"""Share of a short limit kept free: the scheduler's clock started before ours, and the last step and the save take time."""
SIGNALS = (signal.SIGTERM, signal.SIGUSR1)


@dataclass(frozen=True, kw_only=True)
class TimeLimit:
    """`minutes` of wall clock, counted from `started_s` of time.monotonic()."""

    minutes: float
    started_s: float

    def near(self, now_s: float) -> bool:
        """Whether what is left is needed to save and leave."""
        whole_s = 60 * self.minutes
        return now_s - self.started_s >= whole_s - min(LARGEST_MARGIN_S, MARGIN_SHARE * whole_s)


@dataclass(kw_only=True)
class StopRequest:
    """What has asked the loop to leave; it goes on being asked until the loop looks."""

    limit: TimeLimit | None = None
    received: list[int] = field(default_factory=list)

    def reason(self) -> str | None:
        """Why to leave now, None where nothing asks."""
        if self.received:
            return signal.Signals(self.received[0]).name
        if self.limit is not None and self.limit.near(time.monotonic()):
            return f"the time limit of {self.limit.minutes:g} minutes is near"
        return None


def time_limit(minutes: float | None) -> TimeLimit | None:
    """A limit that starts now; None where there is none."""
    return None if minutes is None else TimeLimit(minutes=minutes, started_s=time.monotonic())


@contextmanager
def stop_request(limit: TimeLimit | None = None) -> Iterator[StopRequest]:
    """A request that SIGTERM (preemption, scancel, time limit), SIGUSR1 (sbatch --signal) and `limit` raise."""
    request = StopRequest(limit=limit)

    def receive(number: int, _frame: FrameType | None) -> None:
        request.received.append(number)

    former = {number: signal.signal(number, receive) for number in SIGNALS}
    try:
        yield request
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)

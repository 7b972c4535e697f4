"""Progress on standard error: a live bar on a terminal, a line per tenth in a log file."""

import sys
import time
from collections.abc import Iterable, Iterator, Sized
from typing import TypeVar

Item = TypeVar("Item")


def log(message: str) -> None:
    """Print one line to standard error at once."""
    print(message, file=sys.stderr, flush=True)


def track(iterable: Iterable[Item], description: str, total: int | None = None) -> Iterator[Item]:
    """Yield the items of `iterable` while showing how far it has come."""
    count = total if total is not None else (len(iterable) if isinstance(iterable, Sized) else None)
    if sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import track as rich_track

        yield from rich_track(iterable, description, total=count, console=Console(stderr=True))
        return
    started_s, shown = time.monotonic(), 0
    for done, item in enumerate(iterable, 1):
        yield item
        if count and done * 10 // count > shown:
            shown = done * 10 // count
            log(f"{description}: {done}/{count} ({time.monotonic() - started_s:.0f} s)")

"""Asked to leave by a signal or by the clock."""

import os
import signal

import pytest

from glint.core.stopping import StopRequest, TimeLimit, stop_request


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_is_noted_and_the_former_handler_returns(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with stop_request() as request:
        assert request.reason() is None
        os.kill(os.getpid(), number)
        assert request.reason() == number.name
        assert request.reason() == number.name, "it goes on being asked"
    assert signal.getsignal(number) is before


@pytest.mark.parametrize(("minutes", "kept_s"), [(1, 15), (20, 300), (600, 300)])
def test_five_minutes_or_a_quarter_of_the_limit_are_kept_for_the_last_step_and_the_save(
    minutes: float, kept_s: float
) -> None:
    limit = TimeLimit(minutes=minutes, started_s=1000.0)
    assert not limit.near(1000 + 60 * minutes - kept_s - 1)
    assert limit.near(1000 + 60 * minutes - kept_s)


def test_a_limit_that_is_over_asks_and_says_why() -> None:
    assert StopRequest(limit=TimeLimit(minutes=1, started_s=-1e9)).reason() == "the time limit of 1 minutes is near"

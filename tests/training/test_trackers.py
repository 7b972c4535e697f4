"""Rows of a run in TensorBoard's and DVCLive's own files, each step once, also where a killed run is gone on with."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest

from glint.core.errors import ConfigError
from glint.training.trackers import trackers

ROWS = [{"step": float(step), "loss": 2.0 / step, "gate_density_positive": 0.1 * step} for step in range(1, 6)]


def log_and_resume(name: str, folder: Path) -> None:
    """Four steps, of which the last was not saved when the run was killed; then on from the third."""
    with trackers((name,), folder, []) as track:
        for row in ROWS[:4]:
            track(row)
    with trackers((name,), folder, ROWS[:3]) as track:
        for row in ROWS[3:]:
            track(row)


def test_tensorboard_reads_every_step_once(tmp_path: Path) -> None:
    accumulator = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator", reason="tensorboard is not installed"
    )
    log_and_resume("tensorboard", tmp_path)
    events = accumulator.EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert set(events.Tags()["scalars"]) == {"loss", "gate/density_positive"}
    found = [(event.step, event.value) for event in events.Scalars("loss")]
    assert found == [(step, pytest.approx(2.0 / step)) for step in range(1, 6)]


def test_dvclive_writes_every_step_once(tmp_path: Path) -> None:
    pytest.importorskip("dvclive", reason="dvclive is not installed")
    log_and_resume("dvclive", tmp_path)
    lines = (tmp_path / "dvclive" / "plots" / "metrics" / "loss.tsv").read_text().splitlines()
    assert [line.split("\t")[0] for line in lines] == ["step", "1", "2", "3", "4", "5"]
    assert json.loads((tmp_path / "dvclive" / "metrics.json").read_text())["loss"] == pytest.approx(0.4)


@pytest.mark.parametrize("name", ["tensorboard", "dvclive"])
def test_a_package_that_is_absent_is_named_with_the_way_out(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    for module in [module for module in sys.modules if module.startswith("torch.utils.tensorboard")]:
        monkeypatch.delitem(sys.modules, module)
    with (
        pytest.raises(ConfigError, match=rf"{name} is not installed; run `pip install"),
        trackers((name,), tmp_path, []),
    ):
        pass


def test_without_names_nothing_is_written_or_imported(tmp_path: Path) -> None:
    with trackers((), tmp_path, []) as track:
        track(ROWS[0])
    assert list(tmp_path.iterdir()) == []
    assert importlib.util.find_spec("glint.training.trackers") is not None

"""Processes that share a step: equal weights on all of them, the steps of one alone, and one common way out."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from shared_run import CONFIG, shared_run

from glint.core.config.train import AugmentConfig
from glint.core.errors import ConfigError, InputError
from glint.training.dataset import photometric
from glint.training.distributed import Ranks
from glint.training.launch import meeting_port, torchrun_command
from glint.training.loop import Run

SCRIPT = Path(__file__).with_name("shared_run.py")
POOLINGS = ("gate", "mean")


def torchrun(folder: Path, *arguments: str, processes: int) -> subprocess.Popen[str]:
    folder.mkdir(exist_ok=True)
    path = os.pathsep.join([str(SCRIPT.parent), str(SCRIPT.parents[1]), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    return subprocess.Popen(
        [*command, str(SCRIPT), str(folder), *arguments],
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.fixture(scope="module", params=POOLINGS)
def shared(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """A run of two processes, started by torchrun as on a cluster."""
    folder = tmp_path_factory.mktemp("shared")
    process = torchrun(folder, request.param, processes=2)
    said, _ = process.communicate(timeout=300)
    assert process.returncode == 0, said
    return request.param, folder


def test_both_processes_end_with_the_same_weights_bit_for_bit(shared: tuple[str, Path]) -> None:
    first, second = (load_file(shared[1] / f"{rank}.safetensors") for rank in (0, 1))
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())


def assert_the_steps_of_one(folder: Path, alone: Run) -> None:
    rows = json.loads((folder / "0.json").read_text())
    assert len(rows) == len(alone.curves) == CONFIG.head_steps + CONFIG.steps
    for row, expected in zip(rows, alone.curves, strict=True):
        assert row == pytest.approx(expected, rel=1e-10, abs=1e-10)
    weights = load_file(folder / "0.safetensors")
    for name, tensor in alone.model.state_dict().items():
        assert tensor.dtype == torch.float64
        assert torch.allclose(weights[name], tensor, rtol=0, atol=1e-10), name


def test_two_processes_take_the_20_steps_of_one_to_1e_10(shared: tuple[str, Path], tmp_path: Path) -> None:
    """Oracle: one process with the whole batch. A lost negative, a gradient counted twice or a volume drawn with other
    noise moves the losses in the second digit.
    """
    torch.set_num_threads(1)
    pooling, folder = shared
    assert_the_steps_of_one(folder, shared_run(tmp_path, pooling=pooling))


@pytest.mark.slow
@pytest.mark.parametrize(("processes", "at_once"), [(4, None), (2, 1)])
def test_four_processes_and_two_that_accumulate_take_the_steps_of_one(
    tmp_path: Path, processes: int, at_once: int | None
) -> None:
    options = [] if at_once is None else ["--at-once", str(at_once)]
    process = torchrun(tmp_path, "gate", *options, processes=processes)
    said, _ = process.communicate(timeout=600)
    assert process.returncode == 0, said
    torch.set_num_threads(1)
    assert_the_steps_of_one(tmp_path, shared_run(tmp_path / "alone", pooling="gate"))


def test_only_the_first_process_writes_and_keeps_curves(shared: tuple[str, Path]) -> None:
    assert json.loads((shared[1] / "1.json").read_text()) == []
    assert [path.name for path in (shared[1] / "state").iterdir()] == ["state.safetensors"]


@pytest.mark.parametrize("number", ["SIGUSR1", "SIGKILL"])
def test_one_process_that_leaves_takes_the_other_along_and_both_go_on_to_the_same_weights(
    shared: tuple[str, Path], tmp_path: Path, number: str
) -> None:
    """To the second process alone, which neither saves nor reports: told to leave, or killed."""
    pooling, undisturbed = shared
    if (pooling, number) in (("mean", "SIGKILL"), ("gate", "SIGUSR1")):
        pytest.skip("one way out per pooling is enough")
    process = torchrun(tmp_path, pooling, "--sent", number, "--during", "10", processes=2)
    said, _ = process.communicate(timeout=300)
    assert process.returncode != 0
    if number == "SIGUSR1":
        assert "stopped at step 11 of 20 (another process was asked to)" in said, said
    else:
        told = [line for line in said.splitlines() if line.startswith("glint: ")]
        assert len(told) == 1 and "a process that shares this training is gone" in told[0], said
    assert not (tmp_path / "0.safetensors").exists()
    process = torchrun(tmp_path, pooling, processes=2)
    said, _ = process.communicate(timeout=300)
    assert process.returncode == 0 and f"goes on from step {11 if number == 'SIGUSR1' else 8}" in said, said
    expected, found = (load_file(folder / "0.safetensors") for folder in (undisturbed, tmp_path))
    assert all(torch.equal(tensor, found[name]) for name, tensor in expected.items())
    assert json.loads((tmp_path / "0.json").read_text()) == json.loads((undisturbed / "0.json").read_text())


def test_a_batch_that_cannot_be_shared_equally_is_refused() -> None:
    assert Ranks(rank=1, size=2).part(6) == slice(3, 6)
    with pytest.raises(ConfigError, match=r"train\.batch_size: 7"):
        Ranks(rank=0, size=2).part(7)


def test_a_part_of_a_batch_is_augmented_as_within_the_whole() -> None:
    """Oracle: the formula on the whole batch at once."""
    config = AugmentConfig(gain=0.2, offset=0.1, noise=0.05)
    volumes = np.random.default_rng(0).random((4, 3, 5, 6, 7), dtype=np.float32)
    rng = np.random.default_rng(1)
    gain = 1 + 0.2 * rng.uniform(-1, 1, (4, 3, 1, 1, 1))
    offset = 0.1 * rng.uniform(-1, 1, (4, 3, 1, 1, 1))
    noise = rng.standard_normal(volumes.shape, dtype=np.float32)
    expected = np.clip((volumes - 0.5) * gain + 0.5 + offset + 0.05 * noise, 0, 1).astype(np.float32)
    for first in (0, 2):
        part = photometric(volumes[first : first + 2], config, np.random.default_rng(1), batch_size=4, first=first)
        assert np.array_equal(part, expected[first : first + 2])


def test_every_node_of_a_slurm_step_makes_the_same_call_and_the_first_is_the_host() -> None:
    step = {"SLURM_JOB_ID": "71234", "SLURM_STEP_NUM_TASKS": "3"}
    calls = [
        torchrun_command(["glint"], environment={**step, "SLURM_NODEID": node}, address="10.0.0.1", ranks_per_node=4)
        for node in ("0", "1", "2")
    ]
    assert ["--rdzv-conf=is_host=1" in call for call in calls] == [True, False, False]
    shared = [[word for word in call if "is_host" not in word] for call in calls]
    assert shared[0] == shared[1] == shared[2]
    assert "--nnodes=3" in calls[0] and f"--rdzv-endpoint=10.0.0.1:{meeting_port(71234)}" in calls[0]
    assert 1024 < meeting_port(71234) < 32768
    with pytest.raises(InputError, match="SLURM_JOB_ID is not set"):
        torchrun_command(["glint"], environment={}, address="a", ranks_per_node=1)

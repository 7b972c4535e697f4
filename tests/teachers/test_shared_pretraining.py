"""Two processes that share every step of pretraining end in the weights of one."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from shared_pretraining import both


@pytest.mark.slow
def test_two_processes_end_in_the_weights_of_one(tmp_path):
    script = Path(__file__).with_name("shared_pretraining.py")
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node=2",
        str(script),
        str(tmp_path),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    shared, alone = load_file(tmp_path / "shared.safetensors"), both()
    assert shared.keys() == alone.keys()
    for name, tensor in alone.items():
        torch.testing.assert_close(shared[name], tensor, atol=2e-5, rtol=2e-4, msg=name)

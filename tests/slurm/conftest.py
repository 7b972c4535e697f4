"""The lab and its one campaign, shared by every scene."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from campaign import Campaign, run_campaign, site, snakemake
from lab import Lab, missing, running_lab


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A real Slurm of two nodes; skipped with the reason where none can be started."""
    if reason := missing():
        pytest.skip(reason)
    with running_lab(tmp_path_factory.mktemp("lab") / "slurm") as started:
        yield started


@pytest.fixture(scope="session")
def campaign(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Campaign:
    """The demo, once, through everything that goes wrong on a cluster."""
    return run_campaign(lab, tmp_path_factory.mktemp("campaign"))


@pytest.fixture(scope="session")
def local(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same demo on this machine without Slurm, undisturbed: the oracle."""
    root = tmp_path_factory.mktemp("local")
    done = snakemake(site(root / "site"), root / "work", "--cores", "2", "train_ct")
    assert done.returncode == 0, done.stdout[-3000:]
    return root / "work"

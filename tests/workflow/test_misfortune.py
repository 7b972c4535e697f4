"""A full disk, a read-only one and a read-only cache: clear words, nothing that looks finished, and the same command goes on afterwards."""

import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np
import polars as pl
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from test_dry_runs import planned, pretend, snakemake

from glint.core.atomic import atomic_directory, atomic_file, write_json
from glint.formats.checkpoint import read_state, write_state


@contextmanager
def mounted(folder: Path, *arguments: str) -> Iterator[Path]:
    folder.mkdir(exist_ok=True)
    made = subprocess.run(["mount", *arguments, str(folder)], capture_output=True, text=True, check=False)
    if made.returncode:
        pytest.skip(f"can't mount here: {made.stderr.strip()}")
    try:
        yield folder
    finally:
        # Lazily: a writer that failed may hold its file still.
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def read_only(disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)


@pytest.fixture(autouse=True)
def needs_root() -> None:
    if os.name != "posix" or os.geteuid() != 0:
        pytest.skip("mounting a small disk needs root")


def demo(out: Path) -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable,
        "-m",
        "glint",
        "demo",
        "--studies",
        "3",
        "--seed",
        "5",
        "--out",
        str(out),
        "--workers",
        "1",
    ]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def whole_files(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "deid.key"
    }


def test_a_full_disk_is_told_in_one_line_and_with_room_the_same_command_finishes(tmp_path):
    with mounted(tmp_path / "small", "-t", "tmpfs", "-o", "size=1m", "tmpfs") as disk:
        run = demo(disk / "hospital")
        assert run.returncode == 1
        words = [line for line in run.stderr.splitlines() if line.startswith("glint demo:")]
        assert len(words) == 1 and "No space left on device; nothing unfinished was kept; make room" in words[0]
        assert "Traceback" not in run.stderr
        assert not (disk / "hospital" / "summary.json").exists()
        subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)
        assert demo(disk / "hospital").returncode == 0
        found = whole_files(disk / "hospital")
    assert demo(tmp_path / "undisturbed").returncode == 0
    assert found == whole_files(tmp_path / "undisturbed")


WRITERS = {
    "polars": lambda path, numbers: pl.DataFrame({"number": numbers}).write_parquet(path),
    "safetensors": lambda path, numbers: save_file({"weights": torch.from_numpy(numbers)}, path),
    "torch": lambda path, numbers: torch.save(torch.from_numpy(numbers), path),
    "h5py": lambda path, numbers: write_hdf5(path, numbers),
    "Pillow": lambda path, numbers: Image.fromarray(numbers.view(np.uint8).reshape(1000, -1)).save(path, format="png"),
}


def write_hdf5(path: Path, numbers: np.ndarray) -> None:
    with h5py.File(path, "w") as file:
        file.create_dataset("numbers", data=numbers)


@pytest.mark.parametrize("library", WRITERS)
def test_whichever_library_meets_the_full_disk_the_system_s_words_come_out_and_nothing_stays(tmp_path, library):
    numbers = np.random.default_rng(3).random(400_000)
    with mounted(tmp_path / "small", "-t", "tmpfs", "-o", "size=2m", "tmpfs") as disk:
        (disk / "before").write_text("what was there")
        with pytest.raises(OSError, match="No space left") as told, atomic_file(disk / "made") as temporary:
            WRITERS[library](temporary, numbers)
        assert told.value.errno == errno.ENOSPC
        with pytest.raises(OSError, match="No space left"), atomic_directory(disk / "folder") as temporary:
            WRITERS[library](temporary / "made", numbers)
        assert [path.name for path in disk.iterdir()] == ["before"]
        assert (disk / "before").read_text() == "what was there"


def test_a_training_state_that_finds_no_room_leaves_the_one_before_it(tmp_path):
    small, large = ({"weight": torch.zeros(size)} for size in (10_000, 400_000))
    with mounted(tmp_path / "small", "-t", "tmpfs", "-o", "size=1m", "tmpfs") as disk:
        write_state(disk / "state.safetensors", small, {"step": 1})
        with pytest.raises(OSError, match="No space left"):
            write_state(disk / "state.safetensors", large, {"step": 2})
        tensors, facts = read_state(disk / "state.safetensors")
        assert facts == {"step": 1} and tensors["weight"].shape == (10_000,)


def test_a_read_only_disk_is_told_in_one_line(tmp_path):
    with mounted(tmp_path / "sealed", "-t", "tmpfs", "-o", "ro,size=1m", "tmpfs") as disk:
        run = demo(disk / "hospital")
    assert run.returncode == 1
    assert [line for line in run.stderr.splitlines() if "Read-only file system" in line]
    assert "Traceback" not in run.stderr


@pytest.fixture(scope="module")
def sectioned(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("sectioned")
    pretend(folder, target="sections_ct")
    return folder


def test_results_on_a_read_only_disk_are_planned_for_with_a_line_that_names_the_first_that_refuses(sectioned, tmp_path):
    folder = tmp_path / "workspace"
    with mounted(tmp_path / "disk", "-t", "tmpfs", "-o", "size=8m", "tmpfs") as disk:
        shutil.copytree(sectioned, folder)
        shutil.move(folder / "results", disk / "results")
        (folder / "results").symlink_to(disk / "results")
        read_only(disk)
        run = snakemake(folder, "--dry-run", "--config", "sections={min_letters: 13}", "--", "sections_ct")
    assert run.returncode == 0, run.stderr
    told = [line for line in run.stderr.splitlines() if "its time can't be set" in line]
    assert len(told) == 1 and told[0].startswith("glint: results/ct/05_sections/shard-000/manifest.parquet: read-only")


def test_results_linked_into_a_read_only_cache_are_used_as_they_are_and_never_written_through(sectioned, tmp_path):
    """A site's shared cache of DVC (`cache.type symlink`): links in the workspace, files that nobody may change."""
    folder = tmp_path / "workspace"
    shutil.copytree(sectioned, folder)
    outputs = sorted(path for path in (folder / "results").rglob("*.parquet"))
    with mounted(tmp_path / "cache", "-t", "tmpfs", "-o", "size=8m", "tmpfs") as cache:
        for number, path in enumerate(outputs):
            kept = cache / f"{number}.parquet"
            kept.write_bytes(path.read_bytes())
            os.utime(kept, (1000 - number, 1000 - number))
            path.unlink()
            path.symlink_to(kept)
        read_only(cache)
        before = whole_files(cache)
        run = snakemake(folder, "--dry-run", "sections_ct")
        assert "Nothing to be done" in run.stdout + run.stderr or set(planned(run)) == {"sections_ct", "total"}
        assert "can't be set" not in run.stderr
        changed = planned(snakemake(folder, "--dry-run", "--config", "sections={min_letters: 13}", "--", "sections_ct"))
        assert set(changed) == {"sections", "sections_ct", "total"}
        linked = next(path for path in outputs if "05_sections" in path.parts)
        write_json(linked, {"made": "again"})
        assert not linked.is_symlink()
        assert whole_files(cache) == before


def dvc(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "dvc", *arguments]
    environment = {**os.environ, "DVC_NO_ANALYTICS": "true"}
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, env=environment)


@pytest.mark.slow
def test_a_read_only_cache_still_gives_what_it_has_and_a_refused_recording_loses_nothing(tmp_path):
    folder = tmp_path / "workspace"
    (folder / "results").mkdir(parents=True)
    (folder / "results" / "manifest").write_text("first")
    with mounted(tmp_path / "cache", "-t", "tmpfs", "-o", "size=8m", "tmpfs") as cache:
        for arguments in (("init", "--no-scm"), ("cache", "dir", str(cache)), ("add", "results")):
            done = dvc(folder, *arguments)
            assert done.returncode == 0, done.stderr
        read_only(cache)
        (folder / "results" / "manifest").unlink()
        assert dvc(folder, "checkout").returncode == 0
        assert (folder / "results" / "manifest").read_text() == "first"
        record = (folder / "results.dvc").read_bytes()
        (folder / "results" / "manifest").write_text("second")
        refused = dvc(folder, "add", "results")
        assert refused.returncode != 0 and "Read-only file system" in refused.stderr
        assert (folder / "results" / "manifest").read_text() == "second"
        assert (folder / "results.dvc").read_bytes() == record
        subprocess.run(["mount", "-o", "remount,rw", str(cache)], check=True)
        assert dvc(folder, "add", "results").returncode == 0
        assert (folder / "results.dvc").read_bytes() != record

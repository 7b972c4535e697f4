"""A full disk and a read-only one: clear words, nothing that looks finished, and the same command goes on afterwards."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def mounted(folder: Path, *arguments: str) -> Iterator[Path]:
    folder.mkdir(exist_ok=True)
    made = subprocess.run(["mount", *arguments, str(folder)], capture_output=True, text=True, check=False)
    if made.returncode:
        pytest.skip(f"can't mount here: {made.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


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
        assert len(words) == 1 and "No space left on device" in words[0]
        assert "Traceback" not in run.stderr
        assert not (disk / "hospital" / "summary.json").exists()
        subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)
        assert demo(disk / "hospital").returncode == 0
        found = whole_files(disk / "hospital")
    assert demo(tmp_path / "undisturbed").returncode == 0
    assert found == whole_files(tmp_path / "undisturbed")


def test_a_read_only_disk_is_told_in_one_line(tmp_path):
    with mounted(tmp_path / "sealed", "-t", "tmpfs", "-o", "ro,size=1m", "tmpfs") as disk:
        run = demo(disk / "hospital")
    assert run.returncode == 1
    assert [line for line in run.stderr.splitlines() if "Read-only file system" in line]
    assert "Traceback" not in run.stderr

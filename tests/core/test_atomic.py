"""What carries its final name is whole."""

import os
import signal
import subprocess
import sys
import time

import pytest

from glint.core.atomic import atomic_directory, atomic_file, write_json


def test_a_failed_write_leaves_the_old_file_and_no_leftover(tmp_path):
    target = tmp_path / "table.txt"
    write_json(target, {"old": 1})
    old = target.read_bytes()

    def write_and_fail():
        with atomic_file(target) as temporary:
            temporary.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        write_and_fail()
    assert target.read_bytes() == old
    assert [entry.name for entry in tmp_path.iterdir()] == ["table.txt"]


def test_a_directory_is_replaced_whole(tmp_path):
    target = tmp_path / "shard"
    with atomic_directory(target) as folder:
        (folder / "a").write_text("1")
    with atomic_directory(target) as folder:
        (folder / "b").write_text("2")
    assert [entry.name for entry in target.iterdir()] == ["b"]
    assert [entry.name for entry in tmp_path.iterdir()] == ["shard"]


@pytest.mark.parametrize("kind", ["atomic_file", "atomic_directory"])
def test_a_killed_writer_leaves_nothing_that_looks_finished_and_the_next_clears_up(tmp_path, kind):
    script = (
        f"from glint.core.atomic import {kind}\nimport time\n"
        f"with {kind}({str(tmp_path / 'out')!r}) as t:\n"
        "    (t / 'x' if t.is_dir() else t).write_text('half')\n    print('writing', flush=True)\n    time.sleep(60)\n"
    )
    writer = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert writer.stdout is not None
    assert writer.stdout.readline().strip() == "writing"
    writer.send_signal(signal.SIGKILL)
    writer.wait()
    time.sleep(0.01)
    assert not (tmp_path / "out").exists()
    assert list(tmp_path.iterdir()), "the kill came before anything was written: the test shows nothing"
    with atomic_file(tmp_path / "out") as temporary:
        temporary.write_text("whole")
    assert [entry.name for entry in tmp_path.iterdir()] == ["out"]


def test_another_living_writer_is_left_alone(tmp_path):
    other = tmp_path / f".out.tmp.{os.getppid()}"
    other.write_text("busy")
    with atomic_file(tmp_path / "out") as temporary:
        temporary.write_text("whole")
    assert other.exists()

"""`glint features inspect | verify | gc` tell what caches hold, what no longer holds, and what nobody reads."""

import fcntl
import json

import h5py
import numpy as np
import pytest

from glint.cli.__main__ import main
from glint.formats.feature_cache import partial_path, write_cache
from glint.formats.feature_rows import CacheHead
from glint.formats.manifest import manifest_frame, write_manifest

HEAD = CacheHead(
    study_ids=("sa", "sb"),
    layers=("1",),
    grid=(1, 2, 2),  # a film's
    width=4,
    recipe={"name": "dinov3", "weights": "ab" * 32, "kernel": "bfloat16, sdpa attention", "batch_size": 4, "code": "c"},
    sources={"sa": "1" * 64, "sb": "2" * 64},
)


@pytest.fixture
def root(tmp_path):
    """A stage-08 folder with one cache that its manifest names; study sb has no tokens."""
    path = tmp_path / "08_features" / "dinov3" / HEAD.fingerprint[:12] / "shard-000.h5"
    with write_cache(path, HEAD) as writer:
        writer.put(0, {"1": np.ones((4, 4))}, affine=np.eye(4), coverage_P=np.array([1, 1, 1, 0], np.float32))
    relative = f"../{path.relative_to(tmp_path / '08_features')}"
    rows = [{"study_id": "sa", "status": "ok", "path": relative, "row": 0, "fingerprint": HEAD.fingerprint}]
    folder = tmp_path / "08_features" / "shard-000"
    folder.mkdir()
    write_manifest(folder / "manifest.parquet", manifest_frame(rows, "features"), "features")
    return tmp_path / "08_features"


def cache(root):
    return next(root.glob("*/*/*.h5"))


def test_inspect_tells_what_a_cache_holds_and_what_it_was_made_from(root, capsys):
    assert main(["features", "inspect", str(root)]) == 0
    said = capsys.readouterr().out
    for words in (
        HEAD.fingerprint[:12],
        "1 of 2 with tokens",
        "grid 1 x 2 x 2",
        "float16",
        "dinov3",
        "abababababab",
        "75%",
    ):
        assert words in said
    assert "another version" in said


def test_verify_is_silent_about_what_holds_and_finds_a_flipped_byte(root, capsys):
    assert main(["features", "verify", str(root)]) == 0
    assert "holds" in capsys.readouterr().out
    with h5py.File(cache(root)) as handle:
        offset = handle["tokens/1"].id.get_offset()
    content = bytearray(cache(root).read_bytes())
    content[offset + 5] ^= 4
    cache(root).write_bytes(content)
    assert main(["features", "verify", str(root)]) == 1
    said = capsys.readouterr()
    assert "row 0 (study sa) is not what was written" in said.out
    assert said.err.strip().endswith("1 of 1 feature caches do not hold")


def test_verify_against_the_teacher_names_the_difference(root, tmp_path, capsys):
    record = {
        "name": "dinov3", "source": "path", "sha256": "cd" * 32, "windows": [[0, 1]], "architecture": {}, "grid": [1, 2, 2],
        "patch": [1, 16, 16], "width": 4, "depth": 2, "seed": 0, "training_studies": 0, "summary": {},
    }  # fmt: skip
    (tmp_path / "07").mkdir()
    (tmp_path / "07/teacher.json").write_text(json.dumps(record))
    assert main(["features", "verify", str(cache(root)), "--teacher", str(tmp_path / "07")]) == 1
    assert "made with weights abababababab, here it is cdcdcdcdcdcd" in capsys.readouterr().out


def test_gc_lists_first_and_removes_only_what_nobody_reads_and_nobody_writes(root, capsys):
    old = root / "dinov3" / "0123456789ab" / "shard-000.h5"
    old.parent.mkdir()
    old.write_bytes(b"x" * 1000)
    dead, living = partial_path(cache(root)), partial_path(cache(root).with_name("shard-001.h5"))
    dead.write_bytes(b"x")
    living.write_bytes(b"x")
    with (living.parent / ".shard-001.h5.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert main(["features", "gc", str(root)]) == 0
        said = capsys.readouterr().out
        assert "2 files" in said
        assert str(old) in said
        assert str(dead) in said
        assert old.exists()
        assert main(["features", "gc", str(root), "--delete"]) == 0
        assert not old.parent.exists()
        assert not dead.exists()
        assert living.exists()
        assert cache(root).exists()
    assert main(["features", "gc", str(root.parent)]) == 1

"""The feature cache proves what it holds, and a killed writer leaves nothing that opens."""

import pickle
import signal
import subprocess
import sys
import time

import h5py
import numpy as np
import pytest

from glint.core.errors import FingerprintError, InputError, Quarantine
from glint.formats.feature_cache import FeatureCache, as_float16, write_cache

STUDIES, LAYERS, GRID, WIDTH = ("sa", "sb", "sc"), ("1", "final"), (2, 3, 2), 8
FINGERPRINT = "f" * 64


def tokens_of(row):
    rng = np.random.default_rng(row)
    return {layer: rng.normal(size=(12, WIDTH)).astype(np.float16) for layer in LAYERS}


def fill(path, *, rows=(0, 1, 2), fingerprint=FINGERPRINT):
    with write_cache(path, study_ids=STUDIES, layers=LAYERS, grid=GRID, width=WIDTH, fingerprint=fingerprint) as writer:
        for row in rows:
            writer.put(row, tokens_of(row), affine=np.eye(4) * (row + 1), coverage_P=np.full(12, row / 4, np.float32))


@pytest.fixture
def shard(tmp_path):
    path = tmp_path / "shard-000.h5"
    fill(path)
    return path


def test_every_layer_comes_back_bit_for_bit_and_equals_what_hdf5_itself_reads(shard):
    cache = FeatureCache(shard, fingerprint=FINGERPRINT)
    with h5py.File(shard) as handle:
        for layer in LAYERS:
            expected = np.stack([tokens_of(row)[layer] for row in range(3)])
            assert np.array_equal(cache.tokens(layer), expected)
            assert np.array_equal(handle[f"tokens/{layer}"][:], expected)
            assert isinstance(cache.tokens(layer), np.memmap)
        assert np.array_equal(handle["affine"][:], cache.affine)
    assert (cache.study_ids, cache.grid, cache.layers) == (STUDIES, GRID, LAYERS)
    assert cache.tokens(1).dtype == np.float16
    assert np.array_equal(cache.coverage[:, 0], np.array([0, 0.25, 0.5], np.float32))
    assert cache.row("sb") == 1
    cache.verify()


def test_equal_content_gives_equal_bytes(shard, tmp_path):
    fill(tmp_path / "again.h5")
    assert (tmp_path / "again.h5").read_bytes() == shard.read_bytes()


def test_a_reader_travels_to_another_process_and_maps_the_file_there(shard):
    travelled = pickle.loads(pickle.dumps(FeatureCache(shard)))
    assert len(pickle.dumps(travelled)) < 600
    assert np.array_equal(travelled.tokens("final")[2], tokens_of(2)["final"])


def test_another_fingerprint_is_refused_by_one_line_that_names_both(shard):
    with pytest.raises(FingerprintError) as refusal:
        FeatureCache(shard, fingerprint="0" * 64)
    assert "f" * 12 in str(refusal.value)
    assert "0" * 12 in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_a_reader_refuses_a_file_that_changed_since_it_was_pickled(shard):
    frozen = pickle.dumps(FeatureCache(shard))
    fill(shard, fingerprint="a" * 64)
    with pytest.raises(FingerprintError):
        pickle.loads(frozen)


@pytest.mark.parametrize(("attribute", "value"), [("complete", 0), ("schema", 99)])
def test_an_unfinished_file_and_another_schema_are_refused(shard, attribute, value):
    with h5py.File(shard, "r+") as handle:
        handle.attrs[attribute] = value
    with pytest.raises(InputError):
        FeatureCache(shard)


def test_absent_and_foreign_files_are_refused(tmp_path):
    (tmp_path / "text.h5").write_text("no HDF5")
    for name in ("absent.h5", "text.h5"):
        with pytest.raises(InputError):
            FeatureCache(tmp_path / name)


def test_a_quarantined_row_and_an_unknown_study_and_layer_are_refused(tmp_path):
    path = tmp_path / "shard.h5"
    fill(path, rows=(0, 2))
    cache = FeatureCache(path)
    cache.verify()
    assert cache.row_ok.tolist() == [True, False, True]
    for ask in (lambda: cache.row("sb"), lambda: cache.row("sz"), lambda: cache.tokens(3)):
        with pytest.raises(InputError):
            ask()


@pytest.mark.parametrize("name", ["tokens/1", "tokens/final", "affine", "coverage"])
def test_one_flipped_byte_is_found(shard, name):
    with h5py.File(shard) as handle:
        offset = handle[name].id.get_offset() + handle[name].nbytes // 2
    content = bytearray(shard.read_bytes())
    content[offset] ^= 1
    shard.write_bytes(content)
    with pytest.raises(InputError, match="row"):
        FeatureCache(shard).verify()


def test_a_shard_without_studies_is_a_cache_too(tmp_path):
    with write_cache(
        tmp_path / "empty.h5", study_ids=[], layers=LAYERS, grid=GRID, width=WIDTH, fingerprint=FINGERPRINT
    ):
        pass
    assert FeatureCache(tmp_path / "empty.h5").tokens(1).shape == (0, 12, WIDTH)


def test_an_error_while_writing_leaves_the_old_file_and_nothing_else(shard):
    before = shard.read_bytes()

    def fail():
        with write_cache(
            shard, study_ids=STUDIES, layers=LAYERS, grid=GRID, width=WIDTH, fingerprint="0" * 64
        ) as writer:
            writer.put(0, tokens_of(0), affine=np.eye(4), coverage_P=np.ones(12, np.float32))
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert shard.read_bytes() == before
    assert [entry.name for entry in shard.parent.iterdir()] == [shard.name]


KILLED = """
import sys, time
from pathlib import Path
import numpy as np
from glint.formats.feature_cache import write_cache
path = Path(sys.argv[1])
with write_cache(path, study_ids=["sa", "sb"], layers=["1"], grid=(2, 3, 2), width=8, fingerprint="f") as writer:
    writer.put(0, {"1": np.ones((12, 8), np.float16)}, affine=np.eye(4), coverage_P=np.ones(12, np.float32))
    writer._handle.flush()
    print("half", flush=True)
    time.sleep(60)
"""


def test_sigkill_in_the_middle_leaves_nothing_that_opens_as_complete_and_the_next_run_cleans_up(tmp_path):
    path = tmp_path / "shard.h5"
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "half\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not path.exists()
    for leftover in tmp_path.iterdir():
        with pytest.raises(InputError):
            FeatureCache(leftover)
    time.sleep(0.01)
    fill(path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["shard.h5"]


@pytest.mark.parametrize("value", [np.nan, np.inf, 70_000.0])
def test_tokens_that_half_precision_cannot_hold_are_quarantined(value):
    with pytest.raises(Quarantine) as refusal:
        as_float16(np.array([1.0, value]))
    assert refusal.value.reason == "tokens_not_finite"

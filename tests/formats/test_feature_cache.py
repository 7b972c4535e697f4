"""The feature cache proves what it holds, and a killed writer leaves nothing that opens as complete and loses no finished row."""

import contextlib
import multiprocessing
import os
import pickle
import random
import signal
import time
from dataclasses import replace

import cache_worker
import h5py
import numpy as np
import pytest
import torch

from glint.core.errors import FingerprintError, InputError, Quarantine
from glint.formats.feature_cache import FeatureCache, partial_path, write_cache
from glint.formats.feature_rows import CacheHead, stored_tokens

STUDIES, LAYERS, GRID, WIDTH = ("sa", "sb", "sc"), ("1", "final"), (2, 3, 2), 8
HEAD = CacheHead(
    study_ids=STUDIES,
    layers=LAYERS,
    grid=GRID,
    width=WIDTH,
    recipe={"weights": "ab" * 32, "windows_hu": [[-1000.0, 400.0]], "kernel": "float32, sdpa attention"},
    sources={study: f"{number + 1:064x}" for number, study in enumerate(STUDIES)},
)


def tokens_of(row):
    rng = np.random.default_rng(row)
    return {layer: rng.normal(size=(12, WIDTH)).astype(np.float16) for layer in LAYERS}


def fill(path, *, rows=(0, 1, 2), head=HEAD):
    with write_cache(path, head) as writer:
        for row in set(rows) - writer.done:
            writer.put(row, tokens_of(row), affine=np.eye(4) * (row + 1), coverage_P=np.full(12, row / 4, np.float32))


@pytest.fixture
def shard(tmp_path):
    path = tmp_path / "shard-000.h5"
    fill(path)
    return path


def test_every_layer_comes_back_bit_for_bit_and_equals_what_hdf5_itself_reads(shard):
    cache = FeatureCache(shard, fingerprint=HEAD.fingerprint)
    with h5py.File(shard) as handle:
        for layer in LAYERS:
            expected = np.stack([tokens_of(row)[layer] for row in range(3)])
            assert np.array_equal(cache.read(layer, range(3)), expected)
            assert np.array_equal(handle[f"tokens/{layer}"][:], expected)
            assert np.array_equal(cache.read(layer, [2, 0], np.array([11, 3])), expected[[2, 0]][:, [11, 3]])
        assert np.array_equal(handle["affine"][:], cache.affine)
        assert handle.attrs["complete"] == 1
    assert (cache.study_ids, cache.grid, cache.layers) == (STUDIES, GRID, LAYERS)
    assert cache.read(1, [0]).dtype == np.float16
    assert np.array_equal(cache.coverage[:, 0], np.array([0, 0.25, 0.5], np.float32))
    assert cache.valid[:, 3].tolist() == [False, False, True]
    assert cache.row("sb") == 1
    assert cache.head.sources["sb"] == f"{2:064x}"
    cache.verify()


def test_equal_content_gives_equal_bytes(shard, tmp_path):
    fill(tmp_path / "again.h5")
    assert (tmp_path / "again.h5").read_bytes() == shard.read_bytes()


@pytest.mark.parametrize("layout", ["contiguous", "chunked"])
@pytest.mark.parametrize(("dtype", "angle"), [("float16", 1e-6), ("bfloat16", 1e-5), ("int8", 5e-5)])
def test_every_type_and_layout_keeps_the_direction_of_tokens_with_loud_channels(tmp_path, layout, dtype, angle):
    rng = np.random.default_rng(0)
    tokens = rng.normal(size=(3, 60, 96)).astype(np.float32)
    tokens[:, :, [3, 50, 70]] = tokens[:, :, [3, 50, 70]] * 20 + 300
    head = replace(HEAD, layers=("1",), grid=(3, 4, 5), width=96, dtype=dtype, layout=layout)
    with write_cache(tmp_path / "t.h5", head) as writer:
        for row in range(3):
            writer.put(row, {"1": tokens[row]}, affine=np.eye(4), coverage_P=np.ones(60, np.float32))
    cache = FeatureCache(tmp_path / "t.h5")
    cache.verify()
    read = cache.read("1", [2, 0, 1]).astype(np.float64)
    centre = tokens.mean(axis=(0, 1), dtype=np.float64)  # the offset of loud channels would hide every other error
    ours, theirs = read - centre, tokens[[2, 0, 1]] - centre
    if dtype != "int8":  # near 300, float16 has steps of a quarter and bfloat16 of 2; int8 is scaled channel by channel
        ours, theirs = (np.delete(one, [3, 50, 70], axis=2) for one in (ours, theirs))
    cosine = (ours * theirs).sum(-1) / np.linalg.norm(ours, axis=-1) / np.linalg.norm(theirs, axis=-1)
    assert (1 - cosine).mean() < angle
    assert np.array_equal(cache.read("1", [1], np.array([7])), cache.read("1", [1])[:, [7]])


def test_bfloat16_is_rounded_as_torch_rounds_it():
    values = np.random.default_rng(0).normal(size=(50, 40)).astype(np.float32) * 1e4
    bits = stored_tokens(values, "bfloat16")["tokens"]
    assert np.array_equal(bits, torch.from_numpy(values).bfloat16().view(torch.uint16).numpy())


@pytest.mark.parametrize(
    ("dtype", "value"),
    [("float16", np.nan), ("float16", 70_000.0), ("bfloat16", np.inf), ("bfloat16", 3.4e38), ("int8", np.nan)],
)
def test_tokens_that_the_type_on_disk_cannot_hold_are_quarantined(dtype, value):
    with pytest.raises(Quarantine) as refusal:
        stored_tokens(np.array([[1.0], [value]], np.float32), dtype)
    assert refusal.value.reason == "tokens_not_finite"


def test_a_reader_travels_to_another_process_and_maps_the_file_there(shard):
    travelled = pickle.loads(pickle.dumps(FeatureCache(shard)))
    assert len(pickle.dumps(travelled)) < 600
    assert np.array_equal(travelled.read("final", [2])[0], tokens_of(2)["final"])


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_eight_workers_read_with_maps_of_their_own_and_no_handle_is_shared(shard, start):
    cache = FeatureCache(shard)
    expected = [tokens_of(row)["final"].tobytes() for row in (2, 0, 1, 2)]
    assert cache.read("final", [1]).tobytes() == expected[2]
    assert h5py.h5f.get_obj_count(types=h5py.h5f.OBJ_FILE) == 0
    with multiprocessing.get_context(start).Pool(8, initializer=cache_worker.hold, initargs=(cache,)) as pool:
        answers = pool.map(cache_worker.read, [(2, 0, 1, 2)] * 32, chunksize=1)
    for values, handles, before, after, own in answers:
        assert values == expected
        assert handles == 0
        assert before in ((os.getpid(), own) if start == "fork" else (-1, own))
        assert after == own != os.getpid()


def test_another_fingerprint_is_refused_by_one_line_that_names_both(shard):
    with pytest.raises(FingerprintError) as refusal:
        FeatureCache(shard, fingerprint="0" * 64)
    assert HEAD.fingerprint[:12] in str(refusal.value)
    assert "0" * 12 in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("recipe", "sources", "named"),
    [
        ({"weights": "cd" * 32}, {}, "weights abababababab"),
        ({"windows_hu": ((-1000.0, 300.0),)}, {}, "windows_hu"),
        ({"architecture": {"depth": 4}}, {}, "architecture null"),
        ({}, {"sb": "f" * 64}, "volume of study sb"),
    ],
)
def test_other_weights_another_recipe_and_another_volume_are_refused_by_one_line(shard, recipe, sources, named):
    FeatureCache(shard, recipe={"weights": "ab" * 32, "windows_hu": ((-1000.0, 400.0),)}, sources={"sa": f"{1:064x}"})
    with pytest.raises(FingerprintError, match=named) as refusal:
        FeatureCache(shard, recipe=recipe, sources=sources)
    assert "\n" not in str(refusal.value)


def test_the_fingerprint_follows_every_field_of_the_head():
    changed = [
        {"recipe": {**HEAD.recipe, "kernel": "bfloat16"}},
        {"sources": {**HEAD.sources, "sc": "0" * 64}},
        {"layers": ("1",)},
        {"study_ids": STUDIES[:2]},
        {"dtype": "int8"},
        {"layout": "chunked"},
        {"grid": (3, 2, 2)},
        {"width": 16},
    ]
    assert len({HEAD.fingerprint, *(replace(HEAD, **change).fingerprint for change in changed)}) == 9


def test_a_reader_refuses_a_file_that_changed_since_it_was_pickled_or_forked(shard):
    cache = FeatureCache(shard)
    frozen = pickle.dumps(cache)
    shard.unlink()
    fill(shard, head=replace(HEAD, recipe={"weights": "other"}))
    with pytest.raises(FingerprintError):
        pickle.loads(frozen)
    with pytest.raises(FingerprintError):
        cache.read("1", [0])


@pytest.mark.parametrize(("attribute", "value"), [("complete", 0), ("schema", 99)])
def test_an_unfinished_file_and_another_schema_are_refused(shard, attribute, value):
    with h5py.File(shard, "r+") as handle:
        handle.attrs[attribute] = value
    with pytest.raises(InputError):
        FeatureCache(shard)


@pytest.mark.parametrize("wrong", ["absent", "text", "other HDF5", "cut"])
def test_absent_foreign_and_cut_files_are_refused_by_one_line(shard, tmp_path, wrong):
    path = tmp_path / "foreign.h5"
    if wrong == "text":
        path.write_text("no HDF5")
    elif wrong == "other HDF5":
        with h5py.File(path, "w") as handle:
            handle.attrs.update(complete=1, schema=2, fingerprint="f")
            handle["features"] = np.zeros((4, 8), np.float32)
    elif wrong == "cut":
        path.write_bytes(shard.read_bytes()[:-1000])
    with pytest.raises(InputError) as refusal:
        FeatureCache(path).read("1", [0])
    assert "\n" not in str(refusal.value)
    assert "features stage" in str(refusal.value)


def test_a_compressed_copy_is_refused_by_one_line(shard):
    with h5py.File(shard, "r+") as handle:
        values = handle["tokens/1"][:]
        del handle["tokens/1"]
        handle.create_dataset("tokens/1", data=values, chunks=(1, 12, 8), compression="gzip")
    with pytest.raises(InputError, match="can't be mapped"):
        FeatureCache(shard)


def test_a_quarantined_row_and_an_unknown_study_and_layer_are_refused(tmp_path):
    path = tmp_path / "shard.h5"
    fill(path, rows=(0, 2))
    cache = FeatureCache(path)
    cache.verify()
    assert cache.row_ok.tolist() == [True, False, True]
    for ask in (lambda: cache.row("sb"), lambda: cache.row("sz"), lambda: cache.read(3, [0])):
        with pytest.raises(InputError):
            ask()


@pytest.mark.parametrize("dtype", ["float16", "int8"])
def test_one_flipped_byte_is_found_or_was_of_no_consequence(tmp_path, dtype):
    """Every byte of rows and digests is found by `verify`; of HDF5's own, what is not found changes nothing that is read."""
    path = tmp_path / "shard.h5"
    fill(path, head=replace(HEAD, dtype=dtype))
    whole = path.read_bytes()
    intact = FeatureCache(path)
    expected = {layer: intact.read(layer, range(3)) for layer in LAYERS}
    with h5py.File(path) as handle:
        held = np.zeros(len(whole), bool)
        for name in HEAD.datasets() if dtype == "float16" else replace(HEAD, dtype="int8").datasets():
            start = handle[name].id.get_offset()
            held[start : start + handle[name].nbytes] = True
    rng = np.random.default_rng(0)
    for offset in (*rng.choice(np.flatnonzero(held), 120), *rng.choice(np.flatnonzero(~held), 60)):
        content = bytearray(whole)
        content[offset] ^= 1 << int(rng.integers(8))
        path.write_bytes(content)
        try:
            cache = FeatureCache(path, fingerprint=intact.fingerprint)
            cache.verify()
            found = False
        except (InputError, FingerprintError):
            found = True
        assert found or not held[offset]
        if not found:
            assert all(np.array_equal(cache.read(layer, range(3)), expected[layer]) for layer in LAYERS)


def test_a_shard_without_studies_is_a_cache_too(tmp_path):
    for layout in ("contiguous", "chunked"):
        fill(tmp_path / f"{layout}.h5", rows=(), head=replace(HEAD, study_ids=(), sources={}, layout=layout))
        cache = FeatureCache(tmp_path / f"{layout}.h5")
        cache.verify()
        assert cache.read(1, []).shape == (0, 12, WIDTH)


def test_an_error_while_writing_leaves_the_old_file_and_the_rows_for_the_next_writer(shard):
    before, other = shard.read_bytes(), replace(HEAD, recipe={"weights": "other"})

    def fail():
        with write_cache(shard, other) as writer:
            writer.put(1, tokens_of(1), affine=np.eye(4), coverage_P=np.ones(12, np.float32))
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert shard.read_bytes() == before
    with pytest.raises(InputError, match="never finished"):
        FeatureCache(partial_path(shard))
    with write_cache(shard, other) as writer:
        assert writer.done == {1}
    with write_cache(shard, HEAD) as writer:  # of another head nothing is taken over
        assert writer.done == frozenset()


def test_a_torn_row_of_a_killed_writer_is_written_again(shard):
    partial = partial_path(shard)
    shard.replace(partial)
    with h5py.File(partial, "r+") as handle:
        handle.attrs.modify("complete", 0)
        handle["tokens/final"][1, 5, 3] += 1
    with write_cache(shard, HEAD) as writer:
        assert writer.done == {0, 2}
        writer.put(1, tokens_of(1), affine=np.eye(4) * 2, coverage_P=np.full(12, 0.25, np.float32))
    FeatureCache(shard).verify()
    assert not partial.exists()


def test_two_writers_of_one_file_are_refused(shard):
    with write_cache(shard, HEAD), pytest.raises(InputError, match="another process"), write_cache(shard, HEAD):
        pass


def writing(path):
    """A process that has just begun to write 24 rows, and where it tells of its progress."""
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    process = context.Process(target=cache_worker.write_many, args=(path, theirs))
    process.start()
    theirs.close()
    ours.send("begin")
    return process, ours


def said(told):
    answers = []
    with contextlib.suppress(EOFError, ConnectionResetError):
        while True:
            answers.append(told.recv())
    return answers


def test_sigkill_at_twenty_random_moments_leaves_nothing_that_opens_as_complete_and_no_row_is_lost(tmp_path):
    clean = tmp_path / "clean" / "shard.h5"
    for _ in range(2):  # the first start loads what the later ones share
        process, told = writing(clean)
        begun = time.monotonic()
        assert told.recv() == 0
        laid_out = time.monotonic()
        assert said(told) == ["whole"]
        spans_s = laid_out - begun, time.monotonic() - laid_out
        expected = clean.read_bytes()
        clean.unlink()
    moments, path = random.Random(0), tmp_path / "shard.h5"
    before, resumed, killed, number = 0, 0, 0, 0
    while killed < 20:
        number += 1
        process, told = writing(path)
        answers = [told.recv()] if number % 4 else []  # one in four while the file is laid out
        time.sleep(moments.uniform(0, spans_s[1 if answers else 0]))
        process.kill()
        process.join()
        killed += process.exitcode == -signal.SIGKILL  # some were quicker
        answers += said(told)
        if answers:
            assert answers[0] >= before  # no row that was there is written again
            before = answers[0]
            resumed += answers[0] > 0
        for entry in (one for one in tmp_path.iterdir() if one.is_file()):
            try:
                found = FeatureCache(entry)
            except InputError:
                assert entry != path
                continue
            found.verify()  # whatever opens holds every row
            assert found.row_ok.all()
        if path.exists():
            assert path.read_bytes() == expected
            path.unlink()
            before = 0
    assert resumed > 0
    process, told = writing(path)
    assert said(told)[-1] == "whole"
    assert path.read_bytes() == expected
    assert [entry.name for entry in tmp_path.iterdir() if entry.is_file()] == ["shard.h5"]

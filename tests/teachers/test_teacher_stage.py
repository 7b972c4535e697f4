"""Stages 07 and 08 from files to files: sources, pins, refusals, the cache and its fingerprint."""

import json
import os
import signal
import subprocess
import sys
import time
from functools import partial

import numpy as np
import polars as pl
import pytest
import torch
from stage_files import SHAPE, study_id, volume, write_stages

from glint.cli.__main__ import main
from glint.core.config.features import FeaturesConfig
from glint.core.config.teacher import TeacherConfig
from glint.core.errors import FingerprintError, InputError
from glint.core.provenance import sha256_file
from glint.formats.feature_cache import FeatureCache
from glint.formats.manifest import read_manifest
from glint.formats.nifti import write_nifti
from glint.prepare.resample import window_channels
from glint.teachers.encode import encode_shard
from glint.teachers.make import make_teacher
from glint.teachers.registry import load_teacher, read_encoder
from glint.teachers.volumes import patch_coverage, shift_volume, training_sources

TEACHER = {
    "threads": 1,
    "windows": [[-1000, 400], [-200, 200]],
    "encoder": {"patch": [4, 4, 4], "width": 24, "depth": 2, "heads": 1},
    "pretrain": {
        "steps": 6,
        "batch_size": 2,
        "levels": [0, 1],
        "predictor_width": 24,
        "predictor_depth": 1,
        "checkpoint_every": 2,
        "shift_voxels": 1,
        "appearance_units": 32,
        "appearance_width": 16,
    },
}
FEATURES = {"layers": [0, 1], "batch_size": 2, "precision": "float32", "attention": "sdpa"}


def teacher_config(**changes):
    return TeacherConfig.model_validate_json(json.dumps({**TEACHER, **changes}))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Folder of stages 04, 06, 07, 08 of five small studies."""
    root = tmp_path_factory.mktemp("made")
    resampled, split = write_stages(root)
    teach(root, resampled, split)
    assert features(root, resampled) == 0
    return root


def teach(root, resampled, split, out="07_teacher"):
    arguments = ["teacher", "--resampled", str(resampled), "--split", str(split), "--out", str(root / out)]
    assert main([*arguments, "--state", str(root / "state"), "--config", json.dumps(TEACHER)]) == 0


def features(root, resampled, config=FEATURES):
    out = root / "08_features/shard-000/manifest.parquet"
    paths = ["--manifest", str(resampled), "--teacher", str(root / "07_teacher"), "--out", str(out)]
    return main(["features", "encode", *paths, "--config", json.dumps(config)])


def rows_of(root):
    return read_manifest(root / "08_features/shard-000/manifest.parquet", "features")


def cache_of(root):
    row = rows_of(root).filter(pl.col("status") == "ok").row(0, named=True)
    return FeatureCache(root / "08_features/shard-000" / row["path"], fingerprint=row["fingerprint"])


def test_a_teacher_folder_is_complete_and_knows_what_it_was_made_from(made):
    folder = made / "07_teacher"
    names = {entry.name for entry in folder.iterdir()}
    assert names == {"config.json", "model.safetensors", "teacher.json", "curves.csv", "curves.png"}
    teacher, record = load_teacher(folder)
    assert record.sha256 == sha256_file(folder / "model.safetensors")
    assert (record.name, record.source, record.training_studies) == ("vjepa_small", "pretrain", 3)
    assert record.windows == ((-1000.0, 400.0), (-200.0, 200.0))
    assert (
        (teacher.grid, teacher.width, teacher.depth) == (record.grid, record.width, record.depth) == ((4, 4, 4), 24, 2)
    )
    assert (folder / "curves.csv").read_text().splitlines()[0].startswith("step,loss,latent")


def test_only_accepted_volumes_of_the_training_split_are_learned_from(made):
    sources = training_sources([made / "04_resample/shard-000/manifest.parquet"], made / "06_split/manifest.parquet")
    assert [source.study_id for source in sources] == [study_id(number) for number in (1, 2, 3)]


def test_a_frozen_teacher_can_not_be_trained(made):
    teacher, _ = load_teacher(made / "07_teacher")
    torch.nn.Sequential(teacher).train()
    assert not any(module.training for module in teacher.modules())
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    assert not teacher.encode(torch.zeros(1, 2, *SHAPE, requires_grad=True)).patch_tokens_BND.requires_grad


def test_the_cache_holds_what_the_encoder_says_of_each_volume(made):
    cache = cache_of(made)
    encoder = read_encoder(made / "07_teacher").eval()
    table = {row["study_id"]: row for row in rows_of(made).to_dicts()}
    for number in range(4):
        channels = window_channels(volume(number), ((-1000.0, 400.0), (-200.0, 200.0)))
        with torch.no_grad():
            expected = encoder(torch.from_numpy(channels)[None], layers=[0, 1])
        row = cache.row(study_id(number))
        assert table[study_id(number)]["row"] == row
        for layer, tokens in {
            "0": expected.hidden[0],
            1: expected.hidden[1],
            "final": expected.patch_tokens_BND,
        }.items():
            np.testing.assert_allclose(cache.read(layer, [row])[0], tokens[0].numpy(), rtol=2e-3, atol=2e-3)
    cache.verify()
    assert cache.path.parent.parent.name == "vjepa_small"
    assert cache.path.parent.name == cache.fingerprint[:12]
    assert cache.coverage[0].reshape(4, 4, 4)[1].tolist() == [[0.5] * 4, [1] * 4, [1] * 4, [1] * 4]
    assert np.array_equal(cache.affine[0], np.diag([4.0, 4.0, 4.0, 1.0]))


def test_studies_refused_before_keep_their_reason_and_strange_ones_get_one(made, tmp_path):
    assert rows_of(made).filter(pl.col("status") == "quarantined")["reason"].to_list() == ["too_few_slices"]
    resampled, _ = write_stages(tmp_path)
    volumes = resampled.parent / "volumes"
    (volumes / f"{study_id(1)}.nii").write_bytes(b"not a volume")
    write_nifti(volumes / f"{study_id(2)}.nii", np.zeros((8, 16, 16), np.int16), np.eye(4))
    (tmp_path / "07_teacher").symlink_to(made / "07_teacher")
    assert features(tmp_path, resampled) == 0
    table = {row["study_id"]: row for row in rows_of(tmp_path).to_dicts()}
    reasons = [table[study_id(number)]["reason"] for number in range(5)]
    assert reasons == [None, "unreadable_volume", "other_grid", None, "too_few_slices"]
    assert cache_of(tmp_path).row_ok.tolist() == [True, False, False, True]
    intact = cache_of(made)
    for number in (0, 3):
        ours, theirs = cache_of(tmp_path), intact
        assert np.array_equal(
            ours.read("final", [ours.row(study_id(number))]), theirs.read("final", [theirs.row(study_id(number))])
        )


def test_tokens_that_are_not_finite_quarantine_their_study_alone(made, tmp_path):
    resampled, _ = write_stages(tmp_path)
    teacher, record = load_teacher(made / "07_teacher")

    def poisoned(volume_ZYX):
        channels = window_channels(volume_ZYX, record.windows)
        return channels * np.float32(np.nan if np.array_equal(volume_ZYX, volume(2)) else 1)

    out = tmp_path / "08_features/shard-000/manifest.parquet"
    config = FeaturesConfig(layers=(0,), precision="float32", attention="sdpa")
    encode_shard(resampled, out, teacher=teacher, record=record, channels=poisoned, config=config)
    reasons = read_manifest(out, "features")["reason"].to_list()
    assert reasons == [None, None, "voxels_not_finite", None, "too_few_slices"]


def test_two_runs_give_equal_bytes(made, tmp_path):
    resampled, split = write_stages(tmp_path)
    teach(tmp_path, resampled, split)
    assert features(tmp_path, resampled) == 0
    for name in ("model.safetensors", "teacher.json", "curves.csv", "curves.png"):
        assert (tmp_path / "07_teacher" / name).read_bytes() == (made / "07_teacher" / name).read_bytes()
    assert cache_of(tmp_path).path.read_bytes() == cache_of(made).path.read_bytes()


def interruptible(made, tmp_path, **changes):
    """A shard's encoding that can be stopped at a volume, and the list of volumes that it read."""
    resampled, _ = write_stages(tmp_path)
    teacher, record = load_teacher(made / "07_teacher")
    config = FeaturesConfig.model_validate_json(json.dumps(FEATURES | changes))
    out = tmp_path / "08_features/shard-000/manifest.parquet"
    seen = []

    def encode(fail_at=None):
        def channels(volume_ZYX):
            seen.append(next(n for n in range(5) if np.array_equal(volume_ZYX, volume(n))))
            if seen[-1] == fail_at:
                raise KeyboardInterrupt
            return window_channels(volume_ZYX, record.windows)

        return encode_shard(resampled, out, teacher=teacher, record=record, channels=channels, config=config)

    return encode, seen


def test_a_killed_shard_goes_on_at_the_next_study_and_ends_in_the_bytes_of_an_undisturbed_one(made, tmp_path, capsys):
    encode, seen = interruptible(made, tmp_path)
    with pytest.raises(KeyboardInterrupt):
        encode(fail_at=3)
    assert not list(tmp_path.glob("08_features/**/shard-000*"))
    seen.clear()
    path = encode()
    assert seen == [2, 3]  # batches of two: the first was whole
    assert "2 of 4 studies are already there" in capsys.readouterr().err
    assert path.read_bytes() == cache_of(made).path.read_bytes()


def test_a_killed_shard_goes_on_with_its_kernel_whatever_a_second_measurement_says(made, tmp_path, monkeypatch):
    encode, seen = interruptible(made, tmp_path, precision="auto")
    monkeypatch.setattr("glint.teachers.kernels.choose", lambda kernels, *_: kernels[-1])
    with pytest.raises(KeyboardInterrupt):
        encode(fail_at=3)
    seen.clear()
    monkeypatch.setattr("glint.teachers.kernels.choose", lambda kernels, *_: kernels[0])
    assert FeatureCache(encode()).head.recipe["kernel"] == "bfloat16, sdpa attention"
    assert seen == [2, 3]


@pytest.mark.parametrize(
    "changes",
    [{"dtype": "int8"}, {"dtype": "bfloat16", "layout": "chunked"}, {"precision": "bfloat16", "attention": "auto"}],
)
def test_types_layouts_and_precisions_keep_the_tokens(made, tmp_path, changes):
    resampled, _ = write_stages(tmp_path)
    (tmp_path / "07_teacher").symlink_to(made / "07_teacher")
    assert features(tmp_path, resampled, {**FEATURES, **changes}) == 0
    ours, theirs = cache_of(tmp_path), cache_of(made)
    ours.verify()
    assert ours.fingerprint != theirs.fingerprint
    for layer in ("0", "final"):
        np.testing.assert_allclose(ours.read(layer, range(4)), theirs.read(layer, range(4)), atol=0.08)


def test_the_fingerprint_follows_weights_layers_windows_and_volumes_and_stale_caches_go(made, tmp_path):
    resampled, _ = write_stages(tmp_path)
    teacher, record = load_teacher(made / "07_teacher")
    out = tmp_path / "08_features/shard-000/manifest.parquet"
    config = FeaturesConfig.model_validate_json(json.dumps(FEATURES))

    def encoded(config=config, record=record):
        channels = partial(window_channels, windows_hu=record.windows)
        path = encode_shard(resampled, out, teacher=teacher, record=record, channels=channels, config=config)
        assert list((tmp_path / "08_features").glob("*/*/*.h5")) == [path]
        return FeatureCache(path).fingerprint

    killed = tmp_path / "08_features/vjepa_small/0123456789ab"
    killed.mkdir(parents=True)
    for name in (".shard-000.h5.partial", ".shard-000.h5.lock"):
        (killed / name).write_bytes(b"x")
    prints = [encoded()]
    assert not killed.exists()
    prints.append(encoded(config.model_copy(update={"layers": (1,)})))
    changed = {"windows": ((-900.0, 400.0), (-200.0, 200.0)), "sha256": "0" * 64}
    for field, value in changed.items():
        prints.append(encoded(record=type(record)(**{**vars(record), field: value})))
    write_nifti(resampled.parent / f"volumes/{study_id(3)}.nii", volume(99), np.diag([4.0, 4.0, 4.0, 1.0]))
    prints.append(encoded())
    assert len(set(prints)) == 5


def test_changed_weights_are_refused(made, tmp_path):
    resampled, _ = write_stages(tmp_path)
    folder = tmp_path / "07_teacher"
    folder.mkdir()
    for entry in (made / "07_teacher").iterdir():
        (folder / entry.name).write_bytes(entry.read_bytes())
    content = bytearray((folder / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (folder / "model.safetensors").write_bytes(content)
    with pytest.raises(FingerprintError, match="SHA-256"):
        load_teacher(folder)
    assert features(tmp_path, resampled) == 1


def test_a_layer_the_teacher_lacks_is_refused(made, capsys):
    resampled = made / "04_resample/shard-000/manifest.parquet"
    assert features(made, resampled, {**FEATURES, "layers": [7]}) == 1
    assert "blocks 0 to 1" in capsys.readouterr().err


@pytest.mark.parametrize("form", ["folder", "safetensors", "pt"])
def test_weights_from_a_path_are_taken_whole_and_pinned(made, tmp_path, form):
    folder = made / "07_teacher"
    location = {"folder": folder, "safetensors": folder / "model.safetensors", "pt": tmp_path / "weights.pt"}[form]
    if form == "pt":
        torch.save(read_encoder(folder).state_dict(), location)
    pinned = sha256_file(folder / "model.safetensors" if form == "folder" else location)
    arguments = (
        [made / "04_resample/shard-000/manifest.parquet"],
        made / "06_split/manifest.parquet",
        tmp_path / "07_teacher",
    )
    options = {"source": "path", "location": str(location)}
    channels = partial(window_channels, windows_hu=teacher_config().windows)
    make_teacher(*arguments, config=teacher_config(**options, sha256=pinned), channels=channels)
    taken, original = load_teacher(tmp_path / "07_teacher")[0], load_teacher(folder)[0]
    assert all(
        torch.equal(ours, theirs) for ours, theirs in zip(taken.parameters(), original.parameters(), strict=True)
    )
    with pytest.raises(FingerprintError):
        make_teacher(*arguments, config=teacher_config(**options, sha256="0" * 64), channels=channels)


@pytest.mark.parametrize("wrong", ["absent", "pickle", "width", "suffix"])
def test_weights_that_are_not_ours_are_refused_by_one_line(made, tmp_path, wrong):
    location = tmp_path / ("weights.onnx" if wrong == "suffix" else "weights.pt")
    if wrong == "pickle":
        torch.save({"code": os.system}, location)
    elif wrong == "width":
        torch.save({"norm.weight": torch.zeros(3)}, location)
    elif wrong == "suffix":
        location.write_bytes(b"")
    config = teacher_config(source="path", location=str(location))
    with pytest.raises(InputError) as refusal:
        make_teacher(
            [made / "04_resample/shard-000/manifest.parquet"],
            made / "06_split/manifest.parquet",
            tmp_path / "out",
            config=config,
            channels=partial(window_channels, windows_hu=config.windows),
        )
    assert "\n" not in str(refusal.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "wrong",
    [
        {"source": "path"},
        {"source": "hub", "location": "x/y"},
        {"windows": []},
        {"windows": [[5, 5]]},
        {"pretrain": {"levels": [9]}},
        {"seeds": 1},
    ],
)
def test_contradictory_configurations_are_refused(wrong):
    with pytest.raises(ValueError, match=r"."):
        teacher_config(**wrong)


def test_pretraining_by_self_distillation_goes_on_from_given_weights_and_refuses_those_of_another_shape(made, tmp_path):
    recipe = {"steps": 2, "batch_size": 2, "local_crops": 1, "prototypes": 8, "head_hidden": 8, "head_bottleneck": 4}
    options = {"recipe": "self_distillation", "distill": recipe, "location": str(made / "07_teacher")}
    config = teacher_config(**options)
    channels = partial(window_channels, windows_hu=config.windows)
    paths = [made / "04_resample/shard-000/manifest.parquet"], made / "06_split/manifest.parquet"
    record = make_teacher(*paths, tmp_path / "07", config=config, channels=channels)
    assert record.source == "pretrain"
    teacher, start = load_teacher(tmp_path / "07")[0], load_teacher(made / "07_teacher")[0]
    moved = [(a - b).abs().max() for a, b in zip(teacher.parameters(), start.parameters(), strict=True)]
    assert 0 < max(moved) < 0.01
    other = teacher_config(**options, encoder={**TEACHER["encoder"], "width": 48})
    with pytest.raises(InputError, match="another shape"):
        make_teacher(*paths, tmp_path / "other", config=other, channels=channels)


def test_sigkill_and_the_same_command_again_give_the_weights_of_an_undisturbed_run(made, tmp_path):
    resampled, split = write_stages(tmp_path)
    out, state = tmp_path / "07_teacher", tmp_path / "state"
    paths = ["--resampled", str(resampled), "--split", str(split), "--out", str(out), "--state", str(state)]
    command = [sys.executable, "-m", "glint", "teacher", *paths, "--config", json.dumps(TEACHER)]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    while process.poll() is None and not list(state.glob("*/state.safetensors")):
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    teach(tmp_path, resampled, split)
    assert (out / "model.safetensors").read_bytes() == (made / "07_teacher/model.safetensors").read_bytes()


def test_a_shift_moves_the_content_and_lets_air_in():
    moved = shift_volume(volume(0), (2, -3, 0))
    assert np.array_equal(moved[2:, :13], volume(0)[:14, 3:])
    assert (moved[:2] == -1024).all()
    assert (moved[:, 13:] == -1024).all()


def test_coverage_is_the_share_of_each_patch_within_the_scan():
    coverage = patch_coverage((1, 8, 0, 6, 0, 4), (8, 8, 4), (4, 4, 4)).reshape(2, 2, 1)
    assert coverage[:, :, 0].tolist() == [[0.75, 0.375], [1.0, 0.5]]

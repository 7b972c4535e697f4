"""Checkpoint folders and training states: whole or absent, tensors and JSON only."""

from pathlib import Path

import pytest
import torch

from glint.core.errors import FingerprintError, InputError
from glint.formats import checkpoint
from glint.formats.checkpoint import (
    Calibration,
    Checkpoint,
    Preprocessing,
    read_checkpoint,
    read_state,
    write_checkpoint,
    write_state,
)

TENSORS = {"a": torch.arange(6.0).reshape(2, 3), "scalar": torch.tensor(2.5), "step": torch.tensor(7)}


PREPROCESSING = Preprocessing(
    windows=((-1000.0, 1000.0),),
    volume=(8, 16, 24),
    patch=(4, 8, 8),
    grid=(2, 2, 3),
    resample={"spacing_mm": [4.0, 2.0, 2.0]},
)
CALIBRATION = Calibration(score_scale=12.5, score_bias=-3.25, mask_offset=6.0)
PROMPTS = {"mass": {"present": "There is mass.", "absent": "There is no mass."}}


def example(text_files: dict[str, Path] | None = None) -> Checkpoint:
    return Checkpoint(
        tensors=TENSORS,
        config={"arm": "glint"},
        fingerprint={"split": "f"},
        preprocessing=PREPROCESSING,
        calibration=CALIBRATION,
        label_prompts=PROMPTS,
        text_files=text_files or {},
    )


def test_a_checkpoint_comes_back_as_it_was(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "glint", example(), more={"curves.csv": b"step\n1\n"})
    found = read_checkpoint(tmp_path / "glint")
    assert (found.config, found.fingerprint["split"]) == ({"arm": "glint"}, "f")
    assert (found.preprocessing, found.calibration, found.label_prompts) == (PREPROCESSING, CALIBRATION, PROMPTS)
    for name, tensor in TENSORS.items():
        assert torch.equal(found.tensors[name], tensor)
    assert (tmp_path / "glint" / "curves.csv").read_bytes() == b"step\n1\n"


def test_writing_twice_gives_the_same_bytes_and_leaves_nothing_else(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_checkpoint(tmp_path / name, example())
        write_checkpoint(tmp_path / name, example())
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()
    assert {path.name for path in tmp_path.iterdir()} == {"one", "two"}


def test_the_sentence_encoder_lies_inside_and_weights_that_were_swapped_are_refused(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "model.safetensors").write_bytes(b"weights of a sentence encoder")
    (source / "vocab.txt").write_text("lung\n")
    write_checkpoint(tmp_path / "glint", example({path.name: path for path in source.iterdir()}))
    held = tmp_path / "glint" / "text_encoder"
    assert read_checkpoint(tmp_path / "glint").text_files == {
        name: held / name for name in ("model.safetensors", "vocab.txt")
    }
    (held / "model.safetensors").write_bytes(b"weights of another encoder")
    with pytest.raises(FingerprintError, match=r"text_encoder/model\.safetensors: SHA-256"):
        read_checkpoint(tmp_path / "glint")
    (held / "model.safetensors").unlink()
    with pytest.raises(InputError, match="copy the whole"):
        read_checkpoint(tmp_path / "glint")


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "calibration.json", "preprocessor_config.json"])
def test_damage_is_told_in_one_line(tmp_path: Path, name: str) -> None:
    write_checkpoint(tmp_path / "glint", example())
    path = tmp_path / "glint" / name
    path.write_bytes(path.read_bytes()[:9])
    with pytest.raises(InputError, match="damaged checkpoint") as refusal:
        read_checkpoint(tmp_path / "glint")
    assert "\n" not in str(refusal.value)


def test_a_pickle_is_never_loaded(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "glint", example())
    torch.save(TENSORS, tmp_path / "glint" / "model.safetensors")
    with pytest.raises(InputError):
        read_checkpoint(tmp_path / "glint")


def test_a_state_comes_back_with_its_record(tmp_path: Path) -> None:
    record = {"key": "k", "step": 3, "curves": [{"loss": 0.1 + 0.2}]}
    write_state(tmp_path / "state.safetensors", TENSORS, record)
    tensors, found = read_state(tmp_path / "state.safetensors")
    assert found == record
    assert all(torch.equal(tensors[name], tensor) for name, tensor in TENSORS.items())


def test_an_interrupted_save_leaves_the_former_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "state.safetensors"
    write_state(path, TENSORS, {"step": 1})

    def dies(*_args: object, **_kwargs: object) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint.json, "dumps", dies)
    with pytest.raises(KeyboardInterrupt):
        write_state(path, TENSORS, {"step": 2})
    assert read_state(path)[1] == {"step": 1}
    assert [entry.name for entry in tmp_path.iterdir()] == ["state.safetensors"]


def test_another_file_is_no_state(tmp_path: Path) -> None:
    (tmp_path / "state.safetensors").write_bytes(b"not one")
    with pytest.raises(InputError, match="remove it"):
        read_state(tmp_path / "state.safetensors")

"""Checkpoint folders and training states: whole or absent, tensors and JSON only."""

from pathlib import Path

import pytest
import torch

from glint.core.errors import InputError
from glint.formats import checkpoint
from glint.formats.checkpoint import Checkpoint, read_checkpoint, read_state, write_checkpoint, write_state

TENSORS = {"a": torch.arange(6.0).reshape(2, 3), "scalar": torch.tensor(2.5), "step": torch.tensor(7)}


def example() -> Checkpoint:
    return Checkpoint(
        tensors=TENSORS, config={"arm": "glint"}, fingerprint={"split": "f"}, text_encoder={"source": "package"}
    )


def test_a_checkpoint_comes_back_as_it_was(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "glint", example(), more={"curves.csv": b"step\n1\n"})
    found = read_checkpoint(tmp_path / "glint")
    assert (found.config, found.fingerprint, found.text_encoder) == (
        {"arm": "glint"}, {"split": "f"}, {"source": "package"},
    )  # fmt: skip
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


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
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

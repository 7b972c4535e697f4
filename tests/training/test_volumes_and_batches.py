"""Volumes may lie in memory or on disk, batches may be made beforehand: what is learned is the same."""

import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from synthetic import small_model, small_teacher, study_set

from glint.core.config.train import LossConfig, ModelConfig, TrainConfig
from glint.core.errors import InputError
from glint.formats.nifti import write_nifti
from glint.training.batches import BatchesAhead
from glint.training.loop import train
from glint.training.volumes import VolumeFiles, gather_volumes

CONFIG = TrainConfig(
    head_steps=2,
    steps=4,
    batch_size=4,
    model=ModelConfig(value_width=16, gate_width=8),
    loss=LossConfig(dense_blocks=(1,)),
)


def files_of(volume_BZYX: np.ndarray, folder: Path) -> list[Path]:
    paths = [folder / f"{row}.nii" for row in range(len(volume_BZYX))]
    for path, volume_ZYX in zip(paths, volume_BZYX, strict=True):
        write_nifti(path, volume_ZYX, np.diag([2.0, 2.5, 3.0, 1.0]))
    return paths


def test_volumes_on_disk_and_batches_ahead_give_the_same_weights_bit_for_bit(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    held, _ = study_set(12, teacher=small_teacher())
    paths = files_of(held.volume_BZYX, tmp_path)
    grid = held.volume_BZYX.shape[1:]
    on_disk = gather_volumes(paths, grid, memory_gib=0)
    assert isinstance(on_disk, VolumeFiles)
    assert on_disk.shape == held.volume_BZYX.shape
    weights = []
    for number, (volumes, ahead) in enumerate([(held.volume_BZYX, 0), (on_disk, 0), (on_disk, 1), (on_disk, 9)]):
        training = replace(held, volume_BZYX=volumes)
        config = CONFIG.model_copy(update={"batches_ahead": ahead})
        run = train(small_model(config, training), training, config=config, state=tmp_path / f"run{number}", key="k")
        weights.append(run.model.state_dict())
    for other in weights[1:]:
        assert all(torch.equal(tensor, other[name]) for name, tensor in weights[0].items())


def test_volumes_within_the_limit_are_held_and_the_others_read_when_asked(tmp_path: Path) -> None:
    volume_BZYX = np.arange(3 * 4 * 8 * 16, dtype=np.int16).reshape(3, 4, 8, 16)
    paths = files_of(volume_BZYX, tmp_path)
    exactly_gib = volume_BZYX.nbytes / 2**30
    held = gather_volumes(paths, (4, 8, 16), memory_gib=exactly_gib)
    assert isinstance(held, np.ndarray)
    np.testing.assert_array_equal(held, volume_BZYX)
    on_disk = gather_volumes(paths, (4, 8, 16), memory_gib=exactly_gib * 0.99)
    assert isinstance(on_disk, VolumeFiles)
    np.testing.assert_array_equal(on_disk[2], volume_BZYX[2])


@pytest.mark.parametrize("memory_gib", [0, 4])
def test_an_absent_volume_and_one_of_another_grid_are_named(tmp_path: Path, memory_gib: float) -> None:
    paths = files_of(np.zeros((2, 4, 8, 16), np.int16), tmp_path)
    with pytest.raises(InputError, match=r"\d\.nii: shape \(4, 8, 16\).*stages 04 to 08"):
        gather_volumes(paths, (4, 16, 8), memory_gib=memory_gib)[1]
    paths[1].unlink()
    with pytest.raises(InputError, match=r"1\.nii: no such file"):
        gather_volumes(paths, (4, 8, 16), memory_gib=memory_gib)


def test_batches_come_by_step_are_made_once_and_none_beyond_the_last() -> None:
    made: list[int] = []
    with BatchesAhead(lambda step: made.append(step) or f"batch {step}", last=6, ahead=2) as batches:
        assert [batches(step) for step in range(3, 6)] == ["batch 3", "batch 4", "batch 5"]
    assert made == [3, 4, 5]


def test_the_next_batch_is_made_while_nobody_asks_and_its_error_comes_when_it_is_asked_for() -> None:
    second = threading.Event()

    def make(step: int) -> int:
        if step == 1:
            second.set()
            raise InputError("volume 1 is gone")
        return step

    with BatchesAhead(make, last=3, ahead=1) as batches:
        assert batches(0) == 0
        assert second.wait(10)
        with pytest.raises(InputError, match="volume 1 is gone"):
            batches(1)
        assert batches(2) == 2

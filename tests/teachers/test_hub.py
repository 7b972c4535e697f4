"""The V-JEPA 2 adapter says what `transformers` says."""

import dataclasses
from functools import partial

import pytest
import torch
from stage_files import write_stages

from glint.core.config.teacher import TeacherConfig
from glint.core.errors import InputError
from glint.prepare.resample import window_channels
from glint.teachers.make import make_teacher
from glint.teachers.registry import HubVjepa2, load_teacher

MEAN, DEVIATION = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
WINDOWS = ((-1000.0, 0.0), (-200.0, 200.0), (-1000.0, 400.0))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A tiny V-JEPA 2 with random weights, its published crop and clip other than our volumes'."""
    from transformers import VJEPA2Config, VJEPA2Model

    torch.manual_seed(0)
    config = VJEPA2Config(
        patch_size=4,
        crop_size=32,
        frames_per_clip=8,
        tubelet_size=2,
        hidden_size=24,
        num_attention_heads=2,
        num_hidden_layers=3,
        pred_hidden_size=24,
        pred_num_attention_heads=2,
        pred_num_hidden_layers=1,
        pred_num_mask_tokens=2,
        initializer_range=0.5,  # at the usual 0.02 attention hardly looks at places
    )
    folder = tmp_path_factory.mktemp("hub") / "tiny"
    VJEPA2Model(config).save_pretrained(folder)
    return folder


def test_tokens_and_layers_equal_those_of_transformers(checkpoint):
    from transformers import VJEPA2Model

    teacher = HubVjepa2.fetch(str(checkpoint), (8, 16, 16))
    assert (teacher.grid, teacher.width, teacher.depth, teacher.patch_zyx) == ((4, 4, 4), 24, 3, (2, 4, 4))
    volume = torch.rand(2, 3, 8, 16, 16, generator=torch.Generator().manual_seed(1))
    encoded = teacher.encode(volume, layers=[0, 2])
    model = VJEPA2Model.from_pretrained(checkpoint, crop_size=16).eval()
    outputs = []
    for block in model.encoder.layer:
        block.register_forward_hook(lambda _, __, output: outputs.append(output[0]))
    frames = ((volume.permute(0, 2, 3, 4, 1) - MEAN) / DEVIATION).permute(0, 1, 4, 2, 3)
    with torch.no_grad():
        expected = model(frames, skip_predictor=True).last_hidden_state
    torch.testing.assert_close(encoded.patch_tokens_BND, expected)
    for layer in (0, 2):
        torch.testing.assert_close(encoded.hidden[layer], outputs[layer])


def test_places_come_from_our_volume_not_from_the_published_crop(checkpoint):
    from transformers import VJEPA2Model

    volume = torch.rand(1, 3, 8, 16, 16, generator=torch.Generator().manual_seed(1))
    ours = HubVjepa2.fetch(str(checkpoint), (8, 16, 16)).encode(volume).patch_tokens_BND
    frames = ((volume.permute(0, 2, 3, 4, 1) - MEAN) / DEVIATION).permute(0, 1, 4, 2, 3)
    with torch.no_grad():
        wrong = VJEPA2Model.from_pretrained(checkpoint).eval()(frames, skip_predictor=True).last_hidden_state
    assert not torch.allclose(ours, wrong, atol=1e-3)


def test_a_hub_teacher_is_frozen_and_its_folder_needs_no_hub(checkpoint, tmp_path):
    resampled, split = write_stages(tmp_path)
    config = TeacherConfig(name="vjepa2_hub", source="hub", location=str(checkpoint), windows=WINDOWS, threads=1)
    channels = partial(window_channels, windows_hu=WINDOWS)
    record = make_teacher([resampled], split, tmp_path / "07_teacher", config=config, channels=channels)
    teacher, read = load_teacher(tmp_path / "07_teacher")
    assert dataclasses.asdict(read) == dataclasses.asdict(record)
    assert (read.name, read.grid, read.training_studies) == ("vjepa2_hub", (8, 4, 4), 0)
    assert not teacher.train().model.training
    volume = torch.rand(1, 3, 16, 16, 16)
    expected = HubVjepa2.fetch(str(checkpoint), (16, 16, 16)).encode(volume)
    assert torch.equal(teacher.encode(volume).patch_tokens_BND, expected.patch_tokens_BND)


def test_weights_that_are_not_here_are_refused_with_what_to_do(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(InputError, match="hf download nobody/no-such-model") as refusal:
        HubVjepa2.fetch("nobody/no-such-model", (8, 16, 16))
    assert "\n" not in str(refusal.value)


def test_frames_that_are_not_square_are_refused(checkpoint):
    with pytest.raises(InputError, match="square"):
        HubVjepa2.fetch(str(checkpoint), (8, 16, 12))

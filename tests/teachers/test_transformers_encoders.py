"""DINOv3, DINOv2 and V-JEPA 2 equal `transformers`, with the traps of their published configurations closed."""

import dataclasses
import json
from functools import partial

import pytest
import torch
from stage_files import write_stages
from tiny_encoders import IMAGENET, TRANSFORMERS

from glint.core.config.teacher import TeacherConfig
from glint.core.errors import FingerprintError, InputError
from glint.core.provenance import sha256_file
from glint.prepare.resample import window_channels
from glint.teachers.make import make_teacher
from glint.teachers.registry import load_teacher
from glint.teachers.sources import open_encoder

MEAN, DEVIATION = (torch.tensor(IMAGENET[name]).view(1, 3, 1, 1) for name in ("mean", "deviation"))
WINDOWS = ((-1000.0, 0.0), (-200.0, 200.0), (-1000.0, 400.0))
SHAPES = {"dinov3": (1, 16, 24), "dinov2": (1, 16, 24), "vjepa2": (8, 16, 16)}


def model_of(family):
    import transformers

    kind = {"dinov3": "DINOv3ViT", "dinov2": "Dinov2", "vjepa2": "VJEPA2"}[family]
    config = getattr(transformers, f"{kind}Config")(**TRANSFORMERS[family])
    return getattr(transformers, f"{kind}Model"), config


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """Folders as the hub serves them, random weights, the published traps left in."""
    root = tmp_path_factory.mktemp("hub")
    torch.manual_seed(0)
    for family in TRANSFORMERS:
        kind, config = model_of(family)
        model = kind(config)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
        model.save_pretrained(root / family)
    return root


def opened(root, family, shape=None, **options):
    return open_encoder(family, "hub", str(root / family), shape or SHAPES[family], **options)


def expected_of(root, family, volume, **fitting):
    """Final tokens and every layer's output by `transformers`' own forward, patches alone."""
    kind, _ = model_of(family)
    model = kind.from_pretrained(root / family, **fitting).eval()
    outputs = []
    layers = {"dinov3": "model.layer", "dinov2": "encoder.layer", "vjepa2": "encoder.layer"}[family]
    for layer in model.get_submodule(layers):
        layer.register_forward_hook(
            lambda _, __, output: outputs.append(output[0] if isinstance(output, tuple) else output)
        )
    slices = [(volume[:, :, z] - MEAN) / DEVIATION for z in range(volume.shape[2])]
    with torch.no_grad():
        if family == "vjepa2":
            return model(torch.stack(slices, dim=1), skip_predictor=True).last_hidden_state, outputs
        final = model(slices[0]).last_hidden_state
    special = 4 if family == "dinov3" else 1
    return final[:, special:], [output[:, special:] for output in outputs]


@pytest.mark.parametrize("family", list(TRANSFORMERS))
def test_tokens_and_layers_equal_those_of_transformers(published, family):
    encoder = opened(published, family).eval()
    volume = torch.rand(2, 3, *SHAPES[family], generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        found = encoder(volume, layers=(0, 1, 2))
    fitting = {"crop_size": 16} if family == "vjepa2" else {}
    final, layers = expected_of(published, family, volume, **fitting)
    torch.testing.assert_close(found.patch_tokens_BND, final, atol=1e-5, rtol=1e-5)
    for layer in (0, 1, 2):
        torch.testing.assert_close(found.hidden[layer], layers[layer], atol=1e-5, rtol=1e-5)


def test_dinov3_of_transformers_drifts_in_train_mode_and_ours_does_not(published):
    kind, _ = model_of("dinov3")
    volume = torch.rand(1, 3, 1, 16, 24, generator=torch.Generator().manual_seed(1))
    frame = (volume[:, :, 0] - MEAN) / DEVIATION
    theirs = kind.from_pretrained(published / "dinov3", drop_path_rate=0.0, attention_dropout=0.0)
    with torch.no_grad():
        drift = theirs.train()(frame).last_hidden_state - theirs.eval()(frame).last_hidden_state
        ours = opened(published, "dinov3")
        calm = ours.train()(volume).patch_tokens_BND - ours.eval()(volume).patch_tokens_BND
    assert drift.abs().max() > 1e-2
    assert calm.abs().max() == 0


def test_places_come_from_our_volume_not_from_the_published_crop(published):
    volume = torch.rand(1, 3, 8, 16, 16, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        ours = opened(published, "vjepa2").eval()(volume).patch_tokens_BND
    wrong, _ = expected_of(published, "vjepa2", volume)
    assert not torch.allclose(ours, wrong, atol=1e-3)


def test_a_preprocessor_file_beside_the_weights_sets_mean_and_deviation(published, tmp_path):
    folder = tmp_path / "dinov2"
    folder.mkdir()
    for entry in (published / "dinov2").iterdir():
        (folder / entry.name).write_bytes(entry.read_bytes())
    statistics = {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.25, 0.2, 0.1]}
    (folder / "preprocessor_config.json").write_text(json.dumps(statistics))
    encoder = open_encoder("dinov2", "path", str(folder), (1, 16, 24))
    assert (encoder.architecture["mean"], encoder.architecture["deviation"]) == ([0.5, 0.4, 0.3], [0.25, 0.2, 0.1])
    assert opened(published, "dinov2").architecture["mean"] == [0.485, 0.456, 0.406]
    (folder / "preprocessor_config.json").write_text(json.dumps({"image_std": [0.5, 0, 1]}))
    with pytest.raises(InputError, match="image_std"):
        open_encoder("dinov2", "path", str(folder), (1, 16, 24))


@pytest.mark.parametrize("family", list(TRANSFORMERS))
@pytest.mark.parametrize("form", ["file", "torch", "folder"])
def test_weights_come_from_a_folder_a_safetensors_file_or_a_torch_file(published, tmp_path, family, form):
    from safetensors.torch import load_file

    place = published / family
    if form == "file":
        place = place / "model.safetensors"
    elif form == "torch":
        torch.save(load_file(place / "model.safetensors"), tmp_path / "weights.pth")
        (tmp_path / "config.json").write_bytes((place / "config.json").read_bytes())
        place = tmp_path / "weights.pth"
    pinned = sha256_file(place / "model.safetensors" if form == "folder" else place)
    found = open_encoder(family, "path", str(place), SHAPES[family], sha256=pinned)
    wanted = opened(published, family)
    assert all(torch.equal(a, b) for a, b in zip(found.parameters(), wanted.parameters(), strict=True))
    with pytest.raises(FingerprintError, match="SHA-256"):
        open_encoder(family, "path", str(place), SHAPES[family], sha256="0" * 64)


@pytest.mark.parametrize("family", list(TRANSFORMERS))
def test_a_missing_weight_is_refused_and_never_drawn_at_random(published, tmp_path, family):
    from safetensors.torch import load_file, save_file

    state = load_file(published / family / "model.safetensors")
    gone = next(name for name in state if "layer.1." in name and "norm1.weight" in name and "predictor" not in name)
    del state[gone]
    save_file(state, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_bytes((published / family / "config.json").read_bytes())
    with pytest.raises(InputError, match=r"1 weights of .* are missing") as refusal:
        open_encoder(family, "path", str(tmp_path), SHAPES[family])
    assert "norm1.weight" in str(refusal.value) and "\n" not in str(refusal.value)


def test_weights_of_another_family_are_refused(published):
    with pytest.raises(InputError, match="dinov2"):
        open_encoder("dinov3", "path", str(published / "dinov2"), (1, 16, 24))


def test_a_hub_teacher_is_frozen_and_its_folder_needs_no_hub(published, tmp_path):
    resampled, split = write_stages(tmp_path)
    config = TeacherConfig(name="vjepa2", source="hub", location=str(published / "vjepa2"), windows=WINDOWS, threads=1)
    channels = partial(window_channels, windows_hu=WINDOWS)
    record = make_teacher([resampled], split, tmp_path / "07_teacher", config=config, channels=channels)
    teacher, read = load_teacher(tmp_path / "07_teacher")
    assert dataclasses.asdict(read) == dataclasses.asdict(record)
    assert (read.name, read.grid, read.training_studies) == ("vjepa2", (8, 4, 4), 0)
    assert not teacher.train().encoder.training
    volume = torch.rand(1, 3, 16, 16, 16)
    with torch.no_grad():
        expected = opened(published, "vjepa2", (16, 16, 16)).eval()(volume)
    assert torch.equal(teacher.encode(volume).patch_tokens_BND, expected.patch_tokens_BND)


@pytest.mark.parametrize(
    ("location", "words"),
    [
        ("nobody/no-such-model", "glint teachers fetch nobody/no-such-model"),
        ("facebook/dinov3-vitb16-pretrain-lvd1689m", "gated: accept its licence"),
        ("facebook/dinov3-vitb16-pretrain-lvd1689m", "take dinov2_xray instead"),
    ],
)
def test_weights_that_are_not_here_are_refused_with_what_to_do(tmp_path, monkeypatch, location, words):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(InputError) as refusal:
        open_encoder("dinov3", "hub", location, (1, 16, 16))
    assert words in str(refusal.value) and "\n" not in str(refusal.value)


def test_frames_that_are_not_square_are_refused(published):
    with pytest.raises(InputError, match="square"):
        opened(published, "vjepa2", (8, 16, 12))

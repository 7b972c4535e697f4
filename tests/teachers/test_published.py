"""Every published architecture at its full size, without memory for its weights: tokens, grid, width, type, parameters."""

import json
import subprocess
import sys
from math import prod
from pathlib import Path

import pytest
import torch

from glint.core.config.families import FAMILIES, PUBLISHED, grid_of, published_at
from glint.core.config.schema import read_config
from glint.core.errors import InputError
from glint.teachers.published import published_description, published_shape
from glint.teachers.sources import way_out

REPOSITORY = Path(__file__).resolve().parents[2]
CONFIG, BENCHMARK = REPOSITORY / "config", REPOSITORY / "benchmarks" / "teachers_full_size.py"
MODEL_CARD_MILLIONS = {
    "vjepa2_1_vitb": 80,
    "vjepa2_1_vitl": 300,
    "vjepa2_vitl": 300,
    "dinov3_vits16": 21,
    "dinov3_vitb16": 86,
    "dinov3_vitl16": 300,
    "dinov2_xray": 86,
    "rad_dino": 86,
}


def counted(name):
    """Parameters by the textbook: embedding, blocks of attention and a fourfold MLP, the last norm."""
    entry = PUBLISHED[name]
    width = entry.width
    block = 4 * width * width + 8 * width * width + (4 + 4 + 1 + 4) * width  # matrices; biases and two norms
    voxels = {"vjepa2_1": 3 * 256 * 2, "vjepa2": 3 * 256 * 2, "dinov3": 3 * 256, "dinov2": 3 * 196}[entry.family]
    total = voxels * width + width + 2 * width
    if entry.family == "vjepa2_1":
        total += 3 * 256 * width + width + 2 * width  # image tokenizer; two modality vectors
    elif entry.family == "dinov3":
        total += 5 * width  # CLS, four registers
        block += 2 * width - width  # layer scales; keys have no bias
    elif entry.family == "dinov2":
        total += width + width * (1 + {"dinov2_xray": 16, "rad_dino": 37}[name] ** 2)  # CLS, positions
        block += 2 * width
    return total + entry.depth * block


@pytest.mark.parametrize("name", list(PUBLISHED))
def test_an_architecture_at_full_size_is_as_documented(name):
    entry, encoder = PUBLISHED[name], published_shape(name)
    assert sum(parameter.numel() for parameter in encoder.parameters()) == entry.parameters == counted(name)
    assert abs(entry.parameters / 1e6 - MODEL_CARD_MILLIONS[name]) < 0.1 * MODEL_CARD_MILLIONS[name]
    assert (encoder.grid, encoder.width, encoder.depth) == (
        grid_of(entry.volume_zyx, entry.family),
        entry.width,
        entry.depth,
    )
    with torch.no_grad():
        found = encoder(torch.empty(1, 3, *entry.volume_zyx, device="meta"), layers=(0, entry.depth - 1))
    expected = (1, prod(encoder.grid), entry.width)
    assert tuple(found.patch_tokens_BND.shape) == tuple(found.hidden[0].shape) == expected
    assert found.patch_tokens_BND.dtype == torch.float32
    assert encoder.patch_zyx == FAMILIES[entry.family].patch_zyx


@pytest.mark.slow
@pytest.mark.parametrize("name", list(PUBLISHED))
def test_an_architecture_runs_at_full_size(name):
    """Random weights of the real configuration on the processor: films at their real size, volumes of eight slices."""
    entry = PUBLISHED[name]
    shape = (8, 256, 256) if entry.volume_zyx[0] > 1 else entry.volume_zyx
    command = [sys.executable, str(BENCHMARK), "--one", name, "--precision", "bfloat16", "--slices", "8"]
    found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    grid = grid_of(shape, entry.family)
    assert (tuple(found["grid"]), found["shape"]) == (grid, [1, prod(grid), entry.width])
    assert (found["type"], found["finite"], found["parameters"]) == ("bfloat16", True, entry.parameters)
    assert found["peak_gb"] < 16


def test_rad_dino_has_the_size_of_its_published_file():
    """Its model.safetensors has 346,345,912 bytes: float32 weights, a mask token of 768 that is left out here, a header."""
    header = 346_345_912 - 4 * (PUBLISHED["rad_dino"].parameters + 768)
    assert 10_000 < header < 40_000


@pytest.mark.parametrize(
    ("name", "volume", "grid", "tokens"),
    [
        ("vjepa2_1_vitl", (64, 256, 256), (32, 16, 16), 8192),
        ("vjepa2_1_vitb", (1, 384, 384), (1, 24, 24), 576),
        ("vjepa2_vitl", (1, 256, 256), (1, 16, 16), 256),
        ("dinov3_vitb16", (72, 256, 256), (72, 16, 16), 18432),
        ("rad_dino", (1, 224, 518), (1, 16, 37), 592),
    ],
)
def test_other_inputs_give_the_grid_of_the_method(name, volume, grid, tokens):
    encoder = published_shape(name, volume)
    assert (encoder.grid, prod(encoder.grid)) == (grid, tokens)


def test_an_unknown_name_is_refused_and_a_gated_one_has_a_way_out():
    with pytest.raises(InputError, match="known are vjepa2_1_vitb"):
        published_description("dinov3_vit7b16")
    for entry in PUBLISHED.values():
        text = way_out(entry.location)
        assert "glint teachers fetch" in text and ("gated" in text) == entry.gated


@pytest.mark.parametrize(
    ("cohort", "modality", "name", "tokens"),
    [("ct_rate", "ct", "vjepa2_1_vitl", 8192), ("mimic_cxr", "cxr", "dinov3_vitb16", 1024)],
)
def test_the_shipped_cohorts_fit_the_weights_that_they_name(cohort, modality, name, tokens):
    config = read_config(CONFIG, {"cohort": cohort})
    teacher, train = getattr(config.teacher, modality), getattr(config.train, modality)
    assert published_at(teacher.location)[0] == name and teacher.name == PUBLISHED[name].family
    encoder = published_shape(name, tuple(getattr(config.resample, modality).grid))
    assert prod(encoder.grid) == tokens
    assert len(teacher.windows) in (1, encoder.channels)
    last = encoder.depth - 1
    assert {*train.loss.dense_blocks, last} <= {*getattr(config.features, modality).layers}

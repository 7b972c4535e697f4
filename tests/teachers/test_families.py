"""Every family keeps the one protocol: places, layers, films, grey, frozen teachers, students, folders."""

import dataclasses
import json
import math

import pytest
import torch
from tiny_encoders import CASES, FILM, VIDEO, description, tiny_encoder

from glint.core.config.families import FAMILIES, PUBLISHED
from glint.core.errors import InputError
from glint.losses.dense_feature import dense_feature_loss
from glint.model.student import Student
from glint.teachers.registry import ENCODERS, FrozenTeacher, build_encoder, read_encoder, write_encoder


def volumes(shape, count=2, channels=3):
    return torch.rand(count, channels, *shape, generator=torch.Generator().manual_seed(1))


def test_the_table_of_families_and_the_code_name_the_same():
    assert list(ENCODERS) == list(FAMILIES)
    assert {entry.family for entry in PUBLISHED.values()} < set(FAMILIES)
    assert all(PUBLISHED[entry.instead].gated is False for entry in PUBLISHED.values() if entry.instead)


@pytest.mark.parametrize(("family", "shape"), CASES)
def test_a_token_is_where_its_patch_is(family, shape):
    """Change one patch's voxels: of the embedding's tokens only that patch's moves, at the place the protocol gives it."""
    encoder = tiny_encoder(family, shape).eval()
    (gz, gy, gx), (pz, py, px) = encoder.grid, encoder.patch_zyx
    assert [g * p for g, p in zip(encoder.grid, encoder.patch_zyx, strict=True)] == list(shape)
    place = (gz - 1, 1, 2)
    changed = volumes(shape)
    z, y, x = (index * edge for index, edge in zip(place, encoder.patch_zyx, strict=True))
    changed[1, :, z : z + pz, y : y + py, x : x + px] += 1.0
    with torch.no_grad():
        if family == "vjepa_small":
            before, after = (encoder.patch_embedding(encoder.patches(one)) for one in (volumes(shape), changed))
        else:
            before, after = (encoder.patches_of(encoder.embed(one)[0]) for one in (volumes(shape), changed))
    moved = (before - after).abs().amax(dim=-1) > 1e-6
    assert moved.nonzero().tolist() == [[1, (place[0] * gy + place[1]) * gx + place[2]]]
    assert moved.shape == (2, gz * gy * gx)


@pytest.mark.parametrize(("family", "shape"), CASES)
def test_final_tokens_are_the_norm_of_the_last_block_and_layers_do_not_depend_on_who_else_is_asked(family, shape):
    encoder = tiny_encoder(family, shape).eval()
    with torch.no_grad():
        encoded, alone = encoder(volumes(shape), layers=(0, 1, 2)), encoder(volumes(shape), layers=(1,))
    tokens = math.prod(encoder.grid)
    assert encoded.patch_tokens_BND.shape == (2, tokens, encoder.width)
    assert set(alone.hidden) == {1}
    torch.testing.assert_close(alone.hidden[1], encoded.hidden[1])
    torch.testing.assert_close(encoder.norm(encoded.hidden[2]), encoded.patch_tokens_BND)
    with pytest.raises(InputError, match="blocks 0 to 2"):
        encoder(volumes(shape), layers=(3,))


@pytest.mark.parametrize(("family", "shape"), CASES)
def test_a_fresh_student_in_train_mode_equals_its_teacher(family, shape):
    teacher = FrozenTeacher(tiny_encoder(family, shape))
    student = Student.from_teacher(teacher.encoder, adapter_blocks=1).train()
    wanted = teacher.train().encode(volumes(shape), layers=(0, 1, 2))
    found = student(volumes(shape), layers=(0, 1, 2))
    assert dense_feature_loss(found.hidden, wanted.hidden).item() < 1e-6
    for block in (0, 1, 2):
        assert torch.equal(found.hidden[block], wanted.hidden[block])
    assert not teacher.encoder.training and student.encoder.training


@pytest.mark.parametrize(("family", "shape"), CASES)
def test_a_student_learns_in_every_weight_that_its_input_touches(family, shape):
    student = Student(tiny_encoder(family, shape)).train()
    encoded = student(volumes(shape))
    (encoded.patch_tokens_BND * torch.randn_like(encoded.patch_tokens_BND)).sum().backward()
    without = {name for name, p in student.encoder.named_parameters() if p.requires_grad and p.grad is None}
    assert without == set()
    resting = {name for name, p in student.encoder.named_parameters() if not p.requires_grad}
    assert all(name.startswith(student.encoder.idle) for name in resting) and (resting or not student.encoder.idle)
    names = [name for name, _ in student.named_parameters()]
    assert {name.split(".")[2] for name in names if name.startswith("encoder.blocks.")} == {"0", "1", "2"}
    assert any(name.startswith("encoder.norm.") for name in names)


@pytest.mark.parametrize(("family", "shape"), CASES)
def test_a_folder_holds_all_of_an_encoder(family, shape, tmp_path):
    encoder = tiny_encoder(family, shape).eval()
    write_encoder(encoder, tmp_path)
    again = read_encoder(tmp_path).eval()
    assert again.architecture == encoder.architecture
    with torch.no_grad():
        assert torch.equal(again(volumes(shape)).patch_tokens_BND, encoder(volumes(shape)).patch_tokens_BND)


@pytest.mark.parametrize("family", [name for name in FAMILIES if name != "vjepa_small"])
def test_one_grey_channel_is_three_equal_ones_and_other_shapes_are_refused(family):
    shape = (1, 16, 16)
    encoder = tiny_encoder(family, shape).eval()
    grey = volumes(shape, channels=1)
    with torch.no_grad():
        assert torch.equal(encoder(grey).patch_tokens_BND, encoder(grey.repeat(1, 3, 1, 1, 1)).patch_tokens_BND)
    for wrong in (volumes(shape, channels=2), volumes((1, 16, 12)), volumes((2, 16, 16))):
        with pytest.raises(InputError, match="encoder takes volumes of shape"):
            encoder(wrong)


@pytest.mark.parametrize("family", ["dinov3", "dinov2"])
def test_a_two_dimensional_family_sees_slices_one_by_one(family):
    encoder, single = tiny_encoder(family, (3, 16, 24)).eval(), tiny_encoder(family, FILM).eval()
    volume = volumes((3, 16, 24))
    with torch.no_grad():
        found = encoder(volume, layers=(1,))
        each = [single(volume[:, :, z : z + 1], layers=(1,)) for z in range(3)]
    torch.testing.assert_close(found.patch_tokens_BND, torch.cat([one.patch_tokens_BND for one in each], dim=1))
    torch.testing.assert_close(found.hidden[1], torch.cat([one.hidden[1] for one in each], dim=1))


@pytest.mark.parametrize("family", [name for name in FAMILIES if name != "vjepa_small"])
def test_the_input_is_standardised_by_the_statistics_of_the_family(family):
    """Two encoders that differ in their statistics agree once the input makes up for it."""
    shape = (1, 16, 16)
    encoder = tiny_encoder(family, shape).eval()
    told = description(family, shape)
    plain = {"mean": (0.0, 0.0, 0.0), "deviation": (1.0, 1.0, 1.0)}
    bare = build_encoder({**told, "architecture": {**told["architecture"], **plain}}).eval()
    bare.load_state_dict(encoder.state_dict())
    mean, deviation = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    volume = volumes(shape)
    standardised = (volume - mean.view(3, 1, 1, 1)) / deviation.view(3, 1, 1, 1)
    with torch.no_grad():
        torch.testing.assert_close(encoder(volume).patch_tokens_BND, bare(standardised).patch_tokens_BND)


@pytest.mark.parametrize(("family", "shape"), CASES)
def test_both_attention_kernels_compute_the_same(family, shape):
    encoder = tiny_encoder(family, shape).eval()
    with torch.no_grad():
        fused = encoder(volumes(shape)).patch_tokens_BND
        encoder.attention_kernel("eager")
        torch.testing.assert_close(encoder(volumes(shape)).patch_tokens_BND, fused, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    "wrong",
    [
        {"family": "resnet", "architecture": {}},
        {"family": "dinov3"},
        {"family": "vjepa2_1", "architecture": {"width": 24}},
        {
            "family": "vjepa2",
            "architecture": {**description("vjepa2", VIDEO)["architecture"], "volume_zyx": [4, 16, 20]},
        },
        {
            "family": "dinov2",
            "architecture": {**description("dinov2", VIDEO)["architecture"], "volume_zyx": [1, 16, 18]},
        },
        {
            "family": "vjepa2_1",
            "architecture": {**description("vjepa2_1", VIDEO)["architecture"], "volume_zyx": [3, 16, 16]},
        },
    ],
)
def test_what_is_no_encoder_is_refused_by_one_line(wrong):
    with pytest.raises(InputError) as refusal:
        build_encoder(wrong)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("damage", ["config", "weights", "width", "unknown"])
@pytest.mark.parametrize("family", list(FAMILIES))
def test_a_damaged_folder_is_refused_by_one_line(family, damage, tmp_path):
    write_encoder(tiny_encoder(family, VIDEO), tmp_path)
    described = json.loads((tmp_path / "config.json").read_text())
    inner = described["architecture"].get("transformers", described["architecture"])
    if damage == "config":
        (tmp_path / "config.json").unlink()
    elif damage == "weights":
        content = (tmp_path / "model.safetensors").read_bytes()
        (tmp_path / "model.safetensors").write_bytes(content[: len(content) // 2])
    elif damage == "width":
        inner["hidden_size" if "hidden_size" in inner else "width"] = 48
        (tmp_path / "config.json").write_text(json.dumps(described))
    else:
        (tmp_path / "config.json").write_text(json.dumps({**described, "family": "unheard_of"}))
    with pytest.raises(InputError) as refusal:
        read_encoder(tmp_path)
    assert "\n" not in str(refusal.value)


def test_published_entries_say_what_a_person_must_know():
    for entry in PUBLISHED.values():
        assert entry.licence and all(dataclasses.astuple(entry)[:2])

"""The encoder: places, layers, dropped tokens, weights on disk."""

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from glint.core.errors import InputError
from glint.teachers.vjepa import (
    EncoderConfig,
    RotaryTable,
    VisionTransformer3D,
    grid_coordinates,
    patchify,
    rotate,
    sincos_embedding,
)

SMALL = EncoderConfig(volume_zyx=(8, 12, 8), patch_zyx=(4, 4, 4), channels=2, width=24, depth=3, heads=2)


def embedded(encoder, volume):
    return encoder.patch_embedding(encoder.patches(volume))


@pytest.fixture
def encoder():
    torch.manual_seed(0)
    made = VisionTransformer3D(SMALL)
    with torch.no_grad():
        for block in made.blocks:  # sharper attention, so that who is seen matters
            block.attention.qkv.weight.mul_(2)
    return made


@pytest.fixture
def volume():
    return torch.rand(2, 2, 8, 12, 8, generator=torch.Generator().manual_seed(1))


def test_tokens_follow_the_grid_with_x_fastest(encoder, volume):
    encoded = encoder(volume)
    assert encoder.grid == (2, 3, 2)
    assert encoded.patch_tokens_BND.shape == (2, 12, 24)
    assert grid_coordinates(SMALL.grid)[7].tolist() == [1.0, 0.0, 1.0]
    changed = volume.clone()
    changed[0, :, 4:8, 0:4, 4:8] += 1
    moved = (embedded(encoder, changed) - embedded(encoder, volume)).abs().amax(dim=-1)
    assert moved[0].nonzero().tolist() == [[7]]
    assert moved[1].count_nonzero() == 0


def test_the_patch_embedding_is_the_strided_convolution(encoder, volume):
    convolution = nn.Conv3d(2, 24, kernel_size=4, stride=4)
    projection = encoder.patch_embedding.project
    with torch.no_grad():
        convolution.weight.copy_(projection.weight.reshape(convolution.weight.shape))
        convolution.bias.copy_(projection.bias)
    expected = convolution(volume).flatten(2).transpose(1, 2)
    torch.testing.assert_close(embedded(encoder, volume), expected)


def test_the_stem_is_a_strided_convolution_with_gelu_before_the_projection(volume):
    encoder = VisionTransformer3D(SMALL.model_copy(update={"stem": (5,)}))
    stem, projection = encoder.patch_embedding.stem[0], encoder.patch_embedding.project
    # Channels stand last inside a patch, kernels of Conv3d want them first.
    kernel = stem.weight.reshape(5, 2, 2, 2, 2).permute(0, 4, 1, 2, 3)
    inner = nn.functional.gelu(nn.functional.conv3d(volume, kernel, stem.bias, stride=2))
    outer = projection.weight.reshape(24, 2, 2, 2, 5).permute(0, 4, 1, 2, 3)
    expected = nn.functional.conv3d(inner, outer, projection.bias, stride=2).flatten(2).transpose(1, 2)
    torch.testing.assert_close(embedded(encoder, volume), expected)


def test_hidden_l_is_the_output_of_block_l_before_the_last_norm(encoder, volume):
    seen = {}
    for index, block in enumerate(encoder.blocks):
        block.register_forward_hook(lambda _, __, output, index=index: seen.__setitem__(index, output))
    encoded = encoder(volume, layers=[0, 2])
    assert sorted(encoded.hidden) == [0, 2]
    for layer in (0, 2):
        assert torch.equal(encoded.hidden[layer], seen[layer])
    torch.testing.assert_close(encoded.patch_tokens_BND, encoder.norm(seen[2]))


@pytest.mark.parametrize("layer", [-1, 3])
def test_a_layer_that_does_not_exist_is_refused(encoder, volume, layer):
    with pytest.raises(InputError, match="blocks 0 to 2"):
        encoder(volume, layers=[layer])


def test_a_volume_of_another_shape_is_refused_with_both_shapes(encoder):
    with pytest.raises(InputError, match=r"\(2, 8, 12, 8\).*\(2, 8, 12, 4\)"):
        encoder(torch.zeros(1, 2, 8, 12, 4))


def test_dropping_tokens_equals_hiding_them_from_attention(encoder, volume):
    keep = torch.tensor([[0, 3, 7, 11], [1, 2, 8, 10]])
    valid = torch.zeros(2, 12, dtype=torch.bool).scatter(1, keep, True)
    dropped = encoder(volume, layers=[1], keep_BK=keep)
    hidden = encoder(volume, layers=[1], valid_BN=valid)
    rows = torch.arange(2)[:, None]
    torch.testing.assert_close(dropped.patch_tokens_BND, hidden.patch_tokens_BND[rows, keep], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(dropped.hidden[1], hidden.hidden[1][rows, keep], atol=1e-4, rtol=1e-4)
    assert not torch.allclose(dropped.patch_tokens_BND, encoder(volume).patch_tokens_BND[rows, keep], atol=1e-3)


def test_a_volume_without_valid_tokens_stays_finite_with_finite_gradients(encoder, volume):
    valid = torch.ones(2, 12, dtype=torch.bool)
    valid[1] = False
    encoder(volume, valid_BN=valid).patch_tokens_BND.sum().backward()
    assert all(parameter.grad is None or parameter.grad.isfinite().all() for parameter in encoder.parameters())


def test_train_mode_changes_nothing(encoder, volume):
    assert torch.equal(encoder.train()(volume).patch_tokens_BND, encoder.eval()(volume).patch_tokens_BND)


@pytest.mark.parametrize("head_width", [6, 32, 64])
def test_rotary_scores_depend_on_the_offset_of_two_patches_alone(head_width):
    generator = torch.Generator().manual_seed(2)
    query, key = torch.randn(2, head_width, generator=generator)
    first = torch.tensor([[0.0, 0, 0], [2, 1, 3], [0, 0, 0], [0, 0, 0], [0, 0, 0]])
    offsets = torch.tensor([[1.0, 2, -1], [1, 2, -1], [2, 2, -1], [1, 3, -1], [1, 2, 0]])

    def turned(vector, places):
        rotation = RotaryTable(places, head_width, 10.0)(torch.float32)
        return rotate(vector.expand(1, 1, len(places), -1), *rotation)[0, 0]

    scores = (turned(query, first) * turned(key, first + offsets)).sum(dim=-1)
    assert scores[0] == pytest.approx(scores[1].item(), abs=1e-4)
    assert turned(query, first).norm(dim=-1).tolist() == pytest.approx([query.norm().item()] * 5, rel=1e-5)
    for other in (2, 3, 4):  # each of z, y, x counts
        assert abs(float(scores[other] - scores[0])) > 1e-3


def test_absolute_positions_tell_every_patch_apart():
    embedding = sincos_embedding(grid_coordinates((7, 7, 9)), 128, 100.0)
    distances = torch.cdist(embedding, embedding) + torch.eye(441) * 9
    assert distances.min() > 0.3


@pytest.mark.parametrize(("positions", "moves"), [("rope", False), ("sincos", True), ("both", True)])
def test_only_absolute_positions_tell_where_a_patch_is(positions, moves, volume):
    encoder = VisionTransformer3D(SMALL.model_copy(update={"positions": positions}))
    tokens = encoder(torch.ones_like(volume)).patch_tokens_BND[0]
    assert ((tokens - tokens[0]).abs().max() > 1e-2) == moves


@pytest.mark.parametrize(
    "wrong", [{"volume_zyx": (8, 13, 8)}, {"width": 26, "heads": 3}, {"heads": 8}, {"stem": (4, 4, 4)}]
)
def test_impossible_shapes_are_refused(wrong):
    with pytest.raises(ValidationError):
        EncoderConfig.model_validate(SMALL.model_dump() | wrong)


def test_patches_are_flat_in_the_order_of_a_convolution_kernel(volume):
    patches = patchify(volume, (4, 4, 4))
    assert torch.equal(patches[1, 7].reshape(2, 4, 4, 4), volume[1, :, 4:8, 0:4, 4:8])

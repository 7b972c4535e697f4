"""V-JEPA 2.1 against its equations, written plainly below, and its official checkpoints read strictly."""

import cmath
import math
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from stage_files import write_stages
from tiny_encoders import DEPTH, WIDTH, official_state

from glint.core.config.teacher import TeacherConfig
from glint.core.errors import FingerprintError, InputError
from glint.core.provenance import sha256_file
from glint.prepare.resample import window_channels
from glint.teachers.make import make_teacher
from glint.teachers.registry import load_teacher
from glint.teachers.sources import open_encoder
from glint.teachers.vjepa2_1 import encoder_of_checkpoint

MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def turned(vector, place, columns_per_axis):
    """One head's query or key at place (depth, row, column): neighbouring channels are the parts of complex numbers that turn."""
    found = vector.clone()
    for axis in range(3):
        for pair in range(columns_per_axis // 2):
            first = axis * columns_per_axis + 2 * pair
            angle = place[axis] * 10_000 ** (-2 * pair / columns_per_axis)
            number = complex(float(vector[first]), float(vector[first + 1])) * cmath.exp(1j * angle)
            found[first], found[first + 1] = number.real, number.imag
    return found


def reference(state, volume, blocks=DEPTH):
    """The final tokens and every block's output for one volume (3, Z, Y, X), one token and one head at a time, in float64."""
    state = {name: value.double() for name, value in state.items()}
    for channel in range(3):
        volume = volume.clone()
        volume[channel] = (volume[channel] - MEAN[channel]) / DEVIATION[channel]
    image = volume.shape[1] == 1
    embed, modality = ("patch_embed_img", "img_mod_embed") if image else ("patch_embed", "video_mod_embed")
    kernel = state[f"{embed}.proj.weight"]
    grid = F.conv3d(volume.double()[None], kernel, state[f"{embed}.proj.bias"], stride=kernel.shape[2:])[0]
    _, depth, rows, columns = grid.shape
    places, tokens = [], []
    for z in range(depth):
        for y in range(rows):
            for x in range(columns):
                places.append((z, y * 15 / max(rows - 1, 1), x * 15 / max(columns - 1, 1)))
                tokens.append(grid[:, z, y, x] + state[modality][0, 0])
    tokens = torch.stack(tokens)
    head = 64
    per_axis = 2 * ((head // 3) // 2)
    outputs = []
    for block in range(blocks):
        part = {name.removeprefix(f"blocks.{block}."): value for name, value in state.items()}
        normed = F.layer_norm(tokens, (WIDTH,), part["norm1.weight"], part["norm1.bias"], eps=1e-6)
        projected = normed @ part["attn.qkv.weight"].T + part["attn.qkv.bias"]
        mixed = torch.zeros_like(tokens)
        for one in range(WIDTH // head):
            columns_of = [slice(kind * WIDTH + one * head, kind * WIDTH + (one + 1) * head) for kind in range(3)]
            query, key, value = (projected[:, part_of] for part_of in columns_of)
            query = torch.stack([turned(vector, place, per_axis) for vector, place in zip(query, places, strict=True)])
            key = torch.stack([turned(vector, place, per_axis) for vector, place in zip(key, places, strict=True)])
            mixed[:, one * head : (one + 1) * head] = (query @ key.T / math.sqrt(head)).softmax(dim=-1) @ value
        tokens = tokens + mixed @ part["attn.proj.weight"].T + part["attn.proj.bias"]
        normed = F.layer_norm(tokens, (WIDTH,), part["norm2.weight"], part["norm2.bias"], eps=1e-6)
        raised = normed @ part["mlp.fc1.weight"].T + part["mlp.fc1.bias"]
        raised = 0.5 * raised * (1 + torch.erf(raised / math.sqrt(2)))
        tokens = tokens + raised @ part["mlp.fc2.weight"].T + part["mlp.fc2.bias"]
        outputs.append(tokens)
    return F.layer_norm(tokens, (WIDTH,), state["norms_block.3.weight"], state["norms_block.3.bias"], 1e-6), outputs


@pytest.mark.parametrize("shape", [(4, 12, 16), (1, 16, 20), (4, 4, 8)])
def test_it_equals_its_equations(shape):
    """A video, an image, and a grid of one row, whose stretched position must not be 0 / 0."""
    state = official_state()
    encoder = encoder_of_checkpoint({"ema_encoder": state, "epoch": 3}, shape).eval()
    volume = torch.rand(3, *shape, generator=torch.Generator().manual_seed(1))
    final, outputs = reference(state, volume)
    with torch.no_grad():
        found = encoder(volume[None], layers=range(DEPTH))
    torch.testing.assert_close(found.patch_tokens_BND[0].double(), final, atol=1e-5, rtol=1e-5)
    for block, wanted in enumerate(outputs):
        torch.testing.assert_close(found.hidden[block][0].double(), wanted, atol=1e-5, rtol=1e-5)


def test_a_frame_of_another_size_has_its_corners_at_the_same_places():
    """Positions are stretched to the frame: the last row is at 15 for 256, 384 and 512 pixels; depth is never stretched."""
    state = official_state(depth=1)
    for edge in (256, 384, 512):
        encoder = encoder_of_checkpoint(
            {
                **state,
                "patch_embed.proj.weight": torch.zeros(WIDTH, 3, 2, 16, 16),
                "patch_embed_img.proj.weight": torch.zeros(WIDTH, 3, 1, 16, 16),
            },
            (8, edge, edge),
        )
        pairs = (64 // 3) // 2
        angles = torch.atan2(encoder.rotary.sin, encoder.rotary.cos)[-1]
        last = [cmath.phase(cmath.exp(1j * place)) for place in (3.0, 15.0, 15.0)]
        torch.testing.assert_close(angles[[0, pairs, 2 * pairs]], torch.tensor(last), atol=1e-4, rtol=0)


@pytest.mark.parametrize("prefix", ["", "module.", "module.backbone.", "backbone."])
@pytest.mark.parametrize("form", ["checkpoint", "plain"])
def test_wrappers_of_the_official_trainer_are_stripped(prefix, form):
    state = official_state()
    wrapped = {f"{prefix}{name}": value for name, value in state.items()}
    whole = (
        {"ema_encoder": wrapped, "predictor": {"x": torch.zeros(1)}, "epoch": 1} if form == "checkpoint" else wrapped
    )
    found, wanted = (encoder_of_checkpoint(one, (2, 8, 8)).state_dict() for one in (whole, state))
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda s: s.pop("blocks.1.attn.qkv.bias"), "blocks.1.attn.qkv.bias is missing"),
        (lambda s: s.pop("norms_block.0.weight"), "norms_block.0.weight is missing"),
        (lambda s: s.pop("img_mod_embed"), "img_mod_embed is missing"),
        (
            lambda s: s.update({"pos_embed": torch.zeros(1, 4, WIDTH)}),
            "1 weights that V-JEPA 2.1 has not, first pos_embed",
        ),
        (lambda s: s.update({"blocks.2.mlp.fc2.weight": torch.zeros(WIDTH, 5)}), r"shape \(128, 5\), expected"),
        (lambda s: s.update({"module.img_mod_embed": torch.zeros(1)}), "img_mod_embed is there twice"),
        (lambda s: s.pop("patch_embed.proj.weight"), "not a V-JEPA 2.1 encoder"),
    ],
)
def test_every_tensor_is_accounted_for(damage, words):
    state = official_state()
    damage(state)
    with pytest.raises(InputError, match=words):
        encoder_of_checkpoint({"ema_encoder": state, "epoch": 1}, (2, 8, 8))


def test_another_entry_never_takes_the_place_of_the_averaged_encoder():
    with pytest.raises(InputError, match="no ema_encoder among the checkpoint's entries"):
        encoder_of_checkpoint({"encoder": official_state(), "epoch": 1}, (2, 8, 8))


def test_the_untrained_norms_of_lower_levels_change_nothing():
    """The distilled models were trained on the last level; block outputs are compared by LayerNorm without weights."""
    state, other = official_state(), official_state()
    for level in range(3):
        other[f"norms_block.{level}.weight"] = torch.full((WIDTH,), 1e6)
    volume = torch.rand(1, 3, 4, 8, 8)
    with torch.no_grad():
        found, wanted = (encoder_of_checkpoint(one, (4, 8, 8)).eval()(volume, layers=(0, 2)) for one in (other, state))
    assert torch.equal(found.patch_tokens_BND, wanted.patch_tokens_BND)
    assert all(torch.equal(found.hidden[block], wanted.hidden[block]) for block in (0, 2))


@pytest.mark.parametrize("form", ["pt", "safetensors"])
def test_a_checkpoint_file_is_opened_and_pinned(tmp_path, form):
    from safetensors.torch import save_file

    path = tmp_path / f"vjepa2_1.{form}"
    wrapped = {f"module.backbone.{name}": value for name, value in official_state().items()}
    if form == "pt":
        torch.save({"ema_encoder": wrapped, "epoch": 4, "opt": {"lr": 0.1}}, path)
    else:
        save_file(wrapped, path)
    encoder = open_encoder("vjepa2_1", "path", str(path), (4, 12, 16), sha256=sha256_file(path))
    assert (encoder.grid, encoder.patch_zyx, encoder.width, encoder.depth, encoder.heads) == (
        (2, 3, 4),
        (2, 4, 4),
        128,
        3,
        2,
    )
    with pytest.raises(FingerprintError, match="SHA-256"):
        open_encoder("vjepa2_1", "path", str(path), (4, 12, 16), sha256="0" * 64)
    with pytest.raises(InputError, match="no multiple") as refusal:
        open_encoder("vjepa2_1", "path", str(path), (3, 12, 16))
    assert path.name in str(refusal.value) and "\n" not in str(refusal.value)


def test_stage_07_makes_a_frozen_teacher_of_a_checkpoint_whose_folder_needs_no_checkpoint(tmp_path):
    resampled, split = write_stages(tmp_path)
    torch.save({"ema_encoder": official_state()}, tmp_path / "weights.pt")
    windows = ((-1350.0, 150.0), (-160.0, 240.0), (-1000.0, 1000.0))
    options = {"source": "path", "location": str(tmp_path / "weights.pt"), "windows": windows, "threads": 1}
    config = TeacherConfig(name="vjepa2_1", sha256=sha256_file(tmp_path / "weights.pt"), **options)
    channels = partial(window_channels, windows_hu=windows)
    make_teacher([resampled], split, tmp_path / "07_teacher", config=config, channels=channels)
    wanted = encoder_of_checkpoint(official_state(), (16, 16, 16)).eval()
    (tmp_path / "weights.pt").unlink()
    teacher, record = load_teacher(tmp_path / "07_teacher")
    assert (record.name, record.grid, record.windows, record.training_studies) == ("vjepa2_1", (8, 4, 4), windows, 0)
    volume = torch.rand(1, 3, 16, 16, 16)
    with torch.no_grad():
        assert torch.equal(teacher.train().encode(volume).patch_tokens_BND, wanted(volume).patch_tokens_BND)

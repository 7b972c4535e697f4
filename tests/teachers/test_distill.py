"""Self-distillation keeps its parts straight, does not collapse, and a stopped run ends in the weights of an undisturbed one."""

import numpy as np
import pytest
import torch

from glint.core.config.teacher import DistillConfig
from glint.teachers.distill import Distiller, distill, draw_crops, gram_loss, random_crop, sinkhorn, spread_loss
from glint.teachers.steps import first_volumes
from glint.teachers.vjepa import EncoderConfig

FILM = EncoderConfig(volume_zyx=(1, 32, 24), patch_zyx=(1, 8, 8), channels=1, width=24, depth=2, heads=1)
SETTINGS = DistillConfig(
    steps=10,
    batch_size=4,
    local_crops=2,
    prototypes=16,
    head_hidden=32,
    head_bottleneck=8,
    warmup_steps=2,
    learning_rate=1e-3,
    monitor_every=3,
    checkpoint_every=4,
    gram_start=0.4,
)


class Films:
    """Films with one bright bar each; (1, 1, Y, X)."""

    def __len__(self):
        return 9

    def window(self, index, shift_zyx=(0, 0, 0)):
        rng = np.random.default_rng(index)
        film = rng.uniform(0, 0.3, (1, 1, 32, 24)).astype(np.float32)
        film[:, :, int(rng.integers(4, 28)) :, int(rng.integers(2, 20)) :] += 0.6
        return film


def run(state=None, settings=SETTINGS, **options):
    return distill(Films(), FILM, settings, seed=0, key="k", state_dir=state, **options)


def weights_of(made):
    return torch.cat([value.flatten() for value in made.encoder.state_dict().values()])


def test_a_killed_run_ends_in_the_weights_of_an_undisturbed_one_before_and_after_the_anchor(tmp_path, monkeypatch):
    undisturbed = run()
    taken = Distiller.take

    def killed(self, volumes, *, seed, step):
        if step in stops:
            stops.remove(step)
            raise KeyboardInterrupt
        return taken(self, volumes, seed=seed, step=step)

    stops = [4, 9]
    monkeypatch.setattr(Distiller, "take", killed)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path)
    resumed = run(tmp_path)
    assert torch.equal(weights_of(resumed), weights_of(undisturbed))
    assert resumed.curves == undisturbed.curves


def test_the_loss_falls_and_nothing_collapses():
    made = run(settings=SETTINGS.model_copy(update={"steps": 60, "momentum_start": 0.95, "monitor_every": 10}))
    first, last = made.curves[0], made.curves[-1]
    assert last["image"] < first["image"]
    assert last["patch"] < first["patch"]
    assert last["gram"] > 0
    assert first["gram"] == 0
    assert last["effective_rank"] > 3
    assert last["token_cosine"] < 0.9


def test_sinkhorn_spreads_the_choices_over_all_prototypes():
    generator = torch.Generator().manual_seed(0)
    logits = torch.nn.functional.normalize(torch.randn(64, 8, generator=generator), dim=-1)
    logits[:, 0] = 0.95  # a favourite that would take all
    shares = sinkhorn(logits, 0.06, 50)
    assert torch.allclose(shares.sum(dim=1), torch.ones(64), atol=1e-5)
    assert torch.allclose(shares.sum(dim=0), torch.full((8,), 8.0), atol=0.05)
    assert logits.argmax(dim=1).eq(0).float().mean() > 0.9
    assert sinkhorn(torch.empty(0, 8), 0.06, 3).shape == (0, 8)


def test_a_crop_is_a_box_of_the_film_and_never_mirrored():
    ramp = torch.arange(24.0).expand(1, 1, 32, 24) / 24
    for seed in range(20):
        rows = random_crop(ramp, np.random.default_rng(seed), (0.3, 0.8))[0, 0]
        assert (rows.diff(dim=1) >= -1e-6).all()
        assert rows.max() - rows.min() < 0.98
    assert torch.allclose(random_crop(ramp, np.random.default_rng(0), (4.0, 4.0)), ramp, atol=1e-5)


def test_crops_are_a_function_of_seed_and_step_and_parts_fit_together():
    whole, same = (draw_crops(Films(), FILM, SETTINGS, seed=0, step=2, part=slice(0, 4)) for _ in range(2))
    second = draw_crops(Films(), FILM, SETTINGS, seed=0, step=2, part=slice(2, 4))
    assert torch.equal(whole.global_BCZYX, same.global_BCZYX)
    assert torch.equal(whole.global_BCZYX.reshape(2, 4, 1, 1, 32, 24)[:, 2:].flatten(0, 1), second.global_BCZYX)
    assert torch.equal(whole.local_keep_BK.reshape(2, 4, -1)[:, 2:].flatten(0, 1), second.local_keep_BK)
    assert whole.local_keep_BK.shape[1] == 2 * 1
    assert 0 < whole.masked_BN.float().mean() < 0.3


def test_masked_patches_can_not_be_seen_by_the_student():
    made = Distiller(FILM, SETTINGS, seed=0, first_BCZYX=first_volumes(Films(), 4))
    batch = draw_crops(Films(), FILM, SETTINGS, seed=0, step=1, part=slice(0, 4))
    assert batch.masked_BN.any()
    patch = made.losses(batch, 0)[0]["image"]
    inside = batch.masked_BN.reshape(-1, 1, 4, 1, 3, 1).expand(-1, 1, 4, 8, 3, 8).reshape(-1, 1, 1, 32, 24)
    seen = made.encoder.patches(torch.where(inside, torch.rand_like(batch.global_BCZYX), batch.global_BCZYX))
    blank = made.online["blank"]["voxels"]
    masked = batch.masked_BN[..., None]
    plain = made.encoder.patches(batch.global_BCZYX)
    assert torch.equal(torch.where(masked, blank, seen), torch.where(masked, blank, plain))
    assert torch.isfinite(patch)


def test_gram_anchoring_asks_for_similarities_not_for_tokens():
    tokens = torch.randn(2, 12, 6)
    turn = torch.linalg.qr(torch.randn(6, 6))[0]
    assert gram_loss(tokens @ turn * 3, tokens) < 1e-10
    assert gram_loss(torch.randn(2, 12, 6), tokens) > 0.05


def test_images_are_driven_apart_and_a_single_one_is_left_alone():
    near, far = torch.tensor([[1.0, 0.0], [1.0, 0.1]]), torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    assert spread_loss(near) > spread_loss(far)
    assert spread_loss(near[:1]) == 0


def test_pretraining_goes_on_from_given_weights():
    start = run().encoder
    made = Distiller(FILM, SETTINGS, seed=3, first_BCZYX=first_volumes(Films(), 4), start=start)
    for ours, theirs in zip(made.encoder.parameters(), start.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    assert torch.equal(made.target.norm.weight, start.norm.weight)

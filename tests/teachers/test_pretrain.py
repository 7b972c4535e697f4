"""Pretraining learns, does not collapse, and a killed run ends in the weights of an undisturbed one."""

import copy
import math
import os
import signal
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn

from glint.core.config.teacher import MaskConfig, PretrainConfig
from glint.core.errors import FingerprintError
from glint.teachers.appearance import AppearanceCode, fit_patch_embedding, patch_statistics
from glint.teachers.pretrain import Pretrainer, draw_batch, pretrain, stack_levels
from glint.teachers.steps import collapse_monitors, first_volumes, learning_rate_at, momentum_at, update_target
from glint.teachers.vjepa import EncoderConfig, VisionTransformer3D, patchify

SHAPE = EncoderConfig(volume_zyx=(16, 16, 16), patch_zyx=(4, 4, 4), channels=2, width=24, depth=2, heads=1)
SETTINGS = PretrainConfig(
    steps=12,
    batch_size=3,
    masks=MaskConfig(masked_fraction=0.75, block_min=0.2, block_max=0.6, per_volume=2),
    levels=(0, 1),
    predicted_tokens=20,
    predictor_width=24,
    predictor_depth=1,
    learning_rate=2e-3,
    warmup_steps=2,
    shift_voxels=1,
    checkpoint_every=4,
    monitor_every=5,
    appearance_units=32,
    appearance_width=16,
    appearance_volumes=4,
)


def embedded(encoder, volume):
    return encoder.patch_embedding(encoder.patches(volume))


class Blobs:
    """Volumes with one bright ball each; the second channel is the inverse of the first."""

    def __len__(self):
        return 7

    def window(self, index, shift_zyx=(0, 0, 0)):
        rng = np.random.default_rng(index)
        z, y, x = np.meshgrid(*[np.arange(16)] * 3, indexing="ij")
        centre = rng.uniform(3, 12, 3) + shift_zyx
        ball = ((z - centre[0]) ** 2 + (y - centre[1]) ** 2 + (x - centre[2]) ** 2 < 16) + z / 32
        return np.stack([ball, 1 - ball]).astype(np.float32).clip(0, 1)


def trainer(settings=SETTINGS, seed=0):
    return Pretrainer(SHAPE, settings, seed=seed, first_BCZYX=first_volumes(Blobs(), 4))


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def run(state=None, after_step=None, settings=SETTINGS, key="k"):
    return pretrain(Blobs(), SHAPE, settings, seed=0, key=key, state_dir=state, after_step=after_step)


def weights_of(made):
    return torch.cat([value.flatten() for value in made.encoder.state_dict().values()])


def test_the_loss_falls_and_the_tokens_stay_apart():
    made = run(settings=SETTINGS.model_copy(update={"steps": 60, "momentum_start": 0.9}))
    first, last = made.curves[0], made.curves[-1]
    assert last["latent"] < 0.7 * first["latent"]
    assert last["appearance"] < 0.8 * first["appearance"]
    assert last["token_std"] > 0.3
    assert last["token_cosine"] < 0.9
    assert last["effective_rank"] > 3


def test_a_run_killed_at_any_step_ends_in_the_weights_and_curves_of_an_undisturbed_one(tmp_path):
    undisturbed = run()

    def kill_at(wanted):
        def stop(step):
            if step == wanted:
                raise KeyboardInterrupt

        return stop

    for step in (2, 5, 9):
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "state", kill_at(step))
    resumed = run(tmp_path / "state")
    assert torch.equal(weights_of(resumed), weights_of(undisturbed))
    assert resumed.curves == undisturbed.curves


def test_a_run_told_to_leave_saves_after_its_step_and_goes_on_to_the_same_weights(tmp_path, capsys):
    undisturbed = run()

    def preempt(step):
        if step == 5:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(SystemExit) as left:
        run(tmp_path, after_step=preempt)
    assert left.value.code == 75
    assert "stopped after step 7 of 12 (SIGTERM)" in capsys.readouterr().err
    resumed = run(tmp_path)
    assert "going on after step 7 of 12" in capsys.readouterr().err
    assert torch.equal(weights_of(resumed), weights_of(undisturbed))
    assert resumed.curves == undisturbed.curves


def test_a_finished_state_is_not_trained_further_and_another_key_starts_anew(tmp_path):
    made = run(tmp_path)
    steps = []
    assert torch.equal(weights_of(run(tmp_path, steps.append)), weights_of(made))
    assert steps == []
    run(tmp_path, steps.append, key="other")
    assert steps == list(range(12))


def test_a_state_of_another_architecture_is_refused():
    with pytest.raises(FingerprintError):
        trainer(SETTINGS.model_copy(update={"predictor_width": 32})).restore(trainer().tensors())


def test_seeds_decide_weights_and_batches():
    batch, same = (draw_batch(Blobs(), SHAPE, SETTINGS, seed=0, step=3) for _ in range(2))
    for name in ("volume_BCZYX", "visible_RK", "asked_RQ", "weight_RT"):
        assert torch.equal(getattr(batch, name), getattr(same, name))
    other = draw_batch(Blobs(), SHAPE, SETTINGS, seed=1, step=3)
    assert not torch.equal(batch.visible_RK, other.visible_RK)


def test_an_epoch_shows_every_volume_once():
    seen = []

    class Counting(Blobs):
        def window(self, index, shift_zyx=(0, 0, 0)):
            seen.append(index)
            return super().window(index, shift_zyx)

    for step in range(7):
        draw_batch(Counting(), SHAPE, SETTINGS, seed=0, step=step)
    assert [sorted(seen[start : start + 7]) for start in (0, 7, 14)] == [list(range(7))] * 3


def test_what_is_asked_for_is_hidden_from_the_context_encoder():
    batch = draw_batch(Blobs(), SHAPE, SETTINGS, seed=0, step=0)
    assert batch.visible_RK.shape == (6, 16)
    assert batch.asked_RQ.shape == (6, 20)
    for visible, asked, weights in zip(batch.visible_RK, batch.asked_RQ, batch.weight_RT, strict=True):
        assert not set(visible.tolist()) & set(asked.tolist())
        assert weights[16:].tolist() == [1.0] * 20
        assert weights[:16].max() <= SETTINGS.visible_weight


def test_the_prediction_can_not_depend_on_hidden_voxels():
    made, batch = trainer(), draw_batch(Blobs(), SHAPE, SETTINGS, seed=0, step=0)
    hidden = torch.ones(64, dtype=torch.bool)
    hidden[batch.visible_RK[0]] = False
    inside = hidden.reshape(4, 1, 4, 1, 4, 1).expand(4, 4, 4, 4, 4, 4).reshape(16, 16, 16)
    changed = batch.volume_BCZYX.clone()
    changed[0, :, inside] = 0.5

    def predicted(volume_BCZYX):
        hidden_levels = made.encoder(volume_BCZYX[:1], layers=(0, 1), keep_BK=batch.visible_RK[:1]).hidden
        return made.online["predictor"](stack_levels(hidden_levels, (0, 1)), batch.visible_RK[:1], batch.asked_RQ[:1])

    assert torch.equal(predicted(batch.volume_BCZYX), predicted(changed))
    target = [made.target(volume[:1], layers=(0, 1)).hidden[1] for volume in (batch.volume_BCZYX, changed)]
    assert not torch.allclose(*target)


def test_the_latent_term_is_the_weighted_smooth_l1_of_normalised_target_levels():
    made, batch = trainer(), draw_batch(Blobs(), SHAPE, SETTINGS, seed=0, step=0)
    terms, _ = made.losses(batch)
    total, weight = 0.0, 0.0
    for row in range(6):
        volume = batch.volume_BCZYX[row // 2][None]
        visible, asked = batch.visible_RK[row][None], batch.asked_RQ[row][None]
        context = made.encoder(volume, layers=(0, 1), keep_BK=visible).hidden
        predicted = made.online["predictor"](stack_levels(context, (0, 1)), visible, asked)[0]
        target = made.target(volume, layers=(0, 1)).hidden
        for place, token in enumerate([*visible[0].tolist(), *asked[0].tolist()]):
            wanted = []
            for level in (0, 1):
                value = target[level][0, token]
                wanted.append((value - value.mean()) / torch.sqrt(value.var(unbiased=False) + 1e-5))
            error = (predicted[place] - torch.cat(wanted)).abs()
            smooth = torch.where(error < 1, error**2 / 2, error - 0.5).mean()
            total += smooth.item() * batch.weight_RT[row, place].item()
            weight += batch.weight_RT[row, place].item()
    assert terms["latent"].item() == pytest.approx(total / weight, rel=1e-4)


def test_no_gradient_reaches_the_target_which_follows_as_a_moving_average():
    made, batch = trainer(), draw_batch(Blobs(), SHAPE, SETTINGS, seed=0, step=0)
    before = copy.deepcopy(made.target)
    made.step(batch, 0)
    momentum = momentum_at(SETTINGS, 0)
    moved = False
    for old, new, online in zip(before.parameters(), made.target.parameters(), made.encoder.parameters(), strict=True):
        assert new.grad is None
        torch.testing.assert_close(new, momentum * old + (1 - momentum) * online)
        moved |= not torch.equal(old, new)
    assert moved


def test_moving_average_of_constants():
    slow, fast = nn.Linear(2, 1), nn.Linear(2, 1)
    nn.init.zeros_(slow.weight)
    nn.init.ones_(fast.weight)
    update_target(slow, fast, 0.9)
    update_target(slow, fast, 0.9)
    assert slow.weight.tolist()[0] == pytest.approx([0.19, 0.19])


def test_schedules_start_rise_and_end_where_they_should():
    rates = [learning_rate_at(SETTINGS, step) for step in range(12)]
    assert rates[0] == pytest.approx(1e-3)
    assert rates[2] == pytest.approx(2e-3)
    assert all(after <= before for before, after in pairwise(rates[2:]))
    assert rates[-1] < 0.1 * 2e-3
    assert (momentum_at(SETTINGS, 0), momentum_at(SETTINGS, 11)) == (
        SETTINGS.momentum_start,
        pytest.approx(SETTINGS.momentum_end),
    )


def test_monitors_tell_collapse_from_health():
    generator = torch.Generator().manual_seed(0)
    healthy = collapse_monitors(torch.randn(4, 100, 16, generator=generator))
    assert healthy["token_cosine"] == pytest.approx(0, abs=0.02)
    assert healthy["effective_rank"] > 14
    assert healthy["token_std"] == pytest.approx(1, abs=0.1)
    one = collapse_monitors(torch.arange(16.0).expand(4, 100, 16).clone())
    assert one["token_cosine"] == pytest.approx(1, abs=1e-4)
    assert one["token_std"] < 1e-3
    line = torch.randn(4, 100, 1, generator=generator) * torch.arange(16.0)
    assert collapse_monitors(line)["effective_rank"] < 1.1


def test_the_first_patch_embedding_standardises_octant_means():
    encoder = VisionTransformer3D(SHAPE)
    volume = first_volumes(Blobs(), 7)
    fit_patch_embedding(encoder, volume, generator=torch.Generator().manual_seed(0))
    tokens = encoder.patch_embedding(encoder.patches(volume))
    assert tokens.mean(dim=(0, 1)).abs().max() < 1e-3
    assert 0.2 < tokens.std() < 2
    shuffled = volume.reshape(7, 2, 8, 2, 8, 2, 8, 2).flip(3, 5, 7).reshape(volume.shape)
    torch.testing.assert_close(embedded(encoder, shuffled), embedded(encoder, volume), atol=1e-4, rtol=1e-4)


def test_the_first_patch_embedding_of_a_film_tells_sixteen_squares_apart_and_no_more():
    film_shape = SHAPE.model_copy(update={"volume_zyx": (1, 32, 32), "patch_zyx": (1, 16, 16)})
    encoder = VisionTransformer3D(film_shape)
    film = torch.rand(5, SHAPE.channels, 1, 32, 32, generator=torch.Generator().manual_seed(1))
    fit_patch_embedding(encoder, film, generator=torch.Generator().manual_seed(0))
    tokens = embedded(encoder, film)
    within = film.reshape(5, -1, 1, 8, 4, 8, 4).flip(4, 6).reshape(film.shape)
    torch.testing.assert_close(embedded(encoder, within), tokens, atol=1e-4, rtol=1e-4)
    exchanged = (
        film.reshape(5, -1, 1, 4, 2, 4, 4, 8).flip(4).reshape(film.shape)
    )  # squares of one quadrant, row for row
    assert (embedded(encoder, exchanged) - tokens).abs().max() > 0.1


def test_patch_statistics_are_what_numpy_says():
    volume = first_volumes(Blobs(), 2)
    statistics = patch_statistics(patchify(volume, (4, 4, 4))[0], 2, (4, 4, 4))
    patch = volume[0, :, 4:8, 0:4, 8:12].numpy()  # token (1, 0, 2) of a 4 x 4 x 4 grid
    octants = patch.reshape(2, 2, 2, 2, 2, 2, 2).mean(axis=(2, 4, 6)).ravel()
    assert statistics[18][:16].numpy() == pytest.approx(octants, abs=1e-6)
    assert statistics[18][16].item() == pytest.approx(patch[0].std(ddof=1), abs=1e-5)
    pools = [patch[0, z : z + 2, y : y + 2, x : x + 2].mean() for z in (0, 2) for y in (0, 2) for x in (0, 2)]
    assert statistics[18][17:19].tolist() == pytest.approx([min(pools), max(pools)], abs=1e-6)
    assert statistics[18][21].item() == pytest.approx((patch[0] > 0.5).mean())


def test_appearance_codes_are_whitened_and_know_their_place():
    volume = first_volumes(Blobs(), 7)
    code = AppearanceCode(SHAPE, volume, units=64, width=8, generator=torch.Generator().manual_seed(0))
    voxels = patchify(volume, (4, 4, 4))
    places = torch.arange(64).expand(7, 64)
    values = code(voxels, places).flatten(0, 1)
    covariance = torch.cov(values.T)
    assert code.width == 8
    assert values.mean(dim=0).abs().max() < 1e-3
    assert covariance.diagonal().min() > 0.3
    assert (covariance - torch.diag(covariance.diagonal())).abs().max() < 0.02
    assert not torch.allclose(code(voxels, places), code(voxels, places.flip(1)), atol=0.1)
    assert math.prod(code(voxels[:, :5], places[:, :5]).shape) == 7 * 5 * 8

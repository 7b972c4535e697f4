"""Cached and online tokens are one interface: equal losses, crops that equal slices, and refusals where only one of them can answer."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from synthetic import GRID, PATCH, PATCHES, WINDOWS, small_model, small_teacher, study_set

from glint.core.config.train import AugmentConfig, TrainConfig
from glint.core.errors import ConfigError
from glint.formats.feature_cache import FeatureCache, write_cache
from glint.formats.feature_rows import CacheHead
from glint.prepare.resample import window_channels
from glint.teachers.crops import aligned_slices, crop_tokens, moved_tokens
from glint.teachers.kernels import Kernel, TeacherPass
from glint.training.dataset import make_batch
from glint.training.loop import Run, batch_of, optimise
from glint.training.mirror import mirrored_text
from glint.training.optimizer import make_optimizer
from glint.training.teacher_tokens import CachedTokens, OnlineTokens, View

TOKENS = (3, 3, 4)
SHIFTED = View(shift_zyx=(3, 0, -5))


@pytest.fixture(scope="module")
def studies(tmp_path_factory):
    """The same studies with tokens from two caches (rows out of order) and from the teacher itself."""
    plain, _ = study_set(12)
    teacher, folder = small_teacher(), tmp_path_factory.mktemp("caches")
    caches = []
    for number, members in enumerate(([5, 0, 3, 2, 1, 4], [6, 11, 10, 9, 8, 7])):
        head = CacheHead(study_ids=tuple(f"s{m}" for m in members), layers=("0", "1"), grid=TOKENS, width=48)
        with write_cache(folder / f"{number}.h5", head) as writer:
            for row, member in enumerate(members):
                channels = torch.from_numpy(window_channels(plain.volume_BZYX[member], WINDOWS))[None]
                hidden = teacher.encode(channels, layers=(0, 1)).hidden
                tokens = {str(block): one[0].numpy() for block, one in hidden.items()}
                writer.put(row, tokens, affine=np.eye(4), coverage_P=np.ones(PATCHES, np.float32))
        caches.append(FeatureCache(folder / f"{number}.h5"))
    rows_B = [caches[study > 5].row(f"s{study}") for study in range(12)]
    cached = CachedTokens(caches=tuple(caches), cache_B=np.arange(12) // 6, rows_B=np.array(rows_B), patch_zyx=PATCH)
    online = OnlineTokens(
        teacher=TeacherPass(teacher, Kernel()), volume_BZYX=plain.volume_BZYX, windows=WINDOWS, batch_size=3
    )
    return {"cached": replace(plain, teacher=cached), "online": replace(plain, teacher=online)}


def config(**changes):
    changes = {"head_steps": 6, "steps": 14, "batch_size": 4, **changes}
    return TrainConfig.model_validate_json(
        TrainConfig(threads=1, **changes)
        .model_copy(
            update={
                "loss": TrainConfig().loss.model_copy(update={"dense_blocks": (0, 1)}),
                "model": TrainConfig().model.model_copy(update={"value_width": 16, "gate_width": 8}),
            }
        )
        .model_dump_json()
    )


def losses(training, settings):
    model = small_model(settings, training)
    model.train()
    run = Run(model=model, optimizer=make_optimizer(model, settings.optimizer), step=0, curves=[])
    steps, depth = settings.head_steps + settings.steps, model.student.encoder.depth
    batches = [batch_of(step, training, settings, depth=depth) for step in range(steps)]
    return [optimise(run, batch, settings).numbers["loss"] for batch in batches]


@pytest.mark.parametrize("augment", [AugmentConfig(), AugmentConfig(gain=0.2, offset=0.1, noise=0.05)])
def test_cached_and_online_teachers_give_the_same_losses_over_twenty_steps(studies, augment):
    cached, online = (losses(studies[kind], config(augment=augment)) for kind in ("cached", "online"))
    assert len(cached) == 20
    assert np.ptp(cached) > 0.01
    np.testing.assert_allclose(cached, online, atol=1e-3, rtol=1e-3)


def test_photometric_changes_are_the_students_alone(studies):
    for training in studies.values():
        plain, changed = (
            make_batch(training, config(augment=augment), step=3, blocks=(1,))
            for augment in (AugmentConfig(), AugmentConfig(gain=0.3, noise=0.1))
        )
        assert not torch.allclose(plain.volume_BCZYX, changed.volume_BCZYX)
        assert torch.equal(plain.teacher[1], changed.teacher[1])


def test_a_cropped_cached_teacher_is_the_slice_of_the_full_teacher():
    tokens = torch.randn(2, 60, 5)
    cut, valid = crop_tokens(tokens, (3, 4, 5), (8, 16, 4), (8, 16, 8), (2, 3, 2))
    assert torch.equal(cut, tokens.reshape(2, 3, 4, 5, 5)[:, 1:3, 1:4, 2:4].reshape(2, 12, 5))
    assert valid.all()
    assert aligned_slices((3, 4, 5), (8, 16, 4), (8, 16, 9), (2, 3, 2)) is None
    assert aligned_slices((3, 4, 5), (8, 16, 4), (16, 16, 8), (2, 3, 2)) is None


def test_a_film_is_cropped_as_a_volume_of_one_slice():
    tokens = torch.randn(1, 20, 5)
    cut, valid = crop_tokens(tokens, (1, 4, 5), (1, 16, 16), (0, 24, 16), (1, 2, 3))
    expected = tokens.reshape(4, 5, 5)[1:4, 1:4]
    torch.testing.assert_close(cut.reshape(2, 3, 5), (expected[:-1] + expected[1:]) / 2)
    assert valid.all()


def test_an_unaligned_crop_is_what_grid_sample_gives_at_the_students_centres():
    grid, edges, crop, start = (4, 5, 6), (8, 8, 4), (3, 5, 4), (-3, 5, 6)
    tokens = torch.randn(2, 120, 7)
    found, valid = crop_tokens(tokens, grid, edges, start, crop)
    centres = torch.stack(
        torch.meshgrid(
            *[(torch.arange(n) + 0.5) * e + s for n, e, s in zip(crop, edges, start, strict=True)], indexing="ij"
        ),
        -1,
    )
    sizes = torch.tensor([g * e for g, e in zip(grid, edges, strict=True)])
    places = (2 * centres / sizes - 1).flip(-1)  # x first, rims of the canvas at -1 and 1: align_corners=False
    volume = tokens.reshape(2, *grid, 7).permute(0, 4, 1, 2, 3)
    expected = torch.nn.functional.grid_sample(
        volume,
        places.float()[None].expand(2, -1, -1, -1, -1),
        mode="bilinear",
        padding_mode="border",
        align_corners=False,
    )
    torch.testing.assert_close(found, expected.permute(0, 2, 3, 4, 1).reshape(2, -1, 7), atol=1e-5, rtol=1e-5)
    inside = ((centres >= 0) & (centres <= sizes)).all(-1).flatten()
    assert torch.equal(valid, inside)
    assert not valid.all()


def test_a_move_by_whole_patches_shifts_tokens_weights_and_validity_alike(studies):
    settings = config(augment=AugmentConfig(shift_voxels=8))
    tokens = studies["cached"].teacher.read([1], [4])[1].reshape((*TOKENS, 48))
    moved, valid = moved_tokens(tokens.reshape(1, PATCHES, 48), TOKENS, PATCH, (8, 0, -8))
    valid = valid.reshape(TOKENS)
    assert torch.equal(moved.reshape((*TOKENS, 48))[1:, :, :-1], tokens[:-1, :, 1:])
    assert valid[1:, :, :-1].all()
    assert not valid[0].any()
    assert not valid[:, :, -1].any()
    batch = next(
        one
        for one in (make_batch(studies["cached"], settings, step=step, blocks=(1,)) for step in range(9))
        if not one.valid_P.all()
    )
    assert (batch.patch_weight_BP[:, ~batch.valid_P] == 0).all()


def test_interpolated_tokens_are_near_those_of_a_teacher_that_sees_the_moved_volume(studies):
    """Noise volumes have little that can be interpolated; the moved tokens must still be nearer than the unmoved ones."""
    rows = [0, 5, 7]
    exact = studies["online"].teacher.read([0], rows, SHIFTED)[0]
    moved = studies["cached"].teacher.read([0], rows, SHIFTED)[0]
    still = studies["cached"].teacher.read([0], rows)[0]
    valid = moved_tokens(moved, TOKENS, PATCH, SHIFTED.shift_zyx)[1]
    assert (moved - exact)[:, valid].square().mean() < (still - exact)[:, valid].square().mean()


def test_losses_with_moved_views_are_finite_and_differ(studies):
    settings = config(augment=AugmentConfig(shift_voxels=5))
    for training in studies.values():
        found = losses(training, settings)
        assert np.isfinite(found).all()
    assert not np.allclose(found, losses(studies["online"], config()))


def test_a_mirrored_volume_has_tokens_online_only(studies):
    with pytest.raises(ConfigError, match=r"teacher\.features to online"):
        studies["cached"].teacher.read([1], [0], View(mirrored=True))
    settings = config(augment=AugmentConfig(flip=1.0))
    batch = make_batch(studies["online"], settings, step=0, blocks=(1,))
    plain = make_batch(studies["online"], config(), step=0, blocks=(1,))
    assert torch.equal(batch.volume_BCZYX, plain.volume_BCZYX.flip(4))
    expected = small_teacher().encode(plain.volume_BCZYX.flip(4), layers=(1,)).hidden[1]
    torch.testing.assert_close(batch.teacher[1], expected, atol=1e-5, rtol=1e-5)
    assert torch.equal(batch.patch_weight_BP, plain.patch_weight_BP.reshape(4, *TOKENS).flip(3).reshape(4, -1))


@pytest.mark.parametrize(
    ("text", "mirrored"),
    [
        ("Left pleural effusion, larger than the RIGHT.", "Right pleural effusion, larger than the LEFT."),
        ("RUL nodule; Lt base clear", "LUL nodule; Rt base clear"),
        ("No effusion is left over on the L side.", "No effusion is right over on the R side."),
        ("Bright opacity of the lingula", "Bright opacity of the lingula"),
    ],
)
def test_sides_are_exchanged_in_sentences(text, mirrored):
    assert mirrored_text(text) == mirrored
    assert mirrored_text(mirrored) == text


def test_grids_fit_the_synthetic_cohort():
    assert tuple(size // edge for size, edge in zip(GRID, PATCH, strict=True)) == TOKENS

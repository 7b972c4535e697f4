"""The segmentation head: shapes of volumes and films, resumption, Dice beside a hand count, from files to a table."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from evaluation_cohort import GRID, SHAPE, WINDOWS, write_cohort

from glint.core.config.downstream import DownstreamConfig, SegmentTaskConfig
from glint.core.config.evaluate import EvaluateConfig
from glint.core.errors import InputError
from glint.evaluation.arms import LoadedArm
from glint.evaluation.cohort import read_cohort
from glint.evaluation.downstream.run_probe import DownstreamInputs
from glint.evaluation.downstream.run_segment import run_segment, score_masks
from glint.evaluation.downstream.segment_head import Decoder, train_segmenter
from glint.teachers.encoder import Encoded

TASK = SegmentTaskConfig(
    decoder_widths=(16,), frozen_steps=60, finetuned_steps=3, batch_size=8, learning_rate=0.02, save_every=10
)


class Brightness(torch.nn.Module):
    """Mean, spread, minimum and maximum of each patch, times a gain that fine-tuning may change."""

    def __init__(self):
        super().__init__()
        self.gain = torch.nn.Parameter(torch.ones(4))

    def forward(self, volume_BCZYX, *, layers=()):
        mean = torch.nn.functional.avg_pool3d(volume_BCZYX, 8)
        spread = torch.nn.functional.avg_pool3d(volume_BCZYX**2, 8) - mean**2
        high, low = torch.nn.functional.max_pool3d(volume_BCZYX, 8), -torch.nn.functional.max_pool3d(-volume_BCZYX, 8)
        tokens = torch.cat([mean, spread, high, low], dim=1).flatten(2).transpose(1, 2)
        return Encoded(patch_tokens_BND=tokens * self.gain, hidden={})


class Model:
    def __init__(self):
        self.student = Brightness()


def load(_):
    return LoadedArm(model=Model(), grid=GRID, volume_zyx=SHAPE, windows=WINDOWS)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    made = write_cohort(tmp_path_factory.mktemp("cohort"))
    return DownstreamInputs(
        checkpoint=made.checkpoints[0], resampled=made.resampled, sections=(), split=made.split, truth=made.truth
    )


@pytest.mark.parametrize(
    ("grid", "volume", "shape"),
    [
        ((3, 3, 4), (24, 24, 32), (12, 12, 16)),
        ((1, 4, 5), (1, 64, 80), (1, 16, 20)),
        ((2, 4, 4), (4, 64, 64), (4, 16, 16)),
    ],
    ids=["volume", "film", "patch of two slices"],
)
def test_the_decoder_refines_every_axis_until_it_is_voxels(grid, volume, shape):
    decoder = Decoder(6, 2, grid=grid, volume_zyx=volume, widths=(8, 8))
    assert decoder.shape == shape
    assert decoder(torch.zeros(2, int(np.prod(grid)), 6)).shape == (2, 2, *shape)


def test_a_token_lights_its_own_place():
    decoder = Decoder(3, 1, grid=(2, 3, 4), volume_zyx=(16, 24, 32), widths=(8,))
    tokens = torch.zeros(1, 24, 3)
    rest = decoder(tokens)
    tokens[0, 1 * 12 + 2 * 4 + 3] = 5.0  # z 1, y 2, x 3
    moved = (decoder(tokens) - rest)[0, 0].abs().detach().numpy()
    z, y, x = np.unravel_index(moved.argmax(), moved.shape)
    assert (z // 2, y // 2, x // 2) == (1, 2, 3)


def test_a_killed_training_ends_as_an_undisturbed_one(tmp_path):
    tokens, target = torch.randn(12, 8, 5, generator=torch.Generator().manual_seed(0)), torch.zeros(12, 1, 2, 2, 2)
    target[::2] = 1.0

    def train(state, kill_at=None):
        decoder = Decoder(5, 1, grid=(2, 2, 2), volume_zyx=(2, 2, 2), widths=(8,))
        calls = []

        def batch(rows):
            calls.append(rows)
            if len(calls) == kill_at:
                raise KeyboardInterrupt
            return tokens[rows], target[rows]

        losses = train_segmenter(
            decoder,
            [{"params": list(decoder.parameters()), "lr": 0.01}],
            batch,
            num_studies=12,
            steps=25,
            config=TASK,
            seed=0,
            state=state,
            fingerprint="f",
            description="test",
        )
        return decoder, losses

    whole, losses = train(tmp_path / "whole.pt")
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "cut.pt", kill_at=18)
    resumed, again = train(tmp_path / "cut.pt")
    assert again == losses and losses[-1] < losses[0]
    for one, other in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(one, other)
    assert not list(tmp_path.glob(".*tmp*"))


def test_dice_is_counted_at_one_half_within_the_scan_and_only_where_there_is_a_mask(inputs):
    cohort = read_cohort(resampled=inputs.resampled, split=inputs.split, truth=inputs.truth, features=())
    study = next(one for one in cohort.studies["test"] if one.findings == {"mass"})
    mask = (study.bits() & 1).astype(bool)
    logits = np.stack([np.where(mask, 3.0, -3.0), np.full(SHAPE, 3.0)])
    logits[0][mask.nonzero()[0][0]] = 3.0  # one slice too much
    cases = score_masks(lambda _: logits, [study], cohort.findings, "test")
    plane, lesion = SHAPE[1] * SHAPE[2], int(mask.sum())
    called = lesion + plane - 64
    assert cases.dice_FB[0, 0] == pytest.approx(2 * lesion / (lesion + called))
    assert np.isnan(cases.dice_FB[1, 0]) and cases.called_FB.all()


def test_both_arms_paint_the_lesions_better_than_chance(inputs, tmp_path):
    config = EvaluateConfig(foreign_checkpoint=True, resamples=50, downstream=DownstreamConfig(segment=TASK))
    run_segment(inputs, config, tmp_path / "segment", load=load)
    told = json.loads((tmp_path / "segment" / "segment.json").read_text())
    dice = {row["arm"]: row for row in told["rows"] if row["finding"] == "macro" and row["metric"] == "dice"}
    assert min(dice["frozen"]["value"], dice["finetuned"]["value"]) > 3 * dice["whole scan called"]["value"] > 0
    assert dice["frozen"]["low"] <= dice["frozen"]["value"] <= dice["frozen"]["high"]
    assert len(told["losses"]["finetuned"]) == 3
    names = {"frozen.safetensors", "finetuned.safetensors", "segment.csv", "segment.md", "segment.json"}
    assert {path.name for path in (tmp_path / "segment").iterdir()} == names
    assert [path.name for path in tmp_path.iterdir()] == ["segment"]


def test_without_masks_it_refuses(inputs, tmp_path):
    with pytest.raises(InputError, match="--truth"):
        run_segment(replace(inputs, truth=None), EvaluateConfig(), tmp_path / "s", load=load)

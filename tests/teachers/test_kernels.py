"""The teacher's pass is chosen by measurement, and every choice says the same."""

import pytest
import torch
import torch.nn.functional as F

from glint.teachers.attention import eager_attention
from glint.teachers.kernels import Kernel, TeacherPass, candidates, choose, fastest_pass, measured
from glint.teachers.registry import FrozenTeacher
from glint.teachers.vjepa import EncoderConfig, VisionTransformer3D

SHAPE = EncoderConfig(volume_zyx=(8, 16, 12), patch_zyx=(4, 4, 4), channels=2, width=24, depth=2, heads=1)


@pytest.fixture
def teacher():
    torch.manual_seed(0)
    return FrozenTeacher(VisionTransformer3D(SHAPE))


@pytest.mark.parametrize("kernel", candidates("auto", "auto"), ids=lambda kernel: kernel.name)
def test_every_kernel_gives_the_exact_tokens_up_to_its_precision_and_leaves_the_teacher_alone(teacher, kernel):
    volume = torch.rand(2, 2, 8, 16, 12)
    expected = teacher.encode(volume, layers=(0,))
    found = TeacherPass(teacher, kernel)(volume, layers=(0,))
    for ours, theirs in ((found.patch_tokens_BND, expected.patch_tokens_BND), (found.hidden[0], expected.hidden[0])):
        assert ours.dtype == torch.float32
        cosine = F.cosine_similarity(ours, theirs, dim=-1).min()
        assert 1 - cosine < (1e-6 if kernel.precision == "float32" else 1e-3)
    assert all(parameter.dtype == torch.float32 for parameter in teacher.parameters())


def test_the_first_kernel_stays_unless_another_is_clearly_faster_and_agrees():
    kernels = candidates("auto", "auto")
    alike = [1.0, 1.0, 0.9999, 0.9999]
    assert choose(kernels, [1.0, 0.9, 0.85, 0.9], alike) == kernels[0]
    assert choose(kernels, [1.0, 1.3, 0.5, 0.48], alike) == kernels[2]
    assert choose(kernels, [1.0, 1.3, 0.7, 0.6], alike) == kernels[3]
    assert choose(kernels, [1.0, 0.7, 0.5, 0.45], [1.0, 1.0, 1.0, 0.9]) == kernels[2]
    assert choose(kernels, [1.0, 1.3, 0.5, 0.3], alike) == kernels[3]
    assert choose(kernels, [1.0, 1.3, 0.5, 0.6], [1.0, 1.0, 0.9, 0.9]) == kernels[0]


def test_what_the_configuration_fixes_is_not_measured(teacher, capsys):
    assert candidates("bfloat16", "eager") == [Kernel(precision="bfloat16", attention="eager")]
    made = fastest_pass(teacher, candidates("float32", "sdpa"), torch.rand(1, 2, 8, 16, 12))
    assert made.kernel.name == "float32, sdpa attention"
    assert "pass" not in capsys.readouterr().err
    fastest_pass(teacher, candidates("auto", "sdpa"), torch.rand(1, 2, 8, 16, 12))
    assert "taking" in capsys.readouterr().err


@pytest.mark.parametrize(("scores", "rows"), [(1 << 20, 128), (100, 4), (1, 3), (60, 5)])
def test_attention_in_tiles_is_attention_whatever_the_tiles(monkeypatch, scores, rows):
    """Against the textbook, with more keys than one tile holds, hidden keys, and last tiles that are not full."""
    monkeypatch.setattr("glint.teachers.attention.TILE_SCORES", scores)
    monkeypatch.setattr("glint.teachers.attention.TILE_ROWS", rows)
    generator = torch.Generator().manual_seed(0)
    query, key, value = torch.randn(3, 2, 3, 7, 4, generator=generator, dtype=torch.float64)
    seen = torch.ones(2, 1, 1, 7, dtype=torch.bool)
    seen[1, ..., 2:5] = False
    found = eager_attention(query, key, value, seen)
    for volume in range(2):
        for head in range(3):
            weights = (query[volume, head] @ key[volume, head].T / 2).exp() * seen[volume, 0]
            expected = (weights / weights.sum(dim=1, keepdim=True)) @ value[volume, head]
            torch.testing.assert_close(found[volume, head], expected)


def test_no_more_scores_than_a_tile_are_held_at_once(monkeypatch):
    monkeypatch.setattr("glint.teachers.attention.TILE_SCORES", 300)
    monkeypatch.setattr("glint.teachers.attention.TILE_ROWS", 8)
    held, softmax = [], torch.Tensor.softmax
    monkeypatch.setattr(
        torch.Tensor, "softmax", lambda scores, dim: held.append(scores.numel()) or softmax(scores, dim)
    )
    query, key, value = torch.randn(3, 2, 3, 30, 4)
    eager_attention(query, key, value)
    assert max(held) <= 300 and sum(held) == 2 * 3 * 30 * 30


def test_a_pass_of_minutes_is_not_run_a_dozen_times_to_choose(teacher):
    runs = []

    def counted(volume):
        runs.append(1)
        return teacher.encode(volume, layers=())

    volume = torch.rand(1, 2, 8, 16, 12)
    seconds, cosines = measured([counted, counted], volume, enough_s=0.0)
    assert len(runs) == 2 and cosines == pytest.approx([1, 1]) and 0 < max(seconds) < 60
    measured([counted, counted], volume, enough_s=60.0)
    assert len(runs) == 2 + 2 * 4

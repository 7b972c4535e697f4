"""The teacher's pass is chosen by measurement, and every choice says the same."""

import pytest
import torch
import torch.nn.functional as F

from glint.teachers.kernels import Kernel, TeacherPass, candidates, choose, fastest_pass
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
    assert choose(kernels, [1.0, 1.3, 0.5, 0.45], alike) == kernels[2]
    assert choose(kernels, [1.0, 1.3, 0.5, 0.3], alike) == kernels[3]
    assert choose(kernels, [1.0, 1.3, 0.5, 0.6], [1.0, 1.0, 0.9, 0.9]) == kernels[0]


def test_what_the_configuration_fixes_is_not_measured(teacher, capsys):
    assert candidates("bfloat16", "eager") == [Kernel(precision="bfloat16", attention="eager")]
    made = fastest_pass(teacher, candidates("float32", "sdpa"), torch.rand(1, 2, 8, 16, 12))
    assert made.kernel.name == "float32, sdpa attention"
    assert "pass" not in capsys.readouterr().err
    fastest_pass(teacher, candidates("auto", "sdpa"), torch.rand(1, 2, 8, 16, 12))
    assert "taking" in capsys.readouterr().err


def test_eager_attention_is_not_tried_where_its_scores_would_fill_the_memory(teacher, monkeypatch, capsys):
    volume = torch.rand(2, 2, 8, 16, 12)
    assert teacher.encoder.attention_scores == 24 * 24
    monkeypatch.setattr("glint.teachers.kernels.EAGER_SCORES", 2 * 24 * 24 - 1)
    fastest_pass(teacher, candidates("auto", "auto"), volume)
    assert "eager" not in capsys.readouterr().err
    monkeypatch.setattr("glint.teachers.kernels.EAGER_SCORES", 2 * 24 * 24)
    fastest_pass(teacher, candidates("auto", "auto"), volume)
    assert "eager" in capsys.readouterr().err

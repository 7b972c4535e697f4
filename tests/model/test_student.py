"""The student begins as its teacher, in train mode too."""

import pytest
import torch

from glint.losses.dense_feature import dense_feature_loss
from glint.model.student import Student
from glint.teachers.vjepa import EncoderConfig, VisionTransformer3D

CONFIG = EncoderConfig(volume_zyx=(16, 16, 24), patch_zyx=(8, 8, 8), width=48, depth=3, heads=2)


@pytest.mark.parametrize("adapter_blocks", [0, 2])
def test_fresh_student_in_train_mode_equals_its_teacher(adapter_blocks: int) -> None:
    torch.manual_seed(0)
    teacher = VisionTransformer3D(CONFIG).eval()
    student = Student.from_teacher(teacher, adapter_blocks=adapter_blocks).train()
    volume = torch.rand(2, 3, 16, 16, 24)
    layers = range(CONFIG.depth)
    wanted, found = teacher(volume, layers=layers), student(volume, layers=layers)
    loss = dense_feature_loss(found.hidden, {block: tokens.detach() for block, tokens in wanted.hidden.items()})
    assert loss.item() < 1e-6
    if not adapter_blocks:
        torch.testing.assert_close(found.patch_tokens_BND, wanted.patch_tokens_BND)


def test_dense_loss_of_an_untouched_student_has_no_gradient_to_speak_of() -> None:
    torch.manual_seed(0)
    teacher = VisionTransformer3D(CONFIG).eval()
    student = Student.from_teacher(teacher)
    volume = torch.rand(1, 3, 16, 16, 24)
    with torch.no_grad():
        wanted = teacher(volume, layers=(1, 2)).hidden
    dense_feature_loss(student(volume, layers=(1, 2)).hidden, wanted).backward()
    largest = max(float(p.grad.abs().max()) for p in student.parameters() if p.grad is not None)
    assert largest < 1e-4


def test_student_owns_its_weights() -> None:
    teacher = VisionTransformer3D(CONFIG)
    student = Student.from_teacher(teacher)
    before = teacher.patch_embedding.project.weight.detach().clone()
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.add_(1.0)
    torch.testing.assert_close(teacher.patch_embedding.project.weight.detach(), before)

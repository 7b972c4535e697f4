"""Training on a GPU, as far as a machine without one can tell: no tensor of a step is left behind on the processor.

PyTorch's `meta` device stands for the GPU: it computes shapes only, and refuses a tensor of the processor as a GPU does.
"""

import pytest
import torch
from synthetic import GRID, PATCHES, small_model, small_teacher, study_set

from glint.core.config.train import LossConfig, ModelConfig, TrainConfig
from glint.losses.dense_feature import dense_feature_loss
from glint.model.gate import TextQueries
from glint.model.glint import Glint
from glint.model.pooling import POOLINGS
from glint.training.dataset import StudySet, make_batch
from glint.training.distributed import ALONE

CONFIG = TrainConfig(
    batch_size=4, head_steps=0, model=ModelConfig(value_width=16, gate_width=8), loss=LossConfig(dense_blocks=(1,))
)
ELSEWHERE = torch.device("meta")


@pytest.fixture(scope="module")
def training() -> StudySet:
    return study_set(8, teacher=small_teacher())[0]


def step_elsewhere(model: Glint) -> torch.Tensor:
    volume_BCZYX = torch.empty(2, 3, *GRID, device=ELSEWHERE)
    teacher_BPD = torch.empty(2, PATCHES, 48, device=ELSEWHERE)
    text_TD, gate_TG = torch.empty(5, 16, device=ELSEWHERE), torch.empty(5, 8, device=ELSEWHERE)
    tokens = model.encode_volume(volume_BCZYX, layers=[1])
    queries = TextQueries(text_TD=text_TD, gate_TG=gate_TG)
    found = model.score(tokens, queries, torch.empty(2, PATCHES, device=ELSEWHERE))
    rows_S = torch.arange(4, device=ELSEWHERE)
    dense = dense_feature_loss(tokens.hidden, {1: teacher_BPD}, cosine_weight=1.0, gram_weight=1.0, gram_rows_S=rows_S)
    return dense + found.score_TB.sum() + found.gate_logits_TBP.sum()


@pytest.mark.parametrize("pooling", list(POOLINGS))
def test_forward_and_backward_pass_run_where_the_weights_lie(pooling: str, training: StudySet) -> None:
    model = small_model(CONFIG, training, pooling=pooling).to(ELSEWHERE)
    total = step_elsewhere(model)
    total.backward()
    assert model.device == total.device == ELSEWHERE
    assert all(weight.grad is None or weight.grad.device == ELSEWHERE for weight in model.parameters())


def test_the_check_sees_a_tensor_that_was_left_behind(training: StudySet) -> None:
    model = small_model(CONFIG, training).to(ELSEWHERE)
    rotary = next(module for module in model.modules() if "cos" in dict(module.named_buffers(recurse=False)))
    rotary.cos = torch.ones(rotary.cos.shape)
    with pytest.raises(RuntimeError, match="device"):
        step_elsewhere(model)


def test_every_tensor_of_a_module_is_a_weight_or_a_buffer_that_moves_with_it(training: StudySet) -> None:
    for module in small_model(CONFIG, training).modules():
        assert [name for name, value in vars(module).items() if isinstance(value, torch.Tensor)] == []


def test_a_batch_moves_whole(training: StudySet) -> None:
    batch = make_batch(training, CONFIG, step=0, blocks=(1,))
    moved = batch.to(ELSEWHERE)
    tensors = [moved.volume_BCZYX, moved.patch_weight_BP, moved.relation_TB, *moved.teacher.values()]
    assert [tensor.device for tensor in tensors if tensor is not None] == [ELSEWHERE] * 4
    assert moved.sentences == batch.sentences


def test_a_processor_trains_where_there_is_no_gpu_and_where_it_is_asked_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert ALONE.device("auto") == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 3)
    assert ALONE.device("auto") == torch.device("cuda", 3)
    assert ALONE.device("cpu") == torch.device("cpu")

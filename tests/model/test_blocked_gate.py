"""The gate worked through in parts against the reference that holds every matrix: values, gradients, memory."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from glint.losses.area import area_loss, mean_gate
from glint.losses.contrastive import contrastive_loss
from glint.losses.evidence import evidence_loss
from glint.losses.pairs import count_pairs
from glint.losses.sigmoid import sigmoid_loss
from glint.model.alignment import Comparison, comparison_of, pool_evidence
from glint.model.blocked_gate import GateArguments, compare_recomputing, one_pass_loss
from glint.model.gate import PatchTokens, TextQueries, gate_logits, unit
from glint.model.gate_blocks import BlockSizes, block_sizes

T, B, P, D, G = 4, 3, 4, 4, 3
RHO = {"separate": 0.0, "shared": 1.0, "residual": 0.3}
BLOCKS = [BlockSizes(sentences=4, volumes=3), BlockSizes(sentences=2, volumes=1), BlockSizes(sentences=3, volumes=2)]
RELATION = torch.tensor([[1, 0, 2], [-1, -1, -1], [1, 1, 0], [2, -1, 1]])
NAMES = ("text", "query", "value", "key", "null", "scale", "bias", "kappa", "beta")


def leaves(seed: int = 0, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    """text, query, value, key, null, scale, bias, and the sigmoid loss's scale and bias."""
    torch.manual_seed(seed)
    shapes = [(T, D), (T, G), (B, P, D), (B, P, G), (D,)]
    drawn = [torch.randn(shape, dtype=dtype) for shape in shapes]
    scalars = [torch.tensor(value, dtype=dtype) for value in (6.0, -1.0, 9.0, -3.0)]
    return [one.requires_grad_() for one in (*drawn, *scalars)]


def weights(dtype: torch.dtype = torch.float64) -> Tensor:
    """Sizes of patches; some invalid, one volume without any valid patch."""
    weight_BP = torch.rand(B, P, generator=torch.Generator().manual_seed(1)).to(dtype) * 2
    weight_BP[0, 1:3] = 0
    weight_BP[2] = 0
    return weight_BP


def arguments(
    given: list[Tensor], *, space: str = "residual", null_weight: float = 0.8, weight_BP: Tensor | None = None
) -> GateArguments:
    text, query, value, key, null, scale, bias = given[:7]
    return GateArguments(
        queries=TextQueries(text_TD=unit(text), gate_TG=unit(query)),
        tokens=PatchTokens(value_BPD=unit(value), gate_BPG=unit(key), projected_BPD=value, hidden={}),
        weight_BP=weights(value.dtype) if weight_BP is None else weight_BP,
        null_D=null,
        scale=scale,
        bias=bias,
        rho=RHO[space],
        null_weight=null_weight,
    )


def reference(asked: GateArguments) -> Comparison:
    logits = gate_logits(asked.queries, asked.tokens, scale=asked.scale, bias=asked.bias, rho=asked.rho)
    aligned = pool_evidence(
        logits,
        asked.queries,
        asked.tokens,
        asked.weight_BP,
        asked.null_D,
        null_weight=asked.null_weight,
        bias=asked.bias,
    )
    return comparison_of(aligned, asked.weight_BP)


def pair_loss(
    score: Tensor, mass: Tensor, evidence: Tensor, part: tuple[slice, slice], kappa: Tensor, beta: Tensor
) -> Tensor:
    """Sum over pairs of all three pair-local losses, with the counts of the whole batch."""
    relation, counts = RELATION[part], count_pairs(RELATION)
    gate = mean_gate(mass, weights(mass.dtype)[part[1]].sum(dim=1))
    return (
        sigmoid_loss(score, relation, scale=kappa, bias=beta, counts=counts)
        + 0.7 * area_loss(gate, relation, area_max=0.2, counts=counts)
        + 0.3 * evidence_loss(evidence, relation, extent=1.5, counts=counts)
    )


def whole_loss(compared: Comparison, kappa: Tensor, beta: Tensor, *, contrastive: float) -> Tensor:
    local = pair_loss(
        compared.score_TB, compared.gate_mass_TB, compared.evidence_TB, (slice(None), slice(None)), kappa, beta
    )
    return local + contrastive * contrastive_loss(compared.score_TB, RELATION, inverse_temperature=9.0)


def gradients(loss: Tensor, given: list[Tensor]) -> list[Tensor]:
    found = torch.autograd.grad(loss, given, allow_unused=True, retain_graph=True)
    return [torch.zeros_like(leaf) if grad is None else grad for grad, leaf in zip(found, given, strict=True)]


def recomputed(asked: GateArguments, blocks: BlockSizes, kappa: Tensor, beta: Tensor) -> Tensor:
    return whole_loss(compare_recomputing(asked, blocks=blocks), kappa, beta, contrastive=1.0)


def in_one_pass(asked: GateArguments, blocks: BlockSizes, kappa: Tensor, beta: Tensor) -> Tensor:
    return one_pass_loss(asked, pair_loss, (kappa, beta), blocks=blocks)[0]


MODES: dict[str, tuple[Callable[..., Tensor], float]] = {"recompute": (recomputed, 1.0), "one_pass": (in_one_pass, 0.0)}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("blocks", BLOCKS, ids=["whole", "pieces", "uneven"])
@pytest.mark.parametrize("null_weight", [0.8, 0.0])
@pytest.mark.parametrize("space", RHO)
def test_value_and_every_gradient_equal_the_reference(
    space: str, null_weight: float, blocks: BlockSizes, mode: str
) -> None:
    run, contrastive = MODES[mode]
    given = leaves()
    asked = arguments(given, space=space, null_weight=null_weight)
    expected = whole_loss(reference(asked), *given[7:], contrastive=contrastive)
    found = run(asked, blocks, *given[7:])
    assert abs(found.item() - expected.item()) <= 1e-12
    for name, one, other in zip(NAMES, gradients(found, given), gradients(expected, given), strict=True):
        assert (one - other).abs().max() <= 1e-12, name


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("space", RHO)
def test_gradients_are_right_in_double_precision(space: str, mode: str) -> None:
    run, _ = MODES[mode]

    def loss(*given: Tensor) -> Tensor:
        return run(arguments(list(given), space=space), BLOCKS[2], *given[7:])

    assert torch.autograd.gradcheck(loss, leaves())


@pytest.mark.parametrize("null_weight", [1.0, 0.0])
@pytest.mark.parametrize("bias", [-40.0, -800.0])
def test_closed_gates_have_the_references_gradients(bias: float, null_weight: float) -> None:
    given = leaves()
    with torch.no_grad():
        given[6].fill_(bias)
    asked = arguments(given, null_weight=null_weight)
    results = [
        whole_loss(compared, *given[7:], contrastive=1.0)
        for compared in (reference(asked), compare_recomputing(asked, blocks=BLOCKS[1]))
    ]
    for name, one, other in zip(NAMES, *(gradients(result, given) for result in results), strict=True):
        assert torch.isfinite(one).all(), name
        torch.testing.assert_close(one, other, atol=1e-12, rtol=1e-9)


def test_numbers_beside_a_one_pass_loss_are_those_of_the_reference_and_move_nothing() -> None:
    given = leaves()
    asked = arguments(given)
    _, found = one_pass_loss(asked, pair_loss, given[7:], blocks=BLOCKS[2])
    expected = reference(asked)
    for name in ("score_TB", "gate_mass_TB", "evidence_TB"):
        torch.testing.assert_close(getattr(found, name), getattr(expected, name), atol=1e-12, rtol=0)
        assert not getattr(found, name).requires_grad


def test_a_loss_that_needs_no_evidence_does_without_it() -> None:
    given = leaves()
    asked = arguments(given)
    found = compare_recomputing(asked, evidence=False, blocks=BLOCKS[1])
    expected = reference(asked)
    assert (found.evidence_TB == 0).all()
    for one, other in zip(
        gradients(found.score_TB.square().sum(), given), gradients(expected.score_TB.square().sum(), given), strict=True
    ):
        torch.testing.assert_close(one, other, atol=1e-12, rtol=0)


def test_under_autocast_gradients_of_bias_and_scale_keep_their_digits() -> None:
    torch.manual_seed(3)
    text, key, value = (torch.randn(shape) for shape in ((8, 32), (8, 784, 16), (8, 784, 32)))
    scalars = (torch.tensor(10.0), torch.tensor(-6.0))
    given = [one.requires_grad_() for one in (text, torch.randn(8, 16), value, key, torch.randn(32), *scalars)]
    pull_TB = torch.randn(8, 8)

    def errors(run: Callable[[GateArguments], Comparison]) -> dict[str, float]:
        found = {}
        for dtype in (torch.float64, torch.float32):
            inputs = [leaf.detach().to(dtype).requires_grad_() for leaf in given]
            asked = arguments(inputs, weight_BP=torch.ones(8, 784, dtype=dtype))
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.float32):
                score = (reference if dtype == torch.float64 else run)(asked).score_TB
            found[dtype] = gradients((score * pull_TB).sum(), inputs)
        pairs = zip(NAMES, found[torch.float32], found[torch.float64], strict=False)
        return {name: float((one - exact).norm() / exact.norm()) for name, one, exact in pairs}

    ours, naive = errors(compare_recomputing), errors(reference)
    assert ours["bias"] < 0.02 and ours["scale"] < 0.02, ours
    assert naive["bias"] > 2 * ours["bias"], (naive, ours)  # what is avoided
    assert max(ours.values()) < 0.03, ours


def test_nothing_the_size_of_the_matrix_is_kept_for_the_backward_pass() -> None:
    given = leaves(dtype=torch.float32)
    kept: list[int] = []

    def note(tensor: Tensor) -> Tensor:
        kept.append(tensor.numel())
        return tensor

    asked = arguments(given)
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        reference(asked)
    assert max(kept) >= T * B * P
    kept.clear()
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        compare_recomputing(asked)
        one_pass_loss(asked, pair_loss, given[7:])
    assert max(kept) <= max(T, P) * B * D


def test_parts_cover_every_pair_once_and_fit_the_cache() -> None:
    for shape in ((1, 1, 1), (100, 16, 1000), (3000, 8, 18432), (40, 64, 196)):
        blocks = block_sizes(*shape, cache=2**20, item_bytes=4)
        seen = torch.zeros(shape[:2], dtype=torch.int)
        for sentences, volumes in blocks.parts(*shape[:2]):
            seen[sentences, volumes] += 1
        assert (seen == 1).all(), shape
        pairs = blocks.sentences * blocks.volumes
        assert 3 * 4 * pairs * shape[2] <= 2**20 or (blocks.volumes == 1 and blocks.sentences <= 128), shape

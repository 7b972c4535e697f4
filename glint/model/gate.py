"""The gate: which patches of a volume speak to a sentence. Reference implementation, one line per equation.

Shape letters here and in `alignment`: T sentences, B volumes, P patches, D value width, G gate width.
"""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SMALLEST_LENGTH = 1e-6
LARGEST = 65504.0
GateSpace = Literal["separate", "shared", "residual"]


@dataclass(frozen=True, kw_only=True)
class TextQueries:
    """Sentences in both spaces, unit length: `text_TD` (t) and `gate_TG` (q)."""

    text_TD: Tensor
    gate_TG: Tensor


@dataclass(frozen=True, kw_only=True)
class PatchTokens:
    """Patches in both spaces, unit length: `value_BPD` (v) and `gate_BPG` (k); `projected_BPD` is v before its length is 1.

    `hidden[l]` (B, P, width) are the encoder's block outputs that were asked for.
    """

    value_BPD: Tensor
    gate_BPG: Tensor
    projected_BPD: Tensor
    hidden: dict[int, Tensor]


def at_least_float32(tensor: Tensor) -> Tensor:
    """Half precisions become float32; float64 stays, for gradient checks."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def finite(tensor: Tensor) -> Tensor:
    """What overflowed half precision becomes float16's largest number, and NaN 0: one loud channel makes no score NaN."""
    return tensor.nan_to_num(nan=0.0, posinf=LARGEST, neginf=-LARGEST)


def without_autocast(device: torch.device) -> AbstractContextManager[Any]:
    """Full precision inside; devices that know no autocast (PyTorch's `meta`) are left alone."""
    available = torch.amp.is_autocast_available(device.type)
    return torch.autocast(device.type, enabled=False) if available else nullcontext()


def gate_logits(queries: TextQueries, tokens: PatchTokens, *, scale: Tensor, bias: Tensor, rho: float) -> Tensor:
    """z_tp = alpha [(1 - rho) <q_t, k_p> + rho <t_t, v_p>] + b, in float32. Returns (T, B, P).

    rho 0 is a separate gate space, 1 a shared one. Source: METHOD equation for z.
    """
    cosine_TBP = torch.zeros((), device=scale.device)
    if rho < 1:
        gate_TG, gate_BPG = at_least_float32(queries.gate_TG), at_least_float32(tokens.gate_BPG)
        cosine_TBP = (1 - rho) * torch.einsum("tg,bpg->tbp", gate_TG, gate_BPG)
    if rho > 0:
        text_TD, value_BPD = at_least_float32(queries.text_TD), at_least_float32(tokens.value_BPD)
        cosine_TBP = cosine_TBP + rho * torch.einsum("td,bpd->tbp", text_TD, value_BPD)
    return scale * cosine_TBP + bias


class Gate(nn.Module):
    """Learned scale alpha = exp(a), limited to `scale_max`, and bias b.

    The bias is not tied to the number of patches: it would move every mask threshold with the resolution.
    """

    def __init__(self, *, space: GateSpace, rho: float, scale_init: float, scale_max: float, bias_init: float) -> None:
        super().__init__()
        self.rho = {"separate": 0.0, "shared": 1.0, "residual": rho}[space]
        self.scale_max = scale_max
        self.log_scale = nn.Parameter(torch.tensor(scale_init).log())
        self.bias = nn.Parameter(torch.tensor(float(bias_init)))

    @property
    def scale(self) -> Tensor:
        """alpha."""
        return self.log_scale.exp().clamp(max=self.scale_max)

    def forward(self, queries: TextQueries, tokens: PatchTokens) -> Tensor:
        """Gate logits (T, B, P); their sigmoid is the probability that a patch shows what the sentence says."""
        return gate_logits(queries, tokens, scale=self.scale, bias=self.bias, rho=self.rho)


def unit(tensor: Tensor) -> Tensor:
    """n(x): L2-normalised over the last axis; a zero vector stays zero with a finite gradient."""
    return F.normalize(tensor, dim=-1, eps=SMALLEST_LENGTH)

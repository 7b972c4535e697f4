"""How a frozen teacher's pass is computed: the type of its weights and the attention kernel, chosen by a start-up measurement.

No table knows which is fastest: bfloat16 is ten times slower on processors without its instructions, and whether attention is
better fused or in plain matrix products turns with the size of the batch.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from glint.core.progress import log
from glint.teachers.encoder import Encoded
from glint.teachers.registry import FrozenTeacher

Precision = Literal["float32", "bfloat16"]
Attention = Literal["sdpa", "eager"]
CLEARLY_FASTER = 1.25
"""The margin keeps the choice, and with it every token's last bit, the same from run to run."""
ALIKE = 1.05
LEAST_COSINE = 0.995
ROUNDS = 3
ENOUGH_S = 20.0
"""No further round after so many seconds: a pass of minutes is told apart by its first, and is not run a dozen times to choose."""


@dataclass(frozen=True, kw_only=True)
class Kernel:
    """`precision` of weights and activations; `attention`: sdpa, one fused kernel, or eager, two matrix products and a softmax."""

    precision: Precision = "float32"
    attention: Attention = "sdpa"

    @property
    def name(self) -> str:
        """For logs and fingerprints."""
        return f"{self.precision}, {self.attention} attention"


class TeacherPass:
    """A teacher under one kernel: volumes (B, C, Z, Y, X) float32 in, float32 tokens out."""

    def __init__(self, teacher: FrozenTeacher, kernel: Kernel) -> None:
        self.kernel = kernel
        lowered = kernel.precision == "bfloat16"
        self.dtype = torch.bfloat16 if lowered else torch.float32
        self.teacher = teacher
        if kernel != Kernel():
            self.teacher = copy.deepcopy(teacher).to(self.dtype)
            self.teacher.encoder.attention_kernel(kernel.attention)

    def __call__(self, volume_BCZYX: Tensor, layers: Sequence[int] = ()) -> Encoded:
        """Final tokens and block outputs."""
        with torch.inference_mode():
            encoded = self.teacher.encode(volume_BCZYX.to(self.dtype), layers)
        return Encoded(
            patch_tokens_BND=encoded.patch_tokens_BND.float(),
            hidden={layer: tokens.float() for layer, tokens in encoded.hidden.items()},
        )


def candidates(precision: Precision | Literal["auto"], attention: Attention | Literal["auto"]) -> list[Kernel]:
    """The kernels that a configuration leaves open, the plainest first."""
    precisions: tuple[Precision, ...] = ("float32", "bfloat16") if precision == "auto" else (precision,)
    attentions: tuple[Attention, ...] = ("sdpa", "eager") if attention == "auto" else (attention,)
    return [Kernel(precision=one, attention=other) for one in precisions for other in attentions]


def measured(
    passes: Sequence[Callable[[Tensor], Encoded]], volume_BCZYX: Tensor, *, enough_s: float = ENOUGH_S
) -> tuple[list[float], list[float]]:
    """Seconds of the best of some interleaved passes of each, and the cosine of its tokens to the first one's.

    The first round warms up and counts only where it took `enough_s`. On a processor seconds are of the processor, which neighbours
    spoil less than those of the clock.
    """
    clock = time.perf_counter if volume_BCZYX.is_cuda else time.process_time
    started_s, exact, cosines = time.perf_counter(), None, []
    best = [float("inf")] * len(passes)
    for number in range(ROUNDS + 1):
        seconds = []
        for one in passes:
            begun_s = clock()
            tokens = one(volume_BCZYX).patch_tokens_BND
            if volume_BCZYX.is_cuda:
                torch.cuda.synchronize()
            seconds.append(clock() - begun_s)
            if number == 0:
                exact = tokens if exact is None else exact
                cosines.append(float(F.cosine_similarity(tokens, exact, dim=-1).mean()))
        best = seconds if number < 2 else [min(pair) for pair in zip(best, seconds, strict=True)]
        if time.perf_counter() - started_s > enough_s:
            break
    return best, cosines


def choose(kernels: Sequence[Kernel], seconds: Sequence[float], cosines: Sequence[float]) -> Kernel:
    """The first kernel, unless others whose tokens agree with its are clearly faster; of those the fastest, the plainer of two alike."""
    faster = [
        place
        for place, cosine in enumerate(cosines)
        if cosine >= LEAST_COSINE and seconds[0] > CLEARLY_FASTER * seconds[place]
    ]
    alike = ALIKE * min((seconds[place] for place in faster), default=0.0)
    return kernels[next((place for place in faster if seconds[place] <= alike), 0)]


def fastest_pass(teacher: FrozenTeacher, kernels: Sequence[Kernel], probe_BCZYX: Tensor) -> TeacherPass:
    """The teacher under the kernel that is fastest on `probe_BCZYX`, a batch of the size to come."""
    if len(kernels) == 1:
        return TeacherPass(teacher, kernels[0])
    passes = [TeacherPass(teacher, kernel) for kernel in kernels]
    seconds, cosines = measured(passes, probe_BCZYX)
    chosen = choose(kernels, seconds, cosines)
    told = ", ".join(f"{kernel.name} {value:.3f} s" for kernel, value in zip(kernels, seconds, strict=True))
    log(f"teacher's pass: {told}; taking {chosen.name}")
    return passes[list(kernels).index(chosen)]

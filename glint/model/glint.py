"""GLINT: volume and sentences in; score, map and evidence out."""

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from glint.core.config.train import TrainConfig
from glint.formats.checkpoint import Calibration, Preprocessing
from glint.model.alignment import Alignment, Comparison, comparison_of
from glint.model.blocked_gate import GateArguments, PairLoss, compare_recomputing, one_pass_loss
from glint.model.gate import Gate, PatchTokens, TextQueries, finite, unit, without_autocast
from glint.model.pooling import POOLINGS, ConditionedPooling
from glint.model.student import Student
from glint.model.text_encoder import SentenceEncoder, TextEncoder

GateMode = Literal["reference", "recompute", "one_pass"]
LARGE_MATRIX = 2**22
"""Gates of a batch above which none is held: 64 MiB of what autograd would keep. In a much smaller batch opening gates twice
costs more than the products, by the overhead of its calls; at twice this size it costs no more time than holding them."""


class Glint(nn.Module):
    """Student, text encoder, gate and the temperatures of the losses.

    What `train.model.pooling` names makes the score: gated evidence, or a baseline in its place; all else is shared.
    A model from a checkpoint folder also knows how its input is made (`preprocessing`), what turns its scores and gates into
    probabilities and masks (`calibration`) and the sentences of its findings (`label_prompts`).
    """

    gate: Gate
    null_D: nn.Parameter
    sigmoid_bias: nn.Parameter
    conditioned: ConditionedPooling
    preprocessing: Preprocessing | None
    calibration: Calibration | None
    label_prompts: dict[str, dict[str, str]]

    def __init__(self, config: TrainConfig, *, student: Student, sentence_encoder: SentenceEncoder) -> None:
        super().__init__()
        self.config, self.pooling = config, POOLINGS[config.model.pooling]
        self.preprocessing, self.calibration, self.label_prompts = None, None, {}
        model, loss, width = config.model, config.loss, student.encoder.width
        self.student = student
        self.text = TextEncoder(
            sentence_encoder,
            hidden_width=config.text.hidden_width,
            value_width=model.value_width,
            gate_width=model.gate_width,
            trainable=config.text.trainable,
            standardise=config.text.standardise,
        )
        self.value_norm, self.to_value = nn.LayerNorm(width), nn.Linear(width, model.value_width)
        self.gate_norm, self.to_gate = nn.LayerNorm(width), nn.Linear(width, model.gate_width)
        self.null_D = nn.Parameter(unit(torch.randn(model.value_width)))
        patches = math.prod(student.encoder.grid)
        self.gate = Gate(
            space=model.gate_space,
            rho=model.rho,
            scale_init=model.scale_init,
            scale_max=model.scale_max,
            bias_init=-math.log(patches) if model.bias_init is None else model.bias_init,
        )
        if model.pooling == "conditioned":
            self.conditioned = ConditionedPooling(model.value_width, model.attention_heads)
        self.log_inverse_temperature = nn.Parameter(torch.tensor(-math.log(loss.temperature_init)))
        self.log_sigmoid_scale = nn.Parameter(torch.tensor(math.log(loss.sigmoid_scale_init)))
        self.sigmoid_bias = nn.Parameter(torch.tensor(loss.sigmoid_bias_init))

    @classmethod
    def from_pretrained(cls, folder: Path | str, *, device: torch.device | str = "cpu") -> "Glint":
        """The trained model of a checkpoint folder, in eval mode; it needs that folder alone, and no network.

        Raises:
            InputError: no checkpoint of this version.
            FingerprintError: weights are not those of training.
        """
        from glint.model.pretrained import load_glint

        return load_glint(folder).to(device)

    @property
    def device(self) -> torch.device:
        """Where the weights lie; inputs have to lie there too."""
        return self.null_D.device

    @property
    def inverse_temperature(self) -> Tensor:
        """kappa of the contrastive loss."""
        return self.log_inverse_temperature.exp().clamp(max=self.config.loss.inverse_temperature_max)

    @property
    def sigmoid_scale(self) -> Tensor:
        """kappa' of the sigmoid loss."""
        return self.log_sigmoid_scale.exp().clamp(max=self.config.loss.inverse_temperature_max)

    @torch.no_grad()
    def whiten_heads(self, tokens_ND: Tensor, *, ridge: float) -> None:
        """Start both patch heads as random maps of whitened tokens, given the student's tokens on training volumes.

        Patch tokens share a large mean and vary along few axes; a random map of them has all patches nearly parallel, and
        the gate settles on wrong patches before it sees a lesion. Only initial values change, not the function class.
        """
        for norm, head in ((self.value_norm, self.to_value), (self.gate_norm, self.to_gate)):
            normed_ND = norm(tokens_ND).double()
            mean_D = normed_ND.mean(dim=0)
            variance_D, axes_DD = torch.linalg.eigh(torch.cov(normed_ND.T))
            whitening_DD = axes_DD @ torch.diag((variance_D + ridge * variance_D.max()).rsqrt()) @ axes_DD.T
            head.weight.copy_(torch.randn_like(head.weight).double() @ whitening_DD / len(mean_D) ** 0.5)
            head.bias.copy_(-head.weight.double() @ mean_D)

    def encode_text(self, sentences: Sequence[str]) -> TextQueries:
        """Queries of T sentences."""
        return self.text(sentences)  # type: ignore[no-any-return]

    def encode_volume(self, volume_BCZYX: Tensor, *, layers: Iterable[int] = ()) -> PatchTokens:
        """Patches of B window-channel volumes (values in [0, 1]); `layers` asks for encoder block outputs."""
        encoded = self.student(volume_BCZYX, layers=layers)
        return self.project(encoded.patch_tokens_BND, hidden=encoded.hidden)

    def project(self, tokens_BPD: Tensor, *, hidden: dict[int, Tensor] | None = None) -> PatchTokens:
        """The student's final tokens in both spaces: v_p = n(W_v LN x_p), k_p = n(W_k LN x_p)."""
        tokens_BPD = finite(tokens_BPD)
        value_BPD = self.to_value(self.value_norm(tokens_BPD))
        gate_BPG = self.to_gate(self.gate_norm(tokens_BPD))
        return PatchTokens(
            value_BPD=unit(value_BPD), gate_BPG=unit(gate_BPG), projected_BPD=value_BPD, hidden=hidden or {}
        )

    def score(self, tokens: PatchTokens, queries: TextQueries, patch_weight_BP: Tensor) -> Alignment:
        """Scores (T, B), gate logits (T, B, P) and gate mass (T, B).

        `patch_weight_BP` is c_p: 0 or false for padding, 1 or true for a patch of the reference size.
        """
        weight_BP = patch_weight_BP.to(torch.promote_types(tokens.value_BPD.dtype, torch.float32))
        with without_autocast(weight_BP.device):  # a posterior of 1 / P has no digits in bfloat16
            return self.pooling.align(self, queries, tokens, weight_BP)

    def gate_mode(self, num_sentences: int, patch_weight_BP: Tensor) -> GateMode:
        """How a training step forms the gate's gradients; `auto` by the loss and by the size of the matrix."""
        chosen = self.config.model.gate
        if not self.pooling.gated:
            return "reference"
        if chosen != "auto":
            return chosen
        if self.config.loss.contrastive == 0:
            return "one_pass"
        return "recompute" if num_sentences * patch_weight_BP.numel() > LARGE_MATRIX else "reference"

    def gate_arguments(self, tokens: PatchTokens, queries: TextQueries, patch_weight_BP: Tensor) -> GateArguments:
        """What the blocked gate asks for."""
        return GateArguments(
            queries=queries,
            tokens=tokens,
            weight_BP=patch_weight_BP.to(torch.promote_types(tokens.value_BPD.dtype, torch.float32)),
            null_D=self.null_D,
            scale=self.gate.scale,
            bias=self.gate.bias,
            rho=self.gate.rho,
            null_weight=self.config.model.null_weight,
        )

    def compare(self, tokens: PatchTokens, queries: TextQueries, patch_weight_BP: Tensor) -> Comparison:
        """What losses read, every pair's score, gate mass and evidence, without the maps of `score`."""
        if self.gate_mode(len(queries.text_TD), patch_weight_BP) == "reference":
            return comparison_of(self.score(tokens, queries, patch_weight_BP), patch_weight_BP)
        arguments = self.gate_arguments(tokens, queries, patch_weight_BP)
        return compare_recomputing(arguments, evidence=self.config.loss.evidence > 0)

    def compare_in_one_pass(
        self,
        tokens: PatchTokens,
        queries: TextQueries,
        patch_weight_BP: Tensor,
        loss: PairLoss,
        parameters: Sequence[Tensor],
    ) -> tuple[Tensor, Comparison]:
        """A pair-local loss and the numbers behind it; see `one_pass_loss`."""
        arguments = self.gate_arguments(tokens, queries, patch_weight_BP)
        return one_pass_loss(arguments, loss, parameters, evidence=self.config.loss.evidence > 0)

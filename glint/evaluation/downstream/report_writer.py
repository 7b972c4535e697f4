"""Gated evidence as a prefix of a causal language model (as in LLaVA, arXiv 2304.08485), which writes the report."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from glint.core.atomic import atomic_directory
from glint.core.config.downstream import ReportTaskConfig
from glint.core.errors import InputError
from glint.core.seeds import derived_seed
from glint.model.low_rank import add_low_rank

Floats = NDArray[np.float32]
EXTRA = 6
"""Channels beside the pooled token: score, contrast, log evidence, centre of the gate along z, y, x in 0 … 1."""


def gated_evidence(
    model: Any,
    tokens_BPD: Tensor,
    valid_BP: Tensor,
    queries: tuple[Any, Any],
    grid: tuple[int, int, int],
) -> Tensor:
    """(B, F, D + 6): per finding the student's tokens weighted by the gate of its positive prompt, and what the gate tells.

    Args:
        model: As `glint.model.glint.Glint`.
        queries: Of the positive and of the negative prompts, F each.
    """
    projected, weight_BP = model.project(tokens_BPD), valid_BP.float()
    stated, denied = (model.score(projected, one, weight_BP) for one in queries)
    gate_TBP = torch.sigmoid(stated.gate_logits_TBP.float()) * weight_BP
    total_TB1 = gate_TBP.sum(dim=-1, keepdim=True).clamp_min(1e-9)
    share_BTP = (gate_TBP / total_TB1).transpose(0, 1)
    axes = [(torch.arange(size, dtype=torch.float32) + 0.5) / size for size in grid]
    place_P3 = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).reshape(-1, 3)
    told = [stated.score_TB.T, (stated.score_TB - denied.score_TB).T, total_TB1[..., 0].log().T]
    return torch.cat([share_BTP @ tokens_BPD, torch.stack(told, dim=-1).float(), share_BTP @ place_P3], dim=-1)


def make_tiny_language_model(folder: Path, texts: Sequence[str], config: ReportTaskConfig, *, seed: int) -> None:
    """A folder that transformers loads: a byte-pair tokenizer of `texts` and a Llama of two layers with drawn weights."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=config.tiny_vocabulary,
        special_tokens=["<pad>", "<end>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(sorted(texts), trainer)
    size = LlamaConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=config.tiny_width,
        intermediate_size=2 * config.tiny_width,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        pad_token_id=0,
        bos_token_id=None,
        eos_token_id=1,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derived_seed(seed, "tiny language model"))
        model = LlamaForCausalLM(size)
    with atomic_directory(folder) as target:
        model.save_pretrained(target)
        PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<end>").save_pretrained(
            target
        )


class ReportWriter(nn.Module):
    """Projector and language model: F tokens of evidence, then the report.

    `mean_C` and `deviation_C` standardise the evidence, per finding and channel, by the training studies.
    """

    mean_FC: Tensor
    deviation_FC: Tensor

    def __init__(self, folder: str, evidence_NFC: Floats, config: ReportTaskConfig, *, whole: bool, seed: int) -> None:
        """Raises InputError where the model can't be loaded or has no linear map to update."""
        super().__init__()
        from transformers import AutoModelForCausalLM, AutoTokenizer
        from transformers.utils import logging

        logging.disable_progress_bar()
        try:
            self.tokenizer: Any = AutoTokenizer.from_pretrained(folder)
            self.language: Any = AutoModelForCausalLM.from_pretrained(folder)
        except (OSError, ValueError) as error:
            raise InputError(
                f"evaluate.downstream.report.language_model {folder}: not loadable; give a folder or hub id of a causal model"
            ) from error
        if self.tokenizer.eos_token_id is None:
            raise InputError(f"{folder}: its tokenizer has no end token, so that no report would end")
        self.max_tokens, self.whole = config.max_tokens, whole
        self.learns_language = whole or config.train == "all"
        self.language.requires_grad_(self.learns_language)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derived_seed(seed, "report writer"))
            updated = not whole and config.train == "low_rank"
            if updated and not add_low_rank(self.language, self.language, rank=config.rank, alpha=2 * config.rank):
                raise InputError(f"{folder}: no linear map that a low-rank update fits; train the projector or all")
            width = self.language.get_input_embeddings().weight.shape[1]
            self.project = nn.Sequential(
                nn.Linear(evidence_NFC.shape[2], width), nn.GELU(), nn.Linear(width, width), nn.LayerNorm(width)
            )
            self.slot_FW = nn.Parameter(0.02 * torch.randn(evidence_NFC.shape[1], width))
        # A prefix as long as words are: a frozen language model never saw vectors of another length.
        length = float(self.language.get_input_embeddings().weight.detach().float().norm(dim=1).median())
        self.scale = nn.Parameter(torch.tensor(length / width**0.5))
        seen = torch.from_numpy(evidence_NFC)
        self.register_buffer("mean_FC", seen.mean(dim=0))
        self.register_buffer("deviation_FC", seen.std(dim=0) + 1e-5)

    def train(self, mode: bool = True) -> "ReportWriter":
        """Dropout stays off, so that a resumed run repeats an undisturbed one."""
        return super().train(False)

    def groups(self, config: ReportTaskConfig) -> list[dict[str, Any]]:
        """Parameter groups: what is new, and what of the language model learns."""
        language = [one for one in self.language.parameters() if one.requires_grad]
        known = {id(one) for one in language}
        new = [one for one in self.parameters() if one.requires_grad and id(one) not in known]
        rate = config.learning_rate if self.whole else config.language_learning_rate
        return [{"params": new, "lr": config.learning_rate}] + ([{"params": language, "lr": rate}] if language else [])

    def prefix(self, evidence_BFC: Tensor) -> Tensor:
        """(B, F, W)."""
        found: Tensor = self.scale * self.project((evidence_BFC - self.mean_FC) / self.deviation_FC) + self.slot_FW
        return found

    def tokens_of(self, text: str) -> list[int]:
        """Token ids with the end token."""
        ids = self.tokenizer(text, add_special_tokens=False)["input_ids"][: self.max_tokens - 1]
        return [*ids, self.tokenizer.eos_token_id]

    def loss(self, evidence_BFC: Tensor, tokens: Sequence[Sequence[int]]) -> Tensor:
        """Mean cross-entropy of the reports' tokens."""
        longest = max(map(len, tokens))
        ids = torch.full((len(tokens), longest), self.tokenizer.eos_token_id)
        held = torch.zeros(ids.shape, dtype=torch.bool)
        for row, one in enumerate(tokens):
            ids[row, : len(one)], held[row, : len(one)] = torch.tensor(one), True
        prefix = self.prefix(evidence_BFC)
        words = self.language.get_input_embeddings()(ids)
        mask = torch.cat([torch.ones(prefix.shape[:2], dtype=torch.bool), held], dim=1).long()
        logits = self.language(inputs_embeds=torch.cat([prefix, words], dim=1), attention_mask=mask).logits
        told = logits[:, prefix.shape[1] - 1 : -1]
        return nn.functional.cross_entropy(told[held].float(), ids[held])

    @torch.inference_mode()
    def write(self, evidence_BFC: Tensor) -> list[str]:
        """Reports, decoded greedily: equal evidence, equal words."""
        prefix = self.prefix(evidence_BFC)
        pad = self.tokenizer.pad_token_id
        found = self.language.generate(
            inputs_embeds=prefix,
            attention_mask=torch.ones(prefix.shape[:2], dtype=torch.long),
            max_new_tokens=self.max_tokens,
            do_sample=False,
            num_beams=1,
            eos_token_id=self.tokenizer.eos_token_id,
            pad_token_id=self.tokenizer.eos_token_id if pad is None else pad,
        )
        return [str(self.tokenizer.decode(ids, skip_special_tokens=True)).strip() for ids in found]

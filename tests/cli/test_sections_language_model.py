"""A language model reads sentences only as far as its answers can be checked."""

import json

import pytest

from glint.cli.sections import reader_from
from glint.core.config.sections import SectionsConfig
from glint.prepare.sections.findings import read_findings
from glint.prepare.sections.language_model import model_reader, verified

SENTENCE = "A 7 mm nodule in the left lung."


def answer(**changes) -> str:
    row = {"finding": "nodule", "polarity": "present", "laterality": "left", "size_mm": 7.0, "quote": "nodule"}
    return "Sure: " + json.dumps({"findings": [{**row, **changes}]})


def test_a_checked_answer_becomes_a_finding_with_its_span():
    (found,) = verified(answer(), SENTENCE)
    assert SENTENCE[found.start : found.end] == "nodule"
    assert (found.finding, found.polarity, found.laterality, found.size_mm) == ("nodule", "present", "left", 7.0)


@pytest.mark.parametrize(
    "bad",
    [
        "I see a nodule.",
        '{"findings": [{"finding": "nodule"',
        answer(finding="unicorn"),
        answer(polarity="maybe"),
        answer(region="attic"),
        answer(quote="mass"),
        answer(quote=""),
        answer(extra=1),
        '{"results": []}',
    ],
)
def test_an_answer_that_can_not_be_checked_is_refused(bad):
    with pytest.raises(ValueError, match=r"."):
        verified(bad, SENTENCE)


def test_a_refused_answer_is_asked_again_with_the_reason_then_the_rules_read():
    prompts: list[str] = []

    def stubborn(prompt: str) -> str:
        prompts.append(prompt)
        return answer(quote="mass")

    read = model_reader(stubborn, name="m", cache=None, retries=2)
    assert read(SENTENCE) == read_findings(SENTENCE)
    assert len(prompts) == 3
    assert "refused: quote is not in the sentence" in prompts[1]
    assert "refused" not in prompts[0]


def test_the_cache_is_by_content_and_spares_the_model(tmp_path):
    calls: list[str] = []

    def once(prompt: str) -> str:
        calls.append(prompt)
        return answer()

    for _ in range(2):
        assert len(model_reader(once, name="m", cache=tmp_path, retries=0)(SENTENCE)) == 1
    assert len(calls) == 1
    model_reader(once, name="other", cache=tmp_path, retries=0)(SENTENCE)
    assert len(calls) == 2
    assert all(len(file.stem) == 64 for file in tmp_path.iterdir())


def test_a_tiny_random_model_runs_repeats_itself_and_never_adds_what_is_not_said(tmp_path):
    pytest.importorskip("transformers")
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

    alphabet = {piece: i for i, piece in enumerate(["<e>", *sorted(pre_tokenizers.ByteLevel.alphabet())])}
    tokenizer = Tokenizer(models.BPE(vocab=alphabet, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<e>", model_max_length=2000)
    fast.save_pretrained(tmp_path)
    config = GPT2Config(vocab_size=len(alphabet), n_positions=2100, n_embd=8, n_layer=1, n_head=1)
    GPT2LMHeadModel(config).save_pretrained(tmp_path)

    settings = SectionsConfig(language_model=str(tmp_path), language_model_retries=1, language_model_max_tokens=8)
    read = reader_from(settings, None)
    assert read(SENTENCE) == read_findings(SENTENCE) == read(SENTENCE)
    assert reader_from(SectionsConfig(), None) is read_findings

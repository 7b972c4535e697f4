"""A token classifier, made here with random weights, is read, windowed, and plugged into stage 02."""

import json
from pathlib import Path

import pytest

from glint.core.errors import InputError
from glint.teachers.name_finder import OVERLAP_CHARACTERS, WINDOW_CHARACTERS, load_name_finder


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One layer, sixteen numbers wide; its last bias makes every token a person."""
    import torch
    from transformers import BertConfig, BertForTokenClassification, BertTokenizerFast

    folder = tmp_path_factory.mktemp("recognizer")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "babajide", "came", "heart", "normal", "."]
    (folder / "vocab.txt").write_text("\n".join(words) + "\n")
    BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(words),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        id2label={0: "O", 1: "B-PER"},
        label2id={"O": 0, "B-PER": 1},
    )
    model = BertForTokenClassification(config)
    with torch.no_grad():
        model.classifier.bias.copy_(torch.tensor([0.0, 9.0]))
    model.save_pretrained(folder)
    return folder


def test_what_the_model_marks_comes_back_with_its_place_and_kind(model_folder: Path) -> None:
    find = load_name_finder(str(model_folder), min_score=0.9)
    text = "babajide came"
    found = find(text)
    assert {kind for _start, _end, kind in found} == {"name"}
    assert {text[start:end] for start, end, _kind in found} >= {"babajide"}
    assert load_name_finder(str(model_folder), min_score=1.0)(text) == []


def test_long_text_is_read_to_its_end(model_folder: Path) -> None:
    text = "heart normal . " * 150 + "babajide"
    assert len(text) > 2 * WINDOW_CHARACTERS > OVERLAP_CHARACTERS
    found = load_name_finder(str(model_folder), min_score=0.5)(text)
    assert any(start <= text.index("babajide") and end == len(text) for start, end, _kind in found)


def test_a_folder_without_a_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"ner_model.*nothing_here"):
        load_name_finder(str(tmp_path / "nothing_here"), min_score=0.5)


def test_a_model_of_other_labels_is_refused(model_folder: Path, tmp_path: Path) -> None:
    for file in model_folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    config = json.loads((tmp_path / "config.json").read_text())
    config["id2label"], config["label2id"] = {"0": "O", "1": "B-GENE"}, {"O": 0, "B-GENE": 1}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match="GENE"):
        load_name_finder(str(tmp_path), min_score=0.5)

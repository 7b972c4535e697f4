"""An optional recognizer of names for report text: any token classifier that transformers can load.

It only adds to the rules of stage 02. Off by default: no such model is part of this project, and none was measured.
"""

from collections.abc import Callable
from pathlib import Path

from glint.core.errors import InputError

KIND_BY_LABEL = {
    "PER": "name",
    "PERSON": "name",
    "PATIENT": "name",
    "STAFF": "name",
    "HCW": "name",
    "DOCTOR": "name",
    "USERNAME": "name",
    "ORG": "institution",
    "HOSPITAL": "institution",
    "HOSP": "institution",
    "VENDOR": "institution",
    "LOC": "address",
    "LOCATION": "address",
    "ADDRESS": "address",
    "PATORG": "institution",
    "ID": "id",
    "PHONE": "phone",
    "EMAIL": "email",
}
WINDOW_CHARACTERS = 1000  # within 512 tokens of any vocabulary for words
OVERLAP_CHARACTERS = 100


def _windows(text: str) -> list[int]:
    return list(range(0, max(len(text) - OVERLAP_CHARACTERS, 1), WINDOW_CHARACTERS - OVERLAP_CHARACTERS))


def load_name_finder(location: str, *, min_score: float) -> Callable[[str], list[tuple[int, int, str]]]:
    """A function from a text to (start, end, kind) of what the model takes for an identity.

    Args:
        location: Folder of a token classifier with its tokenizer, or its hub id.
        min_score: Mean probability of a stretch from which it counts.

    Raises:
        InputError: the model can't be loaded, or none of its labels is known.
    """
    from transformers import AutoModelForTokenClassification, AutoTokenizer, pipeline

    try:
        tokenizer = AutoTokenizer.from_pretrained(location)
        model = AutoModelForTokenClassification.from_pretrained(location).eval()
    except (OSError, ValueError) as error:
        name = Path(location).name
        raise InputError(f"deidentify.ner_model: {name!r} is no token classifier that can be loaded") from error
    labels = {label.split("-")[-1].upper() for label in model.config.id2label.values()}
    if not labels & set(KIND_BY_LABEL):
        raise InputError(
            f"deidentify.ner_model: labels {sorted(labels)} name no identities; known: {', '.join(KIND_BY_LABEL)}"
        )
    recognize = pipeline("token-classification", model=model, tokenizer=tokenizer, aggregation_strategy="simple")

    def find_names(text: str) -> list[tuple[int, int, str]]:
        found = set()
        for offset in _windows(text):
            for entity in recognize(text[offset : offset + WINDOW_CHARACTERS]):
                kind = KIND_BY_LABEL.get(str(entity["entity_group"]).upper())
                if kind and entity["score"] >= min_score and entity["end"] > entity["start"]:
                    found.add((offset + int(entity["start"]), offset + int(entity["end"]), kind))
        return sorted(found)

    return find_names

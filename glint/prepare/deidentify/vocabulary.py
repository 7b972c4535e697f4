"""Texts by allow-list: words known to name nobody stay, all others go.

Source: DICOM PS3.15 E.3.5 note 2 (extract the information that is known to be safe, discard the rest).
"""

import re
from collections.abc import Collection
from functools import cache, lru_cache
from pathlib import Path

SAFE_WORDS_FILE = Path(__file__).parent / "data" / "safe_words.txt"
LONGEST_UNKNOWN_LETTERS = 2  # B30f, FC51: letters of kernels and versions; a name has more
LONGEST_NUMBER_DIGITS = 4  # identifiers have more
_LONG_NUMBER = re.compile(r"\d(?:[ .\-/:]?\d){5,}")  # dates, phones, record numbers, in whatever grouping
_PIECES = re.compile(r"[^\W_]+")
_RUNS = re.compile(r"[A-Za-z]+|\d+")


@cache
def safe_words() -> frozenset[str]:
    """Lower-case words of the package's list, compound ones also in parts."""
    lines = SAFE_WORDS_FILE.read_text(encoding="utf-8").splitlines()
    words = {word for line in lines if not line.startswith("#") for word in line.split()}
    return frozenset(words | {part for word in words for part in re.split(r"[_\-]", word)})


def is_safe_piece(piece: str) -> bool:
    """True for a listed word, a single letter, or a short mix of digits and letters such as `B30f`."""
    if piece.lower() in safe_words() or (len(piece) == 1 and piece.isascii()):
        return True
    if not piece.isascii() or not any(letter.isdigit() for letter in piece):
        return False
    runs = _RUNS.findall(piece)
    digits = sum(len(run) for run in runs if run.isdigit())
    letters = [run for run in runs if not run.isdigit()]
    return digits <= LONGEST_NUMBER_DIGITS and all(
        len(run) <= LONGEST_UNKNOWN_LETTERS or run.lower() in safe_words() for run in letters
    )


def safe_text(text: str, forbidden: Collection[str] = ()) -> str:
    """`text` unchanged if every word is safe, else its safe words in order, joined by spaces.

    Args:
        forbidden: Lower-case words that go although listed: the patient is called so.
    """
    pieces = _PIECES.findall(_LONG_NUMBER.sub(" ", text))
    safe = [piece for piece in pieces if is_safe_piece(piece) and piece.lower() not in forbidden]
    if text.isascii() and len(safe) == len(_PIECES.findall(text)):
        return text
    return " ".join(safe)


@lru_cache(maxsize=4096)
def safe_codes(value: bytes) -> bytes | None:
    """The values of a coded string (CS) whose words are all safe; None where nothing has to change."""
    values = value.decode("ascii", "replace").split("\\")
    safe = [text for text in values if all(is_safe_piece(p) for p in _PIECES.findall(text)) and text == safe_text(text)]
    return None if len(safe) == len(values) else "\\".join(safe).strip(" \0").encode("ascii")

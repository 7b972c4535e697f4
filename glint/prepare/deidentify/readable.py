"""What the rules for report text can read; anything else is refused, since a text not understood may hold anything."""

import re
import unicodedata

from glint.core.errors import Quarantine

MAX_CHARACTERS = 200_000  # a long report has 20,000
MAX_UNPRINTABLE_SHARE = 0.01
MAX_OTHER_SCRIPT_SHARE = 0.1
_INVISIBLE = re.compile("[\u00ad\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff]")
_SPACES = re.compile("[\u00a0\u1680\u2000-\u200a\u202f\u205f\u3000]")


def _is_unprintable(character: str) -> bool:
    return character == "\ufffd" or not (character.isprintable() or character.isspace())


def _is_latin(character: str) -> bool:
    return character.isascii() or "LATIN" in unicodedata.name(character, "") or character in "µμΩ"


def readable(text: str) -> str:
    """`text` as the rules expect it: composed letters, plain spaces, nothing invisible that could split a name.

    Raises:
        Quarantine: `too_long`; `not_text`, binary or UTF-16 read as something else; `other_script`.
    """
    if len(text) > MAX_CHARACTERS:
        raise Quarantine("too_long", f"{len(text)} characters; at most {MAX_CHARACTERS}")
    visible = _SPACES.sub(" ", _INVISIBLE.sub("", text))
    if "\0" in visible or sum(map(_is_unprintable, visible)) > MAX_UNPRINTABLE_SHARE * len(visible):
        raise Quarantine("not_text", "control characters or broken encoding")
    letters = [character for character in visible if character.isalpha()]
    if sum(not _is_latin(letter) for letter in letters) > MAX_OTHER_SCRIPT_SHARE * len(letters):
        raise Quarantine("other_script", "most letters are of a script that the rules can't read")
    return unicodedata.normalize("NFC", visible)

"""Sentences of a mirrored volume: left becomes right.

Only words for sides are exchanged. Organs that have one side (heart, liver, lingula) end up on the wrong one, as in the mirrored volume.
"""

import re

OTHER_SIDE = {
    "left": "right",
    "leftward": "rightward",
    "leftwards": "rightwards",
    "lul": "rul",
    "lll": "rll",
    "lt": "rt",
    "l": "r",
}
OTHER_SIDE |= {right: left for left, right in OTHER_SIDE.items()}
SIDE = re.compile(rf"\b({'|'.join(sorted(OTHER_SIDE, key=len, reverse=True))})\b", re.IGNORECASE)


def mirrored_text(text: str) -> str:
    """The sentence with its sides exchanged; upper and lower case stay. A lone `l` or `r` is a side in capitals only."""

    def other(found: re.Match[str]) -> str:
        word = found[0]
        if len(word) == 1 and word.islower():
            return word
        swapped = OTHER_SIDE[word.lower()]
        return swapped.upper() if word.isupper() else swapped.capitalize() if word[0].isupper() else swapped

    return SIDE.sub(other, text)

"""Names of what is said: a sentence by its normalised text, a statement by finding, polarity and place.

Apart from `sentence_classes`, so that a shard's job starts without numpy.
"""

import hashlib
import re
from functools import lru_cache

from glint.prepare.sections.lexicon import load_lexicon

_SIZE = re.compile(
    r"\b\d+(?:[.,]\d+)?(?:\s*(?:mm|cm)?\s*[x×*-]\s*\d+(?:[.,]\d+)?)*\s*(?:mm|cm|millimet(?:er|re)s?|centimet(?:er|re)s?)\b"
)


def normalise_sentence(text: str) -> str:
    """Text that decides a sentence's identity: lower case, without sizes, comparison words, enumerator, punctuation."""
    lexicon = load_lexicon()
    normal = _SIZE.sub(" ", text.lower())
    normal = lexicon.comparison.sub(" ", normal)
    normal = re.sub(r"^\s*(?:\(?\d{1,2}[.)]|[-*•])\s+", " ", normal)
    normal = re.sub(r"[^\w\s/%?-]", " ", normal)
    return " ".join(normal.split())


@lru_cache(maxsize=50_000)
def sentence_class(text: str) -> str:
    """16 hex digits of the SHA-256 of the normalised sentence."""
    return _digest16(normalise_sentence(text))


@lru_cache(maxsize=50_000)
def finding_class(finding: str, polarity: str, laterality: str | None, region: str | None) -> str:
    """16 hex digits that name the statement (finding, polarity, laterality, region)."""
    return _digest16("|".join((finding, polarity, laterality or "", region or "")))


def _digest16(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]

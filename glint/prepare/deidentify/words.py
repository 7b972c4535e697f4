"""Words that decide whether a capitalised word is a name; the long lists lie in `data/`, each with its purpose."""

import re
from pathlib import Path


def _read_words(name: str) -> frozenset[str]:
    lines = (Path(__file__).parent / "data" / name).read_text(encoding="utf-8").splitlines()
    return frozenset(word for line in lines if not line.startswith("#") for word in line.split())


NEVER_NAMES = _read_words("never_names.txt")
COMMON = _read_words("common_words.txt") | NEVER_NAMES
EPONYMS = _read_words("eponyms.txt")
PARTICLES = _read_words("name_particles.txt")
GENERIC_PLACES = _read_words("generic_places.txt")
GIVEN = _read_words("given_names.txt") - EPONYMS - NEVER_NAMES
CREDENTIALS = r"(?:,?\s*(?:M\.?D\.?|D\.?O\.?|Ph\.?D\.?|FRCR|FRCPC|FACR|FCCP|MBBS|MBChB|RN|RT(?:\(R\))?|PA-C|NP)\b\.?)"
NO_FAMILY = COMMON | EPONYMS
# Endings of findings, procedures and adjectives; hardly a surname has one.
_CLINICAL = re.compile(
    r"(?:itis|osis|asis|omas?|aemia|emia|edema|pathy|ectomy|tomy|plasty|grams?|graphy|scopy|megaly|pnea|thorax|trophy|plasia|algia|"
    r"sclerosis|stenosis|ations?|ulars?|ical|eal|ous|ity|ism|cancer|lesions?|aspiration|fibrosis|effusions?|sepsis|vertebrae?|metric|toraks|rays?)$"
)
_ABBREVIATIONS = frozenset(
    ["ards", "corads", "covid", "cts", "fdg", "gold", "hrct", "icd", "mri", "nsclc", "pet", "picc", "sclc"]
)


def may_be_a_name(word: str) -> bool:
    """False for words of reports, eponyms, masks, and what ends as findings do."""
    plain = word.lower()
    return (
        plain not in NO_FAMILY
        and not set(plain) <= {"x"}
        and "xxx" not in plain
        and plain not in _ABBREVIATIONS
        and not _CLINICAL.search(plain)
    )

"""Words that decide whether a capitalised word is a name; the long lists lie in `data/`, each with its purpose."""

from pathlib import Path


def _read_words(name: str) -> frozenset[str]:
    lines = (Path(__file__).parent / "data" / name).read_text(encoding="utf-8").splitlines()
    return frozenset(word for line in lines if not line.startswith("#") for word in line.split())


NEVER_NAMES = _read_words("never_names.txt")
COMMON = _read_words("common_words.txt") | NEVER_NAMES
EPONYMS = _read_words("eponyms.txt")
PARTICLES = _read_words("name_particles.txt")
GENERIC_PLACES = _read_words("generic_places.txt")
CREDENTIALS = r"(?:,?\s*(?:M\.?D\.?|D\.?O\.?|Ph\.?D\.?|FRCR|FRCPC|FACR|FCCP|MBBS|MBChB|RN|RT(?:\(R\))?|PA-C|NP)\b\.?)"

"""The report lexicon: headers, findings, negation and place words, read from the data files beside this module."""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

_DATA = Path(__file__).parent / "data"


@dataclass(frozen=True, kw_only=True)
class Lexicon:
    """Compiled word lists. `findings` and `regions` keep the order of the file, which fixes their integer codes."""

    version: str
    findings: tuple[str, ...]
    finding_parents: dict[str, str]
    regions: tuple[str, ...]
    region_parents: dict[str, str]
    comparison: re.Pattern[str]


@cache
def load_lexicon() -> Lexicon:
    """Read `data/findings.toml` once."""
    data: dict[str, Any] = tomllib.loads((_DATA / "findings.toml").read_text("utf-8"))
    findings: dict[str, dict[str, Any]] = data["findings"]
    regions: dict[str, dict[str, Any]] = data["regions"]
    return Lexicon(
        version=data["version"],
        findings=tuple(findings),
        finding_parents={name: entry["parent"] for name, entry in findings.items() if "parent" in entry},
        regions=tuple(regions),
        region_parents={name: entry["within"] for name, entry in regions.items() if "within" in entry},
        comparison=re.compile(rf"\b(?:{'|'.join(data['comparison']['phrases'])})\b", re.IGNORECASE),
    )

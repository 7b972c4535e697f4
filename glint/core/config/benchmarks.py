"""Benchmarks by name, from `data/benchmarks.toml`: findings, wording, templates, and what keeps a number from being compared."""

import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """`findings`: name → published finding. `wording`: name → words of the prompt."""

    name: str
    annotations: str
    source: str
    images: str
    not_alike: str
    positive: tuple[str, ...]
    negative: tuple[str, ...]
    findings: dict[str, str]
    wording: dict[str, str]


@cache
def load_benchmarks() -> dict[str, Benchmark]:
    """Read `data/benchmarks.toml`."""
    tree = tomllib.loads((Path(__file__).parent / "data" / "benchmarks.toml").read_text(encoding="utf-8"))
    return {name: _benchmark(name, dict(entry)) for name, entry in tree.items()}


def _benchmark(name: str, entry: dict[str, object]) -> Benchmark:
    findings = entry["findings"]
    said = entry.get("wording", {})
    assert isinstance(findings, dict) and isinstance(said, dict)
    keep = bool(entry.get("keep_case", False))
    wording = {str(one): str(said.get(one, one if keep else one.lower())) for one in findings}
    positive, negative = entry["positive"], entry["negative"]
    assert isinstance(positive, list) and isinstance(negative, list)
    return Benchmark(
        name=name,
        annotations=str(entry["annotations"]),
        source=str(entry["source"]),
        images=str(entry["images"]),
        not_alike=str(entry["not_alike"]),
        positive=tuple(positive),
        negative=tuple(negative),
        findings={str(one): str(published) for one, published in findings.items()},
        wording=wording,
    )

"""Canonical sentences of a finding, the same in training and evaluation."""


def finding_prompt(finding: str, *, laterality: str | None = None, absent: bool = False) -> str:
    """`There is [no] [left|right|bilateral] <finding>.` with the registry name's underscores as spaces."""
    words = ["There is", "no" if absent else "", laterality or "", finding.replace("_", " ")]
    return " ".join(word for word in words if word) + "."

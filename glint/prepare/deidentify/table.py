"""The attribute confidentiality profile as a lookup: tag → one action under the chosen options.

Source: DICOM PS3.15 Table E.1-1; `data/README.md` says which edition, from where, and what the codes mean.
"""

import csv
from collections.abc import Mapping
from functools import cache
from pathlib import Path

TABLE_FILE = Path(__file__).parent / "data" / "profile_table.csv"
EDITION = "2026c"


@cache
def profile_rows() -> tuple[Mapping[str, str], ...]:
    """Every row of the table, in order of tag."""
    with TABLE_FILE.open(encoding="utf-8", newline="") as handle:
        return tuple(csv.DictReader(handle))


def profile_actions(*options: str) -> dict[int, str]:
    """Tag → `X` remove, `Z` empty, `D` dummy, `U` new UID, `K` keep, `C` clean.

    An option (a column name such as `modified_dates` or `patient`) overrides the Basic Profile where it has an action.
    A compound action takes its rightmost code, which keeps the object valid whatever its type. Repeating groups
    (curves, overlays) are not in the result: the engine drops them whole.
    """
    actions: dict[int, str] = {}
    for row in profile_rows():
        if "x" in row["tag"]:
            continue
        chosen = next((row[option] for option in options if row[option]), row["basic"])
        if chosen == "X/Z" and row["keyword"].endswith("Sequence"):
            chosen = "X"  # optional in every image, where an empty one is invalid
        actions[int(row["tag"], 16)] = chosen.rsplit("/", 1)[-1]
    return actions


@cache
def verbatim_tags() -> frozenset[int]:
    """Attributes that the Retain Device Identity Option keeps as they are; UIDs among them are mapped all the same."""
    return frozenset(int(row["tag"], 16) for row in profile_rows() if row["device"] == "K" and "x" not in row["tag"])

"""SHA-256 of the large files of a folder, noted by who wrote them: `sha256sum -c sha256.txt` checks it.

A shard's folder holds tens of gigabytes. Hashed where they are written, by every worker its own, files are not read a second
time for the receipt, and the next stage can tell that it reads what was written.
"""

from collections.abc import Mapping
from pathlib import Path

from glint.core.atomic import write_text
from glint.core.errors import InputError

SUMS_NAME = "sha256.txt"


def write_sums(folder: Path, sums: Mapping[str, str]) -> None:
    """Note `sums` (path below `folder` → SHA-256) in the format of coreutils."""
    write_text(folder / SUMS_NAME, "".join(f"{of}  {name}\n" for name, of in sorted(sums.items())))


def read_sums(folder: Path) -> dict[str, str]:
    """Path below `folder` → SHA-256 as noted; empty where nothing is."""
    file = folder / SUMS_NAME
    if not file.is_file():
        return {}
    lines = file.read_text(encoding="utf-8").splitlines()
    return {name: of for of, _, name in (line.partition("  ") for line in lines)}


def sums_by_folder(folder: Path) -> dict[str, dict[str, str]]:
    """The same as folder below `folder` → file name → SHA-256."""
    found: dict[str, dict[str, str]] = {}
    for path, of in read_sums(folder).items():
        below, _, name = path.rpartition("/")
        found.setdefault(below, {})[name] = of
    return found


def check_sums(folder: Path, noted: Mapping[str, str], found: Mapping[str, str]) -> None:
    """Compare what lies in `folder` with what was written there; what was never noted passes.

    Raises:
        InputError: a noted file is absent, or is another one: of another revision, changed, damaged.
    """
    for name, of in noted.items():
        if found.get(name) == of:
            continue
        what = "is another file than was written there" if name in found else "is no longer there"
        raise InputError(
            f"{folder / name} {what} ({SUMS_NAME} of its shard says so); remove the shard's manifest and call again: "
            "the stage that made it makes it anew"
        )

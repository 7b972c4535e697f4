"""Search everything a pipeline wrote for the identities that the demo planted.

    python tests/planted_identities.py restricted/ct/00_demo/identities.json results logs

Prints the number of files and needles, and every hit by kind and file; exits with 1 where there is one. Study dates are left
to the tests of stage 02: a shifted date of one patient may equal a true one of another.
"""

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import polars as pl

WHOLE = ("institution", "address", "free_text", "overlay")
PARTS = ("patient_name", "family_name", "physician", "operator", "private", "path")
TOKEN = re.compile(rb"[a-z0-9][a-z0-9.\-]{4,}")


def needles(identities: list[dict[str, str]]) -> tuple[dict[bytes, str], dict[bytes, str]]:
    """Single tokens and whole phrases to search for, lower case, each with its kind."""
    tokens: dict[bytes, str] = {}
    phrases: dict[bytes, str] = {}
    for entry in identities:
        kind, value = entry["kind"], entry["value"].lower()
        if kind in WHOLE:
            phrases[value.encode()] = kind
        elif kind in PARTS:
            for part in re.split(r"[^a-z0-9]+", value):
                if len(part) >= 5 and not re.fullmatch(r"\d{8}", part):
                    tokens[part.encode()] = kind
        elif kind != "study_date":
            tokens[value.encode()] = kind
    return tokens, phrases


def contents(path: Path) -> Iterator[bytes]:
    """The file's bytes, and for a compressed table its text."""
    yield path.as_posix().encode()
    yield path.read_bytes()
    if path.suffix == ".parquet":
        frame = pl.read_parquet(path)
        yield (
            frame.select(pl.all().cast(pl.String, strict=False)).write_csv().encode()
            if not any(dtype.is_nested() for dtype in frame.dtypes)
            else frame.write_json().encode()
        )


def search(identities_path: Path, folders: list[Path]) -> tuple[int, int, list[str]]:
    """Files searched, needles, and hits as `kind in file`."""
    tokens, phrases = needles(json.loads(identities_path.read_text()))
    files = [path for folder in folders for path in sorted(folder.rglob("*")) if path.is_file()]
    hits = []
    for path in files:
        for content in contents(path):
            lower = content.lower()
            found = {
                tokens[token.rstrip(b".-")] for token in set(TOKEN.findall(lower)) if token.rstrip(b".-") in tokens
            }
            if len(lower) < 4_000_000:
                found |= {kind for phrase, kind in phrases.items() if phrase in lower}
            hits.extend(f"{kind} in {path}" for kind in sorted(found))
    return len(files), len(tokens) + len(phrases), hits


if __name__ == "__main__":
    num_files, num_needles, found_hits = search(Path(sys.argv[1]), [Path(name) for name in sys.argv[2:]])
    print(f"{num_files} files searched for {num_needles} planted identities: {len(found_hits)} hits")
    for hit in found_hits[:50]:
        print(hit)
    sys.exit(bool(found_hits))

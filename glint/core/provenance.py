"""What an artefact was made from: digests of files, values and code."""

import ast
import hashlib
import json
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

PACKAGE_DIR = Path(__file__).resolve().parents[1]


def sha256_bytes(content: bytes) -> str:
    """Hexadecimal SHA-256 of `content`."""
    return hashlib.sha256(content).hexdigest()


def sha256_file(path: Path | str) -> str:
    """Hexadecimal SHA-256 of a file's bytes, read in pieces."""
    with Path(path).open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no optional white space: equal values give equal text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def digest(value: Any) -> str:
    """Hexadecimal SHA-256 of the canonical JSON of `value`."""
    return sha256_bytes(canonical_json(value).encode())


def _module_file(module: str) -> Path | None:
    relative = Path(*module.split(".")[1:]) if "." in module else Path()
    for candidate in (PACKAGE_DIR / relative.with_suffix(".py"), PACKAGE_DIR / relative / "__init__.py"):
        if module.startswith("glint") and candidate.is_file():
            return candidate
    return None


@cache
def _imports(path: Path) -> tuple[str, ...]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names if alias.name.startswith("glint"))
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("glint"):
            found.add(node.module)
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
    return tuple(sorted(found))


def reached_modules(module: str) -> tuple[str, ...]:
    """`module` and every `glint` module that it imports, directly or through others, in order of name."""
    reached: set[str] = set()
    waiting = [module]
    while waiting:
        name = waiting.pop()
        path = _module_file(name)
        if name in reached or path is None:
            continue
        reached.add(name)
        waiting.extend(_imports(path))
    return tuple(sorted(reached))


def _files(modules: Iterable[str]) -> list[Path]:
    """Source files of `modules` with the data files of their packages (lexicons, tables, templates)."""
    files: set[Path] = set()
    for name in modules:
        path = _module_file(name)
        if path is None:
            continue
        files.add(path)
        for folder in ("data", "templates"):
            files.update(entry for entry in (path.parent / folder).glob("*") if entry.is_file())
    return sorted(files)


@cache
def code_digest(module: str) -> str:
    """Digest of the code that running `module` reaches inside this package, its data files included.

    Source: shell rules hide library edits from Snakemake; this digest, given as a parameter, shows them.
    """
    return digest([[str(path.relative_to(PACKAGE_DIR)), sha256_file(path)] for path in _files(reached_modules(module))])

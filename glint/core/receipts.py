"""Receipts: what each job made, and from what. They, not modification times, decide what is stale.

A receipt lies at `<root>/<modality>/receipts/<stage>/<job>.json` beside the stages, so that a comment edited in a stage's
code changes its receipts and not its data. It holds no time and no host: equal work gives equal bytes. `glint.core.reconcile`
compares them with the workspace.
"""

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from glint.core.atomic import write_json
from glint.core.errors import InputError
from glint.core.provenance import digest, sha256_file
from glint.core.sums import read_sums

COVERED = "covered by the recipe"
"""Identity of an input whose content the recipe already speaks for, such as the configuration file."""
RAW = "demo"
"""The stage whose outputs are raw input once they are there: a person may edit them, and is heard."""
_HASHING_THREADS = min(8, os.cpu_count() or 1)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What besides its inputs decides a job's output: digests of the stage's configuration and of the code it reaches."""

    config: str
    code: str


@dataclass(frozen=True, kw_only=True)
class Receipt:
    """One job: path → identity of every input and output; paths are relative to the working folder where they can be."""

    stage: str
    modality: str
    recipe: Recipe
    inputs: Mapping[str, str]
    outputs: Mapping[str, str]
    files: Mapping[str, str]
    """Path → SHA-256 of the declared outputs alone, quick to check again."""


def receipt_path(output: str, log: str) -> Path:
    """Where the receipt of the job that writes `output` and `log` lies.

    `logs/ct/03_convert/shard-000.log` → `results/ct/receipts/03_convert/shard-000.json`; jobs whose output lies under
    `restricted/` keep their receipts there too, since an input path may name a patient.
    """
    _, modality, *rest = Path(log).parts
    return Path(Path(output).parts[0], modality, "receipts", *rest).with_suffix(".json")


def _visible(folder: Path) -> Iterable[Path]:
    """Files below `folder` in order of name, without those that are still being written."""
    for entry in sorted(folder.iterdir()):
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            yield from _visible(entry)
        else:
            yield entry


def identity_of_output(output: Path, *, alone: bool) -> str:
    """SHA-256 of `output`; of every file of its folder where it is the folder's only declared output.

    What the job noted of its own files (`glint.core.sums`) is believed: it wrote them a moment ago.
    """
    if not alone:
        return sha256_file(output)
    folder = output.parent
    files = [path.relative_to(folder).as_posix() for path in _visible(folder)]
    noted = read_sums(folder)
    # Threads: hashing and reading release the interpreter's lock.
    with ThreadPoolExecutor(_HASHING_THREADS) as pool:
        digests = pool.map(lambda name: noted.get(name) or sha256_file(folder / name), files)
        return digest([[name, of] for name, of in zip(files, digests, strict=True)])


def identity_of_input(path: Path, made: Mapping[str, str]) -> str | None:
    """What upstream's receipt says of `path`, else its SHA-256, of a folder its time; None where it is absent or closed.

    `restricted/` is closed to all but its owner: what another user can't see can't be seen to have changed.

    Raw folders hold millions of files: as for Snakemake, the folder's own time says that an entry came or went.
    """
    if str(path) in made:
        return made[str(path)]
    try:
        if path.is_dir():
            return f"folder of {path.stat().st_mtime_ns}"
        return sha256_file(path) if path.is_file() else None
    except PermissionError:
        return None


def read_receipts(root: Path, pattern: str = "*/*/receipts/*/*.json") -> dict[Path, Receipt]:
    """Every receipt below `root`, in order of stage; one that can't be read counts as none."""
    found: dict[Path, Receipt] = {}
    places = [path for path in root.glob(pattern) if path.relative_to(root).parts[0] in ("restricted", "results")]
    for path in sorted(places, key=lambda path: (path.parent.name, path.name)):
        try:
            value = json.loads(path.read_text(encoding="utf-8"))
            found[path] = Receipt(**{**value, "recipe": Recipe(**value["recipe"])})
        except (ValueError, TypeError, KeyError):
            continue
    return found


def made_by(receipts: Iterable[Receipt]) -> dict[str, str]:
    """Path → identity of every output that a receipt vouches for."""
    vouching = [receipt for receipt in receipts if receipt.stage != RAW]
    return {path: identity for receipt in vouching for path, identity in receipt.outputs.items()}


def _made_upstream(inputs: Sequence[str]) -> dict[str, str]:
    """Path → identity of what the jobs of the inputs' own stages made: `results/ct/03_convert/…` has its receipts in one folder."""
    stages = {path.parts[:3] for path in map(Path, inputs) if len(path.parts) > 3 and not path.is_absolute()}
    patterns = [f"{top}/{modality}/receipts/{stage}/*.json" for top, modality, stage in sorted(stages)]
    return made_by(receipt for pattern in patterns for receipt in read_receipts(Path(), pattern).values())


def write_receipt(
    *,
    stage: str,
    modality: str,
    recipe: Recipe,
    inputs: Sequence[str],
    covered: Sequence[str] = (),
    outputs: Sequence[str],
    to: Path,
) -> None:
    """Write down what a finished job made; the working folder is the run's.

    Args:
        covered: Further inputs whose content the recipe speaks for.

    Raises:
        InputError: an output is not there.
    """
    absent = [path for path in outputs if not Path(path).is_file()]
    if absent:
        raise InputError(f"{absent[0]}: no such output; a receipt is written when the job is done")
    folders = [Path(path).parent for path in outputs]
    made = _made_upstream(inputs)
    known = {path: identity_of_input(Path(path), made) for path in inputs} | dict.fromkeys(covered, COVERED)
    alone = {path: folders.count(Path(path).parent) == 1 for path in outputs}
    write_json(
        to,
        {
            "stage": stage,
            "modality": modality,
            "recipe": {"config": recipe.config, "code": recipe.code},
            "inputs": {path: identity for path, identity in sorted(known.items()) if identity},
            "outputs": {path: identity_of_output(Path(path), alone=alone[path]) for path in sorted(outputs)},
            "files": {path: sha256_file(path) for path in sorted(outputs)},
        },
    )

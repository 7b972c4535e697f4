"""Receipts: what each job made, and from what. They, not modification times, decide what is stale.

A receipt lies at `<root>/<modality>/receipts/<stage>/<job>.json` beside the stages, so that a comment edited in a stage's
code changes its receipts and not its data. It holds no time and no host: equal work gives equal bytes. Snakemake compares
modification times alone, which `dvc pull` and `git checkout` scramble; `reconcile` sets them to say what the receipts say.
"""

import json
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from glint.core.atomic import write_json
from glint.core.config.schema import Config, modalities_of, stage_slice, train_slice
from glint.core.errors import ConfigError, InputError
from glint.core.provenance import code_digest, digest, sha256_file

COVERED = "covered by the recipe"
"""Identity of an input whose content the recipe already speaks for, such as the configuration file."""
RAW = "demo"
"""The stage whose outputs are raw input once they are there: a person may edit them, and is heard."""
_HASHING_THREADS = min(8, os.cpu_count() or 1)
STALE_S = 1.0
"""Modification time, in seconds since 1970, of an output that has to be made again: older than any input."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What besides its inputs decides a job's output: digests of the stage's configuration and of the code it reaches."""

    config: str
    code: str


def recipe_of(config: Config, stage: str, modality: str, job: str = "") -> Recipe | None:
    """What a job of `stage` would be made with now; None where there is no such stage, modality or experiment.

    Training's `job` is a run's name, whose experiment changes the stage's values. The downstream tasks of evaluation,
    `downstream-probe` and others, are a command of their own; what only they read makes no other job stale.

    The number of shards belongs to it: another number is another set of inputs for every stage that gathers.
    """
    if stage not in Config.model_fields or modality not in modalities_of(stage):
        return None
    num_shards = getattr(config.index, modality).num_shards
    try:
        values = (
            train_slice(config, modality, job) if stage == "train" and job else stage_slice(config, stage, modality)
        )
    except ConfigError:
        return None
    command = stage
    if stage == "evaluate":
        if job.startswith("downstream-"):
            command = "downstream"
        else:
            values.pop("downstream")
    return Recipe(config=digest([values, num_shards]), code=code_digest(f"glint.cli.{command}"))


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


def benchmark_path(receipt: Path) -> Path:
    """The benchmark table of the job that `receipt` speaks of; Snakemake counts it among the outputs when it compares times.

    `results/ct/receipts/03_convert/shard-000.json` → `logs/ct/03_convert/shard-000.benchmark.tsv`.
    """
    _, modality, _, stage, name = receipt.parts[-5:]
    root = Path(*receipt.parts[:-5])
    return root / "logs" / modality / stage / Path(name).with_suffix(".benchmark.tsv")


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
    """SHA-256 of `output`; of every file of its folder where it is the folder's only declared output."""
    if not alone:
        return sha256_file(output)
    folder = output.parent
    files = list(_visible(folder))
    # Threads: hashing and reading release the interpreter's lock, and a shard's folder may hold tens of gigabytes.
    with ThreadPoolExecutor(_HASHING_THREADS) as pool:
        digests = pool.map(sha256_file, files)
        return digest([[path.relative_to(folder).as_posix(), of] for path, of in zip(files, digests, strict=True)])


def _identity_of_input(path: Path, made: Mapping[str, str]) -> str | None:
    """What upstream's receipt says of `path`, else its SHA-256, of a folder its time; None where it is absent.

    Raw folders hold millions of files: as for Snakemake, the folder's own time says that an entry came or went.
    """
    if str(path) in made:
        return made[str(path)]
    if path.is_dir():
        return f"folder of {path.stat().st_mtime_ns}"
    return sha256_file(path) if path.is_file() else None


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
    known = {path: _identity_of_input(Path(path), made) for path in inputs} | dict.fromkeys(covered, COVERED)
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


def _why_stale(receipt: Receipt, recipe: Recipe | None, made: Mapping[str, str], root: Path) -> str | None:
    """The first reason why `receipt` no longer describes the workspace, or None where it does."""
    if recipe is None:
        return "no such stage or experiment"
    if receipt.recipe.config != recipe.config:
        return "configuration changed"
    if receipt.recipe.code != recipe.code:
        return "code changed"
    for path, known in receipt.inputs.items():
        present = made[path] if path in made else _identity_of_input(root / path, {})
        # An absent input can't have changed: a clone that pulled tokens alone may train on them.
        if known != COVERED and present is not None and present != known:
            return "an input changed"
    for path, known in receipt.files.items():
        if not (root / path).is_file():
            return "an output is absent"
        if receipt.stage != RAW and sha256_file(root / path) != known:
            return "an output is not what the job made"
    return None


def _stamp(path: Path, seconds: float) -> bool:
    """Set the modification time of `path`, and of the link itself where DVC made it one: Snakemake looks at the link.

    False where the file system or another owner forbids it. Of a link its own time counts: what it points to may lie in a
    cache that is read-only or shared.
    """
    linked = path.is_symlink()
    for link_itself in (False, True) if linked else (False,):
        try:
            os.utime(path, (seconds, seconds), follow_symlinks=not link_itself)
        except OSError:
            if link_itself or not linked:
                return False
    return True


def _time_s(path: Path) -> float:
    try:
        return path.lstat().st_mtime
    except FileNotFoundError:
        return 0.0


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What `reconcile` found: receipt file → reason, for what has to be made again; how many jobs stand; which outputs
    could not be given the time they should have, on a read-only disk or because they are another user's."""

    stale: Mapping[Path, str]
    num_fresh: int
    unstamped: Sequence[Path] = ()


def judge(root: Path, config: Config) -> tuple[dict[Path, Receipt], Verdict]:
    """All receipts below `root` and which of them are stale; nothing is touched.

    What a stale job made still counts as present: its consumers are judged by the content they read.
    """
    receipts = read_receipts(root)
    made = made_by(receipts.values())
    reasons = {
        path: _why_stale(receipt, recipe_of(config, receipt.stage, receipt.modality, path.stem), made, root)
        for path, receipt in receipts.items()
    }
    stale = {path: reason for path, reason in reasons.items() if reason}
    return receipts, Verdict(stale=stale, num_fresh=len(receipts) - len(stale))


def reconcile(root: Path, config: Config) -> Verdict:
    """Make modification times say what the receipts say; contents are never touched.

    An output whose job still stands becomes newer than its inputs, one whose job does not becomes older than anything.
    What has no receipt is left to Snakemake's own rules.
    """
    receipts, verdict = judge(root, config)
    now_s = time.time()
    unstamped: list[Path] = []
    for path, receipt in receipts.items():
        outputs = [root / output for output in receipt.outputs]
        outputs = [output for output in (*outputs, benchmark_path(path)) if output.is_file()]
        if path in verdict.stale:
            unstamped += [out for out in outputs if _time_s(out) != STALE_S and not _stamp(out, STALE_S)]
            continue
        newest_s = max((_time_s(root / name) for name in receipt.inputs), default=0.0)
        late = [out for out in outputs if _time_s(out) < newest_s or _time_s(out) == STALE_S]
        unstamped += [out for out in late if not _stamp(out, now_s)]
    return replace(verdict, unstamped=unstamped)

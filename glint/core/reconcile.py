"""Which receipts no longer describe the workspace, and modification times that say so.

Snakemake compares modification times alone, which `dvc pull` and `git checkout` scramble; `reconcile` sets them to say what
the receipts say. Apart from `glint.core.receipts`, since the command that every job ends with needs no configuration.
"""

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from glint.core.config.schema import Config, modalities_of, stage_slice, train_slice
from glint.core.errors import ConfigError
from glint.core.provenance import code_digest, digest, sha256_file
from glint.core.receipts import COVERED, RAW, Receipt, Recipe, identity_of_input, made_by, read_receipts

STALE_S = 1.0
"""Modification time, in seconds since 1970, of an output that has to be made again: older than any input."""


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


def benchmark_path(receipt: Path) -> Path:
    """The benchmark table of the job that `receipt` speaks of; Snakemake counts it among the outputs when it compares times.

    `results/ct/receipts/03_convert/shard-000.json` → `logs/ct/03_convert/shard-000.benchmark.tsv`.
    """
    _, modality, _, stage, name = receipt.parts[-5:]
    root = Path(*receipt.parts[:-5])
    return root / "logs" / modality / stage / Path(name).with_suffix(".benchmark.tsv")


def _why_stale(receipt: Receipt, recipe: Recipe | None, made: Mapping[str, str], root: Path) -> str | None:
    """The first reason why `receipt` no longer describes the workspace, or None where it does."""
    if recipe is None:
        return "no such stage or experiment"
    if receipt.recipe.config != recipe.config:
        return "configuration changed"
    if receipt.recipe.code != recipe.code:
        return "code changed"
    for path, known in receipt.inputs.items():
        present = made[path] if path in made else identity_of_input(root / path, {})
        # An absent input can't have changed: a clone that pulled tokens alone may train on them.
        if known != COVERED and present is not None and present != known:
            return "an input changed"
    for path, known in receipt.files.items():
        if not os.path.isfile(root / path):  # unlike pathlib's: False in a folder that is closed to this user
            return "an output is absent"
        if receipt.stage == RAW:
            continue
        try:
            if sha256_file(root / path) != known:
                return "an output is not what the job made"
        except PermissionError:
            return "an output can't be read by this user"
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
    except (FileNotFoundError, PermissionError):
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
        outputs = [output for output in (*outputs, benchmark_path(path)) if os.path.isfile(output)]
        if path in verdict.stale:
            unstamped += [out for out in outputs if _time_s(out) != STALE_S and not _stamp(out, STALE_S)]
            continue
        newest_s = max((_time_s(root / name) for name in receipt.inputs), default=0.0)
        late = [out for out in outputs if _time_s(out) < newest_s or _time_s(out) == STALE_S]
        unstamped += [out for out in late if not _stamp(out, now_s)]
    return replace(verdict, unstamped=unstamped)

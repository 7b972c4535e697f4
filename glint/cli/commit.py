"""`glint commit`: record what a direct Snakemake run made as DVC's current version."""

import argparse
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from glint.core.config.schema import read_config
from glint.core.errors import InputError
from glint.core.reconcile import Verdict, judge

HELP = "record what a direct snakemake run made as DVC's current version; refuses what is stale"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare options."""
    parser.add_argument(
        "--config-dir", type=Path, default=Path("config"), help="folder of config.yaml (default config)"
    )
    parser.add_argument("--dry-run", action="store_true", help="only name the stages that would be recorded")


def check_fresh(verdict: Verdict) -> None:
    """Refuse what the files in config/ and the code would not make: DVC would record it under a wrong name.

    Raises:
        InputError: a receipt is stale; names the first and how to go on.
    """
    for path, reason in verdict.stale.items():
        raise InputError(
            f"{path}: {reason} since it was made, and {len(verdict.stale) - 1} more; bring it up to date first "
            "(snakemake --cores N evaluate_ct), without --config, which DVC can't see"
        )


def recordable_stages(pipeline: dict[str, Any], root: Path) -> list[str]:
    """Names of the stages of `pipeline` (dvc.yaml) whose outputs are all there."""

    def paths(stage: dict[str, Any]) -> list[str]:
        listed = [*stage.get("outs", []), *stage.get("metrics", [])]
        return [entry if isinstance(entry, str) else next(iter(entry)) for entry in listed]

    return [name for name, stage in pipeline["stages"].items() if all((root / path).exists() for path in paths(stage))]


def run(args: argparse.Namespace) -> None:
    """Check, then let DVC hash and record.

    Raises:
        InputError: something is stale, nothing is there, or DVC refuses.
    """
    root = Path()
    _, verdict = judge(root, read_config(args.config_dir))
    check_fresh(verdict)
    if not (root / "dvc.yaml").is_file():
        raise InputError("dvc.yaml: not here; run glint commit in the repository's own folder")
    stages = recordable_stages(yaml.safe_load((root / "dvc.yaml").read_text(encoding="utf-8")), root)
    if not stages:
        raise InputError("results: no stage is complete; run snakemake --cores N evaluate_ct first")
    print(f"{verdict.num_fresh} jobs stand; recording {', '.join(stages)}")
    if args.dry_run:
        return
    if subprocess.run([sys.executable, "-m", "dvc", "commit", "--force", "--quiet", *stages], check=False).returncode:
        raise InputError("dvc.lock: DVC could not record the outputs; its words are above")
    print("recorded: git add dvc.lock, git commit, dvc push")

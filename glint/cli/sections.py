"""`glint sections`: stage 05, de-identified reports → sections, sentences, findings."""

import argparse
from pathlib import Path

from glint.cli.arguments import add_config_argument, stage_config_from_args
from glint.core.config.sections import SectionsConfig
from glint.prepare.sections.shard import section_shard

HELP = "de-identified reports to sections, sentences and findings with their character spans"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare inputs, outputs and options."""
    parser.add_argument("--manifest", type=Path, required=True, help="report manifest of stage 02, one row per study")
    parser.add_argument("--out", type=Path, required=True, help="manifest to write; its folder is made whole")
    parser.add_argument("--workers", type=int, default=1, help="processes (default 1)")
    add_config_argument(parser)


def run(args: argparse.Namespace) -> None:
    """Read one shard's reports."""
    section_shard(args.manifest, args.out, stage_config_from_args(args, SectionsConfig), workers=args.workers)

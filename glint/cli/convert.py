"""`glint convert`: stage 03, de-identified CT series → NIfTI volumes in HU."""

import argparse
from pathlib import Path

from glint.cli.arguments import add_config_argument, stage_config_from_args
from glint.core.config.convert import ConvertConfig
from glint.prepare.convert import convert_shard

HELP = "de-identified CT series to NIfTI volumes in HU, through the geometry gate"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare inputs, outputs and options."""
    parser.add_argument("--manifest", type=Path, required=True, help="image manifest of stage 02, one row per series")
    parser.add_argument("--out", type=Path, required=True, help="manifest to write; its folder is made whole")
    parser.add_argument("--workers", type=int, default=1, help="series converted at a time (default 1)")
    add_config_argument(parser)


def run(args: argparse.Namespace) -> None:
    """Convert one shard."""
    convert_shard(args.manifest, args.out, stage_config_from_args(args, ConvertConfig), workers=args.workers)

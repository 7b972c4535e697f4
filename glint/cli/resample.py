"""`glint resample`: stage 04, one volume per study on the grid of the model."""

import argparse
from pathlib import Path

from glint.cli.arguments import add_config_argument, stage_config_from_args
from glint.core.config.resample import ResampleConfig
from glint.prepare.resample import resample_shard

HELP = "one volume per study on the grid of the model, antialiased, with its true affine"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare inputs, outputs and options."""
    parser.add_argument("--manifest", type=Path, required=True, help="manifest of stage 03, one row per series")
    parser.add_argument("--out", type=Path, required=True, help="manifest to write; its folder is made whole")
    parser.add_argument("--workers", type=int, default=1, help="studies resampled at a time (default 1)")
    add_config_argument(parser)


def run(args: argparse.Namespace) -> None:
    """Resample one shard."""
    resample_shard(args.manifest, args.out, stage_config_from_args(args, ResampleConfig), workers=args.workers)

"""`glint resample`: stage 04, one volume or film per study on the grid of the model."""

import argparse
from pathlib import Path

from glint.cli.arguments import add_config_argument, add_modality_argument, stage_config_from_args
from glint.core.config.resample import FilmResampleConfig, ResampleConfig
from glint.prepare.resample import resample_shard
from glint.prepare.resample.films import resample_films

HELP = "one volume or film per study on the grid of the model, antialiased, with its true affine"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare inputs, outputs and options."""
    parser.add_argument("--manifest", type=Path, required=True, help="manifest of stage 03, one row per series or film")
    parser.add_argument("--out", type=Path, required=True, help="manifest to write; its folder is made whole")
    parser.add_argument("--workers", type=int, default=1, help="studies resampled at a time (default 1)")
    add_modality_argument(parser, STAGES)
    add_config_argument(parser)


def _resample_ct(args: argparse.Namespace) -> None:
    resample_shard(args.manifest, args.out, stage_config_from_args(args, ResampleConfig), workers=args.workers)


def _resample_cxr(args: argparse.Namespace) -> None:
    resample_films(args.manifest, args.out, stage_config_from_args(args, FilmResampleConfig), workers=args.workers)


STAGES = {"ct": _resample_ct, "cxr": _resample_cxr}


def run(args: argparse.Namespace) -> None:
    """Resample one shard."""
    STAGES[args.modality](args)

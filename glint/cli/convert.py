"""`glint convert`: stage 03, de-identified CT series → NIfTI volumes in HU, films → 16-bit images."""

import argparse
from pathlib import Path

from glint.cli.arguments import add_config_argument, add_modality_argument, stage_config_from_args
from glint.core.config.convert import ConvertConfig, FilmConvertConfig
from glint.prepare.convert import convert_shard
from glint.prepare.convert.films import convert_films

HELP = "de-identified CT series to NIfTI volumes in HU, through the geometry gate; films to 16-bit images"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare inputs, outputs and options."""
    parser.add_argument("--manifest", type=Path, required=True, help="image manifest of stage 02, one row per series")
    parser.add_argument("--out", type=Path, required=True, help="manifest to write; its folder is made whole")
    parser.add_argument("--workers", type=int, default=1, help="series converted at a time (default 1)")
    add_modality_argument(parser, STAGES)
    add_config_argument(parser)


def _convert_ct(args: argparse.Namespace) -> None:
    convert_shard(args.manifest, args.out, stage_config_from_args(args, ConvertConfig), workers=args.workers)


def _convert_cxr(args: argparse.Namespace) -> None:
    convert_films(args.manifest, args.out, stage_config_from_args(args, FilmConvertConfig), workers=args.workers)


STAGES = {"ct": _convert_ct, "cxr": _convert_cxr}


def run(args: argparse.Namespace) -> None:
    """Convert one shard."""
    STAGES[args.modality](args)

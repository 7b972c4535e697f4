"""`glint split`: stage 06, studies → train, validation, test by patient."""

import argparse
from pathlib import Path

from glint.cli.arguments import add_config_argument, stage_config_from_args
from glint.cli.key_arguments import add_key_arguments, pseudonyms_from_args
from glint.core.config.split import SplitConfig
from glint.prepare.split import read_official, split_manifests

HELP = "train, validation and test by patient, checked for leakage"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare inputs, outputs and options."""
    parser.add_argument("--manifests", type=Path, nargs="+", required=True, help="image manifests of stage 02")
    parser.add_argument("--out", type=Path, required=True, help="manifest to write")
    add_key_arguments(parser)
    add_config_argument(parser)


def run(args: argparse.Namespace) -> None:
    """Divide the cohort; the key is read for a published split alone, whose patients have their original names."""
    config = stage_config_from_args(args, SplitConfig)
    official = read_official(Path(config.official), config, pseudonyms_from_args(args)) if config.official else None
    split_manifests(args.manifests, args.out, config, official)

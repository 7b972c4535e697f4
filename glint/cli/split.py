"""`glint split`: stage 06, studies → train, validation, test by patient."""

import argparse
from pathlib import Path

from glint.cli.arguments import add_config_argument, stage_config_from_args
from glint.core.config.split import SplitConfig
from glint.prepare.split import split_manifests

HELP = "train, validation and test by patient, checked for leakage"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare inputs, outputs and options."""
    parser.add_argument("--manifests", type=Path, nargs="+", required=True, help="image manifests of stage 02")
    parser.add_argument("--out", type=Path, required=True, help="manifest to write")
    add_config_argument(parser)


def run(args: argparse.Namespace) -> None:
    """Divide the cohort."""
    split_manifests(args.manifests, args.out, stage_config_from_args(args, SplitConfig))

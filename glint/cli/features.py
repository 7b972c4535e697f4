"""`glint features`: stage 08, the frozen teacher's tokens of one shard in one HDF5 file."""

import argparse
from functools import partial
from pathlib import Path

from glint.cli.arguments import add_config_argument, stage_config_from_args
from glint.core.config.features import FeaturesConfig

HELP = "the frozen teacher's patch tokens of one shard, in an HDF5 cache that knows what it was made from"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare inputs, outputs and options."""
    parser.add_argument("--manifest", type=Path, required=True, help="manifest of stage 04")
    parser.add_argument("--teacher", type=Path, required=True, help="folder of stage 07")
    parser.add_argument("--out", type=Path, required=True, help="manifest to write; the tokens go beside its folder")
    add_config_argument(parser)


def run(args: argparse.Namespace) -> None:
    """Encode one shard."""
    import torch

    from glint.prepare.resample import window_channels
    from glint.teachers.encode import encode_shard
    from glint.teachers.registry import load_teacher

    config = stage_config_from_args(args, FeaturesConfig)
    torch.set_num_threads(config.threads)
    teacher, record = load_teacher(args.teacher)
    channels = partial(window_channels, windows_hu=record.windows)
    encode_shard(args.manifest, args.out, teacher=teacher, record=record, channels=channels, config=config)

"""`glint teacher`: stage 07, a frozen teacher from the training split's own volumes, a path or the hub."""

import argparse
from functools import partial
from pathlib import Path

from glint.cli.arguments import add_config_argument, add_time_limit_argument, stage_config_from_args
from glint.core.config.teacher import TeacherConfig
from glint.core.stopping import time_limit

HELP = "frozen teacher weights, pinned by SHA-256: pretrained on the training split, or loaded"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare inputs, outputs and options."""
    parser.add_argument("--resampled", type=Path, nargs="+", required=True, help="manifests of stage 04, one per shard")
    parser.add_argument("--split", type=Path, required=True, help="manifest of stage 06")
    parser.add_argument("--out", type=Path, required=True, help="folder to make whole: weights, teacher.json, curves")
    parser.add_argument(
        "--state", type=Path, help="folder for the resumable state; without it a killed run starts anew"
    )
    add_time_limit_argument(parser)
    add_config_argument(parser)


def run(args: argparse.Namespace) -> None:
    """Make the teacher's folder."""
    limit = time_limit(args.max_minutes)
    from glint.prepare.resample import window_channels
    from glint.teachers.make import make_teacher
    from glint.training.distributed import ranks_of_this_job

    config = stage_config_from_args(args, TeacherConfig)
    with ranks_of_this_job() as ranks:
        make_teacher(
            args.resampled,
            args.split,
            args.out,
            config=config,
            channels=partial(window_channels, windows_hu=config.windows),
            state_dir=args.state,
            limit=limit,
            ranks=ranks,
            device=ranks.device(config.device),
        )

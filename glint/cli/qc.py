"""`glint qc`: a page of pictures, values and doubts per shard of stage 04."""

import argparse
import os
from pathlib import Path

from glint.core.config.schema import MODALITIES, read_config
from glint.core.errors import InputError

HELP = "a page per shard to look at: pictures, spacing, histogram, doubts"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare where to look and where to write."""
    parser.add_argument("--modality", choices=MODALITIES, default="ct", help="default ct")
    parser.add_argument("--directory", type=Path, default=Path(), help="workspace that holds results/; default: here")
    parser.add_argument(
        "--shard", action="append", help="only this shard (may be given again); default: all that exist"
    )
    parser.add_argument("--out", type=Path, help="folder of the pages; default: logs/<modality>/qc of the workspace")
    parser.add_argument(
        "--workers", type=int, default=os.cpu_count() or 1, help="studies at a time; default: all cores"
    )
    parser.add_argument(
        "--config-dir", type=Path, default=Path("config"), help="folder of config.yaml (default config)"
    )


def run(args: argparse.Namespace) -> None:
    """Write the pages and say where they are."""
    from glint.prepare.qc import write_page

    results = args.directory / "results" / args.modality
    found = {path.parent.name: path for path in sorted((results / "04_resample").glob("*/manifest.parquet"))}
    absent = [name for name in args.shard or [] if name not in found]
    if absent or not found:
        known = ", ".join(found) or "none"
        raise InputError(f"{results / '04_resample'}: no shard {absent[0] if absent else 'at all'}; there is: {known}")
    config = getattr(read_config(args.config_dir).resample, args.modality)
    folder = args.out or args.directory / "logs" / args.modality / "qc"
    for name in args.shard or found:
        out = folder / f"{name}.html"
        studies, doubtful = write_page(
            found[name],
            out,
            converted=results / "03_convert" / name / "manifest.parquet",
            clip_high_hu=getattr(config, "clip_hu", (0, 3071))[1],
            workers=args.workers,
        )
        print(f"{out}: {studies} studies, {doubtful} want a look")

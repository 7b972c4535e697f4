"""`glint demo`: make the synthetic hospital."""

import argparse
import os
from pathlib import Path

from glint.cli.arguments import add_config_argument, stage_config_from_args, validated
from glint.core.config.demo import DemoConfig
from glint.core.config.schema import MODALITIES

HELP = "make a synthetic hospital: DICOM studies with identities, reports, and truth masks kept aside"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `glint demo`."""
    parser.add_argument("--out", type=Path, required=True, help="folder to make; an earlier demo there is replaced")
    parser.add_argument(
        "--modality", choices=MODALITIES, default="ct", help="CT studies, or films of the same patients"
    )
    parser.add_argument("--studies", type=int, help="number of studies (default: the configuration's)")
    parser.add_argument("--seed", type=int, help="seed; every byte follows from it (default: the configuration's)")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes (default: all cores)")
    add_config_argument(parser)


def run(args: argparse.Namespace) -> None:
    """Make the hospital, then print where it lies and how often each finding occurs."""
    from glint.demo.hospital import build_hospital

    config = stage_config_from_args(args, DemoConfig)
    given = {key: value for key, value in (("studies", args.studies), ("seed", args.seed)) if value is not None}
    values = config.model_dump(mode="json")
    if args.modality == "cxr" and "studies" in given:
        values["films"]["studies"] = given.pop("studies")
    config = validated({**values, **given}, DemoConfig, section="DemoConfig")
    summary = build_hospital(args.out, config, workers=args.workers, modality=args.modality)
    out = args.out
    print(f"{summary['studies']} studies of {summary['patients']} patients: {out / 'dicom'}")
    print(f"reports: {out / 'reports.csv'}")
    print(f"planted identities: {out / 'identities.json'}, truth masks: {out / 'truth'}")
    counts = "  ".join(f"{name} {count}" for name, count in summary["findings"].items())
    print(f"normal {summary['normal_studies']}  {counts}")

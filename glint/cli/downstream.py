"""`glint downstream`: tasks on top of a trained encoder, measured on the test split."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from glint.cli.arguments import add_config_argument, stage_config_from_args
from glint.core.config.evaluate import EvaluateConfig

if TYPE_CHECKING:
    from glint.evaluation.downstream.run_probe import DownstreamInputs

HELP = "what a trained encoder is worth: probes for labels, a segmentation head, report generation"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare inputs, outputs and options of every task."""
    parts = parser.add_subparsers(dest="part", required=True, metavar="task")
    probe = parts.add_parser(
        "probe", help="linear and attentive probe on frozen tokens, by share of labels and by shots"
    )
    _add_inputs(probe, truth_required=False)
    probe.add_argument("--features", type=Path, nargs="*", default=[], help="manifests of stage 08, for teacher tokens")
    probe.set_defaults(run_part=run_probe_part)
    segment = parts.add_parser(
        "segment", help="a decoder on the frozen and on the fine-tuned encoder, learned from masks"
    )
    _add_inputs(segment, truth_required=True)
    segment.set_defaults(run_part=run_segment_part)
    report = parts.add_parser("report", help="a language model that reads gated evidence and writes reports")
    _add_inputs(report, truth_required=False)
    report.set_defaults(run_part=run_report_part)


def _add_inputs(parser: argparse.ArgumentParser, *, truth_required: bool) -> None:
    parser.add_argument("--checkpoint", type=Path, required=True, help="folder of stage 09")
    parser.add_argument("--resampled", type=Path, nargs="+", required=True, help="manifests of stage 04")
    parser.add_argument("--sections", type=Path, nargs="*", default=[], help="manifests of stage 05")
    parser.add_argument("--split", type=Path, required=True, help="manifest of stage 06")
    parser.add_argument(
        "--truth", type=Path, required=truth_required, help="manifest of `glint evaluate truth`, where masks exist"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder to make")
    add_config_argument(parser)


def _inputs(args: argparse.Namespace) -> "DownstreamInputs":
    from glint.evaluation.downstream.run_probe import DownstreamInputs

    return DownstreamInputs(
        checkpoint=args.checkpoint,
        resampled=tuple(args.resampled),
        sections=tuple(args.sections),
        split=args.split,
        features=tuple(getattr(args, "features", ())),
        truth=args.truth,
    )


def run_probe_part(args: argparse.Namespace) -> None:
    """Train and measure the probes."""
    from glint.evaluation.downstream.run_probe import run_probe

    run_probe(_inputs(args), stage_config_from_args(args, EvaluateConfig), args.out)


def run_segment_part(args: argparse.Namespace) -> None:
    """Train and measure the segmentation head."""
    from glint.evaluation.downstream.run_segment import run_segment

    run_segment(_inputs(args), stage_config_from_args(args, EvaluateConfig), args.out)


def run_report_part(args: argparse.Namespace) -> None:
    """Train the projector and language model, write reports, measure them."""
    from glint.evaluation.downstream.run_report import run_report

    run_report(_inputs(args), stage_config_from_args(args, EvaluateConfig), args.out)


def run(args: argparse.Namespace) -> None:
    """Run the task that was asked for."""
    args.run_part(args)

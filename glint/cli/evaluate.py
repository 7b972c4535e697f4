"""`glint evaluate`: stage 10. `truth` brings masks onto the model's grid, `models` measures checkpoints, `pages` gathers what to look at."""

import argparse
import json
from pathlib import Path

from glint.cli.arguments import add_config_argument, stage_config_from_args
from glint.cli.key_arguments import add_key_arguments, pseudonyms_from_args
from glint.core.config.evaluate import EvaluateConfig
from glint.core.errors import InputError

HELP = "metrics with intervals, chance and yardsticks, tables, figures, and an HTML report"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare inputs, outputs and options of both parts."""
    parts = parser.add_subparsers(dest="part", required=True, metavar="part")
    truth = parts.add_parser("truth", help="masks drawn on the scans onto the model's grid, named by pseudonym")
    truth.add_argument(
        "--truth", type=Path, help="folder with bit fields and findings.json (default: evaluate.truth_dir)"
    )
    truth.add_argument("--ids", choices=("study_uid", "study_id"), help="what names them (default: evaluate.truth_ids)")
    truth.add_argument("--resampled", type=Path, nargs="+", required=True, help="manifests of stage 04")
    truth.add_argument("--split", type=Path, required=True, help="manifest of stage 06")
    truth.add_argument("--out", type=Path, required=True, help="manifest to write; its folder is made whole")
    truth.add_argument("--workers", type=int, default=1, help="studies at a time (default 1)")
    add_key_arguments(truth)
    add_config_argument(truth)
    truth.set_defaults(run_part=run_truth)
    models = parts.add_parser("models", help="measure checkpoints on one split")
    models.add_argument(
        "--checkpoints", type=Path, nargs="+", required=True, help="folders of stage 09, main arm first"
    )
    models.add_argument("--resampled", type=Path, nargs="+", required=True, help="manifests of stage 04")
    models.add_argument("--sections", type=Path, nargs="+", required=True, help="manifests of stage 05")
    models.add_argument("--split", type=Path, required=True, help="manifest of stage 06")
    models.add_argument("--features", type=Path, nargs="*", default=[], help="manifests of stage 08")
    models.add_argument(
        "--teacher", type=Path, help="folder of stage 07, whose tokens are computed where stage 08 kept none"
    )
    models.add_argument("--truth", type=Path, required=True, help="manifest of `glint evaluate truth`")
    models.add_argument("--out", type=Path, required=True, help="folder for metrics.json, tables, figures, report.html")
    add_config_argument(models)
    models.set_defaults(run_part=run_models)
    one = parts.add_parser("run", help="measure one checkpoint: a row per finding and study, for the ablation")
    one.add_argument("--checkpoint", type=Path, required=True, help="folder of stage 09")
    one.add_argument("--resampled", type=Path, nargs="+", required=True, help="manifests of stage 04")
    one.add_argument("--split", type=Path, required=True, help="manifest of stage 06")
    one.add_argument("--features", type=Path, nargs="+", required=True, help="manifests of stage 08")
    one.add_argument("--truth", type=Path, required=True, help="manifest of `glint evaluate truth`")
    one.add_argument("--out", type=Path, required=True, help="table to write (Parquet)")
    add_config_argument(one)
    one.set_defaults(run_part=run_one)
    pages = parts.add_parser("pages", help="the finished pages of a run in one folder, for `snakemake --report`")
    pages.add_argument("--evaluation", type=Path, required=True, help="folder of metrics.json")
    pages.add_argument("--checkpoints", type=Path, nargs="+", required=True, help="folders of stage 09")
    pages.add_argument("--resampled", type=Path, nargs="+", required=True, help="manifests of stage 04")
    pages.add_argument("--split", type=Path, required=True, help="manifest of stage 06")
    pages.add_argument("--truth", type=Path, required=True, help="manifest of `glint evaluate truth`")
    pages.add_argument("--out", type=Path, required=True, help="folder to write, made whole")
    pages.set_defaults(run_part=run_pages)
    ablation = parts.add_parser("ablation", help="the table of all experiments, and what became of their claims")
    ablation.add_argument("--cases", type=Path, nargs="+", required=True, help="tables of `glint evaluate run`")
    ablation.add_argument("--experiments", type=json.loads, required=True, metavar="JSON", help="name to experiment")
    ablation.add_argument("--out", type=Path, required=True, help="folder for ablation.json, ablation.md, ablation.png")
    add_config_argument(ablation)
    ablation.set_defaults(run_part=run_ablation)


def run_truth(args: argparse.Namespace) -> None:
    """Masks onto the model's grid."""
    from glint.evaluation.truth import make_truth

    config = stage_config_from_args(args, EvaluateConfig)
    named_by = args.ids or config.truth_ids
    make_truth(
        truth_dir=args.truth or Path(config.truth_dir),
        pseudonyms=pseudonyms_from_args(args) if named_by == "study_uid" else None,
        resampled=args.resampled,
        split=args.split,
        out_path=args.out,
        workers=args.workers,
    )


def run_models(args: argparse.Namespace) -> None:
    """Measure, draw, write, tell."""
    from glint.evaluation.stage import Inputs, evaluate_models, with_pictures, write_evaluation
    from glint.evaluation.terminal import print_summary
    from glint.evaluation.tokens import teacher_tokens, tokens_computed

    config = stage_config_from_args(args, EvaluateConfig)
    inputs = Inputs(
        checkpoints=tuple(args.checkpoints),
        resampled=tuple(args.resampled),
        sections=tuple(args.sections),
        split=args.split,
        features=tuple(args.features),
        truth=args.truth,
    )
    if not args.features and args.teacher is None:
        raise InputError("glint evaluate models: give --features, or --teacher to compute its tokens")
    read = teacher_tokens if args.features else tokens_computed(args.teacher, args.resampled)
    evaluation, studies = evaluate_models(inputs, config, read_tokens=read)
    write_evaluation(with_pictures(evaluation, studies, inputs.checkpoints), args.out)
    print_summary(evaluation, args.out)


def run_one(args: argparse.Namespace) -> None:
    """One checkpoint's cases."""
    from glint.evaluation.ablation import measure_run

    measure_run(
        args.checkpoint,
        resampled=args.resampled,
        split=args.split,
        features=args.features,
        truth=args.truth,
        config=stage_config_from_args(args, EvaluateConfig),
        out=args.out,
    )


def run_pages(args: argparse.Namespace) -> None:
    """Copy and write pages."""
    from glint.evaluation.pages import gather_pages

    names = ("evaluation", "checkpoints", "resampled", "split", "truth", "out")
    gather_pages(**{name: getattr(args, name) for name in names})


def run_ablation(args: argparse.Namespace) -> None:
    """Compare, judge the claims, draw."""
    from glint.core.config.experiments import Experiment
    from glint.evaluation.ablation import compare_runs, write_ablation

    config = stage_config_from_args(args, EvaluateConfig)
    experiments = {name: Experiment.model_validate_json(json.dumps(value)) for name, value in args.experiments.items()}
    write_ablation(compare_runs(args.cases, experiments, config), args.out)


def run(args: argparse.Namespace) -> None:
    """Run the part that was asked for."""
    args.run_part(args)

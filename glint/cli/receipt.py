"""`glint receipt`: what a finished job made and from what; every rule ends with it."""

import argparse
import json
from pathlib import Path

from glint.core.receipts import Recipe, receipt_path, write_receipt

HELP = "write down what a finished job made, and from what (the rules call it)"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare inputs, outputs and options."""
    parser.add_argument("--inputs", nargs="*", default=[], help="files and folders that the job read")
    parser.add_argument("--covered", nargs="*", default=[], help="inputs whose content the recipe speaks for")
    parser.add_argument("--outputs", nargs="+", required=True, help="files that the job declares")
    parser.add_argument(
        "--log", required=True, help="the job's log, logs/<modality>/<NN_stage>/<job>.log, which names the receipt"
    )
    parser.add_argument("--recipe", required=True, help="JSON: digests of the configuration and of the code")


def run(args: argparse.Namespace) -> None:
    """Write one receipt."""
    _, modality, folder, *_ = Path(args.log).parts
    write_receipt(
        stage=folder.partition("_")[2],
        modality=modality,
        recipe=Recipe(**json.loads(args.recipe)),
        inputs=args.inputs,
        covered=args.covered,
        outputs=args.outputs,
        to=receipt_path(args.outputs[0], args.log),
    )

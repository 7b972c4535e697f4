"""`glint sections`: stage 05, de-identified reports → sections, sentences, findings."""

import argparse
from pathlib import Path

from glint.cli.arguments import add_config_argument, stage_config_from_args
from glint.core.config.sections import SectionsConfig
from glint.core.errors import ConfigError
from glint.prepare.sections.findings import read_findings
from glint.prepare.sections.language_model import Reader, model_reader
from glint.prepare.sections.shard import section_shard

HELP = "de-identified reports to sections, sentences and findings with their character spans"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare inputs, outputs and options."""
    parser.add_argument("--manifest", type=Path, required=True, help="report manifest of stage 02, one row per study")
    parser.add_argument("--out", type=Path, required=True, help="manifest to write; its folder is made whole")
    parser.add_argument("--workers", type=int, default=1, help="processes (default 1)")
    parser.add_argument("--model-cache", type=Path, help="folder for a language model's checked answers; default: none")
    add_config_argument(parser)


def reader_from(config: SectionsConfig, cache: Path | None) -> Reader:
    """The rules, or the language model that the configuration names."""
    if config.language_model is None:
        return read_findings
    from glint.model.causal import load_generate

    generate = load_generate(config.language_model, max_new_tokens=config.language_model_max_tokens)
    name = f"{config.language_model} {config.language_model_max_tokens}"
    return model_reader(generate, name=name, cache=cache, retries=config.language_model_retries)


def run(args: argparse.Namespace) -> None:
    """Read one shard's reports."""
    config = stage_config_from_args(args, SectionsConfig)
    if config.language_model is not None and args.workers != 1:
        raise ConfigError(f"sections.language_model works in one process; --workers {args.workers}: leave it at 1")
    read = reader_from(config, args.model_cache)
    section_shard(args.manifest, args.out, config, workers=args.workers, read=read)

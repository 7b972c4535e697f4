"""Arguments that several commands share."""

import argparse
import json
from collections.abc import Iterable
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from glint.core.config.base import StageConfig
from glint.core.errors import ConfigError

Config = TypeVar("Config", bound=StageConfig)


def add_config_argument(parser: argparse.ArgumentParser) -> None:
    """Add `--config`: the stage's slice of the configuration as JSON, or a file that holds it."""
    parser.add_argument("--config", default="{}", help="the stage's configuration: JSON text, or a path to a JSON file")


def add_modality_argument(parser: argparse.ArgumentParser, known: Iterable[str]) -> None:
    """Add `--modality`: what the images are, and with it which configuration and which code a stage uses."""
    parser.add_argument("--modality", choices=sorted(known), default="ct", help="default ct")


def add_time_limit_argument(parser: argparse.ArgumentParser) -> None:
    """Add `--max-minutes`: the scheduler's limit, before which the state is saved."""
    parser.add_argument(
        "--max-minutes",
        type=float,
        help="wall clock; save and leave with exit code 75 five minutes (at most a quarter) before it ends",
    )


def stage_config_from_args(args: argparse.Namespace, model: type[Config]) -> Config:
    """Build the frozen configuration of one stage from `args.config`.

    Raises:
        ConfigError: naming the first key that is unknown, missing or wrong.
    """
    text = args.config
    if not text.lstrip().startswith("{") and Path(text).is_file():
        text = Path(text).read_text(encoding="utf-8")
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise ConfigError(f"--config is neither JSON nor a file that exists: {error}") from error
    return validated(value, model, section=model.__name__)


def validated(value: object, model: type[Config], *, section: str) -> Config:
    """Validate `value` as `model`; the error names the first wrong key below `section`."""
    try:
        return model.model_validate_json(json.dumps(value))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in (section, *first["loc"]))
        raise ConfigError(f"config: {key}: {first['msg']} (value: {str(first.get('input'))[:80]!r})") from error

"""The secret key of all pseudonyms, as commands of stages 01 and 02 take it."""

import argparse
import os

from glint.core.errors import PrivacyError
from glint.core.ids import Pseudonyms, check_key_place, create_key, read_key

KEY_VARIABLE = "GLINT_DEID_KEY_FILE"
DEMO_FOLDER = "/00_demo/"


def add_key_arguments(parser: argparse.ArgumentParser) -> None:
    """Add `--key-file` and `--create-key`."""
    parser.add_argument("--key-file", help=f"file with the secret key; ${KEY_VARIABLE} wins over it")
    parser.add_argument(
        "--create-key", action="store_true", help="make a random key if the file does not exist (demo only)"
    )


def pseudonyms_from_args(args: argparse.Namespace, *, default: str | None = None, create: bool = False) -> Pseudonyms:
    """Pseudonyms under the key that the environment, `--key-file` or the configuration names.

    Raises:
        PrivacyError: no key file is named, or it is absent, unreadable, open to others or inside a repository; the
            demo's key, which follows from its public seed, may lie in the workspace.
    """
    file = os.environ.get(KEY_VARIABLE) or args.key_file or default
    if not file:
        raise PrivacyError(f"no key file: set {KEY_VARIABLE}, give --key-file, or set deidentify.key_file in config")
    if DEMO_FOLDER not in file:
        check_key_place(file)
    return Pseudonyms(create_key(file) if args.create_key or create else read_key(file))

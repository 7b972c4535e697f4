"""`glint key`: make, check and replace the secret key of all pseudonyms; the honest broker's table."""

import argparse
import os
from pathlib import Path

from glint.cli.key_arguments import KEY_VARIABLE
from glint.core.errors import PrivacyError
from glint.core.ids import Pseudonyms, check_key_place, create_key, read_key, rotate_key
from glint.core.progress import log

HELP = "make, check or replace the secret key; write or open the honest broker's encrypted table"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add `glint key create|check|rotate|table|open`."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="create|check|rotate|table|open")
    for name, text in (
        ("create", "make a key that does not exist yet"),
        ("check", "tell whether the key can be used"),
        ("rotate", "replace the key; the old one is kept beside it"),
    ):
        action = actions.add_parser(name, help=text)
        action.add_argument("--key-file", help=f"default: ${KEY_VARIABLE}")
    table = actions.add_parser("table", help="write who is behind each pseudonym, encrypted; only below restricted/")
    table.add_argument("--key-file", help=f"the key of the pseudonyms; default: ${KEY_VARIABLE}")
    table.add_argument("--studies", type=Path, required=True, help="studies.parquet made by `glint index images`")
    table.add_argument("--out", type=Path, required=True, help="file below a folder named restricted")
    opened = actions.add_parser("open", help="decrypt a table to standard output, as CSV")
    opened.add_argument("table", type=Path)
    for action in (table, opened):
        action.add_argument("--broker-key-file", required=True, help="the broker's own key; made if absent by `table`")


def run(args: argparse.Namespace) -> None:
    """Run one of them; what is said names the file and never the key."""
    if args.action == "open":
        from glint.prepare.deidentify.broker import open_table

        print(open_table(args.table, Path(args.broker_key_file)), end="")
        return
    named = os.environ.get(KEY_VARIABLE) if args.key_file is None else args.key_file
    if not named:
        raise PrivacyError(f"no key file: give --key-file or set {KEY_VARIABLE}")
    file = Path(named)
    check_key_place(file)
    if args.action == "create":
        if file.exists():
            raise PrivacyError(f"key file {file} exists and is not replaced: `glint key rotate` makes a new one")
        create_key(file)
        log(f"key file {file} made, mode 0600; back it up: without it no new file joins the old pseudonyms")
    elif args.action == "check":
        read_key(file)
        log(f"key file {file} can be used: mode 0600, outside every repository")
    elif args.action == "rotate":
        kept = rotate_key(file)
        log(
            f"key file {file} replaced; the old key is kept as {kept}\n"
            "every pseudonym, UID and date shift changes: run stages 02 and later again for all studies, never for some;\n"
            "what was shared under the old key can be linked to new output only by who holds both keys"
        )
    else:
        from glint.prepare.deidentify.broker import write_table

        count = write_table(args.studies, args.out, Path(args.broker_key_file), Pseudonyms(read_key(file)))
        log(f"{count} studies in {args.out}, encrypted; give the broker's key to the broker alone")

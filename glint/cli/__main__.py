"""`glint`: one command per stage, in the order of the pipeline."""

import argparse
import errno
import importlib
import os
import sys

from glint.core.errors import GlintError

COMMANDS = (
    "demo",
    "index",
    "deidentify",
    "convert",
    "resample",
    "sections",
    "split",
    "teacher",
    "features",
    "train",
    "evaluate",
)
"""The stages, in order."""
TOOLS = (
    "receipt",
    "commit",
    "status",
    "key",
    "pictures",
    "report-table",
    "truth-table",
    "report-view",
    "qc",
    "teachers",
    "compare",
    "predict",
    "downstream",
)
"""What works across stages."""
WAYS_OUT = {
    errno.ENOSPC: "make room on the disk and call again",
    errno.EDQUOT: "make room within your quota and call again",
    errno.EROFS: "the disk is read-only: have it mounted for writing, or work in a folder of another disk",
    errno.EACCES: "a folder is another user's: ask for the right to write there, or work in a folder of your own",
}
"""What a person can do about an error of the system."""


def build_parser(command: str | None = None) -> argparse.ArgumentParser:
    """The parser of `glint`; only `command`'s module is imported where it is known, for a quick start."""
    parser = argparse.ArgumentParser(prog="glint", description="From raw DICOM and reports to a trained GLINT.")
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="command")
    for name in [command] if command in (*COMMANDS, *TOOLS) else (*COMMANDS, *TOOLS):
        module = importlib.import_module(f"glint.cli.{name.replace('-', '_')}")
        subparser = subparsers.add_parser(name, help=module.HELP, description=module.HELP)
        module.add_arguments(subparser)
        subparser.set_defaults(run=module.run)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run one command: 0 done, 1 an expected failure told in one line, 2 wrong arguments."""
    arguments = sys.argv[1:] if argv is None else argv
    args = build_parser(arguments[0] if arguments else None).parse_args(arguments)
    try:
        args.run(args)
    except GlintError as error:
        print(f"glint {args.command}: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        # A full disk, a read-only folder: the system's words name the cause; a raw path could name a patient.
        number = error.errno or 0
        words = (os.strerror(number), "nothing unfinished was kept", WAYS_OUT.get(number, ""))
        print(f"glint {args.command}: {'; '.join(filter(None, words))}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

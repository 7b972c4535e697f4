"""`glint features`: stage 08. `encode` makes one shard's cache; `inspect`, `verify` and `gc` look after caches."""

import argparse
from functools import partial
from pathlib import Path

from glint.cli.arguments import add_config_argument, stage_config_from_args
from glint.core.config.features import FeaturesConfig
from glint.core.errors import InputError

HELP = "the frozen teacher's patch tokens of one shard, in an HDF5 cache that knows what it was made from"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare inputs, outputs and options of every part."""
    parts = parser.add_subparsers(dest="part", required=True, metavar="part")
    encode = parts.add_parser("encode", help="tokens of one shard; goes on where a killed run stopped")
    encode.add_argument("--manifest", type=Path, required=True, help="manifest of stage 04")
    encode.add_argument("--teacher", type=Path, required=True, help="folder of stage 07")
    encode.add_argument("--out", type=Path, required=True, help="manifest to write; the tokens go beside its folder")
    add_config_argument(encode)
    encode.set_defaults(run_part=run_encode)
    inspect = parts.add_parser("inspect", help="what caches hold and what they were made from")
    inspect.add_argument("caches", type=Path, nargs="+", help="HDF5 files, or folders with some")
    inspect.set_defaults(run_part=run_inspect)
    verify = parts.add_parser("verify", help="every row against its SHA-256; exit code 1 where something does not hold")
    verify.add_argument("caches", type=Path, nargs="+", help="HDF5 files, or folders with some")
    verify.add_argument("--teacher", type=Path, help="folder of stage 07: were they made with it?")
    verify.add_argument(
        "--resampled", type=Path, nargs="+", default=[], help="manifests of stage 04: of these volumes?"
    )
    verify.set_defaults(run_part=run_verify)
    gc = parts.add_parser("gc", help="list files of stage 08 that nothing reads any more")
    gc.add_argument("root", type=Path, help="results/<modality>/08_features")
    gc.add_argument("--delete", action="store_true", help="remove them")
    gc.set_defaults(run_part=run_gc)


def run_encode(args: argparse.Namespace) -> None:
    """Encode one shard."""
    import torch

    from glint.prepare.resample import window_channels
    from glint.teachers.encode import encode_shard
    from glint.teachers.registry import load_teacher

    config = stage_config_from_args(args, FeaturesConfig)
    torch.set_num_threads(config.threads)
    teacher, record = load_teacher(args.teacher)
    channels = partial(window_channels, windows_hu=record.windows)
    encode_shard(args.manifest, args.out, teacher=teacher, record=record, channels=channels, config=config)


def run_inspect(args: argparse.Namespace) -> None:
    """Print some lines per cache."""
    from glint.teachers.cache_care import cache_files, described

    for path in cache_files(args.caches):
        print("\n".join(described(path)))


def run_verify(args: argparse.Namespace) -> None:
    """Print what does not hold.

    Raises:
        InputError: something does not.
    """
    from glint.teachers.cache_care import cache_files, faults, volumes_now
    from glint.teachers.registry import read_record

    teacher = read_record(args.teacher) if args.teacher else None
    volumes, bad = volumes_now(args.resampled), 0
    paths = cache_files(args.caches)
    for path in paths:
        found = list(faults(path, teacher=teacher, volumes=volumes))
        print("\n".join(found) if found else f"{path}: holds")
        bad += bool(found)
    if bad:
        raise InputError(f"{bad} of {len(paths)} feature caches do not hold")


def run_gc(args: argparse.Namespace) -> None:
    """List litter, or remove it."""
    from glint.teachers.cache_care import litter, removed

    found = litter(args.root)
    for one in found:
        print(f"{one.path}: {one.reason}, {one.size_bytes / 1e6:.1f} MB")
    total = sum(one.size_bytes for one in found) / 1e6
    if args.delete:
        removed(found)
    print(
        f"{len(found)} files, {total:.1f} MB, {'removed' if args.delete else 'kept; --delete removes them' if found else 'nothing to remove'}"
    )


def run(args: argparse.Namespace) -> None:
    """The part that was asked for."""
    args.run_part(args)

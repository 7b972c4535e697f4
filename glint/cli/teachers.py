"""`glint teachers`: the encoder families and published weights; whether a configured teacher is here; getting one."""

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from math import prod
from pathlib import Path

from glint.core.config.families import FAMILIES, PUBLISHED, grid_of
from glint.core.errors import InputError

HELP = "list encoder families and published weights, check that a teacher's weights are here, fetch them"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add `glint teachers list|check|fetch`."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="list|check|fetch")
    listed = actions.add_parser("list", help="families and published weights, with what they take and give")
    listed.add_argument("--json", action="store_true", help="for programs")
    check = actions.add_parser("check", help="open weights and tell what they are; without a name: those configured")
    check.add_argument("name", nargs="?", help="published name, or family together with --location")
    check.add_argument(
        "--location", help="folder, weights file or hub id in the local cache; default: the published one"
    )
    check.add_argument("--volume", type=int, nargs=3, metavar=("Z", "Y", "X"), help="voxels; default: as documented")
    check.add_argument("--revision", help="commit of a hub model")
    check.add_argument("--sha256", help="pin of the weights file")
    check.add_argument("--config-dir", type=Path, default=Path("config"), help="default config")
    check.add_argument("--cohort", help="overlay to check; default: the one config.yaml names")
    fetch = actions.add_parser("fetch", help="download weights; prints what to put into the configuration")
    fetch.add_argument("name", help="published name, hub id or https address")
    fetch.add_argument("--revision", help="commit, tag or branch of a hub model")
    fetch.add_argument("--out", type=Path, help="folder; default: transformers' cache (hub), weights/ (address)")


def run(args: argparse.Namespace) -> None:
    """Run one of them."""
    if args.action == "list":
        print(json.dumps(listing_values(), indent=1) if args.json else listing())
    elif args.action == "fetch":
        fetch(args)
    elif args.name is None:
        check_configured(args)
    else:
        check_named(args)


def listing_values() -> dict[str, dict[str, object]]:
    """Everything the registry knows, as plain values."""
    return {
        "families": {name: asdict(family) for name, family in FAMILIES.items()},
        "published": {
            name: {**asdict(entry), "grid": grid_of(entry.volume_zyx, entry.family)}
            for name, entry in PUBLISHED.items()
        },
    }


def listing() -> str:
    """Two tables in Markdown: families, published weights."""
    rows = [
        ("family (`teacher.name`)", "what", "`teacher.source`", "channels", "patch (z, y, x)", "square slices only")
    ]
    for name, family in FAMILIES.items():
        channels = "one per window" if family.channels is None else f"{family.channels}, or 1 repeated"
        patch = "`teacher.encoder.patch`" if family.patch_zyx is None else _size(family.patch_zyx)
        rows.append((name, family.title, ", ".join(family.sources), channels, patch, "yes" if family.square else ""))
    weights = [
        (
            "weights",
            "family",
            "input (z, y, x)",
            "grid",
            "tokens",
            "width",
            "blocks",
            "parameters",
            "licence",
            "location",
        )
    ]
    for name, entry in PUBLISHED.items():
        grid = grid_of(entry.volume_zyx, entry.family)
        numbers = (str(prod(grid)), str(entry.width), str(entry.depth), f"{entry.parameters / 1e6:.1f} M")
        licence = f"{entry.licence}, gated" if entry.gated else entry.licence
        where = entry.location.rsplit("//", 1)[-1]
        weights.append((name, entry.family, _size(entry.volume_zyx), _size(grid), *numbers, licence, where))
    return f"{_table(rows)}\n\n{_table(weights)}"


def _size(values: tuple[int, int, int]) -> str:
    return " × ".join(map(str, values))


def _table(rows: Sequence[tuple[str, ...]]) -> str:
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([lines[0], "|" + "---|" * len(rows[0]), *lines[1:]])


def check_named(args: argparse.Namespace) -> None:
    """Tell what the weights of a published name, or of a family at a location, are."""
    entry = PUBLISHED.get(args.name)
    family = entry.family if entry is not None else args.name
    if family not in FAMILIES:
        raise InputError(
            f"{args.name}: neither published ({', '.join(PUBLISHED)}) nor a family ({', '.join(FAMILIES)})"
        )
    location = args.location or (entry.location if entry is not None else None)
    volume = args.volume or (entry.volume_zyx if entry is not None else None)
    if location is None or volume is None:
        raise InputError(f"{args.name}: a family needs --location and --volume")
    if "://" in location:
        location = str(Path("weights") / location.rsplit("/", 1)[-1])
    local = Path(location).exists() or "hub" not in FAMILIES[family].sources
    opened(args.name, family, "path" if local else "hub", location, tuple(volume), args.revision, args.sha256)


def check_configured(args: argparse.Namespace) -> None:
    """Tell of every modality's configured teacher whether its weights are here."""
    from glint.core.config.schema import modalities_of, read_config

    config = read_config(args.config_dir, {"cohort": args.cohort} if args.cohort else None)
    for modality in modalities_of("teacher"):
        teacher = getattr(config.teacher, modality)
        title = f"{config.cohort}, teacher.{modality}"
        if teacher.source == "pretrain":
            print(f"{title}: {teacher.name}, pretrained by stage 07; nothing to fetch")
            continue
        volume = volume_of(getattr(config.resample, modality))
        where = (teacher.name, teacher.source, str(teacher.location), volume, teacher.revision, teacher.sha256)
        opened(title, *where)


def volume_of(resample: object) -> tuple[int, int, int]:
    """The volume (z, y, x) that stage 04 makes; a film has one slice."""
    film = getattr(resample, "grid_yx", None)
    return (1, *film) if film is not None else tuple(resample.grid)  # type: ignore[attr-defined]


def opened(
    title: str,
    family: str,
    source: str,
    location: str,
    volume: tuple[int, int, int],
    revision: str | None,
    sha256: str | None,
) -> None:
    """Open the weights and print what they are."""
    from glint.core.provenance import sha256_file
    from glint.teachers.sources import hub_folder, open_encoder, weights_file

    encoder = open_encoder(family, source, location, volume, revision=revision, sha256=sha256)
    place = hub_folder(location, revision) if source == "hub" else Path(location)
    digest = sha256_file(weights_file(place))
    parameters = sum(parameter.numel() for parameter in encoder.parameters())
    print(
        f"{title}: {family}, width {encoder.width}, {encoder.depth} blocks, {parameters / 1e6:.1f} M parameters; volume {_size(volume)} → "
        f"grid {_size(encoder.grid)}, {prod(encoder.grid)} tokens; SHA-256 {digest} ({'pinned' if sha256 else 'not pinned'})"
    )


def fetch(args: argparse.Namespace) -> None:
    """Download, then print the lines that pin the weights."""
    from glint.core.provenance import sha256_file
    from glint.teachers.fetch import fetch_weights, location_of
    from glint.teachers.sources import weights_file

    location = location_of(args.name)
    out = args.out or (Path("weights") if "://" in location else None)
    place = fetch_weights(location, revision=args.revision, out=out)
    entry = PUBLISHED.get(args.name)
    lines = [f"name: {entry.family if entry is not None else '<family>'}"]
    if out is None:
        lines += ["source: hub", f"location: {location}", f"revision: {place.name}"]
    else:
        lines += ["source: path", f"location: {place}"]
    lines.append(f"sha256: {sha256_file(weights_file(place))}")
    print("\n".join(lines))

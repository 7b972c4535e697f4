"""`glint deidentify`: DICOM and report text without identifiers; the last command that sees any."""

import argparse
from collections.abc import Callable
from pathlib import Path

from glint.cli.arguments import add_config_argument, stage_config_from_args
from glint.cli.key_arguments import add_key_arguments, pseudonyms_from_args
from glint.core.atomic import atomic_directory, write_json
from glint.core.config.deidentify import DeidentifyConfig
from glint.core.errors import InputError, PrivacyError
from glint.core.ids import Pseudonyms
from glint.core.progress import log
from glint.core.provenance import digest
from glint.formats.manifest import read_manifest, write_manifest

HELP = "remove identifiers from the images and reports of one shard, and audit a run (02)"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add `glint deidentify images …`, `… reports …` and `… audit …`."""
    kinds = parser.add_subparsers(dest="kind", required=True, metavar="images|reports|audit")
    images = kinds.add_parser("images", help="clean the DICOM series of one shard")
    images.add_argument("--index", type=Path, required=True, help="the shard's folder made by `glint index images`")
    images.add_argument(
        "--raw", nargs="*", type=Path, default=[], help="the raw folders, where they moved since they were indexed"
    )
    images.add_argument("--workers", type=int, default=1, help="processes")
    reports = kinds.add_parser("reports", help="clean the report texts of one shard")
    reports.add_argument("--reports", type=Path, required=True, help="the shard's reports.parquet")
    reports.add_argument("--studies", type=Path, required=True, help="studies.parquet, the shard's or the whole one")
    reports.add_argument(
        "--original-spans",
        type=Path,
        help="also write where every replaced stretch stood in the original; must lie below a folder restricted",
    )
    audit = kinds.add_parser("audit", help="what a run did, what remains, what it scores; pictures to look at")
    audit.add_argument("--images", type=Path, required=True, help="results/ct/02_deidentify/images")
    audit.add_argument("--reports", type=Path, help="results/ct/02_deidentify/reports, where there are reports")
    audit.add_argument("--index", type=Path, required=True, help="restricted/ct/01_index")
    audit.add_argument("--raw", nargs="*", type=Path, default=[], help="as of `images`")
    audit.add_argument("--out", type=Path, required=True, help="score.json; its folder is made whole, no identifiers")
    audit.add_argument("--restricted", type=Path, required=True, help="folder of the page with identifiers")
    for kind in (images, reports):
        kind.add_argument("--out", type=Path, required=True, help="the manifest to write; its folder is made whole")
        add_key_arguments(kind)
    for kind in (images, reports, audit):
        add_config_argument(kind)


def run(args: argparse.Namespace) -> None:
    """Run one of the three."""
    config = stage_config_from_args(args, DeidentifyConfig)
    if args.kind == "audit":
        _run_audit(args, config)
        return
    pseudonyms = pseudonyms_from_args(args, default=config.key_file, create=config.create_key_if_missing)
    if args.kind == "images":
        _run_images(args, config, pseudonyms)
    else:
        _run_reports(args, config, pseudonyms)


def _params_digest(config: DeidentifyConfig) -> str:
    """Digest of what shapes the output; where the key lies and what is audited does not."""
    return digest(config.model_dump(mode="json", exclude={"key_file", "create_key_if_missing", "audit_series"}))


def _run_images(args: argparse.Namespace, config: DeidentifyConfig, pseudonyms: Pseudonyms) -> None:
    from glint.formats.header_cache import indexed_folders, located
    from glint.prepare.deidentify.images import clean_shard

    tables = {name: read_manifest(args.index / f"{name}.parquet", f"index_{name}") for name in ("studies", "series")}
    instances = located(
        read_manifest(args.index / "instances.parquet", "index_instances"),
        args.raw or indexed_folders(args.index.parent),
    )
    out: Path = args.out
    with atomic_directory(out.parent) as folder:
        manifest, audit = clean_shard(
            tables["studies"],
            tables["series"],
            instances,
            folder=folder,
            pseudonyms=pseudonyms,
            config=config,
            params_digest=_params_digest(config),
            workers=args.workers,
        )
        write_json(folder / "audit.json", audit)
        write_manifest(folder / out.name, manifest, "deidentify_images")
    log(f"series: {audit['series_ok']} of {audit['series']} de-identified, {audit['instances_ok']} instances")
    if audit["quarantined"]:
        log("quarantined: " + ", ".join(f"{count} {reason}" for reason, count in audit["quarantined"].items()))


def _name_finder(config: DeidentifyConfig) -> Callable[[str], list[tuple[int, int, str]]] | None:
    if config.ner_model is None:
        return None
    from glint.teachers.name_finder import load_name_finder

    return load_name_finder(config.ner_model, min_score=config.ner_min_score)


def _run_reports(args: argparse.Namespace, config: DeidentifyConfig, pseudonyms: Pseudonyms) -> None:
    from glint.prepare.deidentify.reports import clean_reports

    reports = read_manifest(args.reports, "index_reports")
    studies = read_manifest(args.studies, "index_studies")
    cleaned = clean_reports(
        reports,
        studies,
        pseudonyms=pseudonyms,
        config=config,
        params_digest=_params_digest(config),
        find_names=_name_finder(config),
    )
    audit, out = cleaned.audit, args.out
    if args.original_spans:
        _require_restricted(args.original_spans, "--original-spans")
        args.original_spans.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_manifest(args.original_spans, cleaned.original_spans, "report_spans")
        args.original_spans.chmod(0o600)
    with atomic_directory(out.parent) as folder:
        write_json(folder / "audit.json", audit)
        write_manifest(folder / out.name, cleaned.manifest, "deidentify_reports")
    log(f"reports: {audit['reports_ok']} of {audit['reports']} de-identified, {audit['replacements']} replacements")
    if audit["quarantined"]:
        log("quarantined: " + ", ".join(f"{count} {reason}" for reason, count in audit["quarantined"].items()))


def _require_restricted(path: Path, option: str) -> None:
    """Refuse a place for identifiers outside of the folder that is closed to others.

    Raises:
        PrivacyError: no folder `restricted` above it.
    """
    if "restricted" not in path.resolve().parts:
        raise PrivacyError(f"{option} must lie below a folder named restricted: it will tell of identifiers")


def _run_audit(args: argparse.Namespace, config: DeidentifyConfig) -> None:
    from glint.prepare.deidentify.audit import Run, audit_run

    _require_restricted(args.restricted, "--restricted")
    if args.out.name != "score.json":
        raise InputError(f"{args.out}: name it score.json; the page and the tables lie beside it")
    run = Run(images=args.images, reports=args.reports, index=args.index, raw=tuple(args.raw), config=config)
    audit = audit_run(run, args.out.parent, args.restricted)
    log(f"audit: {audit.series_compared} of {audit.series_passed} series compared with their raw files")
    for row in audit.images:
        if row["passed"] < row["total"]:
            log(f"{row['action']}: {row['passed']} of {row['total']} {row['failed_on']}")
    for row in audit.reports:
        if row["left"]:
            log(f"reports, {row['identifiers']}: {row['left']} of {row['looked_for']} left")
    log(f"faults: {audit.faults}; read {args.out.parent / 'audit.html'}, and what was refused in {args.restricted}")

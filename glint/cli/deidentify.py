"""`glint deidentify`: DICOM and report text without identifiers; the last command that sees any."""

import argparse
from collections.abc import Callable
from pathlib import Path

from glint.cli.arguments import add_config_argument, stage_config_from_args
from glint.cli.key_arguments import add_key_arguments, pseudonyms_from_args
from glint.core.atomic import atomic_directory, write_json
from glint.core.config.deidentify import DeidentifyConfig
from glint.core.ids import Pseudonyms
from glint.core.progress import log
from glint.core.provenance import digest
from glint.formats.manifest import read_manifest, write_manifest

HELP = "remove identifiers from the images and reports of one shard (02)"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add `glint deidentify images …` and `glint deidentify reports …`."""
    kinds = parser.add_subparsers(dest="kind", required=True, metavar="images|reports")
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
        help="also write where every replaced stretch stood in the original; keep it under restricted/",
    )
    for kind in (images, reports):
        kind.add_argument("--out", type=Path, required=True, help="the manifest to write; its folder is made whole")
        add_key_arguments(kind)
        add_config_argument(kind)


def run(args: argparse.Namespace) -> None:
    """Run one of the two."""
    config = stage_config_from_args(args, DeidentifyConfig)
    pseudonyms = pseudonyms_from_args(args, default=config.key_file, create=config.create_key_if_missing)
    if args.kind == "images":
        _run_images(args, config, pseudonyms)
    else:
        _run_reports(args, config, pseudonyms)


def _params_digest(config: DeidentifyConfig) -> str:
    """Digest of what shapes the output; where the key lies does not."""
    return digest(config.model_dump(mode="json", exclude={"key_file", "create_key_if_missing"}))


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
        args.original_spans.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_manifest(args.original_spans, cleaned.original_spans, "report_spans")
        args.original_spans.chmod(0o600)
    with atomic_directory(out.parent) as folder:
        write_json(folder / "audit.json", audit)
        write_manifest(folder / out.name, cleaned.manifest, "deidentify_reports")
    log(f"reports: {audit['reports_ok']} of {audit['reports']} de-identified, {audit['replacements']} replacements")
    if audit["quarantined"]:
        log("quarantined: " + ", ".join(f"{count} {reason}" for reason, count in audit["quarantined"].items()))

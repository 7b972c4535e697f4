"""De-identify the DICOM series of one shard: read, gate, clean, write, scan what was written."""

import shutil
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import polars as pl
from pydicom.dataset import FileDataset

from glint.core.config.deidentify import DeidentifyConfig
from glint.core.errors import Quarantine
from glint.core.ids import Pseudonyms, part_uid
from glint.core.parallel import parallel_map
from glint.core.provenance import digest, sha256_bytes
from glint.core.sums import write_sums
from glint.formats.archives import raw_bytes
from glint.formats.dicom import dataset_bytes, read_dataset, stored_transfer_syntax
from glint.formats.manifest import manifest_frame
from glint.prepare.deidentify.elements import put_text, text_of
from glint.prepare.deidentify.engine import METHOD, METHOD_TEXT, PATIENT_ID, Engine, Trace
from glint.prepare.deidentify.pixels import SeriesReview, clean_pixels, put_blanked
from glint.prepare.deidentify.residual import ResidualScan, name_parts, residual_scan
from glint.prepare.deidentify.rules import SOP_CLASSES
from glint.prepare.deidentify.table import profile_actions, verbatim_tags
from glint.prepare.deidentify.values import long_identifiers

SOP_CLASS_UID, SOP_INSTANCE_UID, IMAGE_TYPE = 0x00080016, 0x00080018, 0x00080008
SERIES_UID = 0x0020000E
SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
OPTION_CODES = {
    "graphics": "113103",
    "descriptors": "113105",
    "modified_dates": "113107",
    "patient": "113108",
    "device": "113109",
    "safe_private": "113111",
}
PIXEL_DATA, PIXEL_DATA_TAG = 0x7FE00010, b"\xe0\x7f\x10\x00"
Row = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class SeriesJob:
    """One series to clean: its index rows, its study's identity, and where its files go."""

    study: Row
    series: Row
    instances: Sequence[Row]
    folder: Path
    key: bytes
    config: DeidentifyConfig

    @cached_property
    def engine(self) -> Engine:
        """The engine of this series' patient."""
        names = [*self.study["patient_names"], *self.study["other_persons"]]
        identifiers = [self.study["raw_patient_id"], self.study["accession"], *self.study["identifiers"]]
        return make_engine(Pseudonyms(self.key), self.study["patient_key"], self.config, names, identifiers)

    @cached_property
    def _scans(self) -> dict[frozenset[str], ResidualScan]:
        return {}

    def scan(self, kept: frozenset[str] = frozenset()) -> ResidualScan:
        """The scan for every identifier that the index knows of this study; `kept` phrases were to stay.

        The index notes the station's name among the institutions: where the device's identity is retained, it is none.
        """
        if kept not in self._scans:
            study = self.study
            self._scans[kept] = residual_scan(
                names=[*study["patient_names"], *study["other_persons"]],
                identifiers=[study["raw_patient_id"], study["accession"], *study["identifiers"]],
                dates=[*study["birth_dates"], *study["study_dates"]],
                phrases=[phrase for phrase in study["institutions"] if phrase not in kept],
            )
        return self._scans[kept]


@dataclass(frozen=True, kw_only=True)
class SeriesResult:
    """Outcome of one series; `actions` counts (action, attribute keyword), `blanked` says where text was in pixels.

    `sums`: file name → SHA-256 of what was written.
    """

    reason: str | None
    num_instances: int
    input_digest: str
    actions: Counter[tuple[str, str]]
    blanked: Sequence[Mapping[str, Any]] = ()
    sums: Mapping[str, str] = field(default_factory=dict)


def make_engine(
    pseudonyms: Pseudonyms,
    patient_key: str,
    config: DeidentifyConfig,
    names: Iterable[str] = (),
    identifiers: Iterable[str] = (),
) -> Engine:
    """An engine under the options that `config` chooses; no text keeps words of `names`, no number is of `identifiers`."""
    wanted = {
        "graphics": config.clean_graphics,
        "descriptors": config.clean_descriptors,
        "modified_dates": config.retain_modified_dates,
        "patient": config.retain_patient_characteristics,
        "device": config.retain_device_identity,
        "safe_private": config.retain_safe_private,
    }
    chosen = [option for option, wish in wanted.items() if wish]
    return Engine(
        pseudonyms=pseudonyms,
        actions=profile_actions(*(option for option in chosen if option not in ("safe_private", "graphics"))),
        patient_key=patient_key,
        codes=("113100", *(OPTION_CODES[option] for option in chosen)),
        verbatim=verbatim_tags() if config.retain_device_identity else frozenset(),
        forbidden_words=frozenset(part.lower() for name in names for part in name_parts(name)),
        forbidden_numbers=long_identifiers(identifiers),
    )


def refuse(dataset: FileDataset, *, film: bool = False) -> None:
    """Refuse what can't be cleaned by its header.

    Raises:
        Quarantine: unknown SOP class, our own output, screen captures, overlays hidden in pixels.
    """
    sop_class = text_of(dataset, SOP_CLASS_UID)
    if sop_class not in SOP_CLASSES and not (film and sop_class == SECONDARY_CAPTURE):
        raise Quarantine("sop_class_not_allowed", "only CT, CR and DX images pass")
    if METHOD.split(":")[0] in text_of(dataset, METHOD_TEXT):
        raise Quarantine("already_deidentified", "pseudonyms of pseudonyms would break every link; give the raw files")
    if {"DERIVED", "SECONDARY"} <= {value.strip() for value in text_of(dataset, IMAGE_TYPE).upper().split("\\")}:
        raise Quarantine("secondary_image", "a derived secondary image may show text")
    positions = [tag for tag in dataset.keys() if 0x6000 <= tag >> 16 <= 0x60FF and tag & 0xFFFF == 0x0102]  # noqa: SIM118
    if any(dataset[tag].value for tag in positions):
        raise Quarantine("embedded_overlay", "an overlay hides in unused bits of the pixels")
    if PIXEL_DATA not in dataset:
        raise Quarantine("truncated", "a file has no pixel data")


@lru_cache(maxsize=64)
def _scan_for(names: frozenset[str], identifiers: frozenset[str]) -> ResidualScan:
    return residual_scan(names=names, identifiers=identifiers, dates=(), phrases=())


def clean_file(
    content: bytes, instance: Row, job: SeriesJob, review: SeriesReview | None = None
) -> tuple[bytes, Trace]:
    """A raw file's bytes → the bytes that may leave, and what was done; `review` remembers its pixels.

    Raises:
        Quarantine: see `refuse` and `clean_pixels`; also `changed_since_index`, `residual_identifier`, `unreadable`.
    """
    dataset = read_dataset(content)
    refuse(dataset, film=job.series["kind"] == "film")  # a film wrapped as a capture is the index's to accept
    if text_of(dataset, SOP_INSTANCE_UID) != instance["sop_instance_uid"]:
        raise Quarantine("changed_since_index", "a file is not the one that was indexed; run index again")
    if text_of(dataset, PATIENT_ID) != job.study["raw_patient_id"]:
        raise Quarantine("changed_since_index", "a file's patient is not the one that was indexed; run index again")
    syntax = stored_transfer_syntax(dataset)
    kept = frozenset(text_of(dataset, tag) for tag in job.engine.verbatim if tag in dataset)
    blanked = clean_pixels(dataset, syntax, job.config, review)
    pixels = bytes(dataset.get_item(PIXEL_DATA).value)
    try:
        series_uid = text_of(dataset, SERIES_UID)
        trace = job.engine.clean(dataset)
        if part := job.series["part"]:  # a series that was really several: each part is a series of its own
            put_text(dataset, SERIES_UID, "UI", job.engine.pseudonyms.uid(part_uid(series_uid, part)))
        if blanked is not None:
            put_blanked(dataset, blanked)
            pixels, syntax = blanked.pixels, blanked.transfer_syntax
            trace.actions["blanked", "PixelData"] += 1
            if review is not None:
                review.note(blanked, instance["instance_id"])
        written = dataset_bytes(dataset, transfer_syntax=syntax)
    except Quarantine:
        raise
    except Exception as error:  # a value that no parser or writer accepts: refused, and its text is not repeated
        raise Quarantine("unreadable", "an element can't be parsed or written") from error
    header = written[: written.rindex(PIXEL_DATA_TAG, 0, len(written) - len(pixels) + 1)]
    inner = _scan_for(frozenset(trace.names), frozenset(trace.identifiers))
    if any(scan.finds(header, pixels, dataset, trace.uids) for scan in (job.scan(kept), inner)):
        raise Quarantine("residual_identifier", "an original identifier is still in a cleaned file")
    return written, trace


def clean_series(job: SeriesJob) -> SeriesResult:
    """Clean every file of a series into `job.folder`; one refused file refuses the series and leaves no file."""
    actions: Counter[tuple[str, str]] = Counter()
    digests: list[list[str]] = []
    sums: dict[str, str] = {}
    reason = None
    review = SeriesReview()
    job.folder.mkdir(parents=True)
    for instance in job.instances:
        try:
            content = raw_bytes(instance["file"])
            digests.append([instance["instance_id"], sha256_bytes(content)])
            written, trace = clean_file(content, instance, job, review)
        except OSError:
            reason = "unreadable"
        except Quarantine as quarantine:
            reason = quarantine.reason
        if reason is not None:
            shutil.rmtree(job.folder)
            break
        name = f"{instance['instance_id']}.dcm"
        (job.folder / name).write_bytes(written)
        sums[name] = sha256_bytes(written)
        actions.update(trace.actions)
    if reason is None:
        try:
            review.require_no_head()
        except Quarantine as quarantine:
            reason = quarantine.reason
            shutil.rmtree(job.folder)
    return SeriesResult(
        reason=reason,
        num_instances=len(job.instances),
        input_digest=digest(sorted(digests)),
        actions=actions if reason is None else Counter(),
        blanked=review.blanked if reason is None else (),
        sums=sums if reason is None else {},
    )


def _indexed_digest(instances: Sequence[Row]) -> str:
    return digest(sorted([row["instance_id"], row["header_digest"]] for row in instances))


def clean_shard(
    studies: pl.DataFrame,
    series: pl.DataFrame,
    instances: pl.DataFrame,
    *,
    folder: Path,
    pseudonyms: Pseudonyms,
    config: DeidentifyConfig,
    params_digest: str,
    workers: int,
) -> tuple[pl.DataFrame, dict[str, Any]]:
    """Clean the usable series of a shard into `folder/dicom/<study_id>/<series_id>/<instance_id>.dcm`, noted in sha256.txt.

    Returns the manifest (every series of the shard, quarantined ones with their reason) and the audit, which counts
    actions and attribute keywords and holds no value.
    """
    by_study = {row["study_id"]: row for row in studies.iter_rows(named=True)}
    by_series: dict[tuple[str, str], list[Row]] = {}
    for row in instances.iter_rows(named=True):
        by_series.setdefault((row["study_id"], row["series_id"]), []).append(row)
    rows = list(series.sort("study_id", "series_id").iter_rows(named=True))
    jobs = [
        SeriesJob(
            study=by_study[row["study_id"]],
            series=row,
            instances=[item for item in by_series[row["study_id"], row["series_id"]] if item["status"] == "ok"],
            folder=folder / "dicom" / row["study_id"] / row["series_id"],
            key=pseudonyms.key,
            config=config,
        )
        for row in rows
        if row["status"] == "ok"
    ]
    results = parallel_map(clean_series, jobs, workers=workers, description="de-identify series")
    done = {
        (job.series["study_id"], job.series["series_id"]): result for job, result in zip(jobs, results, strict=True)
    }
    manifest = []
    for row in rows:
        place = (row["study_id"], row["series_id"])
        result = done.get(place)
        reason = row["reason"] if result is None else result.reason
        manifest.append(
            {
                "study_id": row["study_id"],
                "patient_id": row["patient_id"],
                "series_id": row["series_id"],
                "kind": row["kind"],
                "status": "ok" if reason is None else "quarantined",
                "reason": reason,
                "path": f"dicom/{row['study_id']}/{row['series_id']}" if reason is None else None,
                "num_instances": row["num_instances"],
                "input_digest": _indexed_digest(by_series[place]) if result is None else result.input_digest,
                "params_digest": params_digest,
            }
        )
    written = {
        f"dicom/{study_id}/{series_id}/{name}": of
        for (study_id, series_id), result in done.items()
        for name, of in result.sums.items()
    }
    write_sums(folder, written)
    audit = _audit(manifest, results)
    audit["blanked"] = [
        {"study_id": study_id, "series_id": series_id, **place}
        for (study_id, series_id), result in sorted(done.items())
        for place in result.blanked
    ]
    return manifest_frame(manifest, "deidentify_images"), audit


def _audit(manifest: Sequence[Row], results: Sequence[SeriesResult]) -> dict[str, Any]:
    actions: Counter[tuple[str, str]] = Counter()
    for result in results:
        actions.update(result.actions)
    by_action: dict[str, dict[str, int]] = {}
    for (action, keyword), count in sorted(actions.items()):
        by_action.setdefault(action, {})[keyword] = count
    return {
        "method": METHOD,
        "series": len(manifest),
        "series_ok": sum(row["status"] == "ok" for row in manifest),
        "instances_ok": sum(row["num_instances"] for row in manifest if row["status"] == "ok"),
        "quarantined": dict(sorted(Counter(row["reason"] for row in manifest if row["reason"]).items())),
        "actions": by_action,
    }

"""Audit of a de-identification run: what was done, what remains, what it scores, and pictures to look at."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl
from pydicom.dataset import FileDataset

from glint.core.atomic import atomic_directory, write_json
from glint.core.config.deidentify import DeidentifyConfig
from glint.core.errors import InputError, Quarantine
from glint.core.provenance import digest
from glint.formats.archives import raw_bytes
from glint.formats.dicom import read_dataset
from glint.formats.header_cache import indexed_folders, located
from glint.formats.manifest import read_manifest
from glint.prepare.deidentify.audit_page import render_page, sheet, thumbnail
from glint.prepare.deidentify.audit_reports import WORDS, ReportAudit, audit_reports
from glint.prepare.deidentify.audit_score import Pair, Score, element_values, score_run
from glint.prepare.deidentify.device_regions import Box

TEXTS = ("LO", "SH", "ST", "LT", "UT", "UC", "PN", "CS", "UR", "AE")
MOST_VALUES, MOST_PICTURES = 200, 200  # on the page; the table has all
Values = Counter[tuple[str, str, str, str]]


@dataclass(frozen=True, kw_only=True)
class Run:
    """Where one run lies.

    Args:
        images: Folder with `<shard>/manifest.parquet` of stage 02's images.
        reports: The same of its reports, or None where there are none.
        index: Folder of stage 01 with `images/` and `reports/`, restricted.
        raw: Raw folders where they moved since they were indexed.
        config: The configuration that the run had.
    """

    images: Path
    reports: Path | None
    index: Path
    raw: tuple[Path, ...] = ()
    config: DeidentifyConfig = field(default_factory=DeidentifyConfig)

    def shards(self, kind: Path) -> list[Path]:
        """Folders of the shards below `kind`, in order."""
        return sorted(path.parent for path in kind.glob("*/manifest.parquet"))

    def instances(self, shard: str) -> pl.DataFrame:
        """The shard's instances with the places of their raw files."""
        index = self.index / "images"
        rows = read_manifest(index / shard / "instances.parquet", "index_instances")
        return located(rows, list(self.raw) or indexed_folders(index))


@dataclass(frozen=True, kw_only=True)
class Audit:
    """What `audit_run` found; `faults` counts failed checks of images and identifiers left in reports."""

    images: list[dict[str, Any]]
    reports: list[dict[str, Any]]
    series_passed: int
    series_compared: int
    faults: int


def _read(path: Path | str) -> tuple[FileDataset, bytes] | None:
    try:
        content = raw_bytes(path)
        return read_dataset(content), content
    except (OSError, Quarantine):
        return None


def _compared(shard: Path, most: int | None) -> pl.DataFrame:
    """Study, series and folder of the series that passed and are compared: all, or `most` by the digest of their names."""
    passed = read_manifest(shard / "manifest.parquet", "deidentify_images").filter(pl.col("status") == "ok")
    rows = passed.select("study_id", "series_id", "path")
    drawn = sorted(rows.iter_rows(), key=lambda row: digest([row[0], row[1]]))[:most]
    return pl.DataFrame(drawn, schema=rows.schema, orient="row")


def _pairs(run: Run, shard: Path, chosen: pl.DataFrame, blanked: Mapping[str, list[Any]]) -> Iterator[Pair]:
    """Raw and written file of every usable instance of the chosen series."""
    instances = run.instances(shard.name).filter(pl.col("status") == "ok")
    for row in instances.join(chosen, on=["study_id", "series_id"]).to_dicts():
        raw = _read(row["file"])
        written = _read(shard / row["path"] / f"{row['instance_id']}.dcm")
        if raw is None:
            raise InputError(f"instance {row['instance_id']}: its raw file can't be read; run index again")
        yield Pair(
            series_id=row["series_id"],
            raw=raw[0],
            written=written[0] if written else None,
            content=written[1] if written else b"",
            boxes=tuple(Box(*box) for box in blanked.get(row["instance_id"], [])),
        )


def _counted(pairs: Iterator[Pair], values: Values) -> Iterator[Pair]:
    """The same pairs; the values of what was written are added to `values` on the way."""
    for pair in pairs:
        if pair.written is not None:
            values.update(element_values(pair.written))
        yield pair


def _refused(shard: Path) -> pl.DataFrame:
    """The shard's series that did not pass, those that the index had refused included."""
    return read_manifest(shard / "manifest.parquet", "deidentify_images").filter(pl.col("status") != "ok")


def _refused_here(run: Run, shard: Path) -> list[str]:
    """Series that the index passed and stage 02 refused."""
    table = read_manifest(run.index / "images" / shard.name / "series.parquet", "index_series")
    usable = table.filter(pl.col("status") == "ok").select("study_id", "series_id")
    return _refused(shard).join(usable, on=["study_id", "series_id"])["series_id"].to_list()


def _pictures(entries: Iterator[tuple[str, FileDataset, list[Any]]]) -> list[Mapping[str, str]]:
    made: list[tuple[str, str]] = []
    for caption, dataset, boxes in entries:
        if len(made) == MOST_PICTURES:
            break
        try:
            made.append((caption, thumbnail(dataset, boxes)))
        except Exception:  # whatever a decoder says: the series is listed without its picture
            continue
    return sheet(made)


def _after(
    shards: Sequence[Path], places: Mapping[str, Mapping[str, Any]]
) -> Iterator[tuple[str, FileDataset, list[Any]]]:
    """Every blanked file as it was written."""
    for shard in shards:
        for name, entry in sorted(places.items()):
            file = shard / "dicom" / entry["study_id"] / entry["series_id"] / f"{name}.dcm"
            if file.is_file() and (found := _read(file)) is not None:
                yield f"{entry['series_id']} / {name}", found[0], entry["boxes"]


def _before(
    run: Run, shards: Sequence[Path], blanked: Mapping[str, list[Any]]
) -> Iterator[tuple[str, FileDataset, list[Any]]]:
    """The middle image of every refused series, then every blanked one as it came; with identifiers."""
    for shard in shards:
        instances = run.instances(shard.name)
        for row in _refused(shard).to_dicts():
            of_series = instances.filter(pl.col("series_id") == row["series_id"])
            files = of_series.sort("instance_number")["file"].to_list()
            found = _read(files[len(files) // 2]) if files else None
            if found is not None:
                yield f"{row['series_id']}: {row['reason']}", found[0], []
        for row in instances.filter(pl.col("instance_id").is_in(list(blanked))).to_dicts():
            found = _read(row["file"])
            if found is not None:
                yield f"{row['series_id']} / {row['instance_id']}", found[0], blanked[row["instance_id"]]


def _report_shards(run: Run) -> Iterator[tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]]:
    for shard in run.shards(run.reports) if run.reports else ():
        yield (
            read_manifest(shard / "manifest.parquet", "deidentify_reports"),
            read_manifest(run.index / "reports" / shard.name / "reports.parquet", "index_reports"),
            read_manifest(run.index / "images" / shard.name / "studies.parquet", "index_studies"),
        )


def _values_table(values: Values) -> pl.DataFrame:
    rows = [
        {"path": path, "keyword": keyword, "vr": vr, "value": value, "count": count}
        for (path, keyword, vr, value), count in sorted(values.items())
    ]
    schema = {"path": pl.String, "keyword": pl.String, "vr": pl.String, "value": pl.String, "count": pl.Int64}
    return pl.DataFrame(rows, schema=schema)


def _image_counts(audits: Mapping[str, Mapping[str, Any]], num_blanked: int) -> dict[str, int]:
    quarantined: Counter[str] = Counter()
    for audit in audits.values():
        quarantined.update(audit["quarantined"])
    return {
        "series": sum(audit["series"] for audit in audits.values()),
        "series that passed": sum(audit["series_ok"] for audit in audits.values()),
        "files that passed": sum(audit["instances_ok"] for audit in audits.values()),
        "files with blanked pixels": num_blanked,
        **{f"refused: {reason}": count for reason, count in sorted(quarantined.items())},
    }


def _report_counts(reports: ReportAudit) -> dict[str, int]:
    return {
        "reports": reports.reports,
        "reports that passed": reports.passed,
        **{f"refused: {reason}": count for reason, count in sorted(reports.quarantined.items())},
        **{f"replaced: {kind}": count for kind, count in sorted(reports.replaced.items())},
    }


def _actions(audits: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, int]]:
    actions: dict[str, Counter[str]] = {}
    for audit in audits.values():
        for action, attributes in audit["actions"].items():
            actions.setdefault(action, Counter()).update(attributes)
    return {action: dict(sorted(found.items())) for action, found in sorted(actions.items())}


def audit_run(run: Run, out: Path, restricted: Path) -> Audit:
    """Audit every shard of images and reports.

    Writes `<out>/{audit.html,values.csv,values.parquet,score.json}` without identifiers, with pictures as they are
    after blanking, and `<restricted>/quarantined.html` with pictures of what was refused or before it was blanked.

    Raises:
        InputError: no shard below `run.images`, or a raw file is gone.
    """
    shards = run.shards(run.images)
    if not shards:
        raise InputError(f"{run.images}: no <shard>/manifest.parquet; name the folder with the shards of stage 02")
    audits = {shard.name: json.loads((shard / "audit.json").read_text(encoding="utf-8")) for shard in shards}
    places = {entry["instance_id"]: entry for audit in audits.values() for entry in audit["blanked"]}
    blanked = {name: entry["boxes"] for name, entry in places.items()}
    chosen = {shard: _compared(shard, run.config.audit_series) for shard in shards}
    values: Values = Counter()
    pairs = (pair for shard in shards for pair in _pairs(run, shard, chosen[shard], blanked))
    refused = [series_id for shard in shards for series_id in _refused_here(run, shard)]
    score: Score = score_run(_counted(pairs, values), refused, run.config)
    reports = audit_reports(_report_shards(run))
    audit = Audit(
        images=score.table(),
        reports=reports.table() if run.reports else [],
        series_passed=sum(found["series_ok"] for found in audits.values()),
        series_compared=sum(frame.height for frame in chosen.values()),
        faults=score.faults() + sum(count for name, count in reports.left.items() if name != WORDS),
    )
    table = _values_table(values)
    texts = table.filter(pl.col("vr").is_in(TEXTS)).sort("count", "path", "value").head(MOST_VALUES)
    page = {"audit": audit, "counts": _image_counts(audits, len(blanked)), "actions": _actions(audits)}
    page |= {"report_counts": _report_counts(reports) if run.reports else {}}
    with atomic_directory(out) as folder:
        table.write_csv(folder / "values.csv")
        table.write_parquet(folder / "values.parquet")
        text = render_page(
            "audit.html.jinja",
            **page,
            pictures=_pictures(_after(shards, places)),
            values=texts.to_dicts(),
            num_values=table.height,
        )
        (folder / "audit.html").write_text(text, encoding="utf-8")
        write_json(
            folder / "score.json",
            {
                "series_passed": audit.series_passed,
                "series_compared": audit.series_compared,
                "images": audit.images,
                "reports": audit.reports,
                "faults": audit.faults,
            },
        )
    restricted.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with atomic_directory(restricted) as folder:
        left = [{"study_id": study_id, "identifiers": name} for study_id, name in reports.places]
        text = render_page("refused.html.jinja", pictures=_pictures(_before(run, shards, blanked)), left=left)
        (folder / "quarantined.html").write_text(text, encoding="utf-8")
    restricted.chmod(0o700)
    return audit

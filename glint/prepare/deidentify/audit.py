"""Audit of a de-identification run: what was done, what remains, what it scores, and pictures to look at."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import polars as pl
from pydicom.dataset import FileDataset

from glint.core.atomic import atomic_directory, write_json
from glint.core.errors import InputError, Quarantine
from glint.formats.archives import raw_bytes
from glint.formats.dicom import read_dataset
from glint.formats.header_cache import indexed_folders, located
from glint.formats.manifest import read_manifest
from glint.prepare.deidentify.audit_page import render_page, sheet, thumbnail
from glint.prepare.deidentify.audit_score import Pair, score_run, value_counts
from glint.prepare.deidentify.device_regions import Box

TEXTS = ("LO", "SH", "ST", "LT", "UT", "UC", "PN", "CS", "UR", "AE")
MOST_VALUES, MOST_PICTURES = 200, 200  # on the page; the table has all


def _read(path: Path | str) -> tuple[FileDataset, bytes] | None:
    try:
        content = raw_bytes(path)
        return read_dataset(content), content
    except (OSError, Quarantine):
        return None


def _instances(index: Path) -> pl.DataFrame:
    """The shard's instances with the places of their raw files."""
    return located(read_manifest(index / "instances.parquet", "index_instances"), indexed_folders(index.parent))


def _pairs(shard: Path, index: Path, blanked: Mapping[str, list[Any]]) -> Iterator[Pair]:
    """Raw and written file of every usable instance of series that were not refused."""
    manifest = read_manifest(shard / "manifest.parquet", "deidentify_images").filter(pl.col("status") == "ok")
    instances = _instances(index).filter(pl.col("status") == "ok")
    for row in instances.join(
        manifest.select("study_id", "series_id", "path"), on=["study_id", "series_id"]
    ).to_dicts():
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


def _refused_here(shard: Path, index: Path) -> list[str]:
    """Series that the index passed and stage 02 refused."""
    usable = read_manifest(index / "series.parquet", "index_series").filter(pl.col("status") == "ok")
    manifest = read_manifest(shard / "manifest.parquet", "deidentify_images").filter(pl.col("status") != "ok")
    return manifest.join(usable.select("study_id", "series_id"), on=["study_id", "series_id"])["series_id"].to_list()


def _refused(shard: Path, index: Path) -> Iterator[tuple[str, FileDataset]]:
    """Caption and middle image of every series refused by stage 02; with identifiers."""
    manifest = read_manifest(shard / "manifest.parquet", "deidentify_images").filter(pl.col("status") != "ok")
    instances = _instances(index)
    for row in manifest.to_dicts():
        files = instances.filter(pl.col("series_id") == row["series_id"]).sort("instance_number")["file"].to_list()
        found = _read(files[len(files) // 2]) if files else None
        if found is not None:
            yield f"{row['series_id']}: {row['reason']}", found[0]


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


def audit_run(results: Path, index: Path, out: Path, restricted: Path) -> list[dict[str, Any]]:
    """Audit every shard below `results`; returns the score's rows.

    Writes `<out>/{audit.html,values.csv,values.parquet,score.json}` without identifiers, with pictures as they are
    after blanking, and `<restricted>/quarantined.html` with pictures of what was refused or before it was blanked.

    Raises:
        InputError: no shard below `results`, or a raw file is gone.
    """
    shards = sorted(path.parent for path in results.glob("*/manifest.parquet"))
    if not shards:
        raise InputError(f"{results}: no <shard>/manifest.parquet; name the folder with the shards of stage 02")
    audits = {shard.name: json.loads((shard / "audit.json").read_text(encoding="utf-8")) for shard in shards}
    places = {entry["instance_id"]: entry for audit in audits.values() for entry in audit.get("blanked", ())}
    blanked = {name: entry["boxes"] for name, entry in places.items()}
    pairs = (pair for shard in shards for pair in _pairs(shard, index / shard.name, blanked))
    refused = [series_id for shard in shards for series_id in _refused_here(shard, index / shard.name)]
    score = score_run(pairs, refused).table()
    files = sorted(file for shard in shards for file in shard.glob("dicom/*/*/*.dcm"))
    counts = value_counts(found[0] for file in files if (found := _read(file)) is not None)
    rows = [
        {"path": path, "keyword": keyword, "vr": vr, "value": value, "count": count}
        for (path, keyword, vr, value), count in sorted(counts.items())
    ]
    schema = {"path": pl.String, "keyword": pl.String, "vr": pl.String, "value": pl.String, "count": pl.Int64}
    values = pl.DataFrame(rows, schema=schema)
    actions: dict[str, Counter[str]] = {}
    quarantined: Counter[str] = Counter()
    for audit in audits.values():
        quarantined.update(audit["quarantined"])
        for action, attributes in audit["actions"].items():
            actions.setdefault(action, Counter()).update(attributes)
    after = [
        (f"{file.parent.name} / {file.stem}", found[0], blanked[file.stem])
        for file in files
        if file.stem in blanked and (found := _read(file)) is not None
    ]
    texts = values.filter(pl.col("vr").is_in(TEXTS)).sort("count", "path", "value").head(MOST_VALUES)
    with atomic_directory(out) as folder:
        values.write_csv(folder / "values.csv")
        values.write_parquet(folder / "values.parquet")
        write_json(folder / "score.json", score)
        page = render_page(
            title="De-identification audit",
            restricted=False,
            score=score,
            counts={
                "series": sum(audit["series"] for audit in audits.values()),
                "series that passed": sum(audit["series_ok"] for audit in audits.values()),
                "files that passed": sum(audit["instances_ok"] for audit in audits.values()),
                "files with blanked pixels": len(blanked),
                **{f"refused: {reason}": count for reason, count in sorted(quarantined.items())},
            },
            actions={action: dict(sorted(found.items())) for action, found in sorted(actions.items())},
            sheet_title="Blanked images, after blanking",
            pictures=_pictures(iter(after)),
            values=texts.to_dicts(),
            num_values=values.height,
        )
        (folder / "audit.html").write_text(page, encoding="utf-8")
    before = _before(shards, index, blanked)
    restricted.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with atomic_directory(restricted) as folder:
        page = render_page(
            title="Refused images, and images before blanking",
            restricted=True,
            score=[],
            counts={},
            actions={},
            sheet_title="Images",
            pictures=_pictures(before),
            values=[],
            num_values=0,
        )
        (folder / "quarantined.html").write_text(page, encoding="utf-8")
    restricted.chmod(0o700)
    return score


def _before(
    shards: list[Path], index: Path, blanked: Mapping[str, list[Any]]
) -> Iterator[tuple[str, FileDataset, list[Any]]]:
    for shard in shards:
        for caption, dataset in _refused(shard, index / shard.name):
            yield caption, dataset, []
        instances = _instances(index / shard.name)
        for row in instances.filter(pl.col("instance_id").is_in(list(blanked))).to_dicts():
            found = _read(row["file"])
            if found is not None:
                yield f"{row['series_id']} / {row['instance_id']}", found[0], blanked[row["instance_id"]]

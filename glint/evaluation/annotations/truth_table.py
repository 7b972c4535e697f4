"""A folder of published annotations → the truth that stage 10 reads.

`labels.csv` says which image has which finding, masks say where, `findings.json` names the bits; `queries.csv` lists free sentences
and `queries/` says where what they describe is; `splits.csv` is what stage 06 takes (`split.assigned`), `annotations.parquet` is the
common table, `summary.json` counts. With the tables of stage 01 everything is named by pseudonym; without them by published id, and
`annotations.parquet` keeps the published ids.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import polars as pl

from glint.core.atomic import atomic_directory, write_json
from glint.core.config.benchmarks import Benchmark, load_benchmarks
from glint.core.errors import InputError
from glint.core.progress import log
from glint.evaluation.annotations.drawing import write_masks, write_queries
from glint.evaluation.annotations.registry import ANNOTATIONS
from glint.evaluation.annotations.splits import mgca_splits
from glint.evaluation.annotations.table import has_region, read_csv
from glint.evaluation.queries import QUERIES_FILE, QUERIES_FOLDER
from glint.evaluation.truth import FINDINGS_FILE, LABELS_FILE
from glint.formats.manifest import read_manifests
from glint.formats.model_image import MASKS_PER_FILE

Uncertain = Literal["drop", "absent", "present"]
SPLITS = ("train", "validation", "test", "excluded")
_IDS = ("image", "study", "patient")


@dataclass(frozen=True, kw_only=True)
class TruthTableOptions:
    """What is made of the annotations.

    benchmark: name in `benchmarks.toml`; None takes every published finding. split: `published`, `mgca`, or a CSV with columns id and
    split. uncertain: what an uncertain label counts as; `drop` leaves the image's labels out. index: folders with stage 01's
    `studies.parquet` and `instances.parquet`. images: folder with the scans, whose affine masks without one of their own take.
    exclude: splits whose images must not be trained on, or `all`; they become `excluded` in `splits.csv`.
    """

    benchmark: str | None = None
    split: str = "published"
    uncertain: Uncertain = "drop"
    index: tuple[Path, ...] = ()
    images: Path | None = None
    exclude: tuple[str, ...] = ()


def read_annotations(name: str, folder: Path) -> pl.DataFrame:
    """The common table of a published set.

    Raises:
        InputError: the set is not known, a file is absent or of another form.
    """
    if name not in ANNOTATIONS:
        raise InputError(f"no annotation set {name!r}; known are {', '.join(ANNOTATIONS)}")
    frame = ANNOTATIONS[name].read(folder)
    return frame.with_columns(study=pl.coalesce("study", "image"), patient=pl.coalesce("patient", "study", "image"))


def with_splits(frame: pl.DataFrame, name: str, split: str) -> pl.DataFrame:
    """The frame with the chosen division.

    Raises:
        InputError: MGCA has none for this set; the CSV is absent, lacks a column, or names another split.
    """
    if split == "published":
        return frame
    if split == "mgca":
        if name not in ("siim", "rsna"):
            raise InputError(
                f"--split mgca: MGCA divides siim and rsna, not {name}; published, or a CSV with id and split"
            )
        chosen = mgca_splits(name, frame["image"].to_list())
    else:
        file = Path(split)
        if not file.is_file():
            raise InputError(f"{file}: no such file; --split is published, mgca, or a CSV with columns id and split")
        table = read_csv(file, ["id", "split"])
        if strange := sorted({str(one) for one in table["split"]} - {*SPLITS}):
            raise InputError(f"{file}: split {strange[0]!r}; known are {', '.join(SPLITS)}")
        chosen = {
            PurePosixPath(one).name.split(".")[0]: where for one, where in table.select("id", "split").iter_rows()
        }
    named = [chosen.get(image, chosen.get(study)) for image, study in frame.select("image", "study").iter_rows()]
    return frame.with_columns(split=pl.Series(named, dtype=pl.String))


def with_benchmark(frame: pl.DataFrame, benchmark: Benchmark) -> pl.DataFrame:
    """The rows of a benchmark's findings under its names; an image left with none keeps one row without a finding.

    Raises:
        InputError: a finding of the benchmark has no column; or, where only what is present is listed, none is listed.
    """
    columns = bool((frame["label"] == "absent").any())
    absent = sorted(set(benchmark.findings.values()) - set(frame["finding"].drop_nulls()))
    if absent and (columns or len(absent) == len(set(benchmark.findings.values()))):
        raise InputError(
            f"benchmark {benchmark.name}: no published finding {absent[0]!r} in these files; is the folder that of "
            f"{benchmark.annotations}?"
        )
    names = pl.DataFrame(
        {"finding": list(benchmark.findings.values()), "_name": list(benchmark.findings)},
        schema_overrides={"_name": pl.String},
    )
    kept = (
        frame.join(names, on="finding", how="inner", maintain_order="left").with_columns(finding="_name").drop("_name")
    )
    others = frame.join(kept, on="image", how="anti").unique("image", maintain_order=True)
    cleared = others.with_columns(
        pl.lit(None, dtype=frame.schema[name]).alias(name)
        for name in ("finding", "sentence", "box", "rle", "polygon", "mask_file", "mask_channel")
    )
    unknown = pl.when(pl.col("label") == "unknown").then("label")
    return pl.concat([kept, cleared.with_columns(label=unknown)]).select(frame.columns)


def pseudonyms_of(frame: pl.DataFrame, index: Sequence[Path]) -> pl.DataFrame:
    """image → `id`, `study_id` and `patient_id`, pseudonyms of stage 01; images that stage 01 did not see are left out.

    An image is found as a SOP Instance UID, as the name of a DICOM file, then by accession number or Study Instance UID of its own or
    of its study. A key that names two things names nothing.

    Raises:
        InputError: a table of stage 01 is absent.
    """
    studies = read_manifests([folder / "studies.parquet" for folder in index], "index_studies")
    instances = read_manifests([folder / "instances.parquet" for folder in index], "index_instances")
    by_instance = _unique(
        (key, row["instance_id"], row["study_id"])
        for row in instances.select("instance_id", "study_id", "sop_instance_uid", "file").to_dicts()
        for key in (row["sop_instance_uid"], PurePosixPath(row["file"] or "").name.rsplit(".", 1)[0])
    )
    by_study = _unique(
        (key, row["study_id"], row["study_id"])
        for row in studies.select("study_id", "study_uid", "accession").to_dicts()
        for key in (row["accession"], row["study_uid"])
    )
    patient_of = dict(studies.select("study_id", "patient_id").iter_rows())
    found = []
    for image, study in frame.select("image", "study").unique(maintain_order=True).iter_rows():
        hit = by_instance.get(image) or by_study.get(image) or by_study.get(study)
        if hit is not None:
            found.append({"image": image, "id": hit[0], "study_id": hit[1], "patient_id": patient_of.get(hit[1])})
    columns = dict.fromkeys(("image", "id", "study_id", "patient_id"), pl.String)
    return pl.DataFrame(found, schema=columns)


def _unique(rows: Any) -> dict[str, tuple[str, str]]:
    found: dict[str, tuple[str, str] | None] = {}
    for key, name, study in rows:
        if key:
            hit = (name, study)
            found[key] = hit if found.get(key, hit) == hit else None
    return {key: hit for key, hit in found.items() if hit is not None}


def label_table(frame: pl.DataFrame, findings: Sequence[str], uncertain: Uncertain) -> tuple[pl.DataFrame, int]:
    """`id` and a column per finding, 1 or 0; and how many ids were left out for an uncertain or unknown label.

    What an id's rows do not name is absent; of several images under one id, one that shows a finding is enough.
    """
    value = pl.col("label").replace_strict({"present": 1, "absent": 0, "uncertain": 2, "unknown": 3}, default=0)
    rows = frame.with_columns(value=value.cast(pl.Int8))
    # A finding that isn't mentioned is not there; an image whose labels as a whole are unknown is another matter.
    unmentioned = (pl.col("value") == 3) & pl.col("finding").is_not_null()
    rows = rows.with_columns(value=pl.when(unmentioned).then(pl.lit(0, dtype=pl.Int8)).otherwise("value"))
    if uncertain != "drop":
        settled = pl.lit(1 if uncertain == "present" else 0, dtype=pl.Int8)
        rows = rows.with_columns(value=pl.when(pl.col("value") == 2).then(settled).otherwise("value"))
    present = rows.filter(pl.col("value") == 1).select("id", "finding").unique()
    open_rows = rows.filter(pl.col("value") >= 2)
    named = open_rows.filter(pl.col("finding").is_not_null()).join(present, on=["id", "finding"], how="anti")
    dropped = pl.concat([named, open_rows.filter(pl.col("finding").is_null())])["id"].unique()
    ids = rows.select("id").unique().filter(~pl.col("id").is_in(dropped.implode())).sort("id")
    columns = [
        ids["id"].is_in(present.filter(pl.col("finding") == name)["id"].implode()).cast(pl.Int8).alias(name)
        for name in findings
    ]
    return ids.with_columns(columns), dropped.len()


def split_table(frame: pl.DataFrame, exclude: Sequence[str]) -> pl.DataFrame:
    """`study_id` and `split` of every study with one; of a study's several, the one held out furthest."""
    order = {"train": 0, "validation": 1, "test": 2, "excluded": 3}
    everywhere = pl.lit("all" in exclude)  # a set without a published split has nothing else to go by
    where = pl.when(everywhere | pl.col("split").is_in(list(exclude))).then(pl.lit("excluded")).otherwise("split")
    known = frame.with_columns(split=where).filter(pl.col("split").is_not_null())
    rank = pl.col("split").replace_strict(order, return_dtype=pl.Int8)
    return (
        known.select("study_id", "split", rank=rank)
        .sort("study_id", "rank")
        .unique("study_id", keep="last", maintain_order=True)
        .select("study_id", "split")
    )


def make_truth_table(name: str, folder: Path, out: Path, options: TruthTableOptions) -> dict[str, Any]:
    """Read, choose, draw, write; returns what `summary.json` holds.

    Raises:
        InputError: an unknown name, a file that is absent or of another form, no image that stage 01 knows.
    """
    frame = with_splits(read_annotations(name, folder), name, options.split)
    source = ANNOTATIONS[name]
    spoken = frame  # sentences are asked whether or not a benchmark asks their category
    if options.benchmark is not None:
        known = load_benchmarks()
        if options.benchmark not in known or known[options.benchmark].annotations != name:
            fitting = ", ".join(one.name for one in known.values() if one.annotations == name) or "none"
            raise InputError(f"no benchmark {options.benchmark!r} of {name}; it has: {fitting}")
        frame = with_benchmark(frame, known[options.benchmark])
        findings = list(known[options.benchmark].findings)
        asked = {published: one for one, published in known[options.benchmark].findings.items()}
        spoken = spoken.with_columns(pl.col("finding").replace(asked))
    else:
        findings = sorted(set(frame["finding"].drop_nulls()))
    if not findings:
        raise InputError(f"{folder}: no finding in {frame.height} rows; is it the published folder of {name}?")
    published = frame.select(_IDS).n_unique()
    counts = {key: frame[key].n_unique() for key in _IDS}
    if options.index:
        names = pseudonyms_of(frame, options.index)
        frame, spoken = (one.join(names, on="image", how="inner", maintain_order="left") for one in (frame, spoken))
        if frame.is_empty():
            raise InputError(
                f"{folder}: none of {counts['image']} images is known to stage 01 as SOP Instance UID, file name or accession; "
                "was it indexed from these images?"
            )
        if source.names_volumes:
            frame, spoken = (one.with_columns(id="study_id") for one in (frame, spoken))
        kept = frame.drop(*_IDS, "sentence", "mask_file")
    else:
        own = pl.col("study") if source.names_volumes else pl.col("image")
        ids = {"id": own, "study_id": pl.col("study"), "patient_id": pl.col("patient")}
        frame, spoken = (one.with_columns(**ids) for one in (frame, spoken))
        kept = frame
    regions = bool(has_region(frame).any())
    if regions and len(findings) > MASKS_PER_FILE:
        raise InputError(
            f"{folder}: {len(findings)} findings with masks, a mask file holds {MASKS_PER_FILE}; choose a subset by --benchmark"
        )
    with atomic_directory(out) as target:
        write_json(target / FINDINGS_FILE, {str(bit): finding for bit, finding in enumerate(findings)})
        dropped, labelled = 0, 0
        if source.unlisted == "absent":
            table, dropped = label_table(frame, findings, options.uncertain)
            labelled = table.height
            table.write_csv(target / LABELS_FILE)
        masks, failed = write_masks(frame, findings, source, target, options.images) if regions else (0, {})
        queries, unasked = write_queries(spoken, source, target / QUERIES_FOLDER, options.images)
        if queries.height:
            queries.write_csv(target / QUERIES_FILE)
        splits = split_table(frame, options.exclude)
        splits.write_csv(target / "splits.csv")
        kept.write_parquet(target / "annotations.parquet")
        per_split = frame.group_by("split").agg(pl.col("image").n_unique()).sort("split", nulls_last=True)
        present = frame.filter(pl.col("label") == "present").group_by("finding").agg(pl.col("id").n_unique())
        positives = dict(present.iter_rows())
        summary: dict[str, Any] = {
            "annotations": name,
            "source": source.source,
            "benchmark": options.benchmark,
            "split": options.split,
            "uncertain": options.uncertain,
            "named_by": "pseudonym" if options.index else "published id",
            "published": {"images": counts["image"], "studies": counts["study"], "patients": counts["patient"]},
            "images_per_split": {str(split): count for split, count in per_split.iter_rows()},
            "studies": frame["study_id"].n_unique(),
            "images": frame["image"].n_unique(),
            "excluded_studies": splits.filter(pl.col("split") == "excluded").height,
            "labelled": labelled,
            "left_out_uncertain": dropped,
            "masks": masks,
            "masks_failed": failed,
            "sentences": queries.height,
            "sentences_failed": unasked,
            "positives": {finding: positives.get(finding, 0) for finding in findings},
        }
        if source.names_volumes:
            summary["reconstructions_per_study"] = round(published / counts["study"], 4)
        write_json(target / "summary.json", summary)
    log(
        f"truth-table: {summary['images']} images of {summary['studies']} studies, {labelled} labelled, {masks} masks, {queries.height} sentences, "
        f"{sum(failed.values())} masks failed, {dropped} left out as uncertain"
    )
    return summary

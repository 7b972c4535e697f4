"""A folder of published annotations → the truth that stage 10 reads.

`labels.csv` says which image has which finding, masks say where, `findings.json` names the bits, `splits.csv` is what stage 06 takes
(`split.assigned`), `annotations.parquet` is the common table, `summary.json` counts. With the tables of stage 01 everything is named
by pseudonym; without them by published id, and `annotations.parquet` keeps the published ids.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from glint.core.atomic import atomic_directory, write_json
from glint.core.config.benchmarks import Benchmark, load_benchmarks
from glint.core.errors import GlintError, InputError
from glint.core.progress import log, track
from glint.evaluation.annotations.raster import box_mask, polygon_mask, relative_rle_mask
from glint.evaluation.annotations.registry import ANNOTATIONS, AnnotationSet
from glint.evaluation.annotations.splits import mgca_splits
from glint.evaluation.annotations.table import has_region, read_csv
from glint.evaluation.truth import FINDINGS_FILE, LABELS_FILE, SUFFIX
from glint.formats.manifest import read_manifests
from glint.formats.model_image import FILM_AFFINE, FILM_SUFFIX, MASKS_PER_FILE, Bits, blank_bits, write_mask_bits
from glint.formats.nifti import open_nifti, read_channel_masks

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


def film_bits(rows: Sequence[Mapping[str, Any]], findings: Sequence[str]) -> Bits:
    """(Y, X) bit field of one film; a contour goes before the box round it.

    Raises:
        InputError: the film's size isn't known, or run lengths leave the film.
    """
    height, width = rows[0]["height"], rows[0]["width"]
    if not height or not width:
        raise InputError("a film's height and width are not published; its masks can't be drawn")
    size = int(height), int(width)
    bits = blank_bits(size, len(findings))
    for row in rows:
        if row["rle"] is not None:
            mask = relative_rle_mask(row["rle"], size)
        elif row["polygon"] is not None:
            mask = polygon_mask(row["polygon"], size)
        elif row["box"] is not None:
            mask = box_mask(row["box"], size)
        else:
            continue
        bits[mask] |= bits.dtype.type(1 << findings.index(row["finding"]))
    return bits


def volume_bits(
    rows: Sequence[Mapping[str, Any]], findings: Sequence[str], images: Path | None
) -> tuple[Bits, NDArray[np.float64]]:
    """(Z, Y, X) bit field of one scan and its affine. Masks that carry none (the identity) lie on the voxels of the scan of their
    name below `images`, whose affine they take.

    Raises:
        InputError: no such scan, or one of another size; a channel that the mask lacks.
    """
    try:
        masks_FZYX, affine = read_channel_masks(Path(rows[0]["mask_file"]))
    except GlintError:  # its words hold the file's name
        raise InputError("a mask file is not readable NIfTI; download it again") from None
    if np.array_equal(affine, np.eye(4)):
        name = Path(rows[0]["mask_file"]).name
        scan = next(iter(sorted(images.rglob(name))), None) if images else None
        if scan is None:
            raise InputError(
                "masks without an affine of their own need --images, the folder with the scans of their names"
            )
        try:
            volume = open_nifti(scan)
        except GlintError:
            raise InputError("a scan is not readable NIfTI or has no orientation; download it again") from None
        affine = volume.affine
        if volume.stored_ZYX.shape != masks_FZYX.shape[1:]:
            raise InputError(
                f"a mask of {masks_FZYX.shape[1:]} voxels on a scan of {volume.stored_ZYX.shape}; is it its scan?"
            )
    bits = blank_bits(masks_FZYX.shape[1:], len(findings))
    for row in rows:
        if row["finding"] is None or row["mask_file"] is None:
            continue
        if row["mask_channel"] >= len(masks_FZYX):
            raise InputError(
                f"channel {row['mask_channel']} of a mask with {len(masks_FZYX)}; is it the published file?"
            )
        bits[masks_FZYX[row["mask_channel"]] > 0] |= bits.dtype.type(1 << findings.index(row["finding"]))
    return bits, affine


def _file_stem(name: str) -> str:
    return name.replace("/", "_")


def write_masks(
    frame: pl.DataFrame, findings: Sequence[str], source: AnnotationSet, folder: Path, images: Path | None
) -> tuple[int, dict[str, int]]:
    """Write a bit field per drawn image, named by `id`; how many, and how many images failed by reason."""
    drawn = frame.filter(has_region(frame)) if not source.drawn else frame.filter(pl.col("height").is_not_null())
    written, failed = 0, dict[str, int]()
    groups = drawn.partition_by("id", "image", maintain_order=True)
    for group in track(groups, "masks"):
        rows = group.to_dicts()
        stem = _file_stem(rows[0]["id"])
        try:
            if source.names_volumes:
                bits, affine = volume_bits(rows, findings, images)
                write_mask_bits(folder / f"{stem}{SUFFIX}", bits, affine)
            else:
                bits = film_bits(rows, findings)[None]
                write_mask_bits(folder / f"{stem}{FILM_SUFFIX}", bits, FILM_AFFINE)
        except GlintError as error:
            told = str(error)[:160]
            failed[told] = failed.get(told, 0) + 1
            continue
        written += 1
    return written, failed


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
    if options.benchmark is not None:
        known = load_benchmarks()
        if options.benchmark not in known or known[options.benchmark].annotations != name:
            fitting = ", ".join(one.name for one in known.values() if one.annotations == name) or "none"
            raise InputError(f"no benchmark {options.benchmark!r} of {name}; it has: {fitting}")
        frame = with_benchmark(frame, known[options.benchmark])
        findings = list(known[options.benchmark].findings)
    else:
        findings = sorted(set(frame["finding"].drop_nulls()))
    if not findings:
        raise InputError(f"{folder}: no finding in {frame.height} rows; is it the published folder of {name}?")
    published = frame.select(_IDS).n_unique()
    counts = {key: frame[key].n_unique() for key in _IDS}
    if options.index:
        frame = frame.join(pseudonyms_of(frame, options.index), on="image", how="inner", maintain_order="left")
        if frame.is_empty():
            raise InputError(
                f"{folder}: none of {counts['image']} images is known to stage 01 as SOP Instance UID, file name or accession; "
                "was it indexed from these images?"
            )
        if source.names_volumes:
            frame = frame.with_columns(id="study_id")
        kept = frame.drop(*_IDS, "sentence", "mask_file")
    else:
        own = pl.col("study") if source.names_volumes else pl.col("image")
        frame = frame.with_columns(id=own, study_id=pl.col("study"), patient_id=pl.col("patient"))
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
            "positives": {finding: positives.get(finding, 0) for finding in findings},
        }
        if source.names_volumes:
            summary["reconstructions_per_study"] = round(published / counts["study"], 4)
        write_json(target / "summary.json", summary)
    log(
        f"truth-table: {summary['images']} images of {summary['studies']} studies, {labelled} labelled, {masks} masks, "
        f"{sum(failed.values())} masks failed, {dropped} left out as uncertain"
    )
    return summary

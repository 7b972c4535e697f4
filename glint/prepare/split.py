"""Stage 06: studies → train, validation, test, by patient.

Each patient's place is SHA-256 of the seed and the pseudonym, read as a number in [0, 1) and compared with the shares.
It depends on nobody else: a new patient or study never moves an old one. The price is that shares hold only on
average: of N patients a share p gets pN ± sqrt(p(1-p)N). A published division (`split.assigned`) goes before the hash.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from glint.core.config.split import SplitConfig
from glint.core.errors import InputError
from glint.core.ids import Pseudonyms
from glint.core.progress import log
from glint.core.provenance import digest
from glint.formats.manifest import manifest_frame, read_manifest, write_manifest
from glint.formats.report_table import read_report_table

SPLITS = ("train", "validation", "test")
OFFICIAL_NAMES = {
    "train": "train",
    "validate": "validation",
    "validation": "validation",
    "valid": "validation",
    "test": "test",
}
EXCLUDED = "excluded"


def split_of_patient(patient_id: str, config: SplitConfig) -> str:
    """The patient's split; a function of the seed, the shares and this patient alone."""
    drawn = int.from_bytes(hashlib.sha256(f"{config.seed}|{patient_id}".encode()).digest()[:8], "big") / 2**64
    if drawn < config.train:
        return "train"
    return "validation" if drawn < config.train + config.validation else "test"


def read_official(path: Path, config: SplitConfig, pseudonyms: Pseudonyms) -> dict[str, str]:
    """Pseudonym of every patient of a published split → train, validation or test.

    Raises:
        InputError: the table is absent, lacks a column, names an unknown split, or has a patient in two.
    """
    columns = [config.official_patient_column, config.official_split_column]
    found: dict[str, str] = {}
    for patient, named in read_report_table(path, columns).iter_rows():
        split = OFFICIAL_NAMES.get(named.strip().lower())
        if split is None:
            raise InputError(f"{path}: {columns[1]} names a split {named!r}; known are {', '.join(OFFICIAL_NAMES)}")
        pseudonym = pseudonyms.patient_id(patient)
        if found.setdefault(pseudonym, split) != split:
            raise InputError(f"{path}: a patient lies in {found[pseudonym]} and in {split}; give each one split")
    return found


def read_assigned(path: Path) -> dict[str, str]:
    """Study pseudonym → train, validation, test or excluded, of a published division.

    Raises:
        InputError: the table is absent, lacks a column, names a study twice or another split; its words hold no id.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such table (split.assigned); `glint truth-table … --index …` writes splits.csv")
    try:
        table = pl.read_csv(path, infer_schema=False)
    except pl.exceptions.PolarsError as error:
        raise InputError(f"{path}: not a readable CSV table; columns study_id and split are needed") from error
    for name in ("study_id", "split"):
        if name not in table.columns:
            raise InputError(f"{path}: no column {name!r}; columns study_id and split are needed")
    if strange := sorted({str(one) for one in table["split"]} - {*SPLITS, EXCLUDED}):
        raise InputError(f"{path}: split {strange[0]!r}; known are {', '.join((*SPLITS, EXCLUDED))}")
    if table["study_id"].n_unique() < table.height:
        raise InputError(
            f"{path}: {table.height - table['study_id'].n_unique()} studies are named twice; name each once"
        )
    return dict(table.select("study_id", "split").iter_rows())


def _assign(rows: list[dict[str, Any]], assigned: Mapping[str, str]) -> None:
    """Give accepted studies the place that a published division names; a patient's unnamed studies follow the named ones.

    Raises:
        InputError: a patient's studies are named in two splits.
    """
    places: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        named = assigned.get(row["study_id"])
        if row["status"] == "ok" and named is not None and named != EXCLUDED:
            places[row["patient_id"]].add(named)
    if torn := sum(len(found) > 1 for found in places.values()):
        raise InputError(
            f"split.assigned: {torn} patients lie in two splits; put each in one, or exclude their studies"
        )
    for row in rows:
        if row["status"] != "ok":
            continue
        if assigned.get(row["study_id"]) == EXCLUDED:
            row.update(status="quarantined", reason="excluded_from_cohort", split=None)
        elif found := places.get(row["patient_id"]):
            row["split"] = next(iter(found))


def split_studies(
    series: pl.DataFrame,
    config: SplitConfig,
    official: Mapping[str, str] | None = None,
    assigned: Mapping[str, str] | None = None,
) -> pl.DataFrame:
    """One row per study (schema `split`, sorted by study_id) from the series rows of stage 02.

    `assigned` (see `read_assigned`) goes before the shares; what it excludes is quarantined (`excluded_from_cohort`).
    A study without an accepted volume is quarantined (`no_accepted_series`), one without a patient too (`no_patient`).
    Where the same images lie in two splits, filed under two patients, the study that sorts first stays and the others
    are quarantined (`duplicate_across_splits`). With an `official` split (patient → split) a patient it does not name is
    quarantined (`not_in_official_split`).

    Raises:
        InputError: a study belongs to two patients, a split could not be made clean, or nobody is left to train on.
    """
    said = config.model_dump(mode="json", exclude={"assigned"})
    params = digest({**said, "assigned": sorted(assigned.items())} if assigned else said)
    usable = pl.col("status").eq("ok") & pl.col("kind").is_in(["volume", "film"])
    images = pl.concat_list("series_id", "input_digest").list.drop_nulls()
    studies = (
        series.sort("study_id", "series_id", nulls_last=True)
        .group_by("study_id", maintain_order=True)
        .agg(
            patients=pl.col("patient_id").drop_nulls().unique(),
            images=images.filter(usable).explode().drop_nulls().unique(),
            accepted=usable.any(),
            input=pl.concat_str("series_id", "status", "input_digest", separator="|", ignore_nulls=True),
        )
    )
    rows: list[dict[str, Any]] = []
    contents: dict[str, set[str]] = {}
    for study in studies.iter_rows(named=True):
        patients = study["patients"]
        if len(patients) > 1:
            raise InputError(
                f"study {study['study_id']} belongs to {len(patients)} patients in the manifests; index it again"
            )
        reason = "no_patient" if not patients else None if study["accepted"] else "no_accepted_series"
        if not reason and official is not None and patients[0] not in official:
            reason = "not_in_official_split"
        contents[study["study_id"]] = set(study["images"])
        rows.append(
            {
                "study_id": study["study_id"],
                "patient_id": patients[0] if patients else None,
                "split": None
                if reason
                else official[patients[0]]
                if official
                else split_of_patient(patients[0], config),
                "status": "quarantined" if reason else "ok",
                "reason": reason,
                "input_digest": digest(study["input"]),
                "params_digest": params,
            }
        )
    if assigned:
        _assign(rows, assigned)
    _withdraw_duplicates(rows, contents)
    frame = manifest_frame(rows, "split")
    check_leakage(frame, contents)
    return frame


def _withdraw_duplicates(rows: list[dict[str, Any]], contents: dict[str, set[str]]) -> None:
    home: dict[str, str] = {}
    for row in rows:
        if row["status"] != "ok":
            continue
        keys = contents[row["study_id"]]
        if any(home.get(key, row["split"]) != row["split"] for key in keys):
            row.update(status="quarantined", reason="duplicate_across_splits", split=None)
        else:
            home.update(dict.fromkeys(keys, row["split"]))


def check_leakage(frame: pl.DataFrame, contents: dict[str, set[str]]) -> None:
    """Refuse a division in which a patient, a series or equal image bytes lie in more than one split.

    `contents`: study_id → what identifies its images (series ids, digests of the input).

    Raises:
        InputError: one line with the counts.
    """
    places: dict[tuple[str, str], set[str]] = defaultdict(set)
    for row in frame.filter(pl.col("status") == "ok").iter_rows(named=True):
        places["patients", row["patient_id"]].add(row["split"])
        for key in contents.get(row["study_id"], ()):
            places["images", key].add(row["split"])
    leaked = {kind: sum(len(s) > 1 for (k, _), s in places.items() if k == kind) for kind in ("patients", "images")}
    if any(leaked.values()):
        raise InputError(
            f"leakage: {leaked['patients']} patients and {leaked['images']} images lie in more than one split; "
            "merge their patient ids in the index or change split.seed"
        )


def split_manifests(
    manifests: Sequence[Path], out: Path, config: SplitConfig, official: Mapping[str, str] | None = None
) -> None:
    """Divide the studies of all shards' image manifests and write the `split` manifest."""
    assigned = read_assigned(Path(config.assigned)) if config.assigned else {}
    series = pl.concat([read_manifest(path, "deidentify_images") for path in manifests])
    frame = split_studies(series, config, official, assigned)
    taken = frame.filter(pl.col("status") == "ok")
    whole = taken.height and "test" in assigned.values()  # a published test set may be all there is
    if not whole and not taken.filter(pl.col("split") == "train").height:
        raise InputError(
            f"split: no study to train on ({frame.height} studies, {taken.height} accepted); "
            "see the reasons in the image manifests, or change split.seed or split.train"
        )
    write_manifest(out, frame, "split")
    said = []
    for name in SPLITS:
        part = taken.filter(pl.col("split") == name)
        said.append(f"{name} {part.height} studies of {part['patient_id'].n_unique()} patients")
        if not part.height and getattr(config, name) > 0:
            log(f"split: warning: {name} is empty; change split.seed or its share")
    log(f"split: {', '.join(said)}; {frame.height - taken.height} quarantined")

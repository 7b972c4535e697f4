"""Annotation files of chest CT: CT-RATE, RAD-ChestCT, ReXGroundingCT."""

import re
from pathlib import Path

import polars as pl

from glint.core.errors import InputError
from glint.evaluation.annotations.table import (
    annotation_frame,
    complete,
    find_file,
    one_of,
    read_csv,
    read_json,
    required_file,
    wide_labels,
)

REXGROUNDING_CATEGORIES = {
    "1a": "Bronchial wall thickening",
    "1b": "Bronchiectasis",
    "1c": "Emphysema",
    "1d": "Septal thickening",
    "1e": "Micronodules",
    "1f": "Other non-focal abnormality",
    "2a": "Linear opacity",
    "2b": "Atelectasis or consolidation",
    "2c": "Ground-glass opacity",
    "2d": "Pulmonary nodule or mass",
    "2e": "Pleural effusion or thickening",
    "2f": "Honeycombing",
    "2g": "Pneumothorax",
    "2h": "Other focal opacity",
}
"""Source: the categorisation schema of the ReXGroundingCT repository (rajpurkarlab)."""


def ct_rate_ids(volume_name: str) -> tuple[str, str, str]:
    """Reconstruction, scan and patient of a VolumeName: `valid_12_b_2.nii.gz` → valid_12_b_2, valid_12_b, valid_12.

    The last number counts reconstructions of one scan, which share one report and its labels.

    Raises:
        InputError: a name of another form.
    """
    match = re.fullmatch(r"(([a-z]+_\d+)_[a-z]+)_\d+", volume_name.split(".", 1)[0])
    if match is None:
        raise InputError(f"volume name {volume_name!r}: not of the form valid_1_a_1.nii.gz; is it CT-RATE's file?")
    return match.group(0), match.group(1), match.group(2)


def _ct_rate_part(file: Path, split: str) -> pl.DataFrame:
    frame = read_csv(file, ["VolumeName"])
    findings = [name for name in frame.columns if name != "VolumeName"]
    names = [ct_rate_ids(name) for name in frame["VolumeName"]]
    wide = frame.drop("VolumeName").with_columns(
        image=pl.Series([one[0] for one in names], dtype=pl.String),
        study=pl.Series([one[1] for one in names], dtype=pl.String),
        patient=pl.Series([one[2] for one in names], dtype=pl.String),
        split=pl.lit(split),
    )
    return complete(wide_labels(wide, findings, file))


def read_ct_rate(folder: Path) -> pl.DataFrame:
    """CT-RATE's label tables; its validation set is what others report on, hence split `test`.

    Raises:
        InputError: no table, another column or value.
    """
    parts = {"train": "*train_predicted_labels.csv", "test": "*valid_predicted_labels.csv"}
    files = {split: find_file(folder, pattern, optional=True) for split, pattern in parts.items()}
    if not any(files.values()):
        required_file(folder, *parts.values())
    return pl.concat([_ct_rate_part(file, split) for split, file in files.items() if file is not None])


def read_rad_chestct(folder: Path) -> pl.DataFrame:
    """RAD-ChestCT's tables of abnormality * location; an abnormality is present where any of its locations is.

    Raises:
        InputError: no table, no such columns, another value.
    """
    parts = {"train": "imgtrain", "validation": "imgvalid", "test": "imgtest"}
    found = []
    for split, stem in parts.items():
        file = find_file(folder, f"{stem}_Abnormality_and_Location_Labels.csv", optional=True)
        if file is None:
            continue
        frame = read_csv(file, ["NoteAcc_DEID"])
        columns = [name for name in frame.columns if "*" in name]
        if not columns:
            raise InputError(f"{file}: no column abnormality*location; put the published file there again")
        wide_labels(frame.head(50), columns, file)  # their values, checked on a part: 4,000 columns are many
        groups: dict[str, list[str]] = {}
        for name in columns:
            groups.setdefault(name.split("*")[0], []).append(name)
        merged = frame.select(
            pl.col("NoteAcc_DEID").alias("image"),
            *(
                pl.max_horizontal(pl.col(names).cast(pl.Float64, strict=False)).cast(pl.String).alias(finding)
                for finding, names in groups.items()
            ),
        )
        same = pl.col("image").alias("study"), pl.col("image").alias("patient"), pl.lit(split).alias("split")
        found.append(complete(wide_labels(merged.with_columns(*same), list(groups), file)))
    if not found:
        required_file(folder, "imgtest_Abnormality_and_Location_Labels.csv")
    return pl.concat(found)


def read_rexgroundingct(folder: Path) -> pl.DataFrame:
    """ReXGroundingCT's `dataset.json` and its masks (F, x, y, z) in `segmentations/`, a channel per sentence.

    A finding is the category of its sentence; a sentence without a category is `unknown`, one of the
    withheld part has no mask.

    Raises:
        InputError: no file, an entry of another form, a category that is not in the schema.
    """
    file = required_file(folder, "dataset.json", "MICCAI_challenge_dataset.json")
    parts = read_json(file)
    splits = {"train": "train", "val": "validation", "test": "test"}
    if not isinstance(parts, dict) or not parts.keys() & splits.keys():
        raise InputError(f"{file}: no part {', '.join(splits)} in it; is it the published file?")
    masks = {path.name: path for path in sorted(folder.rglob("*.nii.gz"))}
    rows = []
    for part, split in splits.items():
        for place, entry in enumerate(parts.get(part, [])):
            name = str(one_of(entry, "name", file, place))
            image, study, patient = ct_rate_ids(name)
            shared = {"image": image, "study": study, "patient": patient, "split": split}
            categories = entry.get("categories", {})
            for channel, sentence in one_of(entry, "findings", file, place).items():
                code = str(categories.get(channel, ""))
                if code and code not in REXGROUNDING_CATEGORIES:
                    raise InputError(
                        f"{file}: entry {place}, category {code!r}; known are {', '.join(REXGROUNDING_CATEGORIES)}"
                    )
                mask = masks.get(name)
                rows.append(
                    {
                        **shared,
                        "finding": REXGROUNDING_CATEGORIES.get(code),
                        "label": "present" if code else "unknown",
                        "sentence": str(sentence),
                        "mask_file": str(mask) if mask else None,
                        "mask_channel": int(channel) if mask else None,
                    }
                )
    return annotation_frame(rows)

"""Masks drawn on the scans, brought onto the model's grid and named by pseudonym. Nothing below stage 10 reads them.

Outside, a study's masks are one bit field, `<study>.nii.gz` on the scan's grid, or `<instance>.png` on the pixels of one film:
bit k of 32 says that finding k of `findings.json` is there. What was labelled but not drawn stands in `labels.csv`: `id` and a column per
finding, 1 or 0. Free sentences
with places of their own are read by `queries`. Original identifiers are turned into pseudonyms in memory; none is written or told.
"""

import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from glint.core.atomic import atomic_directory, write_json
from glint.core.errors import InputError, Quarantine
from glint.core.ids import Pseudonyms
from glint.core.parallel import parallel_map
from glint.core.progress import log
from glint.core.provenance import digest, sha256_file
from glint.evaluation.mask_grid import bring_to_grid, name_in, truth_files
from glint.evaluation.queries import make_queries
from glint.formats.manifest import manifest_frame, read_manifest, write_manifest
from glint.formats.model_image import MASKS_PER_FILE, Bits, read_image_rows, read_mask_bits

FINDINGS_FILE = "findings.json"
LABELS_FILE = "labels.csv"


def read_finding_names(folder: Path) -> tuple[str, ...]:
    """Findings in the order of their bits, from `findings.json` of a truth folder.

    Raises:
        InputError: the folder or the file is absent, or its bits are not 0, 1, 2 …
    """
    file = folder / FINDINGS_FILE
    if not file.is_file():
        raise InputError(
            f"{file}: no such file; the truth folder (evaluate.truth_dir) maps each bit to a finding there"
        )
    try:
        named = {int(bit): str(name) for bit, name in json.loads(file.read_text("utf-8")).items()}
    except (ValueError, AttributeError) as error:
        raise InputError(f'{file}: must be JSON such as {{"0": "nodule", "1": "mass"}}') from error
    if sorted(named) != list(range(len(named))) or not named or len(set(named.values())) < len(named):
        raise InputError(f"{file}: bits {sorted(named)} must count from 0, each finding once")
    return tuple(named[bit] for bit in range(len(named)))


def read_labels(
    folder: Path, findings: Sequence[str], pseudonyms: Pseudonyms | None
) -> dict[str, tuple[str, ...]] | None:
    """Pseudonym of the study, or of the film, → findings that `labels.csv` says are there; None without the file.

    Raises:
        InputError: the table lacks a column, or a label is neither 1 nor 0; its words hold no id.
    """
    file = folder / LABELS_FILE
    if not file.is_file():
        return None
    try:
        table = pl.read_csv(file, infer_schema=False)
    except pl.exceptions.PolarsError as error:
        raise InputError(f"{file}: not a readable CSV table; write it again, as `glint truth-table` does") from error
    for name in ("id", *findings):
        if name not in table.columns:
            raise InputError(f"{file}: no column {name!r}; it needs id and every finding of {FINDINGS_FILE}")
        if name != "id" and (odd := set(table[name].to_list()) - {"0", "1"}):
            raise InputError(f"{file}: column {name!r} holds {sorted(map(str, odd))[0]!r}; a label is 1 or 0")
    found: dict[str, tuple[str, ...]] = {}
    for row in table.iter_rows(named=True):
        present = tuple(name for name in findings if row[name] == "1")
        names = (pseudonyms.study_id, pseudonyms.instance_id) if pseudonyms else (str,)
        found.update({name(row["id"]): present for name in names})
    return found


def _labelled_row(study: Mapping[str, Any], present: Sequence[str], params_digest: str) -> dict[str, Any]:
    """Manifest row of a study with labels and no mask."""
    made = {key: study[key] for key in ("study_id", "patient_id", "split")}
    return {
        **made,
        "status": "ok",
        "findings": list(present),
        "voxels": [],
        "input_digest": digest(list(present)),
        "params_digest": params_digest,
    }


def _study_row(
    item: tuple[Mapping[str, Any], Path, tuple[str, ...]],
    *,
    target: Path,
    findings: Sequence[str],
    params_digest: str,
) -> dict[str, Any]:
    """Manifest row of one study with its mask and its labels; masks are written below `target`. No error may tell the file's name."""
    study, file, labelled = item
    made: dict[str, Any] = {key: study[key] for key in ("study_id", "patient_id", "split")}
    inputs = [sha256_file(file), study["to_original"] or study["affine"], *([labelled] if labelled else [])]
    made |= {"params_digest": params_digest, "input_digest": digest(inputs)}
    try:
        bits, on_grid, relative = bring_to_grid(study, file, num_masks=len(findings), target=target, folder="masks")
    except Quarantine as one:
        return {**made, "status": "quarantined", "reason": one.reason}
    present = [name for bit, name in enumerate(findings) if name in labelled or (bits >> bit & 1).any()]
    voxels = [int(np.count_nonzero(on_grid >> findings.index(name) & 1)) for name in present]
    return {**made, "status": "ok", "path": str(relative), "findings": present, "voxels": voxels}


def make_truth(
    *,
    truth_dir: Path,
    pseudonyms: Pseudonyms | None,
    resampled: Sequence[Path],
    split: Path,
    out_path: Path,
    workers: int = 1,
) -> None:
    """Bring the masks of every study of the split onto its image's grid; `out_path` is the manifest of a folder made whole.

    A label counts beside the mask: a study with a mask has what is drawn and what is labelled, one without a mask what is labelled.

    Raises:
        InputError: no truth folder, no findings.json, or neither mask nor label belongs to any study of the split.
    """
    findings = read_finding_names(truth_dir)
    files = truth_files(truth_dir, pseudonyms)
    usable = read_manifest(split, "split").filter(pl.col("status") == "ok").select("study_id", "split")
    images = read_image_rows(resampled).filter(pl.col("status") == "ok")
    studies = images.join(usable, on="study_id").sort("study_id").to_dicts()
    labels = read_labels(truth_dir, findings, pseudonyms) or {}

    items = [
        (study, files[name_in(study, files)], labels.get(name_in(study, labels), ()))
        for study in studies
        if name_in(study, files) in files
    ]
    if items and len(findings) > MASKS_PER_FILE:
        raise InputError(
            f"{truth_dir / FINDINGS_FILE}: {len(findings)} findings, a mask file holds {MASKS_PER_FILE}; name fewer, or leave the "
            "masks away: labels alone have no such limit"
        )
    labelled = [study for study in studies if name_in(study, labels) in labels and name_in(study, files) not in files]
    if not items and not labelled:
        raise InputError(
            f"{truth_dir}: none of {len(files)} masks and {len(labels)} labels belongs to any of {len(studies)} studies; "
            "are evaluate.truth_ids and the key file those of stage 01?"
        )
    with atomic_directory(out_path.parent) as target:
        params = digest({"findings": findings})
        make = partial(_study_row, target=target, findings=findings, params_digest=params)
        rows = parallel_map(make, items, workers=workers, description="truth")
        rows += [_labelled_row(study, labels[name_in(study, labels)], params) for study in labelled]
        rows.sort(key=lambda row: row["study_id"])
        write_json(target / FINDINGS_FILE, {str(bit): name for bit, name in enumerate(findings)})
        asked = make_queries(truth_dir, pseudonyms=pseudonyms, studies=studies, target=target, workers=workers)
        write_manifest(target / out_path.name, manifest_frame(rows, "evaluate_truth"), "evaluate_truth")
    unusable = sum(row["status"] != "ok" for row in rows)
    also = f"labels alone of {len(labelled)}, " if labelled else ""
    also += f"{asked} sentences, " if asked else ""
    log(
        f"truth: masks of {len(items) - unusable} studies on the model's grid, {also}{unusable} unusable, "
        f"{len(studies) - len(rows)} studies without"
    )


def read_truth(manifest_path: Path) -> tuple[pl.DataFrame, tuple[str, ...]]:
    """Usable rows of a truth manifest, sorted by study, and the findings in the order of their bits."""
    frame = read_manifest(manifest_path, "evaluate_truth").filter(pl.col("status") == "ok").sort("study_id")
    return frame, read_finding_names(manifest_path.parent)


def read_bits(path: Path) -> Bits:
    """(Z, Y, X) bit field on the model's grid."""
    bits, _ = read_mask_bits(path)
    return bits.astype(np.uint32) if bits.dtype.itemsize > 2 else bits.astype(np.uint16)

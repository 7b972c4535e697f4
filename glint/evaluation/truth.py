"""Masks drawn on the scans, brought onto the model's grid and named by pseudonym. Nothing below stage 10 reads them.

Outside, a study's masks are one bit field, `<study>.nii.gz`: bit k of a voxel says that finding k of `findings.json` is
there. Original identifiers are turned into pseudonyms in memory; none is written or told.
"""

import gzip
import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from glint.core.atomic import atomic_directory, write_json
from glint.core.errors import GlintError, InputError
from glint.core.ids import Pseudonyms
from glint.core.parallel import parallel_map
from glint.core.progress import log
from glint.core.provenance import digest, sha256_file
from glint.formats.manifest import manifest_frame, read_manifest, read_manifests, write_manifest
from glint.formats.nifti import load_model_volume, read_nifti, write_nifti
from glint.prepare.resample import resample_mask

SUFFIX = ".nii.gz"
FINDINGS_FILE = "findings.json"
BITS = 16


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
    if sorted(named) != list(range(len(named))) or not 0 < len(named) <= BITS or len(set(named.values())) < len(named):
        raise InputError(f"{file}: bits {sorted(named)} must count from 0 to at most {BITS - 1}, each finding once")
    return tuple(named[bit] for bit in range(len(named)))


def truth_files(folder: Path, pseudonyms: Pseudonyms | None) -> dict[str, Path]:
    """Study pseudonym → bit field; without `pseudonyms` the files are named by pseudonym already."""
    found = sorted(path for path in folder.glob(f"*{SUFFIX}"))
    name = pseudonyms.study_id if pseudonyms else str
    return {name(path.name.removesuffix(SUFFIX)): path for path in found}


def _study_row(
    item: tuple[Mapping[str, Any], Path], *, target: Path, findings: Sequence[str], params_digest: str
) -> dict[str, Any]:
    """Manifest row of one study; its masks are written below `target`. No error may tell the file's name."""
    study, file = item
    made: dict[str, Any] = {key: study[key] for key in ("study_id", "patient_id", "split")}
    made |= {"params_digest": params_digest, "input_digest": digest([sha256_file(file), study["affine"]])}
    try:
        bits, affine = read_nifti(file)
    except GlintError:
        return {**made, "status": "quarantined", "reason": "unreadable_truth"}
    if bits.dtype.kind not in "iu" or (bits.size and (bits.min() < 0 or int(bits.max()) >> len(findings))):
        return {**made, "status": "quarantined", "reason": "unknown_truth_bit"}
    volume, image_affine = load_model_volume(Path(study["folder"], study["path"]))
    on_grid = resample_mask(bits.astype(np.uint16), affine, image_affine, volume.shape)
    relative = Path("masks", f"{study['study_id']}{SUFFIX}")
    _write_compressed(target / relative, on_grid, image_affine)
    present = [name for bit, name in enumerate(findings) if (bits >> bit & 1).any()]
    voxels = [int(np.count_nonzero(on_grid >> findings.index(name) & 1)) for name in present]
    return {**made, "status": "ok", "path": str(relative), "findings": present, "voxels": voxels}


def _write_compressed(path: Path, bits_ZYX: NDArray[np.uint16], affine: NDArray[np.float64]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    plain = path.with_suffix("")
    write_nifti(plain, bits_ZYX, affine)
    path.write_bytes(gzip.compress(plain.read_bytes(), compresslevel=6, mtime=0))
    plain.unlink()


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

    Raises:
        InputError: no truth folder, no findings.json, or no mask belongs to any study of the split.
    """
    findings = read_finding_names(truth_dir)
    files = truth_files(truth_dir, pseudonyms)
    usable = read_manifest(split, "split").filter(pl.col("status") == "ok").select("study_id", "split")
    images = read_manifests(list(resampled), "resample").filter(pl.col("status") == "ok")
    studies = images.join(usable, on="study_id").sort("study_id").to_dicts()
    items = [(study, files[study["study_id"]]) for study in studies if study["study_id"] in files]
    if not items:
        raise InputError(
            f"{truth_dir}: none of {len(files)} masks belongs to any of {len(studies)} studies; "
            "are evaluate.truth_ids and the key file those of stage 01?"
        )
    with atomic_directory(out_path.parent) as target:
        params = digest({"findings": findings})
        make = partial(_study_row, target=target, findings=findings, params_digest=params)
        rows = parallel_map(make, items, workers=workers, description="truth")
        write_json(target / FINDINGS_FILE, {str(bit): name for bit, name in enumerate(findings)})
        write_manifest(target / out_path.name, manifest_frame(rows, "evaluate_truth"), "evaluate_truth")
    accepted = sum(row["status"] == "ok" for row in rows)
    log(
        f"truth: masks of {accepted} studies on the model's grid, {len(rows) - accepted} unusable, {len(studies) - len(rows)} studies without"
    )


def read_truth(manifest_path: Path) -> tuple[pl.DataFrame, tuple[str, ...]]:
    """Usable rows of a truth manifest, sorted by study, and the findings in the order of their bits."""
    frame = read_manifest(manifest_path, "evaluate_truth").filter(pl.col("status") == "ok").sort("study_id")
    return frame, read_finding_names(manifest_path.parent)


def read_bits(path: Path) -> NDArray[np.uint16]:
    """(Z, Y, X) bit field on the model's grid."""
    bits, _ = read_nifti(path)
    return np.ascontiguousarray(bits, dtype=np.uint16)

"""Stage 04: volumes, and what lies on them, onto the grid of the model and back.

`volume` has the geometry, `kernels` the arithmetic, `overlays` masks, boxes and the way back, `windows` the channels.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from glint.core.atomic import atomic_directory
from glint.core.config.resample import ResampleConfig
from glint.core.errors import GeometryError, InputError, Quarantine
from glint.core.parallel import parallel_map
from glint.core.progress import log
from glint.core.provenance import digest, sha256_file
from glint.core.sums import check_sums, read_sums, write_sums
from glint.formats.manifest import manifest_frame, read_manifest, write_manifest
from glint.formats.nifti import read_nifti, write_nifti
from glint.prepare.resample.overlays import resample_box, resample_labels, resample_mask, to_original
from glint.prepare.resample.volume import Resampled, resample_volume, valid_mask
from glint.prepare.resample.windows import window_channels

__all__ = [
    "Resampled",
    "resample_box",
    "resample_labels",
    "resample_mask",
    "resample_shard",
    "resample_volume",
    "select_series",
    "to_original",
    "valid_mask",
    "window_channels",
]


def select_series(rows: Sequence[dict[str, Any]], coverage_tolerance: float) -> dict[str, Any]:
    """The series that stands for a study: of those that cover it best, the thinnest.

    Args:
        rows: Accepted stage-03 rows of one study, at least one.
        coverage_tolerance: Series whose extent is at least (1 - this) of the longest one's count as covering it
            equally; the thinnest of them wins, then the longer, then the smaller identifier.
    """
    extents_mm = [row["shape_zyx"][0] * row["spacing_mm"][0] for row in rows]
    enough_mm = (1 - coverage_tolerance) * max(extents_mm)
    candidates = [(row, extent) for row, extent in zip(rows, extents_mm, strict=True) if extent >= enough_mm]
    best, _ = min(candidates, key=lambda pair: (round(pair[0]["spacing_mm"][0], 3), -pair[1], pair[0]["series_id"]))
    return best


def _study_row(
    study: list[dict[str, Any]], *, source: Path, noted: dict[str, str], target: Path, config: ResampleConfig
) -> dict[str, Any]:
    """Manifest row of one study out of its stage-03 rows, with the SHA-256 of its volume, which is written below `target`."""
    made = {key: study[0][key] for key in ("study_id", "patient_id")}
    made["params_digest"] = digest(config.model_dump(mode="json"))
    usable = [row for row in study if row["status"] == "ok"]
    if not usable:
        reasons = sorted({row["reason"] for row in study})
        reason = reasons[0] if len(reasons) == 1 else "no_usable_series"
        made["input_digest"] = digest([row["input_digest"] for row in study])
        return {**made, "status": "quarantined", "reason": reason, "detail": f"no usable series: {', '.join(reasons)}"}
    chosen = select_series(usable, config.coverage_tolerance)
    path = source / chosen["path"]
    made |= {"series_id": chosen["series_id"], "input_digest": sha256_file(path)}
    if chosen["path"] in noted:
        check_sums(source, {chosen["path"]: noted[chosen["path"]]}, {chosen["path"]: made["input_digest"]})
    made["not_selected"] = [row["series_id"] for row in usable if row is not chosen]
    try:
        resampled = resample_volume(
            *read_nifti(path),
            spacing_mm=config.spacing_mm,
            grid=config.grid,
            clip_hu=config.clip_hu,
            pad_hu=config.pad_hu,
            antialias=config.antialias,
        )
    except GeometryError as error:
        refusal = Quarantine("unusable_volume", str(error))
        return {**made, "status": "quarantined", "reason": refusal.reason, "detail": refusal.detail}
    relative = Path("volumes", f"{chosen['study_id']}.nii")
    write_nifti(target / relative, resampled.volume_ZYX, resampled.affine)
    affine, box = resampled.affine.ravel().tolist(), list(resampled.valid_box)
    made |= {"status": "ok", "path": str(relative), "affine": affine, "valid_box": box}
    return made | {"sha256": sha256_file(target / relative)}


def resample_shard(manifest_path: Path, out_path: Path, config: ResampleConfig, *, workers: int = 1) -> None:
    """Resample one series of every study of a stage-03 manifest; `out_path` is the manifest of a folder made whole.

    Raises:
        InputError: the manifest is absent or of another schema, or a volume it calls ok is absent, unreadable or not the
            one that stage 03 wrote.
    """
    rows = read_manifest(manifest_path, "convert").sort("study_id", "series_id").to_dicts()
    studies: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        studies.setdefault(row["study_id"], []).append(row)
    volumes = [row["path"] for row in rows if row["status"] == "ok"]
    absent = [path for path in volumes if not (manifest_path.parent / path).is_file()]
    if absent:
        raise InputError(f"{manifest_path}: lists {absent[0]}, which is not there; run the convert stage again")
    with atomic_directory(out_path.parent) as target:
        noted = read_sums(manifest_path.parent)
        resample = partial(_study_row, source=manifest_path.parent, noted=noted, target=target, config=config)
        made = parallel_map(resample, list(studies.values()), workers=workers, description="resample")
        write_sums(target, {row["path"]: row.pop("sha256") for row in made if "sha256" in row})
        write_manifest(target / out_path.name, manifest_frame(made, "resample"), "resample")
    accepted = sum(row["status"] == "ok" for row in made)
    log(f"resample: {accepted} of {len(made)} studies on the model's grid, {len(made) - accepted} quarantined")

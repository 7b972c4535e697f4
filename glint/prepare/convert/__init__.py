"""Stage 03: de-identified CT series → one NIfTI in HU each, or a reason why not.

A series passes the geometry gate on its headers, is read by pydicom, its slices must follow each other in the pixels
too, it is converted a second time by dcm2niix, and the two must agree (`archival_check`). Written is our own file of the agreed values, not dcm2niix's: that one carries a
time in its header and keeps stored numbers with a scale, ours is int16 HU with slope 1 and equal bytes every time.
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from glint.core.atomic import atomic_directory
from glint.core.config.convert import ConvertConfig
from glint.core.errors import Quarantine
from glint.core.geometry import nearest_world_axes, reorient, spacing_mm_zyx
from glint.core.parallel import parallel_map
from glint.core.progress import log
from glint.core.provenance import digest, sha256_file
from glint.core.sums import check_sums, sums_by_folder, write_sums
from glint.formats.dicom_series import read_series_headers, read_volume_hu
from glint.formats.manifest import manifest_frame, read_manifest, write_manifest
from glint.formats.nifti import stored_affine, write_nifti
from glint.prepare.convert.archival_check import check_with_dcm2niix
from glint.prepare.convert.geometry_gate import Stack, pass_gate
from glint.prepare.convert.padding import padding_mask
from glint.prepare.convert.plausible_hu import require_plausible_hu
from glint.prepare.convert.repair import repair
from glint.prepare.convert.slice_order import CoarseSlices, require_slices_in_order

PADDING_TO_AIR, TURNED_AXIAL = "padding_to_air", "turned_to_axial"
STACKING_AXIS = 2  # of the index (x, y, z)


@dataclass(frozen=True, kw_only=True)
class Volume:
    """One accepted series: int16 HU, slices in order along their normal; affine: index (x, y, z) → RAS mm.

    `repairs` names what was done to it beyond reading, in order; none of it is undone by a later stage.
    """

    hu_ZYX: NDArray[np.int16]
    affine: NDArray[np.float64]
    repairs: tuple[str, ...] = ()


def read_series(folder: Path, config: ConvertConfig) -> Volume:
    """Read, check and cross-check one series (`*.dcm` of one folder).

    HU are rounded to whole numbers where a slope is fractional.

    Raises:
        Quarantine: with the reason of the first check that fails.
        InputError: no such folder, or no `*.dcm` in it.
    """
    return read_stack(pass_gate(read_series_headers(folder), config), config)


def read_stack(stack: Stack, config: ConvertConfig) -> Volume:
    """The pixels of slices that passed the gate, checked and cross-checked.

    Raises:
        Quarantine: with the reason of the first check that fails.
    """
    first = stack.headers[0]
    coarse, darkest_Z = CoarseSlices((len(stack.headers), first.rows, first.columns)), np.empty(len(stack.headers))

    def look(place: int, slice_YX: NDArray[Any]) -> None:
        coarse.add(place, slice_YX)
        darkest_Z[place] = slice_YX.min()

    hu = read_volume_hu(stack.headers, look=look)
    darkest = float(darkest_Z.min())
    padding = padding_mask(stack.headers, hu, darkest, config)
    upright, _ = reorient(hu, stack.affine)
    upright_padding = None if padding is None else reorient(padding, stack.affine)[0]
    require_plausible_hu(upright, config, upright_padding, darkest=darkest)
    require_slices_in_order(stack.headers, hu, coarse.means_ZYX, config)
    check_with_dcm2niix(stack.headers, hu, stack.affine, to_be_repaired=bool(stack.repairs))
    return _finished(stack, hu, padding, config)


def _finished(
    stack: Stack, hu_ZYX: NDArray[Any], padding_ZYX: NDArray[np.bool_] | None, config: ConvertConfig
) -> Volume:
    """The agreed values with padding as air, repaired where the gate said so, in axial order, as int16."""
    affine, repairs = stack.affine, list(stack.repairs)
    if padding_ZYX is not None and padding_ZYX.any():
        np.copyto(hu_ZYX, config.padding_hu, where=padding_ZYX)
        repairs.insert(0, PADDING_TO_AIR)
    if stack.repairs:
        hu_ZYX, affine = repair(stack, hu_ZYX, config.padding_hu)
    if nearest_world_axes(affine)[0][2] != STACKING_AXIS:
        hu_ZYX, affine = reorient(hu_ZYX, affine)
        repairs.append(TURNED_AXIAL)
    hu = np.ascontiguousarray(hu_ZYX if hu_ZYX.dtype.kind == "i" else np.rint(hu_ZYX)).astype(np.int16, copy=False)
    return Volume(hu_ZYX=hu, affine=stored_affine(affine), repairs=tuple(repairs))


def _convert_row(
    item: tuple[dict[str, Any], dict[str, str]], *, source: Path, target: Path, config: ConvertConfig
) -> dict[str, Any]:
    """Manifest row of one series, with the SHA-256 of its volume, which is written below `target`.

    `item` is its row of stage 02 and what was noted of its slices. A series refused before keeps its reason.
    """
    row, noted = item
    made = {key: row[key] for key in ("study_id", "patient_id", "series_id", "status", "reason")}
    made["params_digest"] = digest(config.model_dump(mode="json"))
    if row["status"] != "ok":
        return {**made, "detail": "refused by an earlier stage", "input_digest": row["input_digest"]}
    folder = source / row["path"]
    found = {file.name: sha256_file(file) for file in sorted(folder.glob("*.dcm"))}
    check_sums(folder, noted, found)
    made["input_digest"] = digest([[name, of] for name, of in found.items()])
    try:
        volume = read_series(folder, config)
    except Quarantine as refusal:
        return {**made, "status": "quarantined", "reason": refusal.reason, "detail": refusal.detail}
    path = Path("volumes", row["study_id"], f"{row['series_id']}.nii")
    write_nifti(target / path, volume.hu_ZYX, volume.affine)
    shape, spacing = list(volume.hu_ZYX.shape), list(spacing_mm_zyx(volume.affine))
    repairs = list(volume.repairs)
    made |= {"path": str(path), "shape_zyx": shape, "spacing_mm": spacing, "repairs": repairs}
    return made | {"sha256": sha256_file(target / path)}


def convert_shard(manifest_path: Path, out_path: Path, config: ConvertConfig, *, workers: int = 1) -> None:
    """Convert every series of a stage-02 image manifest; `out_path` is the manifest of a folder made whole.

    Raises:
        InputError: the manifest is absent or of another schema, or a series it calls ok has no files or other files than
            stage 02 wrote.
    """
    rows = read_manifest(manifest_path, "deidentify_images").sort("study_id", "series_id").to_dicts()
    noted = sums_by_folder(manifest_path.parent)
    items = [(row, noted.get(row["path"], {})) for row in rows]
    with atomic_directory(out_path.parent) as target:
        convert = partial(_convert_row, source=manifest_path.parent, target=target, config=config)
        made = parallel_map(convert, items, workers=workers, description="convert")
        write_sums(target, {row["path"]: row.pop("sha256") for row in made if "sha256" in row})
        write_manifest(target / out_path.name, manifest_frame(made, "convert"), "convert")
    accepted = sum(row["status"] == "ok" for row in made)
    log(f"convert: {accepted} of {len(made)} series accepted, {len(made) - accepted} quarantined")

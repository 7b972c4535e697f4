"""Replies as files: JSON, masks as NIfTI or PNG, DICOM SEG, and pictures to look at."""

import gzip
import re
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from glint.core.atomic import atomic_directory, write_json
from glint.core.errors import InputError
from glint.core.geometry import reorient, spacing_mm_zyx
from glint.evaluation.figures import INK
from glint.evaluation.maps import linear_weights
from glint.evaluation.overlays import Picture, highest_pixel, paint_plane
from glint.formats.dicom_seg import write_segmentation
from glint.formats.nifti import write_nifti
from glint.predict import Prediction, Reply
from glint.predict.scan import Scan

PLANES = ("axial", "coronal", "sagittal")
HOTTEST_RGB, MASK_RGB = (0.95, 0.35, 0.1), (1.0, 1.0, 1.0)
PREDICTION_FILE = "prediction.json"


def slug(number: int, query: str) -> str:
    """A file name for a query: its place, and its words."""
    return f"{number:02d}_" + (re.sub(r"[^a-z0-9]+", "_", query.lower()).strip("_")[:60] or "query")


def reply_row(reply: Reply, scan: Scan) -> dict[str, Any]:
    """One query's answer as plain values."""
    row: dict[str, Any] = {
        "query": reply.query,
        "denial": reply.denial,
        "present": reply.present,
        "probability": round(reply.probability, 6),
        "score": round(reply.score, 6),
        "contrast": round(reply.contrast, 6),
        "gate_mass_patches": round(reply.gate_mass, 4),
        "boxes_zyx": [list(box) for box in reply.boxes],
        "peak_zyx": list(reply.peak_zyx),
        "peak_ras_mm": None if reply.peak_mm is None else [round(mm, 2) for mm in reply.peak_mm],
        "mask_voxels": int(reply.mask_ZYX.sum()),
    }
    if scan.film_map is None:
        voxel_ml = float(np.prod(spacing_mm_zyx(scan.original_affine))) / 1000
        row["mask_ml"] = round(row["mask_voxels"] * voxel_ml, 3)
    return row


def write_prediction(prediction: Prediction, out: Path, *, dicom_seg: bool = True) -> dict[str, Any]:
    """Write a folder whole: prediction.json, mask and picture of every query, one DICOM SEG where the input allows it.

    Nothing but the SEG holds what the input's headers say. Returns what prediction.json holds.
    """
    scan = prediction.scan
    notes = list(scan.notes)
    with atomic_directory(out) as folder:
        rows = []
        for number, reply in enumerate(prediction.replies, 1):
            name = slug(number, reply.query)
            row = reply_row(reply, scan)
            row["mask"] = _write_mask(folder, name, reply, scan)
            row["picture"] = f"{name}.png"
            (folder / row["picture"]).write_bytes(picture(reply, scan))
            rows.append(row)
        segmentation = None
        if dicom_seg:
            try:
                segmentation = _write_seg(folder, prediction)
            except InputError as error:
                notes.append(f"no DICOM SEG: {error}")
        told = {
            "modality": scan.modality,
            "original_shape_zyx": list(scan.original_ZYX.shape),
            "notes": notes,
            "dicom_seg": segmentation,
            "replies": rows,
        }
        write_json(folder / PREDICTION_FILE, told)
    return told


def _write_mask(folder: Path, name: str, reply: Reply, scan: Scan) -> str:
    if scan.film_map is not None:
        from PIL import Image

        Image.fromarray(reply.mask_ZYX[0].astype(np.uint8) * 255).save(folder / f"{name}_mask.png")
        return f"{name}_mask.png"
    plain, packed = folder / f"{name}.nii", folder / f"{name}.nii.gz"
    write_nifti(plain, reply.mask_ZYX.astype(np.uint8), scan.original_affine)
    packed.write_bytes(gzip.compress(plain.read_bytes(), compresslevel=4, mtime=0))
    plain.unlink()
    return packed.name


def _write_seg(folder: Path, prediction: Prediction) -> str:
    """Masks on the source's slices, from the maps themselves rather than from masks that were laid elsewhere."""
    from glint.prepare.resample import to_original

    scan = prediction.scan
    source = scan.source
    if source is None:
        raise InputError("the input is no CT series in DICOM")
    if source.repaired:
        raise InputError("the series was straightened or evened, so its slices are not those of the volume")
    shown = [reply for reply in prediction.replies if reply.present]
    masks = np.zeros((len(shown), *source.shape_zyx), np.bool_)
    for place, reply in enumerate(shown):
        masks[place] = to_original(
            reply.mask_ZYX.astype(np.uint8), scan.original_affine, source.affine, source.shape_zyx
        )
    write_segmentation(folder / "segmentation.dcm", source.headers, masks, [reply.query for reply in shown])
    return "segmentation.dcm"


class _Peaked(Picture):
    """A picture whose planes pass through the map's highest point."""

    def centre(self) -> tuple[int, int, int]:
        heat = next(iter(self.probability_ZYX.values()))
        z, y, x = np.unravel_index(int(np.argmax(heat)), heat.shape)
        return int(z), int(y), int(x)


def picture(reply: Reply, scan: Scan) -> bytes:
    """PNG: three planes through the highest point of a volume, or the film; the map in colour, its mask dashed."""
    from glint.evaluation.figures import new_figure, png_bytes

    said = f"{'present' if reply.present else 'not found'}, probability {reply.probability:.2f}"
    if scan.film_map is not None:
        panels = {"film": _film_panel(reply, scan)}
        rows, columns = (n / m for n, m in zip(panels["film"].shape, scan.original_ZYX.shape[1:], strict=False))
        # A large film is painted smaller; imshow counts from the middle of the first pixel.
        peaks = {"film": ((reply.peak_zyx[1] + 0.5) * rows - 0.5, (reply.peak_zyx[2] + 0.5) * columns - 0.5)}
    else:
        drawn = _three_planes(reply, scan)
        panels = {plane: paint_plane(drawn, "map", plane) for plane in PLANES}
        peaks = {plane: highest_pixel(drawn, "map", plane) for plane in PLANES}
    ratios = [panel.shape[1] / panel.shape[0] for panel in panels.values()]
    figure = new_figure(4.2 * sum(ratios) + 0.3, 4.6)
    axes = np.atleast_1d(figure.subplots(1, len(panels), width_ratios=ratios))
    for axis, (plane, panel) in zip(axes, panels.items(), strict=True):
        axis.imshow(panel, interpolation="nearest")
        row, column = peaks[plane]
        axis.plot(column, row, "+", color="white", markersize=11, markeredgewidth=2.4)
        axis.plot(column, row, "+", color="black", markersize=9, markeredgewidth=1.0)
        axis.set_title(plane, fontsize=8, color=INK, loc="left")
        axis.set_axis_off()
    figure.suptitle(f"{reply.query}\n{said}", fontsize=9, color=INK, x=0.01, ha="left")
    return png_bytes(figure, dpi=100)


def _probability_map(reply: Reply, scan: Scan) -> NDArray[np.float32]:
    """On the model's grid, nothing said of padding."""
    z0, z1, y0, y1, x0, x1 = scan.valid_box
    held = np.zeros_like(reply.logits_ZYX)
    held[z0:z1, y0:y1, x0:x1] = 1 / (1 + np.exp(-reply.logits_ZYX[z0:z1, y0:y1, x0:x1]))
    return held


def _three_planes(reply: Reply, scan: Scan) -> _Peaked:
    turned, affine = reorient(scan.image_ZYX, scan.affine)
    heat, _ = reorient(_probability_map(reply, scan), scan.affine)
    return _Peaked(
        volume_ZYX=np.asarray(turned, dtype=np.int16),
        probability_ZYX={"map": np.asarray(heat, dtype=np.float32)},
        truth_ZYX=np.zeros(turned.shape, np.bool_),
        spacing_mm=spacing_mm_zyx(affine),
    )


def _film_panel(reply: Reply, scan: Scan) -> NDArray[np.float32]:
    """The film as it came, its map in colour, the border of its mask white."""
    from scipy.ndimage import binary_erosion

    film = scan.original_ZYX[0].astype(np.float32)
    gray = film / max(1.0, float(film.max()))
    heat = np.clip(scan.on_original(_probability_map(reply, scan), outside=0.0)[0], 0, 1)
    alpha = 0.6 * heat[..., None]
    painted = (1 - alpha) * gray[..., None] + alpha * np.array(HOTTEST_RGB, np.float32)
    width = max(1, round(min(film.shape) / 400))
    painted[reply.mask_ZYX[0] & ~binary_erosion(reply.mask_ZYX[0], iterations=width)] = MASK_RGB
    longest = 900
    if max(film.shape) > longest:
        shape = [round(size * longest / max(film.shape)) for size in film.shape]
        rows, columns = (linear_weights(n, m) for n, m in zip(film.shape, shape, strict=True))
        painted = np.stack([rows @ painted[..., k] @ columns.T for k in range(3)], axis=-1)
    return np.asarray(painted, dtype=np.float32)

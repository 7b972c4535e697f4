"""A page per shard to look at: every study of stage 04 as pictures, with its spacing, its values and its doubts.

The page stands by itself (pictures inside, no script, no network) and names studies by their pseudonyms alone.
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from glint.core.atomic import atomic_file
from glint.core.errors import GlintError
from glint.core.geometry import spacing_mm_zyx
from glint.core.parallel import parallel_map
from glint.core.progress import log
from glint.formats.manifest import read_manifest
from glint.formats.nifti import read_nifti
from glint.prepare.qc.doubts import doubts
from glint.prepare.qc.look import film, histogram_points, png, three_planes

HISTOGRAM_HU = (-1100.0, 1500.0)


@dataclass(frozen=True, kw_only=True)
class Sheet:
    """What the page shows of one study; empty texts are left out."""

    study_id: str
    status: str
    reason: str = ""
    facts: tuple[str, ...] = ()
    doubts: tuple[str, ...] = ()
    picture: str = ""
    histogram: str = ""
    axis: tuple[str, str] = ("", "")


def _text(numbers: Any, digits: int) -> str:
    return " × ".join(f"{number:.{digits}f}" for number in numbers)


def _film_sheet(study_id: str, image_YX: NDArray[Any], row: dict[str, Any]) -> Sheet:
    grid, box, spacing = image_YX.shape, row.get("valid_box"), row.get("spacing_mm_yx")
    if box and len(box) == 4:
        image_YX = image_YX[box[0] : box[1], box[2] : box[3]]
    low, high = float(image_YX.min()), float(image_YX.max())
    found = []
    if high == low:
        found.append("one value only")
    elif (share := float(((image_YX == low) | (image_YX == high)).mean())) > 0.25:
        found.append(f"{100 * share:.0f} % of the film is at its lowest or highest value")
    return Sheet(
        study_id=study_id,
        status="ok",
        facts=(
            f"{image_YX.shape[0]} × {image_YX.shape[1]} pixels on a grid of {grid[0]} × {grid[1]}",
            f"spacing {_text(spacing, 3)} mm" if spacing else "spacing unknown",
            f"view {row.get('view') or 'unknown'}",
            f"values {low:.0f} to {high:.0f}",
        ),
        doubts=tuple(found),
        picture=png(film(image_YX)),
        histogram=histogram_points(image_YX, low, max(high, low + 1)),
        axis=(f"{low:.0f}", f"{high:.0f}"),
    )


def study_sheet(row: dict[str, Any], *, folder: Path, clip_high_hu: float) -> Sheet:
    """The sheet of one stage-04 row, with `scan_shape_zyx` and `scan_spacing_mm` joined from stage 03 if known."""
    study_id = row["study_id"]
    if row["status"] != "ok":
        return Sheet(study_id=study_id, status="quarantined", reason=row["reason"] or "unknown")
    path = folder / row["path"]
    try:
        if path.suffix == ".png":
            from PIL import Image

            with Image.open(path) as image:
                return _film_sheet(study_id, np.asarray(image.convert("I") if image.mode != "L" else image), row)
        volume, affine = read_nifti(path)
    except (GlintError, OSError):
        return Sheet(study_id=study_id, status="unreadable", reason="its file is absent or damaged; resample again")
    if volume.shape[0] == 1:
        return _film_sheet(study_id, volume[0], {})
    spacing = spacing_mm_zyx(affine)
    box = row["valid_box"] or [edge for size in volume.shape for edge in (0, size)]
    shape, scan_mm = row.get("scan_shape_zyx"), row.get("scan_spacing_mm")
    facts = [f"grid {_text(volume.shape, 0)} of {_text(spacing, 2)} mm (z, y, x)"]
    if shape and scan_mm:
        facts.append(f"scan {_text(shape, 0)} of {_text(scan_mm, 2)} mm")
    z0, z1, y0, y1, x0, x1 = box
    inside = volume[z0:z1, y0:y1, x0:x1]
    if inside.size:
        p1, p50, p99 = np.percentile(inside, (1, 50, 99))
        facts.append(f"HU at 1, 50, 99 %: {p1:.0f}, {p50:.0f}, {p99:.0f}")
    facts.append(f"{100 * inside.size / volume.size:.0f} % of the grid within the scan")
    found = doubts(volume, spacing, box, scan_shape_zyx=shape, scan_spacing_mm=scan_mm, clip_high_hu=clip_high_hu)
    return Sheet(
        study_id=study_id,
        status="ok",
        facts=tuple(facts),
        doubts=tuple(found),
        picture=png(three_planes(volume, spacing, box)),
        histogram=histogram_points(inside, *HISTOGRAM_HU),
        axis=tuple(f"{edge:.0f} HU" for edge in HISTOGRAM_HU),  # type: ignore[arg-type]
    )


def _joined(manifest: Path, converted: Path | None) -> list[dict[str, Any]]:
    if manifest.is_file() and "to_original" in pl.read_parquet_schema(manifest):
        return read_manifest(manifest, "resample_films").sort("study_id").to_dicts()
    rows = read_manifest(manifest, "resample").sort("study_id")
    if converted is not None and converted.is_file():
        scans = read_manifest(converted, "convert").select(
            "study_id",
            "series_id",
            pl.col("shape_zyx").alias("scan_shape_zyx"),
            pl.col("spacing_mm").alias("scan_spacing_mm"),
        )
        rows = rows.join(scans, on=["study_id", "series_id"], how="left", maintain_order="left")
    return rows.to_dicts()


def write_page(
    manifest: Path, out: Path, *, converted: Path | None = None, clip_high_hu: float = 3071, workers: int = 1
) -> tuple[int, int]:
    """Write the page of one stage-04 shard to `out`; returns how many studies it shows and how many have doubts.

    Args:
        manifest: Of stage 04.
        converted: Manifest of stage 03 of the same shard, for the scan's own size and spacing; None: left out.
        clip_high_hu: The upper limit that stage 04 clipped at.

    Raises:
        InputError: a manifest is absent or of another schema.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    make = partial(study_sheet, folder=manifest.parent, clip_high_hu=clip_high_hu)
    sheets = parallel_map(make, _joined(manifest, converted), workers=workers, description=f"qc {manifest.parent.name}")
    # Those that want a look come first; within each group by pseudonym.
    sheets.sort(key=lambda sheet: (not sheet.doubts, sheet.status != "ok", sheet.study_id))
    doubtful = sum(bool(sheet.doubts) for sheet in sheets)
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    text = environment.get_template("qc.html.jinja").render(
        shard=manifest.parent.name,
        sheets=sheets,
        doubtful=doubtful,
        accepted=sum(sheet.status == "ok" for sheet in sheets),
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(out) as temporary:
        temporary.write_text(text, encoding="utf-8")
    log(f"qc: {out}: {len(sheets)} studies, {doubtful} want a look")
    return len(sheets), doubtful

"""A page of gate maps per validation: what a finding's prompt opens in a study that states it, and in one that does not."""

from html import escape
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from glint.core.atomic import atomic_file, write_text
from glint.training.validation import GatePicture, Validation

PICTURES = "gate_maps"
"""Folder below a training's state."""
PANEL = 192
CAPTION = 26
GATE_COLOUR = np.array([255, 64, 0], np.float32)
STRONGEST = 0.65


def panel(picture: GatePicture) -> NDArray[np.uint8]:
    """(PANEL, PANEL, 3): the axial slice with the most open gate, its gates in red on the grey image.

    Hung as radiologists do, the patient's right on the left and anterior on top: axes of a volume run to superior, anterior and
    right, so it is turned round; a film, a volume of one slice, is shown as it is.
    """
    z = int(picture.gate_zyx.mean(axis=(1, 2)).argmax())
    depth = picture.image_ZYX.shape[0] // picture.gate_zyx.shape[0]
    image_YX, open_yx = picture.image_ZYX[z * depth + depth // 2], picture.gate_zyx[z]
    if picture.image_ZYX.shape[0] > 1:
        image_YX, open_yx = image_YX[::-1, ::-1], open_yx[::-1, ::-1]
    scale = PANEL / max(image_YX.shape)
    height, width = (max(1, round(edge * scale)) for edge in image_YX.shape)
    grey_YX = _nearest(image_YX, height, width)
    gate_YX = _nearest(open_yx, height, width)
    share = STRONGEST * gate_YX[..., None]
    shown = np.zeros((PANEL, PANEL, 3), np.float32)
    shown[:height, :width] = (1 - share) * 255 * grey_YX[..., None] + share * GATE_COLOUR
    return shown.astype(np.uint8)


def _nearest(array_YX: NDArray[np.float32], height: int, width: int) -> NDArray[np.float32]:
    rows = np.arange(height) * array_YX.shape[0] // height
    columns = np.arange(width) * array_YX.shape[1] // width
    return np.asarray(array_YX[rows[:, None], columns])


def gate_map_png(seen: Validation, path: Path) -> None:
    """A column per finding: above a study whose report states it, below one whose report does not."""
    from PIL import Image, ImageDraw

    findings = list(dict.fromkeys(picture.finding for picture in seen.pictures))
    sheet = Image.new("RGB", (PANEL * len(findings), 2 * (PANEL + CAPTION)), "black")
    draw = ImageDraw.Draw(sheet)
    for picture in seen.pictures:
        left, top = PANEL * findings.index(picture.finding), (PANEL + CAPTION) * (not picture.stated)
        sheet.paste(Image.fromarray(panel(picture)), (left, top + CAPTION))
        said = "stated" if picture.stated else "not stated"
        name = picture.finding.replace("_", " ")
        draw.text((left + 3, top + 1), f"{name}\n{said}, most open {picture.gate_zyx.max():.2f}", fill="white")
    sheet.save(path, format="PNG")


def write_gate_maps(folder: Path, seen: Validation, *, step: int) -> None:
    """Add step-NNNNNN.png with its AUROCs, and write index.html of all of them, the newest first."""
    folder.mkdir(parents=True, exist_ok=True)
    name = f"step-{step:06d}"
    with atomic_file(folder / f"{name}.png") as temporary:
        gate_map_png(seen, temporary)
    rows = "".join(
        f"<tr><td>{escape(finding)}</td><td>{'–' if value != value else f'{value:.2f}'}</td></tr>"
        for finding, value in seen.auroc.items()
    )
    table = f"<table><tr><th>finding</th><th>AUROC</th></tr>{rows}</table>"
    write_text(folder / f"{name}.html", f"<h2>step {step}</h2>{table}<img src='{name}.png' alt='gate maps'>")
    parts = [path.read_text("utf-8") for path in sorted(folder.glob("step-*.html"), reverse=True)]
    write_text(
        folder / "index.html",
        "<!doctype html><meta charset='utf-8'><title>Gate maps</title><style>body{font:14px sans-serif;background:#111;color:#eee;"
        "margin:2em}td,th{padding:0 1em 0 0;text-align:left}img{margin:1em 0;max-width:100%}</style>"
        "<h1>Gate maps of the validation</h1><p>Red where the gate of the finding's prompt is open. Scores against what reports "
        "state; no mask was read.</p>" + "".join(parts),
    )


def last_gate_maps(state: Path) -> Path | None:
    """The newest picture of a training's state folder."""
    return max((state / PICTURES).glob("step-*.png"), default=None)

"""The audit of a run as one page that needs nothing else, and pictures of the images in question."""

import base64
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw
from pydicom.dataset import FileDataset

from glint.prepare.deidentify.text_detector import grey_levels

THUMBNAIL = 320  # pixels


def thumbnail(dataset: FileDataset, boxes: Sequence[Sequence[int]] = ()) -> str:
    """A data set's first frame as a PNG data URI, `boxes` (top, left, bottom, right) outlined."""
    values = np.asarray(dataset.pixel_array)
    if values.ndim == 3 and int(dataset.get("SamplesPerPixel", 1)) == 1:
        values = values[0]
    if values.ndim == 3:
        values = values.mean(axis=-1)
    inverted = dataset.get("PhotometricInterpretation") == "MONOCHROME1"
    picture = Image.fromarray(grey_levels(values, inverted=inverted)).convert("RGB")
    draw = ImageDraw.Draw(picture)
    for top, left, bottom, right in boxes:
        draw.rectangle((left, top, right - 1, bottom - 1), outline=(255, 190, 0), width=max(1, picture.width // 300))
    picture.thumbnail((THUMBNAIL, THUMBNAIL))
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def render_page(template: str, **content: Any) -> str:
    """An HTML page; every value is escaped, every picture inlined."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
    )
    return environment.get_template(template).render(**content)


def sheet(entries: Sequence[tuple[str, str]]) -> list[Mapping[str, str]]:
    """Caption and data URI of every picture, as the template wants them."""
    return [{"caption": caption, "image": image} for caption, image in entries]

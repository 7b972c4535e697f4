"""Finds writing in an image: PP-OCRv6 text detection, as the package rapidocr ships it; nothing is read or downloaded.

Only places are asked for, never the words: what is found is blanked, whatever it says.
"""

from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from glint.prepare.deidentify.device_regions import Box

LONG_SIDE = 1280  # pixels; larger images are thinned: CPU time grows with the area, letters of 12 pixels stay legible
TALLEST = 0.1  # of the image's shorter side; taller finds are collimator edges, ribs and hearts, not lines of text
MARGIN = 0.3  # of a line's height, added around it: the detector cuts descenders
WHITE_PERCENTILE, BLACK_PERCENTILE = 99.9, 0.5


@cache
def _detector() -> Any:
    from rapidocr import RapidOCR

    threads = {f"EngineConfig.onnxruntime.{kind}_op_num_threads": 1 for kind in ("intra", "inter")}
    return RapidOCR(params={"Global.log_level": "critical", **threads})


def grey_levels(values_YX: NDArray[Any], *, inverted: bool) -> NDArray[np.uint8]:
    """Stored values as 8-bit grey, the darkest and brightest thousandths clipped; `inverted`: low values are bright."""
    bright = values_YX.astype(np.float32) * (-1 if inverted else 1)
    black, white = np.percentile(bright, [BLACK_PERCENTILE, WHITE_PERCENTILE])
    grey = np.clip((bright - black) / max(float(white - black), 1e-6), 0, 1)
    return np.asarray(np.rint(255 * grey), dtype=np.uint8)


def text_boxes(grey_YX: NDArray[np.uint8]) -> tuple[Box, ...]:
    """Boxes around lines of text and single markers, in pixels of `grey_YX`, from top to bottom."""
    height, width = grey_YX.shape
    scale = min(1.0, LONG_SIDE / max(height, width))
    small = grey_YX
    if scale < 1:
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        small = np.asarray(Image.fromarray(grey_YX).resize(size, Image.Resampling.BOX))
    found = _detector()(np.repeat(small[..., None], 3, axis=2), use_det=True, use_cls=False, use_rec=False)
    boxes = []
    for corners in [] if found.boxes is None else np.asarray(found.boxes) / scale:
        (left, top), (right, bottom) = corners.min(axis=0), corners.max(axis=0)
        thickness = min(bottom - top, right - left)
        if thickness > TALLEST * min(height, width):
            continue
        pad = MARGIN * thickness
        boxes.append(
            Box(
                max(0, int(top - pad)),
                max(0, int(left - pad)),
                min(height, int(np.ceil(bottom + pad))),
                min(width, int(np.ceil(right + pad))),
            )
        )
    return tuple(sorted(boxes))

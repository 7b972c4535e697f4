"""Published regions → masks on the pixels of the image they were drawn on."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from glint.core.errors import InputError

Bools = NDArray[np.bool_]
Sizes = tuple[int, int]


def relative_rle_mask(rle: str, size_yx: Sizes) -> Bools:
    """(Y, X) of SIIM's run lengths: pairs of gap and length, the gap counted from the end of the run before, pixels counted
    down the columns. `-1` is no pixel. Source: `mask_functions.py` of the SIIM-ACR challenge.

    Raises:
        InputError: an odd number of values, a value that is none, or a run beyond the image.
    """
    height, width = size_yx
    try:
        values = np.array([int(part) for part in rle.split()], np.int64)
    except ValueError as error:
        raise InputError(f"run lengths {rle[:30]!r}: not whole numbers; is the column the published one?") from error
    flat = np.zeros(height * width, np.bool_)
    if values.tolist() == [-1]:
        return flat.reshape(size_yx)
    if len(values) % 2 or (values < 0).any():
        raise InputError(f"run lengths {rle[:30]!r}: not pairs of gap and length; is the column the published one?")
    place = 0
    for gap, length in values.reshape(-1, 2):
        place += int(gap)
        if place + length > flat.size:
            raise InputError(
                f"run lengths {rle[:30]!r} end at {place + length} of {flat.size} pixels; is it {size_yx}?"
            )
        flat[place : place + int(length)] = True
        place += int(length)
    return flat.reshape(width, height).T


def polygon_mask(corners_yx: Sequence[Sequence[float]], size_yx: Sizes) -> Bools:
    """(Y, X) of a closed contour of pixels; the contour's own pixels belong to it."""
    canvas = Image.new("1", (size_yx[1], size_yx[0]))
    points = [(float(x), float(y)) for y, x in corners_yx]
    if len(points) > 2:
        ImageDraw.Draw(canvas).polygon(points, fill=1, outline=1)
    elif points:
        ImageDraw.Draw(canvas).line(points, fill=1)
        ImageDraw.Draw(canvas).point(points, fill=1)
    return np.array(canvas, np.bool_)


def box_mask(box_yyxx: Sequence[float], size_yx: Sizes) -> Bools:
    """(Y, X) pixels whose centres lie in (y0, y1, x0, x1), half-open; what lies beyond the image is left out."""
    y0, y1, x0, x1 = box_yyxx
    rows, columns = np.arange(size_yx[0]) + 0.5, np.arange(size_yx[1]) + 0.5
    return np.logical_and.outer((rows >= y0) & (rows < y1), (columns >= x0) & (columns < x1))


def inclusive_box(x0: float, y0: float, x1: float, y1: float) -> list[float]:
    """(y0, y1, x0, x1), half-open, of corners that both belong to the box."""
    return [float(y0), float(y1) + 1, float(x0), float(x1) + 1]


def sized_box(x: float, y: float, width: float, height: float) -> list[float]:
    """(y0, y1, x0, x1), half-open, of a corner and a size."""
    return [float(y), float(y) + float(height), float(x), float(x) + float(width)]

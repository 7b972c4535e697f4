"""Films on disk: 16-bit grey PNG without text, date or profile; and pictures of any origin, read as bare pixels."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from glint.core.atomic import atomic_file
from glint.core.errors import InputError, Quarantine

PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg")
GREY_MODES = ("1", "L", "I;16", "I;16B", "I", "F")


def write_film(path: Path | str, film_YX: NDArray[np.uint16]) -> None:
    """Write a uint16 image (Y, X) as PNG, atomically; equal images give equal bytes.

    Raises:
        ValueError: the array has another type or shape.
    """
    if film_YX.dtype != np.uint16 or film_YX.ndim != 2:
        raise ValueError(f"a film is uint16 (Y, X), not {film_YX.dtype} {film_YX.shape}")
    with atomic_file(path) as temporary:
        Image.fromarray(np.ascontiguousarray(film_YX)).save(temporary, format="PNG", compress_level=1)


def read_film(path: Path | str) -> NDArray[np.uint16]:
    """A film of stage 03 or 04: uint16 (Y, X).

    Raises:
        InputError: the file is absent, no image, or not 16-bit grey.
    """
    file = Path(path)
    if not file.is_file():
        raise InputError(f"{file}: no such image; run the stage that makes it first")
    try:
        with Image.open(file, formats=("PNG",)) as image:
            pixels = np.array(image)
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise InputError(f"{file}: not a readable PNG; run its stage again") from error
    if pixels.dtype != np.uint16 or pixels.ndim != 2:
        raise InputError(f"{file}: holds {pixels.dtype} {pixels.shape}, not a 16-bit grey film; run its stage again")
    return pixels


def write_film_bits(path: Path | str, bits_YX: NDArray[np.uint16] | NDArray[np.uint32]) -> None:
    """Write a film's masks (Y, X) as PNG: uint16 as grey, uint32 as the four bytes of red, green, blue, alpha, lowest first.

    Raises:
        ValueError: the array has another type or shape.
    """
    if bits_YX.dtype != np.uint32 or bits_YX.ndim != 2:
        write_film(path, bits_YX.astype(np.uint16, casting="safe"))
        return
    colours = np.ascontiguousarray(bits_YX, "<u4").view(np.uint8).reshape(*bits_YX.shape, 4)
    with atomic_file(path) as temporary:
        Image.fromarray(colours, "RGBA").save(temporary, format="PNG", compress_level=6)


def read_film_bits(path: Path | str) -> NDArray[np.uint16] | NDArray[np.uint32]:
    """What `write_film_bits` wrote.

    Raises:
        InputError: the file is absent, no image, or of another kind.
    """
    try:
        with Image.open(path, formats=("PNG",)) as image:
            if image.mode == "RGBA":
                colours = np.ascontiguousarray(image)
                return colours.view("<u4")[..., 0].astype(np.uint32)
    except (UnidentifiedImageError, OSError, SyntaxError):
        pass  # read_film says what is wrong
    return read_film(path)


def read_picture(path: Path | str) -> NDArray[Any]:
    """Pixels of a PNG or JPEG, upright as its EXIF says: uint8 or uint16, (Y, X) or, coloured, (Y, X, 3).

    Transparency, animation, profiles, comments and EXIF are left behind.

    Raises:
        Quarantine: `unreadable_pixels`, cut off or no picture.
    """
    try:
        with Image.open(path, formats=("PNG", "JPEG")) as image:
            upright = ImageOps.exif_transpose(image)
            grey = upright.mode in GREY_MODES
            pixels = np.array(upright if grey else upright.convert("L" if upright.mode == "LA" else "RGB"))
    except MemoryError:
        raise
    except Exception as error:  # decoders raise whatever the bytes provoke
        raise Quarantine("unreadable_pixels", f"the picture can't be decoded ({type(error).__name__})") from None
    if pixels.dtype == bool:
        return pixels.astype(np.uint8) * 255
    if pixels.dtype in (np.uint8, np.uint16):
        return pixels
    if not np.isfinite(pixels).all() or pixels.min() < 0 or pixels.max() > 65535:
        raise Quarantine("unreadable_pixels", "the picture holds values beyond 16 bits")
    return pixels.astype(np.uint16)

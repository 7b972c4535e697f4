"""Text that is part of the picture: found by device and by detector, then blanked in the values or refused.

Blanking changes stored values; nothing is drawn over them. A file without text keeps its Pixel Data byte for byte.
Source: DICOM PS3.15 E.3.1 (Clean Pixel Data Option).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileDataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

from glint.core.config.deidentify import DeidentifyConfig
from glint.core.errors import Quarantine
from glint.prepare.deidentify.device_regions import Box, device_regions
from glint.prepare.deidentify.elements import put_text, text_of
from glint.prepare.deidentify.heads import is_head
from glint.prepare.deidentify.text_detector import grey_levels, text_boxes

PIXEL_DATA, BURNED_IN, METHOD_CODES = 0x7FE00010, 0x00280301, 0x00120064
ROWS, COLUMNS, FRAMES, SAMPLES = 0x00280010, 0x00280011, 0x00280008, 0x00280002
BITS_ALLOCATED, SIGNED, PHOTOMETRIC = 0x00280100, 0x00280103, 0x00280004
PIXEL_SPACING, RESCALE_INTERCEPT, RESCALE_SLOPE = 0x00280030, 0x00281052, 0x00281053
THINNED = 4  # every fourth pixel tells a head from a chest
OFFSET_TABLES = (0x7FE00001, 0x7FE00002)
NATIVE = (str(ImplicitVRLittleEndian), str(ExplicitVRLittleEndian))
CT_CLASS, CT_CLASSES_PREFIX = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.2."
RIM = 8  # an eighth of the rows at top and bottom is looked at in CT: where consoles write
SHARP = 0.4  # of the slice's range, between neighbours: bone and skin are blurred over pixels, letters are not
STROKES_PER_ROW, ROWS_OF_STROKES = 8, 4  # of letters; the rim of a round field of view crosses a row twice


@dataclass(frozen=True, kw_only=True)
class Blanked:
    """Pixels of one file after blanking, and where: `source` is `device` or `detector` for each box."""

    pixels: bytes
    transfer_syntax: str
    boxes: tuple[Box, ...]
    sources: tuple[str, ...]


def _number(dataset: Dataset, tag: int, default: int) -> int:
    value = dataset[tag].value if tag in dataset else None
    return default if value in (None, "") else int(value)


def stored_values(dataset: FileDataset, transfer_syntax: str) -> NDArray[np.generic]:
    """Stored values as (F, Y, X), compressed ones decoded without loss, no rescale applied.

    Raises:
        Quarantine: `colour_image`, `unsupported_pixels`.
    """
    if _number(dataset, SAMPLES, 1) != 1:
        raise Quarantine("colour_image", "text in colour images can't be blanked here")
    shape = (_number(dataset, FRAMES, 1), _number(dataset, ROWS, 0), _number(dataset, COLUMNS, 0))
    bits = _number(dataset, BITS_ALLOCATED, 0)
    if bits not in (8, 16):
        raise Quarantine("unsupported_pixels", f"{bits} bits allocated, 8 or 16 wanted")
    dtype = np.dtype(f"<{'i' if _number(dataset, SIGNED, 0) else 'u'}{bits // 8}")
    try:
        if transfer_syntax in NATIVE:
            count = int(np.prod(shape))
            return np.frombuffer(bytes(dataset.get_item(PIXEL_DATA).value), dtype, count=count).reshape(shape)
        return np.ascontiguousarray(dataset.pixel_array.reshape(shape).astype(dtype, copy=False))
    except Exception as error:  # whatever a decoder says of broken pixels
        raise Quarantine("undecodable_pixels", "the pixels can't be decoded") from error


def has_sharp_rim(values_YX: NDArray[np.generic]) -> bool:
    """True where top or bottom of a slice hold many steps as sharp as drawn letters."""
    height = values_YX.shape[0]
    rim = max(2, height // RIM)
    span = int(values_YX.max()) - int(values_YX.min())
    for part in (values_YX[:rim], values_YX[-rim:]):
        if int(part.max()) - int(part.min()) < SHARP * span:
            continue
        steps = np.abs(np.diff(part.astype(np.int32), axis=1)) > SHARP * span
        if int((steps.sum(axis=1) >= STROKES_PER_ROW).sum()) >= ROWS_OF_STROKES:
            return True
    return False


def _is_suspect(dataset: FileDataset, values_FYX: NDArray[np.generic], config: DeidentifyConfig) -> bool:
    if config.find_text == "all":
        return True
    sop_class = text_of(dataset, 0x00080016)
    acquired = sop_class == CT_CLASS or sop_class.startswith(CT_CLASSES_PREFIX)
    if not acquired or "LOCALIZER" in text_of(dataset, 0x00080008).upper():
        return True
    return any(has_sharp_rim(frame) for frame in values_FYX)


def find_text(
    dataset: FileDataset, transfer_syntax: str, config: DeidentifyConfig
) -> tuple[NDArray[np.generic], tuple[tuple[Box, str], ...]]:
    """Stored values (F, Y, X), and boxes with text, each with what told of it; all frames share the boxes."""
    values = stored_values(dataset, transfer_syntax)
    height, width = values.shape[1:]
    found = [(box, "device") for box in device_regions(dataset)]
    if config.find_text != "none" and _is_suspect(dataset, values, config):
        inverted = text_of(dataset, PHOTOMETRIC) == "MONOCHROME1"
        for frame in values:
            found += [(box, "detector") for box in text_boxes(grey_levels(frame, inverted=inverted))]
    clipped = {
        Box(top, left, min(bottom, height), min(right, width)): source for (top, left, bottom, right), source in found
    }
    return values, tuple(
        (box, source) for box, source in sorted(clipped.items()) if box.top < height and box.left < width
    )


def blank(values_FYX: NDArray[np.generic], boxes: Sequence[Box]) -> NDArray[np.generic]:
    """A copy in which every box has one value per frame: the median of the pixels just outside it."""
    blanked = values_FYX.copy()
    inside = np.zeros(values_FYX.shape[1:], dtype=bool)
    for top, left, bottom, right in boxes:
        inside[top:bottom, left:right] = True
    for frame, original in zip(blanked, values_FYX, strict=True):
        for top, left, bottom, right in boxes:
            around = np.s_[max(0, top - 3) : bottom + 3, max(0, left - 3) : right + 3]
            ring = original[around][~inside[around]]
            fill = np.median(ring) if ring.size else original.min()
            frame[top:bottom, left:right] = fill.astype(frame.dtype)
    return blanked


@dataclass
class SeriesReview:
    """What is kept of the pixels of a series while its files pass: where they were blanked, and thinned CT slices."""

    blanked: list[dict[str, Any]] = field(default_factory=list)
    slices_YX: list[NDArray[np.float32]] = field(default_factory=list)
    column_mm: float = 0.0

    def look(self, dataset: FileDataset, values_FYX: NDArray[np.generic]) -> None:
        """Keep the middle frame of a CT file in HU, every fourth pixel; without rescale there are no HU to judge."""
        spacing = text_of(dataset, PIXEL_SPACING).split("\\")
        if RESCALE_SLOPE not in dataset or len(spacing) != 2:
            return
        try:
            slope, intercept = float(text_of(dataset, RESCALE_SLOPE)), float(text_of(dataset, RESCALE_INTERCEPT) or 0)
            self.column_mm = float(spacing[1]) * THINNED
        except ValueError:
            return
        frame = values_FYX[len(values_FYX) // 2, ::THINNED, ::THINNED]
        if not self.slices_YX or self.slices_YX[0].shape == frame.shape:
            self.slices_YX.append(frame.astype(np.float32) * slope + intercept)

    def note(self, blanked: Blanked, instance_id: str) -> None:
        """Remember where a file was blanked."""
        boxes = [list(box) for box in blanked.boxes]
        self.blanked.append({"instance_id": instance_id, "boxes": boxes, "sources": list(blanked.sources)})

    def require_no_head(self) -> None:
        """Refuse a series that shows a head.

        Raises:
            Quarantine: `head_ct`.
        """
        if self.slices_YX and is_head(self.slices_YX, self.column_mm):
            raise Quarantine("head_ct", "little lung and a skull: a face can be rebuilt from it")


def clean_pixels(
    dataset: FileDataset, transfer_syntax: str, config: DeidentifyConfig, review: SeriesReview | None = None
) -> Blanked | None:
    """Look for text before the header is cleaned; None where the pixels stay as they are.

    Compressed pixels that had to change are written uncompressed: no second loss.

    Raises:
        Quarantine: `burned_in_text` where the configuration refuses; `colour_image`, `unsupported_pixels`,
            `undecodable_pixels`; `burned_in_annotation` where the header tells of text and no device rule says where.
    """
    says_so = text_of(dataset, BURNED_IN).upper() == "YES"
    if says_so and (config.burned_in == "quarantine" or not device_regions(dataset)):
        raise Quarantine("burned_in_annotation", "the header says that identifying text is in the pixels")
    values, found = find_text(dataset, transfer_syntax, config)
    if review is not None and config.refuse_heads:
        review.look(dataset, values)
    if not found:
        return None
    if config.burned_in == "quarantine":
        raise Quarantine("burned_in_text", f"text at {len(found)} places in the pixels")
    pixels = blank(values, [box for box, _ in found]).tobytes()
    return Blanked(
        pixels=pixels + b"\0" * (len(pixels) % 2),
        transfer_syntax=transfer_syntax if transfer_syntax in NATIVE else str(ExplicitVRLittleEndian),
        boxes=tuple(box for box, _ in found),
        sources=tuple(source for _, source in found),
    )


def put_blanked(dataset: FileDataset, blanked: Blanked) -> None:
    """Store blanked pixels in a cleaned data set and say so (code 113101)."""
    for tag in OFFSET_TABLES:
        if tag in dataset:
            del dataset[tag]
    bits = _number(dataset, BITS_ALLOCATED, 16)
    dataset.add_new(PIXEL_DATA, "OB" if bits == 8 and blanked.transfer_syntax != NATIVE[0] else "OW", blanked.pixels)
    put_text(dataset, BURNED_IN, "CS", "NO")
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = "113101", "DCM", "Clean Pixel Data Option"
    dataset[METHOD_CODES].value.append(item)

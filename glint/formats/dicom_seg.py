"""DICOM Segmentation objects (PS3.3 A.51) that lie on the slices of their source series."""

import warnings
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray

from glint.core.atomic import atomic_file
from glint.core.errors import InputError
from glint.formats.dicom_series import SliceHeader

MANUFACTURER, MODEL = "GLINT", "gated language-image alignment"
LONGEST_LABEL = 64  # characters of an LO element, PS3.5 table 6.2-1


def write_segmentation(
    path: Path, headers: Sequence[SliceHeader], masks_SZYX: NDArray[np.bool_], labels: Sequence[str]
) -> None:
    """Write S masks as segments of one SEG object beside its source series, atomically.

    The object takes over patient and study of its source, as PS3.3 demands: from a series with identities it has them too.

    Args:
        headers: Slices of the source, one file each, in the order of the masks' first axis.
        masks_SZYX: On the slices' own rows and columns.
        labels: What each segment shows; cut to 64 characters.

    Raises:
        InputError: the series is multi-frame, or no mask holds a voxel.
    """
    import highdicom
    from pydicom.sr.codedict import codes

    if any(header.frame is not None for header in headers):
        raise InputError("a DICOM SEG is written for series of one file per slice; take the NIfTI mask instead")
    kept = [place for place, mask in enumerate(masks_SZYX) if mask.any()]
    if not kept:
        raise InputError("no mask holds a voxel, so there is nothing to write as DICOM SEG")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom's quote values, which may be identifiers
        sources = [pydicom.dcmread(header.path, stop_before_pixels=True) for header in headers]
        identification = highdicom.AlgorithmIdentificationSequence(
            name=MANUFACTURER, family=codes.DCM.ArtificialIntelligence, version=version("glint")
        )
        described = [
            highdicom.seg.SegmentDescription(
                segment_number=number,
                segment_label=labels[place][:LONGEST_LABEL],
                segmented_property_category=codes.SCT.MorphologicallyAbnormalStructure,
                segmented_property_type=codes.SCT.MorphologicallyAbnormalStructure,
                algorithm_type=highdicom.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
                algorithm_identification=identification,
            )
            for number, place in enumerate(kept, 1)
        ]
        segmentation: Any = highdicom.seg.Segmentation(
            source_images=sources,
            pixel_array=np.moveaxis(masks_SZYX[kept], 0, -1).astype(np.uint8),
            segmentation_type=highdicom.seg.SegmentationTypeValues.BINARY,
            segment_descriptions=described,
            series_instance_uid=highdicom.UID(),
            series_number=900,
            sop_instance_uid=highdicom.UID(),
            instance_number=1,
            manufacturer=MANUFACTURER,
            manufacturer_model_name=MODEL,
            software_versions=version("glint"),
            device_serial_number="0",
            content_label="GLINT",
            content_description="regions that sentences speak of",
            series_description="GLINT segmentation",
        )
        with atomic_file(path) as temporary:
            segmentation.save_as(temporary)

"""A grey picture without a DICOM header, given one: so that every film takes the same road, whatever it came as.

Secondary Capture with modality CR (PS3.3 A.8.1), as public sets of films are distributed; pixels without loss (JPEG-LS).
"""

import hashlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, JPEGLSLossless, SecondaryCaptureImageStorage

from glint.core.atomic import atomic_file


def uid_of(*parts: str) -> str:
    """A UID that is the same for the same words; stage 02 replaces it under the secret key."""
    return f"2.25.{int.from_bytes(hashlib.sha256(chr(0).join(parts).encode()).digest()[:16], 'big')}"


def write_picture(
    path: Path, grey_YX: NDArray[np.uint8] | NDArray[np.uint16], *, patient: str, study: str, name: str, view: str
) -> None:
    """Write `grey_YX` (Y, X) as a DICOM file, atomically.

    Args:
        patient: Becomes the Patient ID; "" where unknown, each study is then a patient of its own.
        study: Becomes the accession number, by which a report finds it.
        name: What tells this picture from every other.
        view: PA, AP, LL, or "".
    """
    bits = 8 * grey_YX.dtype.itemsize
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset = FileDataset(str(path), {}, file_meta=meta, preamble=bytes(128))
    dataset.SOPClassUID = meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    dataset.SOPInstanceUID = meta.MediaStorageSOPInstanceUID = uid_of("instance", name)
    dataset.StudyInstanceUID = uid_of("study", patient, study)
    dataset.SeriesInstanceUID = uid_of("series", patient, study)
    dataset.Modality, dataset.ConversionType, dataset.ImageType = "CR", "WSD", ["ORIGINAL", "PRIMARY"]
    dataset.PatientID, dataset.PatientName, dataset.AccessionNumber = patient, "", study
    dataset.ViewPosition = view
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.Rows, dataset.Columns = grey_YX.shape
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = bits, bits, bits - 1, 0
    dataset.PixelData = np.ascontiguousarray(grey_YX, grey_YX.dtype.newbyteorder("<")).tobytes()
    dataset["PixelData"].VR = "OB" if bits == 8 else "OW"
    dataset.compress(JPEGLSLossless, generate_instance_uid=False)
    with atomic_file(path) as temporary:
        dataset.save_as(temporary, enforce_file_format=True)

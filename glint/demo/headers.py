"""DICOM headers as scanners and clerks fill them: vendor habits, and identities wherever someone could type one."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from datetime import date
from typing import Any

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRLittleEndian

from glint.core.seeds import generator
from glint.demo.people import Patient, Visitation
from glint.demo.scanner import Scan

IMPLEMENTATION_UID = "2.25.221340719543218864205147213055184022145"


def uid(seed: int, *labels: str | int) -> str:
    """A UID under 2.25 (PS3.5 B.2) that is a function of seed and purpose alone."""
    text = "\x1f".join(str(part) for part in ("uid", seed, *labels))
    return f"2.25.{int.from_bytes(hashlib.sha256(text.encode()).digest()[:16], 'big') | 1 << 127}"


@dataclass(kw_only=True)
class StudyHeader:
    """What every instance of a study shares, and the identities planted in it as (kind, value as written)."""

    base: Dataset
    study_uid: str
    planted: list[tuple[str, str]] = field(default_factory=list)


def dicom_date(day: date) -> str:
    """YYYYMMDD, the DA of PS3.5 6.2."""
    return day.strftime("%Y%m%d")


def file_meta(sop_class: str, sop_instance: str, transfer_syntax: str = ExplicitVRLittleEndian) -> FileMetaDataset:
    """File meta information that never varies between runs or pydicom versions."""
    meta = FileMetaDataset()
    meta.FileMetaInformationVersion = b"\x00\x01"
    meta.MediaStorageSOPClassUID = sop_class
    meta.MediaStorageSOPInstanceUID = sop_instance
    meta.TransferSyntaxUID = transfer_syntax
    meta.ImplementationClassUID = IMPLEMENTATION_UID
    meta.ImplementationVersionName = "GLINT_DEMO_1"
    return meta


@dataclass(frozen=True, kw_only=True)
class Equipment:
    """What the machine writes of itself; private: group, creator, elements as (offset, VR, what to write)."""

    manufacturer: str
    model: str
    software: str
    station: str
    private: tuple[int, str, tuple[tuple[int, str, str], ...]]


def study_header(
    seed: int, number: int, patient: Patient, visit: Visitation, *, modality: str, described: str, procedure: str
) -> StudyHeader:
    """The header that all instances of one study begin with: who, when, where, and what clerks type.

    Args:
        described: Study Description before anyone adds to it.
        procedure: What was ordered.
    """
    rng = generator(seed, "clerk", number)
    study_uid = uid(seed, "study", number)
    header = StudyHeader(base=Dataset(), study_uid=study_uid)
    base = header.base

    def plant(kind: str, value: str) -> str:
        header.planted.append((kind, value))
        return value

    day = plant("study_date", dicom_date(visit.study_date))
    base.SpecificCharacterSet = "ISO_IR 100"
    base.Modality = modality
    base.StudyInstanceUID = plant("uid", study_uid)
    base.StudyDate = base.SeriesDate = base.AcquisitionDate = base.ContentDate = day
    base.StudyTime = base.SeriesTime = base.AcquisitionTime = base.ContentTime = visit.time
    base.AccessionNumber = plant("accession", visit.accession)
    base.StudyID = visit.study_id
    base.InstitutionName = plant("institution", visit.institution)
    base.ReferringPhysicianName = plant("physician", visit.referring)
    base.OperatorsName = plant("operator", visit.operator)
    base.PatientName = plant("patient_name", patient.dicom_name)
    base.PatientID = plant("patient_id", patient.mrn)
    base.PatientBirthDate = plant("birth_date", dicom_date(patient.birth))
    base.PatientSex = patient.sex
    base.PatientAge = f"{(visit.study_date - patient.birth).days // 365:03d}Y"
    base.BodyPartExamined = "CHEST"
    base.StudyDescription = described
    _typed_by_clerks(base, rng, patient, visit, plant)
    _requested(base, rng, patient, visit, procedure, plant)
    return header


def scan_header(seed: int, number: int, patient: Patient, visit: Visitation, scan: Scan, contrast: bool) -> StudyHeader:
    """The header of a CT study, scanner and all."""
    described = "CT CHEST" + (" W CONTRAST" if contrast else " WO CONTRAST")
    header = study_header(seed, number, patient, visit, modality="CT", described=described, procedure="CT Thorax")
    base, vendor = header.base, scan.vendor
    base.PatientPosition = "HFS"
    if contrast:
        base.ContrastBolusAgent = "OMNIPAQUE 350"
    base.KVP = "120"
    base.XRayTubeCurrent = "180"
    base.ExposureTime = "500"
    base.ConvolutionKernel = scan.kernel
    base.SliceThickness = f"{scan.thickness_mm:g}"
    base.GantryDetectorTilt = "0"
    base.FrameOfReferenceUID = uid(0, "frame", base.StudyInstanceUID)
    base.PositionReferenceIndicator = "SN" if vendor.key == "ge" else ""
    made_by(
        header,
        Equipment(
            manufacturer=vendor.manufacturer,
            model=scan.model,
            software=vendor.software,
            station=vendor.station,
            private=vendor.private,
        ),
        patient,
        visit,
    )
    return header


def _typed_by_clerks(base: Dataset, rng: np.random.Generator, patient: Patient, visit: Visitation, plant: Any) -> None:
    """Optional fields, each filled by some clerks only."""
    title = "Mr." if patient.sex == "M" else "Mrs."
    if rng.random() < 0.5:
        base.PatientAddress = plant("address", patient.address)
    if rng.random() < 0.5:
        base.PatientTelephoneNumbers = plant("phone", patient.phone)
    if rng.random() < 0.4:
        base.OtherPatientIDs = plant("other_patient_id", patient.other_id)
    if rng.random() < 0.3:
        base.InstitutionAddress = plant("institution", f"1 Hospital Drive, {visit.institution.split()[0]}")
    if rng.random() < 0.4:
        base.PatientComments = plant("free_text", f"{title} {patient.surname} prefers calls to {patient.phone}")
    if rng.random() < 0.3:
        base.StudyDescription = plant("free_text", f"{base.StudyDescription} {patient.surname.upper()}")
    if rng.random() < 0.3:
        base.ImageComments = plant("free_text", f"Motion, repeated for {patient.given} {patient.surname}")
    if rng.random() < 0.3:
        base.PerformingPhysicianName = plant("physician", visit.reader)
    if rng.random() < 0.25:
        base.AdditionalPatientHistory = plant("free_text", f"Pt {patient.mrn} born {patient.birth:%d.%m.%Y}, smoker")


def _requested(
    base: Dataset, rng: np.random.Generator, patient: Patient, visit: Visitation, procedure: str, plant: Any
) -> None:
    """Orders: sequences in sequences with names inside."""
    request = Dataset()
    request.RequestedProcedureID = plant("order_number", visit.order_number)
    request.RequestedProcedureDescription = procedure
    request.ScheduledProcedureStepDescription = procedure
    if rng.random() < 0.5:
        request.RequestedProcedureComments = plant("free_text", f"Please call Dr. {visit.referring.split('^')[0]}")
    base.RequestAttributesSequence = Sequence([request])
    if rng.random() < 0.35:
        former = Dataset()
        former.PatientName = plant("patient_name", f"{patient.surname}^{patient.given}^^")
        former.PatientID = patient.mrn
        change = Dataset()
        change.ModifyingSystem = "PACS01"
        change.ReasonForTheAttributeModification = "CORRECT"
        change.AttributeModificationDateTime = dicom_date(visit.study_date) + visit.time
        change.ModifiedAttributesSequence = Sequence([former])
        base.OriginalAttributesSequence = Sequence([change])


def made_by(header: StudyHeader, equipment: Equipment, patient: Patient, visit: Visitation) -> None:
    """Equipment and the maker's private block, which repeats what it should not."""
    base = header.base
    base.Manufacturer = equipment.manufacturer
    base.ManufacturerModelName = equipment.model
    base.SoftwareVersions = equipment.software
    base.StationName = equipment.station
    typed = {"name": patient.dicom_name, "mrn": patient.mrn, "operator": visit.operator}
    group, creator, elements = equipment.private
    block = base.private_block(group, creator, create=True)
    for offset, vr, source in elements:
        if source.startswith("literal:"):
            block.add_new(offset, vr, source.removeprefix("literal:"))
        else:
            header.planted.append(("private", typed[source]))
            block.add_new(offset, vr, typed[source])

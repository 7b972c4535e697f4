"""One CT file with a marker wherever a person, a clerk or a machine can leave one, and what must be left of it.

Markers are letters only, unlike any word of a protocol, and unknown to the index: nothing but the rules can find them.
"""

import struct
from collections.abc import Callable, Iterator
from io import BytesIO
from itertools import product
from typing import Any

import numpy as np
import pydicom
from dicom_builder import ROOT, ct_dataset
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.tag import Tag
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

ALPHABET = "ABCDEFGHIJ"
NAMES_BY_CHARACTER_SET = {
    "ISO_IR 100": ("Zörkelmüß^Änne", "latin-1"),
    "ISO_IR 144": ("Зоркельман^Ольга", "iso8859_5"),
    "ISO_IR 126": ("Ζορκελμαν^Ελενη", "iso8859_7"),
    "ISO_IR 127": ("زوركلمان^ليلى", "iso8859_6"),
    "GB18030": ("佐尔克曼^王芳", "gb18030"),
    "ISO_IR 192": ("Żorkełman^Łucja", "utf-8"),
    "ISO 2022 IR 87": ("佐流久^花子", "iso2022_jp"),
}
THREE_GROUPS = "Zorkhirsch^Takeo=佐流久馬^武夫=ぞるくま^たけお"


class Planter:
    """Hands out markers and remembers where each went, in every spelling that must not come out."""

    def __init__(self) -> None:
        self.words = ("ZORK" + "".join(letters) for letters in product(ALPHABET, repeat=4))
        self.planted: dict[str, list[bytes]] = {}

    def word(self, place: str) -> str:
        """A new marker of eight capital letters for `place`."""
        marker = next(self.words)
        self.planted[place] = [marker.encode(), marker.encode("utf-16-le"), marker.lower().encode()]
        return marker

    def name(self, place: str, text: str, codec: str) -> str:
        """A name whose components must not come out in its own encoding nor in UTF-8."""
        parts = [part for group in text.split("=") for part in group.split("^")]
        self.planted[place] = [p.encode(c) for p in parts for c in {codec, "utf-8"} if len(p.encode(c)) > 3]
        return text

    def add(self, dataset: Dataset, tag: int, vr: str, place: str, form: str = "{}") -> None:
        """Plant a marker as the raw value of an element."""
        value = form.format(self.word(place)).encode()
        value += b" " * (len(value) % 2)
        dataset[tag] = RawDataElement(Tag(tag), vr, len(value), value, 0, False, True)


BY_VR = {
    "AE": 0x00080055, "AS": 0x00101010, "CS": 0x00180015, "DA": 0x00080023, "DS": 0x00180060, "DT": 0x0008002A,
    "FD": 0x00189306, "FL": 0x00186030, "IS": 0x00181150, "LO": 0x00180010, "LT": 0x00204000, "OB": 0x00420011,
    "OD": 0x7FE00009, "OF": 0x00660016, "OL": 0x00660040, "OV": 0x7FE00002, "OW": 0x00282000, "PN": 0x00081070,
    "SH": 0x00081010, "SL": 0x00186020, "SS": 0x00189219, "ST": 0x00080081, "SV": 0x00720082, "TM": 0x00080033,
    "UC": 0x00189908, "UI": 0x00081195, "UL": 0x00186022, "UN": 0x00101060, "UR": 0x00081190, "US": 0x00280108,
    "UT": 0x0040A160, "UV": 0x00720083, "AT": 0x00280009,
}  # fmt: skip
TEXTS = {
    "Manufacturer": 0x00080070, "ManufacturerModelName": 0x00081090, "SoftwareVersions": 0x00181020,
    "ConvolutionKernel": 0x00181210, "FilterType": 0x00181160, "RescaleType": 0x00281054,
    "TimezoneOffsetFromUTC": 0x00080201, "StudyDescription": 0x00081030, "SeriesDescription": 0x0008103E,
    "ProtocolName": 0x00181030, "PatientComments": 0x00104000, "DeviceSerialNumber": 0x00181000, "StationAET": 0x00080054,
    "BirthDateInAlternativeCalendar": 0x00100033, "BirthCalendar": 0x00100035, "OtherPatientNames": 0x00101001,
    "MilitaryRank": 0x00101080, "InsurancePlan": 0x00101050, "Address": 0x00101040, "Telephone": 0x00102154,
    "Occupation": 0x00102180, "History": 0x001021B0, "Allergies": 0x00102110, "EthnicGroup": 0x00102160,
    "FrameComments": 0x00209158, "DerivationDescription": 0x00082111,
    "NameOfPhysicians": 0x00081060, "CountryOfResidence": 0x00102150, "StudyID": 0x00200010, "ClinicalTrialSite": 0x00120031, "ClinicalTrialSponsor": 0x00120010,
}  # fmt: skip


def _plant_nested(dataset: Dataset, planter: Planter) -> None:
    inner = Dataset()
    for place, tag in (("nested PatientName", 0x00100010), ("nested OperatorsName", 0x00081070)):
        planter.add(inner, tag, "PN", place, "{}^Deep")
    for place, tag, vr in (
        ("nested FrameComments", 0x00209158, "LT"),
        ("nested InstitutionName", 0x00080080, "LO"),
        ("nested UN", 0x00101001, "UN"),
        ("nested CS", 0x00180015, "CS"),
        ("nested DA", 0x00080023, "DA"),
        ("nested private creator", 0x00110010, "LO"),
        ("nested private value", 0x00111001, "LO"),
    ):
        planter.add(inner, tag, vr, place)
    inner.PatientID, inner.StudyDate, inner.AccessionNumber = "MRN4471902", "20210314", "ACC7730041"
    inner.ReferencedSOPInstanceUID = [f"{ROOT}.77.4", f"{ROOT}.77.5"]
    inner.ReferencedSOPClassUID = CTImageStorage
    inner.SpecificCharacterSet = "ISO_IR 100"
    inner.PatientAge, inner.Manufacturer, inner.StudyDescription = (
        "104Y",
        "GE MEDICAL SYSTEMS",
        "CT chest, Qo Lung 14.03.2021",
    )
    private = Dataset()
    planter.add(private, 0x00091001, "LO", "private sequence value")
    planter.add(private, 0x00090010, "LO", "private sequence creator")
    inner.add_new(0x00111002, "SQ", [private])
    two = Dataset()
    two.PixelMeasuresSequence = [inner]
    one = Dataset()
    one.SharedFunctionalGroupsSequence = [two]
    dataset.PerFrameFunctionalGroupsSequence = [one]


def _plant_character_sets(dataset: Dataset, planter: Planter) -> None:
    items = []
    for character_set, (name, codec) in NAMES_BY_CHARACTER_SET.items():
        item = Dataset()
        item.SpecificCharacterSet = ["", character_set] if "2022" in character_set else character_set
        item.PatientName = planter.name(f"name in {character_set}", name, codec)
        items.append(item)
    groups = Dataset()
    groups.SpecificCharacterSet = ["", "ISO 2022 IR 87"]
    groups.PatientName = planter.name("name of three component groups", THREE_GROUPS, "iso2022_jp")
    wrong = Dataset()
    wrong.SpecificCharacterSet = "ISO_IR 6"
    raw = planter.name("name in an undeclared character set", "Zörkwühl", "latin-1").encode("latin-1")
    wrong[0x00100010] = RawDataElement(Tag(0x00100010), "PN", 8, raw, 0, False, True)
    dataset.CTAcquisitionTypeSequence = [*items, groups, wrong]


def _plant_containers(dataset: Dataset, planter: Planter) -> None:
    for place, tag, vr in (
        ("safe private that is no ratio", 0x00432A27, "SH"), ("private creator", 0x00090010, "LO"), ("private value", 0x00091001, "LO"), ("private blob", 0x00291010, "OB"),
        ("overlay label", 0x60001500, "LO"), ("overlay description", 0x60000022, "LO"), ("overlay data", 0x60003000, "OW"),
        ("overlay of the last group", 0x601E0022, "LO"), ("curve label", 0x50002500, "LO"), ("curve data", 0x50003000, "OW"),
        ("trailing padding", 0xFFFCFFFC, "OB"), ("unknown attribute", 0x00189999, "LO"), ("retired wrapping", 0x7FE10010, "OB"),
    ):  # fmt: skip
        planter.add(dataset, tag, vr, place)
    icon = Dataset()
    planter.add(icon, 0x7FE00010, "OW", "icon pixels")
    dataset.IconImageSequence = [icon]
    original = Dataset()
    planter.add(original, 0x04000563, "LO", "original attributes: modifying system")
    dataset.OriginalAttributesSequence = [original]
    signature = Dataset()
    planter.add(signature, 0x04000120, "OB", "digital signature")
    dataset.DigitalSignaturesSequence = [signature]
    encrypted = Dataset()
    planter.add(encrypted, 0x04000520, "OB", "encrypted attributes")
    dataset.EncryptedAttributesSequence = [encrypted]
    content = Dataset()
    content.ValueType = "TEXT"
    planter.add(content, 0x0040A160, "UT", "structured report text")
    dataset.ContentSequence = [content]
    table = Dataset()
    table.LUTDescriptor = [8, 0, 16]
    planter.add(table, 0x00283006, "OW", "LUT data", "{0}{0}")
    planter.add(table, 0x00283003, "LO", "LUT explanation")
    dataset.VOILUTSequence = [table]
    code = Dataset()
    planter.add(code, 0x00080100, "SH", "code value")
    planter.add(code, 0x00080102, "SH", "coding scheme")
    planter.add(code, 0x00080104, "LO", "code meaning")
    left = _code("T-28000", "SRT")
    planter.add(left, 0x00080104, "LO", "meaning of a public code", "Left {}")
    dataset.AnatomicRegionSequence = [code, _code("39607008", "SCT"), left, _code("LOCAL77", "99HOSPITAL")]
    dataset.ViewCodeSequence = [_code("LOCAL78", "99HOSPITAL")]
    reference = Dataset()
    reference.ReferencedSOPInstanceUID = f"{ROOT}.8"
    dataset.ReferencedStudySequence = [reference]


def _code(value: str, scheme: str) -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, "Lung"
    return item


def _plant_benign(dataset: Dataset) -> None:
    """What must stay, each beside a rule that could take too much."""
    dataset.ScanOptions = "HELICAL_CT"
    dataset.SourceImageSequence = [Dataset()]
    dataset.SourceImageSequence[0].ReferencedSOPInstanceUID = f"{ROOT}.3.1.1.2"
    dataset.SourceImageSequence[0].ReferencedSOPClassUID = CTImageStorage
    dataset.PatientSize, dataset.PatientAge = "1.70", "104Y"
    dataset.add_new(0x00181110, "UN", b"1085")  # DistanceSourceToDetector
    dataset.PositionReferenceIndicator = "XY"
    dataset.BeamHoldTransitionDateTime = "20210314101500"
    dataset.SecondaryReviewTime = "23:59:58"
    dataset.SeriesTime = "14 h 3"
    dataset.AcquisitionTime = ""
    dataset.add_new(0x00189305, "FD", 0.33)  # RevolutionTime
    dataset.add_new(0x00080012, "DA", "20210315")
    table = Dataset()
    table.LUTDescriptor = [16, 0, 16]
    table.add_new(0x00283006, "OW", np.arange(0x4142, 0x4152, dtype="<u2").tobytes())
    dataset.ModalityLUTSequence = [table]
    dataset.add_new(0x00080000, "UL", 812)  # group length
    dataset.add_new(0x00450010, "LO", "GEMS_HELIOS_01")
    dataset.add_new(0x00451001, "SS", 64)
    dataset.add_new(0x00451004, "SS", 4)  # not on the list of safe elements
    dataset.add_new(0x00430029, "LO", "GEMS_PARM_01")  # a renumbered block
    dataset.add_new(0x00432927, "SH", "0.984:1")
    dataset.add_new(0x0043002A, "LO", "GEMS_PARM_01")
    dataset.add_new(0x00189327, "FD", struct.unpack("<d", b"aaaaaa8@")[0])  # TablePosition: 24.4 mm, looks like letters
    dataset.add_new(0x00189328, "FD", 1234567.891)  # ExposureTimeInms: large, looks like none
    for group, kind in ((0x6002, "R"), (0x6004, "G"), (0x6006, "R")):
        square = np.zeros((24, 32), np.uint8)
        square[4:16, 8:24] = 1
        content = np.packbits(square, bitorder="little").tobytes() + b"more" * (group == 0x6006)
        for element, vr, value in ((0x10, "US", 24), (0x11, "US", 32), (0x40, "CS", kind), (0x3000, "OW", content)):
            dataset.add_new(group << 16 | element, vr, value)


def hostile_dataset() -> tuple[Dataset, Planter]:
    """A CT slice full of markers, and where they are."""
    planter = Planter()
    dataset = ct_dataset(
        StudyInstanceUID=f"{ROOT}.1.1", SeriesInstanceUID=f"{ROOT}.2.1.1", SOPInstanceUID=f"{ROOT}.3.1.1.1",
        Rows=24, Columns=32, SamplesPerPixel=1, PhotometricInterpretation="MONOCHROME2", BitsAllocated=16, BitsStored=12,
        HighBit=11, PixelRepresentation=0, RescaleIntercept="-1024", RescaleSlope="1", InstanceNumber="1",
        PatientBirthDate="19160203", ImagePositionPatient=["0", "0", "4.5"], ImageOrientationPatient=["1", "0", "0", "0", "1", "0"],
        PixelData=(np.arange(24 * 32, dtype="<u2")).tobytes(),
    )  # fmt: skip
    dataset["PixelData"].VR = "OW"
    _plant_benign(dataset)
    for vr, tag in BY_VR.items():
        planter.add(dataset, tag, vr, f"VR {vr}")
    for keyword, tag in TEXTS.items():
        planter.add(dataset, tag, pydicom.datadict.dictionary_VR(tag), keyword)

    planter.add(dataset, 0x0008010E, "UR", "URL", "http://{}/p?name=x")
    dataset[0x00180050] = RawDataElement(Tag(0x00180050), "LO", 4, b"2.0 ", 0, False, True)  # not its representation
    _plant_containers(dataset, planter)
    _plant_nested(dataset, planter)
    _plant_character_sets(dataset, planter)
    return dataset, planter


def hostile_file(syntax: str = ExplicitVRLittleEndian) -> tuple[bytes, Planter]:
    """The bytes of a whole file: preamble, file meta information and data after the data set are planted too."""
    dataset, planter = hostile_dataset()
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = CTImageStorage, dataset.SOPInstanceUID
    meta.TransferSyntaxUID = syntax
    for place, tag, vr in (
        ("meta source AE", 0x00020016, "AE"),
        ("meta sending AE", 0x00020017, "AE"),
        ("meta private information", 0x00020102, "OB"),
    ):
        planter.add(meta, tag, vr, place)
    meta.add_new(0x00020100, "UI", f"{ROOT}.5")
    preamble = ("II*\0" + planter.word("preamble")).encode().ljust(128, b"\0")
    file = FileDataset("hostile", dataset, file_meta=meta, preamble=preamble)
    buffer = BytesIO()
    file.save_as(buffer, enforce_file_format=True)
    content = buffer.getvalue()
    for tag, vr in ((0x00181110, b"DS"), (0x00101060, b"PN")):  # pydicom writes UN as the representation that it knows
        head = struct.pack("<HH", tag >> 16, tag & 0xFFFF)
        start = content.find(head + vr)
        if start > 0:
            length = content[start + 6 : start + 8]
            content = content[:start] + head + b"UN\0\0" + length + b"\0\0" + content[start + 8 :]
    return content, planter


def leaks(content: bytes, planter: Planter) -> list[str]:
    """Places whose marker is in `content` in any of its spellings."""
    lower = content.lower()
    return [place for place, forms in planter.planted.items() if any(f in content or f in lower for f in forms)]


Check = Callable[[Dataset], bool]


def expectations(pseudonyms: Any, patient: str, days_shifted: Callable[[str], str]) -> Iterator[tuple[str, Check]]:
    """(what must hold, check) for the cleaned file under the default options."""
    uid = pseudonyms.uid
    deep: Callable[[Dataset], Dataset] = lambda d: (  # noqa: E731
        d.PerFrameFunctionalGroupsSequence[0].SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    )
    yield "patient", lambda d: d.PatientID == d.PatientName == pseudonyms.patient_id(patient)
    yield "accession", lambda d: d.AccessionNumber == pseudonyms.accession("ACC7730041")
    yield "nested patient", lambda d: deep(d).PatientID == pseudonyms.patient_id(patient)
    yield "nested accession", lambda d: deep(d).AccessionNumber == pseudonyms.accession("ACC7730041")
    yield "nested name is emptied", lambda d: deep(d).PatientName == ""
    yield "nested date", lambda d: deep(d).StudyDate == days_shifted("20210314")
    yield "nested age", lambda d: deep(d).PatientAge == "090Y"
    yield "nested vendor", lambda d: deep(d).Manufacturer == "GE MEDICAL SYSTEMS"
    yield "indicator is emptied", lambda d: d.PositionReferenceIndicator == ""
    yield "dummy where the profile asks for one", lambda d: d.ClinicalTrialSponsorName == "REMOVED"
    yield "no nested character set", lambda d: "SpecificCharacterSet" not in deep(d)
    yield (
        "every value of a UID",
        lambda d: list(deep(d).ReferencedSOPInstanceUID) == [uid(f"{ROOT}.77.{i}") for i in (4, 5)],
    )
    yield "class UID stays", lambda d: deep(d).ReferencedSOPClassUID == d.SOPClassUID == CTImageStorage
    yield "reference", lambda d: d.SourceImageSequence[0].ReferencedSOPInstanceUID == uid(f"{ROOT}.3.1.1.2")
    yield "instance", lambda d: d.SOPInstanceUID == d.file_meta.MediaStorageSOPInstanceUID == uid(f"{ROOT}.3.1.1.1")
    yield "meta is new", lambda d: {e.tag.element for e in d.file_meta} == {0, 1, 2, 3, 0x10, 0x12, 0x13}
    yield "preamble", lambda d: d.preamble == bytes(128)
    yield (
        "dates",
        lambda d: (d.StudyDate, d.InstanceCreationDate) == tuple(map(days_shifted, ("20210314", "20210315"))),
    )
    yield "time without colons", lambda d: d.SecondaryReviewTime == "235958"
    yield "unreadable time", lambda d: d.SeriesTime == ""
    yield "unreadable date", lambda d: d.ContentDate == ""
    yield "age is capped", lambda d: d.PatientAge == "090Y"
    yield "age that is none goes", lambda d: "PatientBirthDate" not in d or d.PatientBirthDate == ""
    yield "size", lambda d: d.PatientSize == 1.7
    yield "UN of a known attribute", lambda d: d.DistanceSourceToDetector == 1085
    yield "number in another representation goes", lambda d: d.original_encoding[0] or "SliceThickness" not in d
    yield (
        "known code string",
        lambda d: d.ScanOptions == "HELICAL_CT" and d.ImageType == ["ORIGINAL", "PRIMARY", "AXIAL"],
    )
    yield "plausible float", lambda d: d.RevolutionTime == 0.33
    yield "floats of any bytes", lambda d: 24 < d.TablePosition < 25 and d.ExposureTimeInms == 1234567.891
    yield "lookup table", lambda d: len(d.ModalityLUTSequence[0].LUTData) == 32
    yield "no text as lookup table", lambda d: "LUTData" not in d.VOILUTSequence[0]
    yield (
        "public code, its meaning in safe words",
        lambda d: (
            [(c.CodeValue, c.CodeMeaning) for c in d.AnatomicRegionSequence]
            == [("39607008", "39607008"), ("T-28000", "Left")]
        ),
    )
    yield "sequence of local codes goes", lambda d: "ViewCodeSequence" not in d
    yield "optional sequence is not left empty", lambda d: "ReferencedStudySequence" not in d
    yield "geometry", lambda d: list(d.ImagePositionPatient) == [0, 0, 4.5] and d.RescaleIntercept == -1024
    yield "pixels", lambda d: d.PixelData == np.arange(24 * 32, dtype="<u2").tobytes()
    yield "study number", lambda d: d.StudyID == ""
    yield "marked", lambda d: (d.PatientIdentityRemoved, d.SpecificCharacterSet) == ("YES", "ISO_IR 192")
    yield "method", lambda d: d.DeidentificationMethod.startswith("GLINT")
    yield "modified", lambda d: d.LongitudinalTemporalInformationModified == "MODIFIED"
    yield "method codes", lambda d: [c.CodeValue for c in d.DeidentificationMethodCodeSequence] == ["113100", "113107", "113108"]  # fmt: skip
    yield "no private", lambda d: not [e for e in d.iterall() if e.tag.is_private]
    yield (
        "no overlay, curve, group length",
        lambda d: not [e for e in d if e.tag.group >> 8 in (0x50, 0x60) or not e.tag.element],
    )

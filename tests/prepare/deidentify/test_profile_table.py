"""The table is the standard's: it equals what another maintained package ships, and every row is needed."""

import importlib
import importlib.util
from collections.abc import Iterable, Mapping
from pathlib import Path

import pytest
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.tag import Tag

from glint.core.config.deidentify import DeidentifyConfig
from glint.core.ids import Pseudonyms
from glint.prepare.deidentify import table
from glint.prepare.deidentify.elements import text_of
from glint.prepare.deidentify.images import make_engine
from glint.prepare.deidentify.rules import known_vrs

LISTS = {"X_TAGS": "X", "Z_TAGS": "Z", "D_TAGS": "D", "U_TAGS": "U", "X_Z_TAGS": "X/Z", "X_D_TAGS": "X/D"}
LISTS |= {"Z_D_TAGS": "Z/D", "X_Z_D_TAGS": "X/Z/D", "X_Z_U_STAR_TAGS": "X/Z/U"}


def newest_table() -> dict[str, str]:
    """Tag → action from the newest edition in dicom-anonymizer; `x` for any digit."""
    package = pytest.importorskip("dicomanonymizer", reason="dicom-anonymizer (dev) is not installed")
    folder = Path(package.__file__).parent / "dicom_anonymization_databases"
    newest = sorted(folder.glob("dicomfields_*.py"))[-1]
    spec = importlib.util.spec_from_file_location("newest_table", newest)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found = {}
    for name, action in LISTS.items():
        for entry in getattr(module, name):
            if len(entry) == 2:
                found[f"{entry[0]:04X}{entry[1]:04X}"] = action
            else:  # group, element and their masks
                value, mask = f"{entry[0]:04X}{entry[1]:04X}", f"{entry[2]:04X}{entry[3]:04X}"
                found["".join(v if m == "F" else "x" for v, m in zip(value, mask, strict=True))] = action
    return found


def differences(rows: Iterable[Mapping[str, str]]) -> set[str]:
    ours = {row["tag"].upper().replace("X", "x"): row["basic"].removesuffix("*") for row in rows}
    theirs = newest_table()
    return {tag for tag in ours.keys() | theirs.keys() if ours.get(tag) != theirs.get(tag)}


def test_the_basic_profile_equals_the_newest_table_of_another_package() -> None:
    assert differences(table.profile_rows()) == set()


def test_without_any_one_row_the_comparison_fails() -> None:
    rows = table.profile_rows()
    theirs = newest_table()
    for left_out in rows:
        tag = left_out["tag"].upper().replace("X", "x")
        assert theirs[tag] == left_out["basic"].removesuffix("*"), tag  # so that its absence is a difference
    assert len({row["tag"] for row in rows}) == len(rows) == len(theirs)


def test_the_option_columns_are_those_of_the_standard(real_data: Path) -> None:
    import json

    columns = {
        "uids": "rtnUIDsOpt", "device": "rtnDevIdOpt", "institution": "rtnInstIdOpt", "patient": "rtnPatCharsOpt",
        "full_dates": "rtnLongFullDatesOpt", "modified_dates": "rtnLongModifDatesOpt", "descriptors": "cleanDescOpt",
        "structured": "cleanStructContOpt", "graphics": "cleanGraphOpt",
    }  # fmt: skip
    source = json.loads((real_data / "7_standard" / "ps3.15_table_e1-1_2024e.json").read_text())
    by_tag = {row["id"].lower(): row for row in source}
    for row in table.profile_rows():
        if row["edition"] == "2024e":
            original = by_tag[row["tag"].lower()]
            assert {name: row[name] for name in columns} == {k: original.get(v, "") for k, v in columns.items()}, row


@pytest.mark.parametrize(
    ("tag", "options"),
    [
        ("00100043", {"patient": "K"}),
        ("00100042", {"patient": "C", "descriptors": "C"}),
        ("00102161", {"patient": "K"}),
        ("0040A034", {"full_dates": "K", "modified_dates": "C"}),
        ("0040B03F", {"descriptors": "C"}),
        ("300A0054", {"uids": "K"}),
        ("00100011", {}),
    ],
)
def test_options_of_newer_rows_are_those_of_the_web_page_of_2025(tag: str, options: dict[str, str]) -> None:
    """Oracle: what another package read there, copied by hand; `data/README.md` names it."""
    (row,) = (row for row in table.profile_rows() if row["tag"] == tag)
    names = ("uids", "device", "institution", "patient", "full_dates", "modified_dates", "descriptors", "structured")
    assert {name: row[name] for name in names if row[name]} == options and row["options_edition"] == "2025"


def test_rows_without_known_options_keep_the_basic_action_under_every_option() -> None:
    unknown = [row for row in table.profile_rows() if not row["options_edition"]]
    assert len(unknown) == 9
    every = table.profile_actions("uids", "device", "institution", "patient", "full_dates", "descriptors", "structured")
    assert {every[int(row["tag"], 16)] for row in unknown} <= {"X", "D", "U"}


@pytest.mark.parametrize("action", ["X", "Z", "D", "U"])
def test_every_row_does_what_it_says_to_an_element(action: str) -> None:
    engine = make_engine(
        Pseudonyms(b"k" * 32), "P", DeidentifyConfig(retain_modified_dates=False, retain_patient_characteristics=False)
    )
    special = {0x00080050, 0x00100010, 0x00100020, 0x00120063, 0x00120064, 0x00080018, 0x00020003}
    tried = 0
    for tag, wanted in table.profile_actions().items():
        vr = next(iter(known_vrs(tag)), "")
        if wanted != action or tag in special or not 8 <= tag >> 16 < 0x7FE0 or vr in ("", "SQ", "OB", "OW", "UN"):
            continue
        dataset = Dataset()
        dataset.set_original_encoding(False, True)
        value = b"1.2.826.7\0" if vr == "UI" else b"ZORKMARK"
        dataset[tag] = RawDataElement(Tag(tag), vr, len(value), value, 0, False, True)
        engine.clean(dataset)
        tried += 1
        value = text_of(dataset, tag) if tag in dataset else None
        if action == "X":
            assert value is None, hex(tag)
        elif action == "Z":
            assert value == "", hex(tag)
        elif action == "U":
            assert value is not None and value.startswith("2.25."), hex(tag)
        else:
            assert value is None or "ZORK" not in value, hex(tag)
            assert value is not None or vr not in ("LO", "SH", "PN", "DA", "LT"), hex(tag)
    assert tried > {"X": 200, "Z": 20, "D": 20, "U": 30}[action]

"""No marker of the hostile file comes out, and every rule is needed: without any one of them a check fails."""

import ast
import sys
import types
from io import BytesIO
from pathlib import Path
from typing import Any

import pydicom
import pytest
from hostile_corpus import expectations, hostile_file, leaks
from pydicom.dataset import Dataset

from glint.core.config.deidentify import DeidentifyConfig
from glint.core.errors import Quarantine
from glint.core.ids import Pseudonyms
from glint.formats.dicom import dataset_bytes, read_dataset, stored_transfer_syntax
from glint.prepare.deidentify import engine as engine_module
from glint.prepare.deidentify import graphics, images, safe_private, table, values, vocabulary
from glint.prepare.deidentify.images import make_engine
from glint.prepare.deidentify.values import shift_date

PSEUDONYMS = Pseudonyms(b"k" * 32)
PATIENT = "MRN4471902"
SYNTAXES = ("1.2.840.10008.1.2.1", "1.2.840.10008.1.2", "1.2.840.10008.1.2.1.99")
FILES = {syntax: hostile_file(syntax) for syntax in SYNTAXES}
EVERYTHING = DeidentifyConfig(
    retain_device_identity=True, retain_safe_private=True, clean_descriptors=True, clean_graphics=True
)
NOTHING = DeidentifyConfig(retain_modified_dates=False, retain_patient_characteristics=False)
# What the option keeps as it is, whatever stands there.
DEVICE_MARKERS = {"DeviceSerialNumber", "VR SH"}


def moved(text: str) -> str:
    return shift_date(text, PSEUDONYMS.date_shift_days(PATIENT)) or ""


def cleaned(
    syntax: str, config: DeidentifyConfig, engine_class: Any = engine_module.Engine
) -> tuple[bytes, Dataset, Any]:
    """The hostile file after the engine: bytes, parsed, trace."""
    made = make_engine(PSEUDONYMS, PATIENT, config, ["Lung^Ottoline"])
    engine = engine_class(**{name: getattr(made, name) for name in made.__dataclass_fields__})
    dataset = read_dataset(FILES[syntax][0])
    trace = engine.clean(dataset)
    content = dataset_bytes(dataset, transfer_syntax=stored_transfer_syntax(dataset))
    return content, pydicom.dcmread(BytesIO(content)), trace


def violations(engine_class: Any = engine_module.Engine) -> list[str]:
    """Everything that is wrong with an engine, over transfer syntaxes and options."""
    wrong = []
    for syntax in SYNTAXES:
        content, dataset, trace = cleaned(syntax, DeidentifyConfig(), engine_class)
        wrong += [f"leak: {place}" for place in leaks(content, FILES[syntax][1])]
        for name, check in expectations(PSEUDONYMS, PATIENT, moved):
            try:
                wrong += [] if check(dataset) else [name]
            except (AttributeError, KeyError, IndexError, TypeError):
                wrong.append(name)
        wrong += (
            []
            if {"private", "curve", "overlay", "group_length_or_wrapping", "unknown_attribute"}
            <= {keyword for action, keyword in trace.actions if action == "removed"}
            else ["audit names what went whole"]
        )
        counted = (
            None not in {action for action, _ in trace.actions}
            and ("uid_mapped", "SOPClassUID") not in trace.actions
            and ("unreadable_date_emptied", "SeriesTime") in trace.actions
        )
        wrong += [] if counted else ["audit counts what was done, and nothing else"]
        remembered = {PATIENT, "ACC7730041"} <= trace.identifiers and "Quillfeather^Ottoline" in trace.names
        wrong += [] if remembered and len(trace.uids) >= 6 else ["originals are remembered for the residual scan"]
    content, dataset, _ = cleaned(SYNTAXES[0], EVERYTHING, engine_class)
    wrong += [f"leak: {p}" for p in leaks(content, FILES[SYNTAXES[0]][1]) if p not in DEVICE_MARKERS]
    for name, holds in with_everything(dataset).items():
        wrong += [] if holds else [name]
    content, dataset, _ = cleaned(SYNTAXES[0], NOTHING, engine_class)
    wrong += [f"leak: {p}" for p in leaks(content, FILES[SYNTAXES[0]][1])]
    for name, holds in with_nothing(dataset).items():
        wrong += [] if holds else [name]
    wrong += [] if engine_module.is_lookup_table(bytes(range(9))) else ["a table of odd length"]
    return wrong + [name for name, holds in with_a_number_for_a_name(engine_class).items() if not holds]


LONG_NUMBER = "44719023"


def with_a_number_for_a_name(engine_class: Any) -> dict[str, bool]:
    """A patient whose identifier is a long number, which clerks also typed elsewhere."""
    made = make_engine(PSEUDONYMS, LONG_NUMBER, DeidentifyConfig(), identifiers=[LONG_NUMBER])
    engine = engine_class(**{name: getattr(made, name) for name in made.__dataclass_fields__})
    dataset = read_dataset(FILES[SYNTAXES[0]][0])
    dataset.SeriesNumber, dataset.InstanceNumber = LONG_NUMBER, "7"
    dataset.RevolutionTime, dataset.Manufacturer = float(LONG_NUMBER), "Zorkfeld"
    engine.clean(dataset)
    return {
        "a number element that holds the identifier is emptied": dataset.get("SeriesNumber") is None,
        "another number stays": dataset.InstanceNumber == 7,
        "a measure that equals it stays": dataset.get("RevolutionTime") == float(LONG_NUMBER),
        "a required maker that is no word of ours is a dummy": dataset.Manufacturer == "REMOVED",
    }


def with_everything(dataset: Dataset) -> dict[str, bool]:
    codes = [item.CodeValue for item in dataset.DeidentificationMethodCodeSequence]
    return {
        "codes of options": codes == ["113100", "113103", "113105", "113107", "113108", "113109", "113111"],
        "serial number stays": dataset.get("DeviceSerialNumber", "").startswith("ZORK"),
        "private numbers stay by creator": [e.value for e in dataset if e.tag.is_private]
        == ["GEMS_PARM_01", "GEMS_PARM_01", "0.984:1", "GEMS_HELIOS_01", 64],
        "safe words of a description, not the patient's name, no date": dataset.PerFrameFunctionalGroupsSequence[0]
        .SharedFunctionalGroupsSequence[0]
        .PixelMeasuresSequence[0]
        .StudyDescription
        == "CT chest",
        "region overlay stays, graphics and one with more bytes than pixels go": [
            e.tag.group for e in dataset if e.tag.group >> 8 == 0x60 and e.tag.element == 0x3000
        ]
        == [0x6002],
        "no UID stays": dataset.StudyInstanceUID.startswith("2.25."),
    }


def with_nothing(dataset: Dataset) -> dict[str, bool]:
    return {
        "no dates": (dataset.StudyDate, dataset.StudyTime, dataset.SecondaryReviewTime) == ("", "", ""),
        "dummy date": dataset.BeamHoldTransitionDateTime == "19000101",
        "no age": "PatientAge" not in dataset and "PatientSize" not in dataset,
        "removed": dataset.LongitudinalTemporalInformationModified == "REMOVED",
        "one code": [item.CodeValue for item in dataset.DeidentificationMethodCodeSequence] == ["113100"],
    }


def test_more_than_sixty_markers_are_in_the_file_and_none_comes_out() -> None:
    for _, planter in FILES.values():
        assert len(planter.planted) >= 100
    content, planter = FILES[SYNTAXES[0]]
    assert set(leaks(content, planter)) == set(planter.planted)
    assert violations() == []


def branches(module: types.ModuleType) -> list[str]:
    """Every `if` of the module's rules, as `function:line offset`."""
    tree = ast.parse(Path(str(module.__file__)).read_text(encoding="utf-8"))
    return [name for name, _ in _ifs(tree)]


def _ifs(tree: ast.AST) -> list[tuple[str, ast.If | ast.IfExp]]:
    found = []
    for function in ast.walk(tree):
        if isinstance(function, ast.FunctionDef):
            number = 0
            for node in ast.walk(function):
                if isinstance(node, ast.If):
                    found.append((f"{function.name}-{number}", node))
                    number += 1
    return found


def without_branch(module: types.ModuleType, name: str, monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """The module with the condition of one `if` made false."""
    tree = ast.parse(Path(str(module.__file__)).read_text(encoding="utf-8"))
    dict(_ifs(tree))[name].test = ast.Constant(False)
    mutant = types.ModuleType("mutant")
    mutant.__file__ = module.__file__
    monkeypatch.setitem(sys.modules, "mutant", mutant)
    exec(compile(ast.fix_missing_locations(tree), "mutant", "exec"), mutant.__dict__)
    return mutant


SPARES_TIME = {
    "_is_forbidden-0": "no look at elements that hold no such number anyway",
    "_is_forbidden-1": "a quick look at the bytes before the values are parsed",
}


@pytest.mark.parametrize("branch", [name for name in branches(engine_module) if name not in SPARES_TIME])
def test_without_any_one_rule_of_the_engine_a_check_fails(branch: str, monkeypatch: pytest.MonkeyPatch) -> None:
    mutant = without_branch(engine_module, branch, monkeypatch)
    try:
        wrong = violations(mutant.Engine)
    except Exception:  # a mutant may fail in any way
        wrong = ["can't run at all"]
    assert wrong or not nested_too_deep_is_refused(mutant.Engine), f"nothing notices that {branch} is gone"


def nested_too_deep_is_refused(engine_class: Any) -> bool:
    made = make_engine(PSEUDONYMS, PATIENT, DeidentifyConfig())
    dataset = Dataset()
    for _ in range(30):
        outer = Dataset()
        outer.SharedFunctionalGroupsSequence = [dataset]
        dataset = outer
    dataset.is_implicit_VR = False
    try:
        engine_class(**{name: getattr(made, name) for name in made.__dataclass_fields__}).clean(dataset)
    except Quarantine as quarantine:
        return quarantine.reason == "too_deep"
    except AttributeError:
        return True
    return False


def test_numbers_that_another_step_has_parsed_stay() -> None:
    dataset = read_dataset(FILES[SYNTAXES[0]][0])
    dataset.Rows, dataset.Columns = 1077, 12337  # two printable bytes each, and four digits
    list(dataset.iterall())
    make_engine(PSEUDONYMS, PATIENT, DeidentifyConfig()).clean(dataset)
    assert (dataset.Rows, dataset.Columns, dataset.RevolutionTime) == (1077, 12337, 0.33)
    assert len(dataset.ModalityLUTSequence[0].LUTData) == 32


HELPERS = (safe_private, graphics, vocabulary, values, table)
TESTED_BY_VALUE = {"age_from_dates", "parse_date", "shift_datetime"}
EQUIVALENT = {"safe_private_elements-0": "spares look-ups, finds the same"}


@pytest.mark.parametrize(
    ("module", "branch"),
    [(module, branch) for module in HELPERS for branch in branches(module)],
    ids=lambda value: value if isinstance(value, str) else value.__name__.rsplit(".", 1)[-1],
)
def test_without_any_one_rule_of_its_helpers_a_check_fails(
    module: types.ModuleType, branch: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if branch in EQUIVALENT:
        pytest.skip(EQUIVALENT[branch])
    if branch.rsplit("-", 1)[0] in TESTED_BY_VALUE:
        pytest.skip("tested value by value in test_deidentify_images.py")
    mutant = without_branch(module, branch, monkeypatch)
    for name in vars(mutant):
        if hasattr(engine_module, name) and getattr(getattr(engine_module, name), "__module__", "") == module.__name__:
            monkeypatch.setattr(engine_module, name, getattr(mutant, name))
        if hasattr(images, name) and getattr(getattr(images, name), "__module__", "") == module.__name__:
            monkeypatch.setattr(images, name, getattr(mutant, name))
    try:
        wrong = violations()
    except Exception:  # a mutant may fail in any way
        wrong = ["can't run at all"]
    assert wrong, f"nothing notices that {branch} is gone"

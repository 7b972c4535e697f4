"""The model card of a checkpoint: what it is, what it learned from, how well, and where it ends. Counts only, no study."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from glint.core.relations import HARD_NEGATIVE, POSITIVE
from glint.formats.checkpoint import Calibration, Preprocessing
from glint.model.glint import Glint
from glint.prepare.sections.sentence_classes import pair_relations
from glint.teachers.registry import TeacherRecord
from glint.training.curves import Row
from glint.training.dataset import StudySet
from glint.training.validation import finding_queries

SMALLEST_SHOWN = 5
"""Smaller counts are not told, so that a card points at nobody."""
RARE_BELOW = 50


def shown(count: int) -> str:
    """A count that points at nobody."""
    return str(count) if count == 0 or count >= SMALLEST_SHOWN else f"< {SMALLEST_SHOWN}"


def stated_counts(studies: StudySet | None, findings: Sequence[str]) -> dict[str, tuple[int, int]]:
    """Finding → number of studies whose report states it, and that denies it."""
    if studies is None or not findings:
        return dict.fromkeys(findings, (0, 0))
    relation_TB = pair_relations(finding_queries(findings), studies.statements)
    counted = zip((relation_TB == POSITIVE).sum(axis=1), (relation_TB == HARD_NEGATIVE).sum(axis=1), strict=True)
    return {finding: (int(present), int(denied)) for finding, (present, denied) in zip(findings, counted, strict=True)}


def last_aurocs(curves: Sequence[Row]) -> dict[str, float]:
    """`auroc_…` of the last row that was validated; empty where none was."""
    for row in reversed(curves):
        if found := {name: value for name, value in row.items() if name.startswith("auroc_")}:
            return found
    return {}


def model_card(
    model: Glint,
    *,
    training: StudySet,
    validation: StudySet | None,
    teacher: TeacherRecord,
    preprocessing: Preprocessing,
    calibration: Calibration,
    fingerprint: Mapping[str, Any],
    curves: Sequence[Row],
    synthetic: bool,
    learned: int,
) -> bytes:
    """README.md of the checkpoint folder, with the front matter that model hubs read. `learned`: weights that were trained."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    findings, config = training.findings, model.config
    trained, validated = stated_counts(training, findings), stated_counts(validation, findings)
    aurocs = last_aurocs(curves)
    rows = [
        {
            "finding": finding,
            "train_present": shown(trained[finding][0]),
            "train_absent": shown(trained[finding][1]),
            "validation_present": shown(validated[finding][0]),
            "validation_absent": shown(validated[finding][1]),
            "auroc": f"{aurocs[f'auroc_{finding}']:.2f}" if f"auroc_{finding}" in aurocs else "–",
        }
        for finding in findings
    ]
    spacing_mm = preprocessing.resample.get("spacing_mm")
    patch_mm = [f"{n * mm:g}" for n, mm in zip(preprocessing.patch, spacing_mm, strict=True)] if spacing_mm else None
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    text = environment.get_template("model_card.md.jinja").render(
        modality={"ct": "chest CT", "cxr": "chest X-ray"}[preprocessing.modality],
        modality_tag=preprocessing.modality,
        pooling=config.model.pooling,
        example=findings[0].replace("_", " ") if findings else "a nodule",
        volume=preprocessing.volume,
        windows=[f"{low:g} to {high:g}" for low, high in preprocessing.windows],
        grid=preprocessing.grid,
        patch=preprocessing.patch,
        patches=len(training.weight_BP[0]),
        spacing_mm=[f"{mm:g}" for mm in spacing_mm] if spacing_mm else None,
        patch_mm=patch_mm,
        parameters=sum(weight.numel() for weight in model.parameters()),
        learned=learned,
        teacher_name=teacher.name,
        teacher_source=teacher.source,
        teacher_sha256=teacher.sha256,
        text_name=config.text.name if config.text.source != "path" else Path(config.text.name).name,
        text_trainable=config.text.trainable,
        steps=config.head_steps + config.steps,
        batch_size=min(config.batch_size, len(training)),
        seed=config.seed,
        torch=torch.__version__,
        device=model.device.type,
        studies={"train": len(training), "validation": 0 if validation is None else len(validation)},
        sentences=len(set(training.queries.texts)),
        findings=rows,
        macro=f"{aurocs['auroc_macro']:.2f}" if "auroc_macro" in aurocs else "not measured",
        fitted_on=calibration.fitted_on,
        rare=[name for name in findings if trained[name][0] < RARE_BELOW],
        rare_below=RARE_BELOW,
        unmeasured=[name for name in findings if f"auroc_{name}" not in aurocs],
        synthetic=synthetic,
        fingerprint=fingerprint,
    )
    return text.encode()

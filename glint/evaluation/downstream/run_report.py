"""The report task from files to files: gated evidence, a language model that learns to read it, reports, measures."""

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray

from glint.core.atomic import atomic_directory, write_json, write_text
from glint.core.config.downstream import ReportTaskConfig
from glint.core.config.evaluate import EvaluateConfig
from glint.core.errors import InputError
from glint.core.progress import log, track
from glint.core.provenance import digest
from glint.core.seeds import generator
from glint.evaluation.arms import LoadedArm, load_arm
from glint.evaluation.cohort import ImagedStudy, read_imaged
from glint.evaluation.downstream.probe_task import csv_text, patients
from glint.evaluation.downstream.report_metrics import (
    best_constant,
    check_extra_metrics,
    findings_of,
    measure_reports,
    report_table_text,
)
from glint.evaluation.downstream.report_writer import ReportWriter, gated_evidence, make_tiny_language_model
from glint.evaluation.downstream.resumable import minimise
from glint.evaluation.downstream.run_probe import DownstreamInputs
from glint.evaluation.downstream.studies import student_encoder, valid_of_studies
from glint.evaluation.zero_shot import make_prompts
from glint.formats.manifest import read_manifest

Floats = NDArray[np.float32]
CONSTANT, NEAREST, WRITTEN = "one report for all", "nearest training study", "generated"


def report_texts(sections: Sequence[Path], wanted: Sequence[str]) -> dict[str, str]:
    """Study → sentences of the first of the wanted sections that its report has; none that holds a redacted word.

    Raises:
        InputError: a table of stage 05 is absent.
    """
    tables = [read_manifest(path.parent / "sentences.parquet", "sentences") for path in sections]
    if not tables:
        raise InputError("glint downstream report learns from reports: name stage 05's manifests with --sections")
    table = pl.concat(tables).filter(pl.col("section").is_in(list(wanted))).sort("study_id", "sentence_index")
    said: dict[str, dict[str, list[str]]] = {}
    for study, section, text in table.select("study_id", "section", "text").iter_rows():
        plain = " ".join(text.split())
        if "[" not in plain:
            said.setdefault(study, {}).setdefault(section, []).append(plain if plain[-1] in ".!?" else f"{plain}.")
    return {
        study: " ".join(next(by_section[name] for name in wanted if name in by_section))
        for study, by_section in said.items()
    }


def evidence_of(
    arm: LoadedArm, studies: Sequence[ImagedStudy], findings: Sequence[str], config: EvaluateConfig
) -> Floats:
    """(B, F, C) gated evidence of every study."""
    prompts, encode = make_prompts(findings, config.prompts), student_encoder(arm)
    model: Any = arm.model
    parts = []
    with torch.inference_mode():
        queries = tuple(
            model.encode_text([one[0] for one in asked]) for asked in (prompts.positive_FT, prompts.negative_FT)
        )
        for start in track(range(0, len(studies), config.batch_size), "evidence"):
            batch = studies[start : start + config.batch_size]
            valid = torch.from_numpy(valid_of_studies(batch, arm.grid, arm.volume_zyx))
            tokens = torch.from_numpy(np.asarray(encode(batch), dtype=np.float32))
            parts.append(gated_evidence(model, tokens, valid, (queries[0], queries[1]), arm.grid).numpy())
    return np.concatenate(parts)


def nearest_rows(asked_BFC: Floats, training_NFC: Floats) -> NDArray[np.intp]:
    """(B,) the training study of the most similar evidence, channels standardised."""
    mean, deviation = training_NFC.mean(axis=0), training_NFC.std(axis=0) + 1e-5
    one, other = (((x - mean) / deviation).reshape(len(x), -1) for x in (asked_BFC, training_NFC))
    one, other = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (one, other))
    return np.asarray((one @ other.T).argmax(axis=1))


def train_writer(
    writer: ReportWriter,
    evidence_NFC: Floats,
    texts: Sequence[str],
    task: ReportTaskConfig,
    *,
    seed: int,
    state: Path,
    fingerprint: str,
) -> list[float]:
    """Cross-entropy of the training reports; the losses of all steps."""
    tokens, seen = [writer.tokens_of(text) for text in texts], torch.from_numpy(evidence_NFC)

    def loss_of(step: int) -> torch.Tensor:
        rows = generator(seed, "report batches", step).permutation(len(tokens))[: task.batch_size]
        return writer.loss(seen[torch.from_numpy(rows)], [tokens[row] for row in rows])

    return minimise(
        writer,
        writer.groups(task),
        loss_of,
        steps=task.steps,
        weight_decay=task.weight_decay,
        save_every=task.save_every,
        state=state,
        fingerprint=fingerprint,
        description="report",
    )


def run_report(
    inputs: DownstreamInputs, config: EvaluateConfig, out: Path, *, load: Callable[[Path], LoadedArm] = load_arm
) -> None:
    """Train, write a report of every measured study, measure them beside two yardsticks that generate nothing.

    Raises:
        InputError: an input is absent, or a package that a measure needs.
    """
    task = config.downstream.report
    check_extra_metrics(task.extra_metrics)
    inputs.check(config)
    arm = load(inputs.checkpoint)
    findings = task.findings or tuple(getattr(arm.model, "label_prompts", {}))
    if not findings:
        raise InputError(f"{inputs.checkpoint}: no label prompts; name evaluate.downstream.report.findings")
    studies = read_imaged(resampled=inputs.resampled, split=inputs.split)
    texts = report_texts(inputs.sections, task.sections)
    training, asked = ([one for one in studies[name] if one.study_id in texts] for name in ("train", config.split))
    if not training or not asked:
        raise InputError(
            f"{len(training)} training and {len(asked)} {config.split} studies have a report with {' or '.join(task.sections)}"
        )
    said, reference = ([texts[one.study_id] for one in part] for part in (training, asked))
    evidence = evidence_of(arm, [*training, *asked], findings, config)
    seen, given = evidence[: len(training)], evidence[len(training) :]
    state = out.parent / f".{out.name}.state"
    state.mkdir(parents=True, exist_ok=True)
    made_from = digest([inputs.provenance(), task.model_dump(mode="json"), config.seed, findings])
    folder, tiny = task.language_model, task.language_model is None
    if folder is None:
        folder = str(state / "tiny")
        make_tiny_language_model(Path(folder), said, task, seed=config.seed)
    writer = ReportWriter(folder, seen, task, whole=tiny, seed=config.seed)
    losses = train_writer(writer, seen, said, task, seed=config.seed, state=state / "writer.pt", fingerprint=made_from)
    generated: list[str] = []
    for start in track(range(0, len(asked), task.batch_size), "write"):
        generated += writer.write(torch.from_numpy(given[start : start + task.batch_size]))
    constant = said[best_constant([findings_of(text) for text in said])]
    arms = {
        WRITTEN: generated,
        CONSTANT: [constant] * len(asked),
        NEAREST: [said[row] for row in nearest_rows(given, seen)],
    }
    rows = measure_reports(arms, reference, patients(asked), config)
    about = {
        "task": "report",
        "split": config.split,
        "training_reports": len(training),
        "measured_reports": len(asked),
        "prompts_of": list(findings),
        "language_model": "tiny, trained here" if tiny else task.language_model,
        "configuration": task.model_dump(mode="json"),
        "provenance": inputs.provenance(),
        "losses": losses,
        "rows": rows,
    }
    examples = pl.DataFrame({"study_id": [one.study_id for one in asked], "reference": reference, **arms})
    with atomic_directory(out) as target:
        learned = {key: value for key, value in writer.state_dict().items() if tiny or not key.startswith("language.")}
        if (not tiny and writer.learns_language) or task.train == "low_rank":
            learned = writer.state_dict()
        torch.save(learned, target / "writer.pt")
        if tiny:
            shutil.copytree(folder, target / "language_model")
        examples.write_parquet(target / "reports.parquet")
        write_text(target / "report.csv", csv_text(rows))
        write_text(target / "report.md", report_table_text(rows))
        write_json(target / "report.json", about)
    shutil.rmtree(state)
    log(f"report: {out / 'report.md'}\n{report_table_text(rows)}")

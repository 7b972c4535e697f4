"""The probe task from files to files."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from glint.core.config.evaluate import EvaluateConfig
from glint.core.errors import InputError
from glint.core.provenance import digest, sha256_file
from glint.evaluation.arms import LoadedArm, check_made_from, load_arm
from glint.evaluation.cohort import read_imaged
from glint.evaluation.downstream.probe_task import Labelled, measure_probes, patients, write_probes
from glint.evaluation.downstream.studies import (
    drawn_findings,
    labels_of,
    stated_findings,
    store_tokens,
    student_encoder,
    teacher_reader,
    valid_of_studies,
)
from glint.prepare.sections.label_sets import with_children


@dataclass(frozen=True, kw_only=True)
class DownstreamInputs:
    """Files that the downstream tasks read; `truth` and `features` only where they are asked for."""

    checkpoint: Path
    resampled: tuple[Path, ...]
    sections: tuple[Path, ...]
    split: Path
    features: tuple[Path, ...] = ()
    truth: Path | None = None

    def provenance(self) -> dict[str, str]:
        """SHA-256 of what was read."""
        rows = {
            "resampled": digest([sha256_file(path) for path in self.resampled]),
            "sections": digest([sha256_file(path) for path in self.sections]),
            "split": sha256_file(self.split),
        }
        if self.truth is not None:
            rows["truth"] = sha256_file(self.truth)
        for name in ("model.safetensors", "fingerprint.json"):
            if (self.checkpoint / name).is_file():
                rows[f"{self.checkpoint.name} / {name}"] = sha256_file(self.checkpoint / name)
        return rows

    def check(self, config: EvaluateConfig) -> None:
        """Refuse a checkpoint that another split trained.

        Raises:
            InputError: no checkpoint.
            FingerprintError: it was trained on other tables.
        """
        if not config.foreign_checkpoint:
            rows = self.provenance()
            check_made_from(self.checkpoint, {key: rows[key] for key in ("resampled", "split")})


def asked_findings(
    named: Sequence[str], drawn: Sequence[str], said: dict[str, frozenset[str]], training: Sequence[str], least: int
) -> tuple[str, ...]:
    """Findings that are named, else those that masks are drawn of, else those that enough training reports state.

    Raises:
        InputError: none is left.
    """
    if named or drawn:
        return tuple(named or drawn)
    counts = Counter(name for study in training for name in said.get(study, ()))
    often = tuple(sorted(name for name, count in counts.items() if count >= least))
    if not often:
        raise InputError(
            f"no finding is stated by {least} training reports: lower evaluate.downstream.probe.least_stated, or name findings"
        )
    return often


def run_probe(
    inputs: DownstreamInputs, config: EvaluateConfig, out: Path, *, load: Callable[[Path], LoadedArm] = load_arm
) -> None:
    """Read, encode, train, measure, write.

    Raises:
        InputError: an input is absent, or labels are asked for that were not given.
    """
    task = config.downstream.probe
    if "truth" in (task.train_labels, task.test_labels) and inputs.truth is None:
        raise InputError(
            "evaluate.downstream.probe asks for labels of the truth: give --truth, or set train_labels and test_labels "
            "to reports"
        )
    inputs.check(config)
    arm = load(inputs.checkpoint)
    drawn, names = drawn_findings(inputs.truth) if inputs.truth is not None else ({}, ())
    said = stated_findings(inputs.sections) if "reports" in (task.train_labels, task.test_labels) else {}
    known = {"reports": said, "truth": drawn}
    studies = read_imaged(resampled=inputs.resampled, split=inputs.split)
    findings = asked_findings(
        task.findings, names, said, [study.study_id for study in studies["train"]], task.least_stated
    )
    if unknown := sorted(set(findings) - with_children(findings)):
        raise InputError(f"evaluate.downstream.probe.findings: unknown {unknown}")
    training, target_NF = labels_of(known[task.train_labels], studies["train"], findings)
    asked, truth_MF = labels_of(known[task.test_labels], studies[config.split], findings)
    for what, rows, labels in (("training", training, task.train_labels), (config.split, asked, task.test_labels)):
        if not rows:
            raise InputError(f"no {what} study has labels of {labels}: check stage 06 and the tables given")
    everyone = [*training, *asked]
    encode = student_encoder(arm) if config.downstream.tokens == "student" else teacher_reader(inputs.features)
    tokens = store_tokens(everyone, encode, batch_size=config.batch_size, folder=out.parent)
    if tokens.shape[1] != int(np.prod(arm.grid)):
        raise InputError(
            f"{tokens.shape[1]} tokens a study, the checkpoint has {int(np.prod(arm.grid))} patches: tokens of another grid"
        )
    data = Labelled(
        tokens_BPD=tokens,
        valid_BP=valid_of_studies(everyone, arm.grid, arm.volume_zyx),
        training=np.arange(len(training)),
        asked=np.arange(len(training), len(everyone)),
        training_patients=patients(training),
        asked_patients=patients(asked),
        target_NF=target_NF,
        truth_MF=truth_MF,
        findings=findings,
    )
    about = {
        "task": "probe",
        "tokens": config.downstream.tokens,
        "split": config.split,
        "training_studies": len(training),
        "measured_studies": len(asked),
        "configuration": task.model_dump(mode="json"),
        "provenance": inputs.provenance(),
    }
    write_probes(measure_probes(data, config), about=about, out=out)

"""The segmentation task from files to files: a decoder on the frozen and on the fine-tuned encoder, measured on masks."""

import copy
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from glint.core.atomic import atomic_directory, write_json, write_text
from glint.core.config.evaluate import EvaluateConfig
from glint.core.errors import InputError
from glint.core.progress import log, track
from glint.core.provenance import digest
from glint.core.seeds import generator
from glint.evaluation.arms import LoadedArm, load_arm
from glint.evaluation.cohort import Study, read_cohort, require_studies
from glint.evaluation.downstream.probe_task import MACRO, csv_text
from glint.evaluation.downstream.run_probe import DownstreamInputs
from glint.evaluation.downstream.segment_head import Decoder, Segmenter, train_segmenter
from glint.evaluation.downstream.studies import store_tokens, student_encoder
from glint.evaluation.maps import patch_fractions, upsample_logits
from glint.metrics.bootstrap import macro_means, patient_weights, percentile_interval, weighted_means
from glint.metrics.segmentation import dice_score, everything_dice_score
from glint.prepare.resample import window_channels

CHANCE = "whole scan called"


@dataclass(frozen=True, kw_only=True)
class MaskCases:
    """(F, B) Dice of one arm, NaN where a study lacks the finding, and whether it called anything."""

    dice_FB: NDArray[np.float64]
    called_FB: NDArray[np.bool_]


def mask_targets(studies: Sequence[Study], shape: tuple[int, int, int], num: int, folder: Path) -> NDArray[np.float16]:
    """(B, F, z, y, x) share of every cell of `shape` that each mask fills, in a nameless file of `folder`."""
    with tempfile.TemporaryFile(dir=folder) as file:
        store: NDArray[np.float16] = np.memmap(file, np.float16, "w+", shape=(len(studies), num, *shape))
    for row, study in enumerate(track(studies, "masks")):
        store[row] = patch_fractions(study.bits(), shape, num).reshape(num, *shape)
    return store


def score_masks(
    logits_of: Callable[[Study], NDArray[np.floating]], studies: Sequence[Study], findings: Sequence[str], name: str
) -> MaskCases:
    """Dice at probability 0.5 of every study; `logits_of` gives (F, z, y, x) on any grid that the volume refines."""
    dice = np.full((len(findings), len(studies)), np.nan)
    called = np.zeros(dice.shape, np.bool_)
    for column, study in enumerate(track(studies, f"measure {name}")):
        bits, logits = study.bits(), logits_of(study)
        grid = (logits.shape[1], logits.shape[2], logits.shape[3])
        fine = upsample_logits(logits.reshape(len(findings), -1), grid, bits.shape)
        z0, z1, y0, y1, x0, x1 = study.valid_box
        held = np.zeros(bits.shape, np.bool_)
        held[z0:z1, y0:y1, x0:x1] = True
        for row, finding in enumerate(findings):
            predicted = (fine[row] > 0) & held
            called[row, column] = predicted.any()
            if finding in study.findings:
                dice[row, column] = dice_score(predicted, (bits >> row & 1).astype(np.bool_))
    return MaskCases(dice_FB=dice, called_FB=called)


def chance_dice(studies: Sequence[Study], findings: Sequence[str]) -> NDArray[np.float64]:
    """(F, B) Dice of calling the whole scan, NaN where a study lacks the finding."""
    dice = np.full((len(findings), len(studies)), np.nan)
    for column, study in enumerate(studies):
        bits = study.bits()
        z0, z1, y0, y1, x0, x1 = study.valid_box
        for row, finding in enumerate(findings):
            if finding in study.findings:
                voxels = int(np.count_nonzero(bits >> row & 1))
                dice[row, column] = everything_dice_score(voxels, (z1 - z0) * (y1 - y0) * (x1 - x0))
    return dice


def summarise_masks(
    arms: dict[str, MaskCases],
    chance_FB: NDArray[np.float64],
    patient_B: Sequence[str],
    findings: Sequence[str],
    config: EvaluateConfig,
) -> list[dict[str, Any]]:
    """Rows of arm, finding (macro last) and metric with the interval of resampled patients.

    `dice` is over studies with the finding; `false_positive_images` is the share of studies without it that are painted.
    """
    weight = patient_weights(patient_B, resamples=config.resamples, rng=generator(config.seed, "segment bootstrap"))
    weight = np.concatenate([np.ones((1, len(patient_B)), weight.dtype), weight])
    tables = {CHANCE: {"dice": chance_FB}}
    for name, cases in arms.items():
        painted = np.where(np.isnan(chance_FB), cases.called_FB.astype(np.float64), np.nan)
        tables[name] = {"dice": cases.dice_FB, "false_positive_images": painted}
    rows = []
    for arm, metrics in tables.items():
        for metric, value_FB in metrics.items():
            value_FR = np.stack([weighted_means(one, weight) for one in value_FB])
            for finding, value_R in zip((*findings, MACRO), (*value_FR, macro_means(value_FR)), strict=True):
                low, high = percentile_interval(value_R[1:], level=config.interval)
                rows.append(
                    {
                        "arm": arm,
                        "finding": finding,
                        "metric": metric,
                        "value": float(value_R[0]),
                        "low": low,
                        "high": high,
                    }
                )
    return rows


def segment_table(rows: Sequence[dict[str, Any]]) -> str:
    """Markdown of Dice per finding and arm."""
    dice = {(row["arm"], row["finding"]): row for row in rows if row["metric"] == "dice"}
    arms = list(dict.fromkeys(arm for arm, _ in dice))
    lines = [f"| finding | {' | '.join(arms)} |", "|---|" + "---|" * len(arms)]
    for finding in dict.fromkeys(finding for _, finding in dice):
        cells = [dice[arm, finding] for arm in arms]
        shown = [
            f"{one['value']:.3f} ({one['low']:.3f} to {one['high']:.3f})" if one["value"] == one["value"] else "–"
            for one in cells
        ]
        lines.append(f"| {finding.replace('_', ' ')} | {' | '.join(shown)} |")
    return "\n".join(lines) + "\n"


def run_segment(
    inputs: DownstreamInputs, config: EvaluateConfig, out: Path, *, load: Callable[[Path], LoadedArm] = load_arm
) -> None:
    """Train both arms on masks of the training split, measure them, write.

    The state that a killed job resumes from lies beside `out` and is gone at the end.

    Raises:
        InputError: an input is absent, or a split has no masks.
    """
    if inputs.truth is None:
        raise InputError("glint downstream segment learns from masks: give --truth")
    inputs.check(config)
    task, arm = config.downstream.segment, load(inputs.checkpoint)
    cohort = read_cohort(resampled=inputs.resampled, split=inputs.split, truth=inputs.truth, features=())
    training, asked = cohort.studies["train"], cohort.studies[config.split]
    require_studies(training, "train")
    require_studies(asked, config.split)
    num = len(cohort.findings)
    encode = student_encoder(arm)
    tokens = store_tokens([*training, *asked], encode, batch_size=config.batch_size, folder=out.parent)
    decoder = Decoder(
        tokens.shape[2],
        num,
        grid=arm.grid,
        volume_zyx=arm.volume_zyx,
        widths=task.decoder_widths,
        seed=config.seed,
    )
    targets = mask_targets(training, decoder.shape, num, out.parent)
    place = {study.study_id: row for row, study in enumerate((*training, *asked))}
    made_from = digest([inputs.provenance(), task.model_dump(mode="json"), config.seed])
    state = out.parent / f".{out.name}.state"
    state.mkdir(exist_ok=True)

    def target_of(rows: NDArray[np.intp]) -> Tensor:
        return torch.from_numpy(np.asarray(targets[rows], dtype=np.float32))

    def frozen_batch(rows: NDArray[np.intp]) -> tuple[Tensor, Tensor]:
        return torch.from_numpy(np.asarray(tokens[rows], dtype=np.float32)), target_of(rows)

    def volumes_of(studies: Sequence[Study]) -> Tensor:
        return torch.from_numpy(np.stack([window_channels(one.volume()[0], arm.windows) for one in studies]))

    def whole_batch(rows: NDArray[np.intp]) -> tuple[Tensor, Tensor]:
        return volumes_of([training[row] for row in rows]), target_of(rows)

    def on_tokens(study: Study) -> NDArray[np.floating]:
        with torch.inference_mode():
            given = torch.from_numpy(np.asarray(tokens[[place[study.study_id]]], dtype=np.float32))
            return np.asarray(decoder(given)[0].numpy())

    train = partial(train_segmenter, num_studies=len(training), config=task, seed=config.seed, fingerprint=made_from)
    losses = {
        "frozen": train(
            decoder,
            [{"params": list(decoder.parameters()), "lr": task.learning_rate}],
            frozen_batch,
            steps=task.frozen_steps,
            state=state / "frozen.pt",
            description="segment frozen",
        )
    }
    arms = {"frozen": score_masks(on_tokens, asked, cohort.findings, "frozen")}
    trained: dict[str, torch.nn.Module] = {"frozen": copy.deepcopy(decoder)}
    if task.finetuned_steps:
        student = copy.deepcopy(arm.model.student).requires_grad_(True)  # type: ignore[attr-defined]
        network = Segmenter(student, decoder)
        losses["finetuned"] = train(
            network,
            [
                {"params": list(decoder.parameters()), "lr": task.learning_rate / 4},
                {"params": list(student.parameters()), "lr": task.encoder_learning_rate},
            ],
            whole_batch,
            steps=task.finetuned_steps,
            state=state / "finetuned.pt",
            description="segment fine-tuned",
        )

        def on_volume(study: Study) -> NDArray[np.floating]:
            with torch.inference_mode():
                return np.asarray(network(volumes_of([study]))[0].numpy())

        arms["finetuned"] = score_masks(on_volume, asked, cohort.findings, "fine-tuned")
        trained["finetuned"] = network
    patients = [study.patient_id for study in asked]
    rows = summarise_masks(arms, chance_dice(asked, cohort.findings), patients, cohort.findings, config)
    about = {
        "task": "segment",
        "split": config.split,
        "training_studies": len(training),
        "measured_studies": len(asked),
        "decoder_shape_zyx": list(decoder.shape),
        "threshold": 0.5,
        "configuration": task.model_dump(mode="json"),
        "provenance": inputs.provenance(),
        "losses": losses,
        "rows": [{key: None if value != value else value for key, value in row.items()} for row in rows],
    }
    write_segment(rows, about, trained, out)
    shutil.rmtree(state)


def write_segment(
    rows: Sequence[dict[str, Any]], about: dict[str, Any], trained: dict[str, torch.nn.Module], out: Path
) -> None:
    """Weights, segment.csv, segment.md and segment.json, a folder made whole."""
    from safetensors.torch import save_file

    with atomic_directory(out) as folder:
        for name, network in trained.items():
            weights = {key: value.contiguous() for key, value in network.state_dict().items()}
            save_file(weights, folder / f"{name}.safetensors")
        write_text(folder / "segment.csv", csv_text(rows))
        write_text(folder / "segment.md", segment_table(rows))
        write_json(folder / "segment.json", about)
    log(f"segment: {out / 'segment.md'}\n{segment_table(rows)}")

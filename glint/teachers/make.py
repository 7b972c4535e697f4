"""Stage 07: make a teacher's folder, by pretraining, from a path or from the hub's local cache."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from glint.core.atomic import atomic_directory, write_json
from glint.core.config.teacher import TeacherConfig
from glint.core.errors import FingerprintError, InputError
from glint.core.progress import log
from glint.core.provenance import code_digest, digest, sha256_file
from glint.core.stopping import TimeLimit
from glint.teachers.distill import distill
from glint.teachers.pretrain import pretrain
from glint.teachers.registry import TEACHER_NAME, WEIGHTS_NAME, FrozenTeacher, TeacherRecord
from glint.teachers.sources import open_encoder, weights_file
from glint.teachers.steps import ALONE, SharedStep
from glint.teachers.vjepa import EncoderConfig, VisionTransformer3D
from glint.teachers.volumes import Channels, Source, VolumeWindows, training_sources, volume_shape

Curves = list[dict[str, float]]


def encoder_config(config: TeacherConfig, volume_zyx: tuple[int, int, int]) -> EncoderConfig:
    """The encoder of `config` for volumes of this shape."""
    shape = config.encoder
    return EncoderConfig(
        volume_zyx=volume_zyx,
        patch_zyx=shape.patch,
        channels=len(config.windows),
        width=shape.width,
        depth=shape.depth,
        heads=shape.heads,
        positions=shape.positions,
        position_base=shape.position_base,
        stem=shape.stem,
    )


def make_teacher(
    resampled: Sequence[Path],
    split: Path,
    out: Path,
    *,
    config: TeacherConfig,
    channels: Channels,
    state_dir: Path | None = None,
    limit: TimeLimit | None = None,
    ranks: SharedStep = ALONE,
    device: torch.device | None = None,
) -> TeacherRecord | None:
    """Make `out` whole: config.json, model.safetensors, teacher.json, and the curves where the teacher was pretrained.

    Of several processes (`ranks`) that share the pretraining the first one writes; the others return None.

    Raises:
        InputError: volumes or weights are absent or unreadable.
        FingerprintError: the weights' SHA-256 is not the pinned one.
    """
    torch.set_num_threads(config.threads)
    sources = training_sources(resampled, split)
    volume_zyx = volume_shape(sources)
    teacher, curves = _teacher(config, sources, volume_zyx, channels, state_dir, limit, ranks, device)
    if not ranks.first:
        ranks.wait()
        return None
    with atomic_directory(out) as folder:
        teacher.save_weights(folder)
        sha256 = sha256_file(folder / WEIGHTS_NAME)
        if config.source == "pretrain" and config.sha256 not in (None, sha256):
            raise FingerprintError(
                f"teacher.sha256: these weights are {sha256}, the configuration pins {config.sha256}; correct one of them"
            )
        record = TeacherRecord(
            name=teacher.name,
            source=config.source,
            sha256=sha256,
            windows=config.windows,
            architecture=teacher.architecture,
            grid=teacher.grid,
            patch=teacher.patch_zyx,
            width=teacher.width,
            depth=teacher.depth,
            seed=config.seed,
            training_studies=len(sources) if config.source == "pretrain" else 0,
            summary=summary_of(curves),
        )
        if curves:
            write_curves(folder / "curves.csv", curves)
            draw_curves(folder / "curves.png", curves)
        write_json(folder / TEACHER_NAME, asdict(record))
    log(f"teacher: {record.name} ({record.source}), SHA-256 {sha256[:12]}…, in {out}")
    ranks.wait()
    return record


def _teacher(
    config: TeacherConfig,
    sources: tuple[Source, ...],
    volume_zyx: tuple[int, int, int],
    channels: Channels,
    state_dir: Path | None,
    limit: TimeLimit | None,
    ranks: SharedStep,
    device: torch.device | None,
) -> tuple[FrozenTeacher, Curves]:
    if config.source != "pretrain":
        encoder = open_encoder(
            config.name,
            config.source,
            str(config.location),
            volume_zyx,
            revision=config.revision,
            sha256=config.sha256,
            small=encoder_config(config, volume_zyx) if config.name == VisionTransformer3D.family else None,
        )
        if len(config.windows) not in (1, encoder.channels):
            raise InputError(
                f"teacher.windows: {config.name} takes {encoder.channels} channels, or 1 that is repeated, not {len(config.windows)}"
            )
        return FrozenTeacher(encoder), []
    shape, volumes = encoder_config(config, volume_zyx), VolumeWindows(sources=sources, channels=channels)
    start = start_weights(config, shape)
    shared: dict[str, Any] = {"key": _state_key(config, sources), "state_dir": state_dir, "limit": limit}
    options: dict[str, Any] = {"seed": config.seed, "start": start, "ranks": ranks, "device": device}
    if config.recipe == "self_distillation":
        made = distill(volumes, shape, config.distill, **options, **shared)
    else:
        made = pretrain(volumes, shape, config.pretrain, **options, **shared)
    made.encoder.cpu()
    return FrozenTeacher(made.encoder), made.curves


def start_weights(config: TeacherConfig, shape: EncoderConfig) -> VisionTransformer3D | None:
    """The encoder that pretraining goes on from; None from scratch.

    Raises:
        InputError: the weights are of another shape than `teacher.encoder`.
    """
    if config.location is None:
        return None
    encoder = open_encoder(VisionTransformer3D.family, "path", config.location, shape.volume_zyx, small=shape)
    if not isinstance(encoder, VisionTransformer3D) or encoder.config != shape:
        raise InputError(f"{config.location}: these weights are of another shape than teacher.encoder; make them equal")
    return encoder


def _state_key(config: TeacherConfig, sources: Sequence[Source]) -> str:
    """A resumable state belongs to one configuration, one set of volumes and one version of the code."""
    volumes = {source.study_id: sha256_file(source.path) for source in sources}
    start = None if config.location is None else sha256_file(weights_file(Path(config.location)))
    return digest([config.model_dump(mode="json"), volumes, start, code_digest("glint.teachers.make")])[:16]


def summary_of(curves: Curves) -> dict[str, float]:
    """Numbers of the first and the last monitored step."""
    if not curves:
        return {}
    return {f"{when}_{name}": row[name] for when, row in (("first", curves[0]), ("last", curves[-1])) for name in row}


def write_curves(path: Path, curves: Sequence[Mapping[str, Any]]) -> None:
    """One row per monitored step."""
    with path.open("w", newline="", encoding="utf-8") as handle:
        writer = csv.DictWriter(handle, fieldnames=list(curves[0]))
        writer.writeheader()
        writer.writerows(curves)


def draw_curves(path: Path, curves: Curves) -> None:
    """Losses above, collapse monitors below; free of time stamps, so that equal curves give equal bytes."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 6), layout="constrained")
    FigureCanvasAgg(figure)
    losses, monitors = figure.subplots(2, 1, sharex=True)
    steps = [row["step"] for row in curves]
    for name in [name for name in curves[0] if name.startswith(("loss", "latent", "intensity"))]:
        losses.plot(steps, [row[name] for row in curves], label=name)
    losses.set_yscale("log")
    losses.set_ylabel("loss")
    for name in ("token_std", "token_cosine"):
        monitors.plot(steps, [row[name] for row in curves], label=name.replace("_", " "))
    ranks = monitors.twinx()
    ranks.plot(steps, [row["effective_rank"] for row in curves], color="black", label="effective rank")
    ranks.set_ylabel("effective rank")
    monitors.set_xlabel("step")
    losses.legend()
    monitors.legend(loc="center right")
    figure.savefig(path, dpi=110, metadata={"Software": None})

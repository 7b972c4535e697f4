"""`glint train`: stage 09, volumes, sentences and teacher tokens → a GLINT checkpoint and its curves."""

import argparse
import json
import os
from pathlib import Path

from glint.cli.arguments import add_config_argument, add_time_limit_argument, stage_config_from_args
from glint.core.config.train import TrainConfig
from glint.core.progress import log
from glint.core.provenance import code_digest, digest
from glint.core.stopping import time_limit

HELP = "align volumes and report sentences: checkpoint, curves, fingerprint"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare inputs, outputs and options."""
    parser.add_argument("--resampled", type=Path, nargs="+", required=True, help="manifests of stage 04")
    parser.add_argument("--sections", type=Path, nargs="+", required=True, help="manifests of stage 05")
    parser.add_argument("--split", type=Path, required=True, help="manifest of stage 06")
    parser.add_argument("--teacher", type=Path, required=True, help="folder of stage 07")
    parser.add_argument(
        "--features",
        type=Path,
        nargs="*",
        default=[],
        help="manifests of stage 08; none: the teacher runs in every step",
    )
    parser.add_argument("--state", type=Path, required=True, help="folder of resumable states, one per configuration")
    parser.add_argument("--out", type=Path, required=True, help="checkpoint folder to write; it is made whole")
    parser.add_argument(
        "--preparation",
        type=json.loads,
        default={},
        metavar="JSON",
        help="modality and the sections convert and resample of the configuration, for whoever uses the checkpoint",
    )
    parser.add_argument("--synthetic", action="store_true", help="the studies are the demo's; the model card says so")
    parser.add_argument("--threads", type=int, help="processor threads (default: train.threads)")
    add_time_limit_argument(parser)
    add_config_argument(parser)


def run(args: argparse.Namespace) -> None:
    """Train, or go on training, and write the checkpoint; one of several processes where torchrun started it."""
    limit = time_limit(args.max_minutes)
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS is deterministic with a fixed workspace only
    import torch

    from glint.formats.checkpoint import CARD, write_checkpoint
    from glint.model.low_rank import merge_low_rank
    from glint.model.pretrained import checkpoint_of
    from glint.model.text_encoder import load_sentence_encoder
    from glint.teachers.kernels import Kernel, TeacherPass
    from glint.teachers.registry import load_teacher
    from glint.training.curves import curves_csv, curves_png
    from glint.training.distributed import ranks_of_this_job
    from glint.training.gate_maps import last_gate_maps
    from glint.training.inputs import InputFiles, read_study_sets
    from glint.training.loop import train
    from glint.training.model_card import model_card
    from glint.training.start import new_model, preprocessing_of

    config = stage_config_from_args(args, TrainConfig)
    torch.set_num_threads(args.threads or config.threads)
    torch.use_deterministic_algorithms(True)
    files = InputFiles(
        resampled=tuple(args.resampled), sections=tuple(args.sections), split=args.split, features=tuple(args.features)
    )
    teacher, record = load_teacher(args.teacher)
    fingerprint = files.fingerprint(teacher_sha256=record.sha256)
    values = config.model_dump(mode="json")
    key = digest({"config": values, "code": code_digest("glint.cli.train"), "made_from": fingerprint})
    online = None if files.features else TeacherPass(teacher, Kernel(precision=config.teacher_precision))
    sets = read_study_sets(files, config, teacher=record, online=online)
    training, validation = sets["train"], sets.get("validation")
    model = new_model(config, teacher=teacher, sentence_encoder=load_sentence_encoder(config.text), training=training)
    state = args.state / key[:16]
    with ranks_of_this_job() as ranks:
        model.to(ranks.device(config.device))
        if online is not None:
            online.teacher.to(model.device)
        if ranks.first:
            shared = f", shared by {ranks.size} processes" if ranks.size > 1 else ""
            log(
                f"train {args.out.name}: {len(training)} studies, {len(set(training.queries.texts))} different sentences{shared}, on {model.device.type}"
            )
        finished = train(
            model,
            training,
            config=config,
            state=state,
            key=key,
            validation=validation,
            findings=training.findings,
            ranks=ranks,
            limit=limit,
        )
        if ranks.first:
            learned = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
            merge_low_rank(model)
            preprocessing = preprocessing_of(record, args.preparation)
            checkpoint = checkpoint_of(
                model,
                fingerprint={**fingerprint, "key": key},
                preprocessing=preprocessing,
                findings=training.findings,
            )
            card = model_card(
                model,
                training=training,
                validation=validation,
                teacher=record,
                preprocessing=preprocessing,
                calibration=checkpoint.calibration,
                fingerprint=checkpoint.fingerprint,
                curves=finished.curves,
                synthetic=args.synthetic,
                learned=learned,
            )
            more = {CARD: card, "curves.csv": curves_csv(finished.curves), "curves.png": curves_png(finished.curves)}
            if maps := last_gate_maps(state):
                more["gate_maps.png"] = maps.read_bytes()
            write_checkpoint(args.out, checkpoint, more=more)
            log(f"checkpoint: {args.out}   curves: {args.out / 'curves.png'}")
        ranks.wait()

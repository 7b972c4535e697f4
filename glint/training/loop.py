"""The training loop: deterministic on a CPU with a fixed number of threads, killable at any moment.

No randomness lives in a generator that goes on from step to step: studies, sentences, augmentation and the Gram term's patches
are drawn from seed and step alone. So a resumed run repeats an undisturbed one in the middle of an epoch too, and it does not
matter which process or worker makes a batch.
"""

import math
import resource
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from glint.core.config.train import TrainConfig
from glint.core.errors import ConfigError, GlintError, InputError
from glint.core.progress import log
from glint.core.seeds import derived_seed
from glint.core.stopping import REQUEUE_EXIT_CODE, TimeLimit, stop_request
from glint.formats.checkpoint import read_state, write_state
from glint.model.glint import Glint
from glint.model.recomputation import recompute_blocks
from glint.training.accumulation import backward_step
from glint.training.averages import EarlyStop, MovingAverage, put
from glint.training.batches import BatchesAhead
from glint.training.dataset import StudySet, make_batch
from glint.training.distributed import ALONE, Ranks
from glint.training.gate_maps import PICTURES, write_gate_maps
from glint.training.optimizer import SCALARS, make_optimizer, rate_factors, set_rates
from glint.training.step import Batch, StepResult
from glint.training.trackers import trackers
from glint.training.validation import zero_shot

STATE_NAME = "state.safetensors"


@dataclass(kw_only=True)
class Run:
    """Model, optimiser and what has happened so far."""

    model: Glint
    optimizer: torch.optim.AdamW
    step: int
    curves: list[dict[str, float]]
    average: MovingAverage | None = None
    early: EarlyStop | None = None
    over: bool = False

    @property
    def model_of_validation(self) -> AbstractContextManager[None]:
        """Inside, the model has the weights that are validated and kept."""
        return nullcontext() if self.average is None else self.average.applied(self.model)


def save_run(run: Run, path: Path, *, key: str) -> None:
    """Write the whole state of `run`; randomness needs none, it is a function of seed and step."""
    tensors: dict[str, Tensor] = {f"model.{name}": tensor for name, tensor in run.model.state_dict().items()}
    for name, parameter in _optimized(run.optimizer):
        for slot, tensor in run.optimizer.state.get(parameter, {}).items():
            tensors[f"optimizer.{slot}.{name}"] = tensor
    record: dict[str, Any] = {"key": key, "step": run.step, "curves": run.curves}
    if run.average is not None:
        tensors |= {f"average.{name}": tensor for name, tensor in run.average.weights.items()}
    if run.early is not None:
        tensors |= {f"best.{name}": tensor for name, tensor in run.early.weights.items()}
        record |= {"waited": run.early.waited, "over": run.over}
        record |= {"best": run.early.score} if run.early.weights else {}
    write_state(path, tensors, record)


def restore_run(run: Run, path: Path, *, key: str) -> bool:
    """Put the state of `path` into `run`; False, and nothing changed, where there is none or it is of another run."""
    if not path.is_file():
        return False
    tensors, record = read_state(path)
    if record["key"] != key:
        return False
    run.model.load_state_dict(_named("model", tensors))
    for name, parameter in _optimized(run.optimizer):
        names = {slot: f"optimizer.{slot}.{name}" for slot in ("step", "exp_avg", "exp_avg_sq")}
        if all(held in tensors for held in names.values()):
            slots = {slot: tensors[held] for slot, held in names.items()}
            # Adam counts its steps on the CPU; its moments lie where the parameter does.
            moved = {slot: tensor if slot == "step" else tensor.to(parameter.device) for slot, tensor in slots.items()}
            run.optimizer.state[parameter] = moved
    if run.average is not None:
        run.average.load(_named("average", tensors))
    if run.early is not None:
        run.early.weights, run.early.waited = _named("best", tensors), record["waited"]
        run.early.score, run.over = record.get("best", -math.inf), record["over"]
    run.step, run.curves = record["step"], record["curves"]
    return True


def _named(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(f"{prefix}."): held for name, held in tensors.items() if name.startswith(f"{prefix}.")}


def _optimized(optimizer: torch.optim.Optimizer) -> Iterator[tuple[str, Tensor]]:
    for group in optimizer.param_groups:
        yield from zip(group["names"], group["params"], strict=True)


def batch_of(step: int, training: StudySet, config: TrainConfig, *, depth: int, ranks: Ranks = ALONE) -> Batch:
    """The batch of a step for an encoder of `depth` blocks: tokens of its last block while heads learn alone, then volumes."""
    resting = step < config.head_steps
    blocks = (depth - 1,) if resting else config.loss.dense_blocks if config.loss.dense > 0 else ()
    return make_batch(training, config, step=step, blocks=blocks, resting=resting, ranks=ranks)


def optimise(run: Run, batch: Batch, config: TrainConfig, *, ranks: Ranks = ALONE) -> StepResult:
    """One optimiser step on the batch of `run.step`: heads alone first, then everything."""
    set_rates(run.optimizer, rate_factors(run.step, config))
    run.optimizer.zero_grad(set_to_none=True)
    result = backward_step(
        run.model,
        batch,
        progress=run.step / (config.head_steps + config.steps),
        gram_seed=derived_seed(config.seed, "gram", run.step),
        at_once=config.micro_batch_size,
        ranks=ranks,
    )
    if any(parameter.grad is not None for _, parameter in _optimized(run.optimizer)):
        ranks.average_gradients(parameter for _, parameter in _optimized(run.optimizer))
        # Single numbers have gradients summed over every pair; inside one norm they would shrink all others' steps.
        norm = torch.zeros(())
        for of_scalars in (False, True):
            learned = [parameter for name, parameter in _optimized(run.optimizer) if (name in SCALARS) == of_scalars]
            norm = norm + torch.nn.utils.clip_grad_norm_(learned, config.optimizer.clip_norm)
        if not torch.isfinite(norm):
            raise GlintError(
                f"gradient of step {run.step} is not finite: lower train.optimizer.head_learning_rate, "
                "or look for a damaged volume"
            )
        run.optimizer.step()
    run.step += 1
    if run.average is not None:
        run.average.update(run.model, run.step)
    return StepResult(total=result.total, numbers=ranks.mean(result.numbers))


def validate(run: Run, validation: StudySet | None, findings: Sequence[str], *, pictures: Path) -> dict[str, float]:
    """`auroc_<finding>` and `auroc_macro`, empty where there is nothing to validate on; gate maps into `pictures`."""
    if validation is None or not len(validation):
        return {}
    with run.model_of_validation:
        seen = zero_shot(run.model, validation, findings, pictured=run.model.config.pictured_findings)
    found = {name: value for name, value in seen.auroc.items() if not math.isnan(value)}
    if seen.pictures:
        write_gate_maps(pictures, seen, step=run.step)
    if not found:
        return {}
    return {
        "auroc_macro": sum(found.values()) / len(found),
        **{f"auroc_{name}": value for name, value in found.items()},
    }


def memory_gib() -> float:
    """The most memory this process held: of its GPU where it has one, else of the machine."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**30
    kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return kib / (2**30 if sys.platform == "darwin" else 2**20)


class Ticker:
    """Progress with loss, throughput, memory and gate density: a live bar on a terminal, a line per tenth otherwise."""

    def __init__(self, description: str, *, done: int, total: int, batch_size: int) -> None:
        self.description, self.first, self.total, self.batch_size = description, done, total, batch_size
        self.started_s = time.monotonic()
        self.shown = done * 10 // total
        self.bar = None
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            columns = (
                TextColumn("{task.description}"),
                BarColumn(bar_width=10),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
            )
            self.bar = Progress(*columns, console=Console(stderr=True))
            self.task = self.bar.add_task(description, total=total, completed=done)
            self.bar.start()

    def tick(self, step: int, numbers: Mapping[str, float]) -> None:
        """Show that `step` steps are done, with what the last one gave."""
        rate = (step - self.first) * self.batch_size / max(1e-9, time.monotonic() - self.started_s)
        loss, memory = numbers["loss"], memory_gib()
        positive, other = (numbers.get(f"gate_density_{of}", math.nan) for of in ("positive", "other"))
        if self.bar is not None:  # fits a terminal of 80 columns
            text = f"{self.description} loss {loss:.3f} {rate:.0f}/s {memory:.1f}GiB gates {positive:.2f}|{other:.2f}"
            self.bar.update(self.task, completed=step, description=text)
        elif step * 10 // self.total > self.shown:
            self.shown = step * 10 // self.total
            gates = "" if math.isnan(positive) else f", gates {positive:.3f} open on positives, {other:.3f} elsewhere"
            log(
                f"{self.description}: loss {loss:.3f}, {rate:.1f} volumes/s, {memory:.1f} GiB{gates}, step {step}/{self.total}"
            )

    def close(self) -> None:
        """Leave the terminal as it was."""
        if self.bar is not None:
            self.bar.stop()


def warn_of_drift(numbers: dict[str, float], *, limit: float, warned: set[str]) -> None:
    """One warning per block whose tokens left the teacher's."""
    for name, value in numbers.items():
        if name.startswith("teacher_cosine_") and value < limit and name not in warned:
            warned.add(name)
            log(
                f"warning: block {name.rsplit('_', 1)[1]} has cosine {value:.2f} to the teacher, below {limit}; "
                "raise train.loss.dense or lower train.optimizer.encoder_learning_rate"
            )


def train(
    model: Glint,
    training: StudySet,
    *,
    config: TrainConfig,
    state: Path,
    key: str,
    validation: StudySet | None = None,
    findings: Sequence[str] = (),
    ranks: Ranks = ALONE,
    limit: TimeLimit | None = None,
) -> Run:
    """Train to the last step, from `state/state.safetensors` where it is of the same `key`.

    The same model, data, config and thread count give the same weights, bit for bit, however often the run was stopped.
    SIGTERM, SIGUSR1 and a `limit` that is near save and leave with exit code 75. Shared by `ranks`, the first one validates,
    saves and reports; `state` lies where all of them can read it. The model ends with the weights to keep: of the best
    validation with `config.patience`, averaged with `config.ema_decay`.

    Raises:
        InputError: the ranks read different states.
        ConfigError: early stopping without a validation study.
        GlintError: a process that shares the training is gone, or a gradient is not finite.
    """
    path, steps = state / STATE_NAME, config.head_steps + config.steps
    if config.patience is not None and (validation is None or not len(validation)):
        raise ConfigError(
            "train.patience: there is no validation study to stop by; set it to null, or split.validation above 0"
        )
    if config.precision == "float64":
        model.double()
    if config.activation_checkpointing:
        recompute_blocks(model.student)
    run = Run(model=model, optimizer=make_optimizer(model, config.optimizer), step=0, curves=[])
    run.average = None if config.ema_decay is None else MovingAverage(model, config.ema_decay)
    run.early = None if config.patience is None else EarlyStop(patience=config.patience)
    resumed = restore_run(run, path, key=key)
    if not ranks.agree_on(run.step):
        raise InputError(f"{path}: processes of one training read different states; put it where every node sees it")
    if not resumed:
        ranks.start_equal(model)
        run.average = None if config.ema_decay is None else MovingAverage(model, config.ema_decay)
    if resumed and run.step < steps and not run.over and ranks.first:
        log(f"training goes on from step {run.step} of {steps}")
    model.train()
    ticker = Ticker(
        f"train, pooling by {config.model.pooling}",
        done=run.step,
        total=steps,
        batch_size=min(config.batch_size, len(training)),
    )
    warned: set[str] = set()
    make = partial(batch_of, training=training, config=config, depth=model.student.encoder.depth, ranks=ranks)
    try:
        with (
            stop_request(limit) as request,
            trackers(config.log_to if ranks.first else (), state, run.curves) as track,
            BatchesAhead(make, last=steps, ahead=config.batches_ahead) as batches,
        ):
            while run.step < steps and not run.over:
                result = optimise(run, batches(run.step), config, ranks=ranks)
                row = {"step": float(run.step), **result.numbers}
                stop = ranks.any(request.reason() is not None)
                due = run.step % config.validate_every == 0 or run.step == steps
                if ranks.first and due:
                    row |= validate(run, validation, findings, pictures=state / PICTURES)
                    if run.early is not None and "auroc_macro" in row:
                        with run.model_of_validation:
                            run.early.see(row["auroc_macro"], model)
                if run.early is not None and due:
                    run.over = ranks.any(run.early.over)
                if ranks.first:
                    run.curves.append({name: value for name, value in row.items() if not math.isnan(value)})
                    track(run.curves[-1])
                    warn_of_drift(result.numbers, limit=config.teacher_cosine_warning, warned=warned)
                    ticker.tick(run.step, result.numbers)
                    if run.step % config.checkpoint_every == 0 or run.step == steps or run.over or stop:
                        save_run(run, path, key=key)
                if stop and run.step < steps and not run.over:
                    reason = request.reason() or "another process was asked to"
                    if ranks.first:
                        log(f"stopped at step {run.step} of {steps} ({reason}); the same command goes on from there")
                    ranks.wait()
                    raise SystemExit(REQUEUE_EXIT_CODE)
    finally:
        ticker.close()
    keep_best(run, ranks)
    return run


def keep_best(run: Run, ranks: Ranks) -> None:
    """The model ends with the weights to keep: the best validated ones, the average, or those it has."""
    if run.early is not None and run.early.weights:
        put(run.model, run.early.weights)
        log(f"kept the weights of the best validation, mean AUROC {run.early.score:.3f}; {run.step} steps were taken")
    elif run.average is not None:
        put(run.model, run.average.weights)
    if run.early is not None:
        ranks.start_equal(run.model)  # the first one alone validates

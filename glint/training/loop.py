"""The training loop: deterministic on a CPU with a fixed number of threads, killable at any moment."""

import math
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from glint.core.config.train import TrainConfig
from glint.core.errors import GlintError, InputError
from glint.core.progress import log
from glint.core.seeds import derived_seed
from glint.core.stopping import REQUEUE_EXIT_CODE, TimeLimit, stop_request
from glint.formats.checkpoint import read_state, write_state
from glint.model.glint import Glint
from glint.training.dataset import StudySet, make_batch
from glint.training.distributed import ALONE, Ranks
from glint.training.optimizer import SCALARS, make_optimizer, rate_factors, set_rates
from glint.training.step import StepResult, training_step
from glint.training.validation import zero_shot_auroc

STATE_NAME = "state.safetensors"


@dataclass(kw_only=True)
class Run:
    """Model, optimiser and what has happened so far."""

    model: Glint
    optimizer: torch.optim.AdamW
    step: int
    curves: list[dict[str, float]]


def save_run(run: Run, path: Path, *, key: str) -> None:
    """Write the whole state of `run`; randomness needs none, it is a function of seed and step."""
    tensors: dict[str, Tensor] = {f"model.{name}": tensor for name, tensor in run.model.state_dict().items()}
    for name, parameter in _optimized(run.optimizer):
        for slot, tensor in run.optimizer.state.get(parameter, {}).items():
            tensors[f"optimizer.{slot}.{name}"] = tensor
    write_state(path, tensors, {"key": key, "step": run.step, "curves": run.curves})


def restore_run(run: Run, path: Path, *, key: str) -> bool:
    """Put the state of `path` into `run`; False, and nothing changed, where there is none or it is of another run."""
    if not path.is_file():
        return False
    tensors, record = read_state(path)
    if record["key"] != key:
        return False
    run.model.load_state_dict({n.removeprefix("model."): t for n, t in tensors.items() if n.startswith("model.")})
    for name, parameter in _optimized(run.optimizer):
        names = {slot: f"optimizer.{slot}.{name}" for slot in ("step", "exp_avg", "exp_avg_sq")}
        if all(held in tensors for held in names.values()):
            slots = {slot: tensors[held] for slot, held in names.items()}
            # Adam counts its steps on the CPU; its moments lie where the parameter does.
            moved = {slot: tensor if slot == "step" else tensor.to(parameter.device) for slot, tensor in slots.items()}
            run.optimizer.state[parameter] = moved
    run.step, run.curves = record["step"], record["curves"]
    return True


def _optimized(optimizer: torch.optim.Optimizer) -> Iterator[tuple[str, Tensor]]:
    for group in optimizer.param_groups:
        yield from zip(group["names"], group["params"], strict=True)


def optimise(run: Run, training: StudySet, config: TrainConfig, *, ranks: Ranks = ALONE) -> StepResult:
    """One optimiser step on the batch of `run.step`: heads alone first, then everything."""
    resting = run.step < config.head_steps
    depth = run.model.student.encoder.depth
    blocks = (depth - 1,) if resting else config.loss.dense_blocks if config.loss.dense > 0 else ()
    batch = make_batch(training, config, step=run.step, blocks=blocks, resting=resting, ranks=ranks)
    batch = batch.to(run.model.device)
    set_rates(run.optimizer, rate_factors(run.step, config))
    gram_generator = torch.Generator().manual_seed(derived_seed(config.seed, "gram", run.step))
    progress = run.step / (config.head_steps + config.steps)
    result = training_step(run.model, batch, progress=progress, gram_generator=gram_generator, ranks=ranks)
    run.optimizer.zero_grad(set_to_none=True)
    if result.total.requires_grad:
        result.total.backward()  # type: ignore[no-untyped-call]
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
    return StepResult(total=result.total, numbers=ranks.mean(result.numbers))


def validate(run: Run, validation: StudySet | None, findings: Sequence[str]) -> dict[str, float]:
    """`auroc_<finding>` and `auroc_macro`, empty where there is nothing to validate on."""
    if validation is None or not len(validation):
        return {}
    found = {
        name: value for name, value in zero_shot_auroc(run.model, validation, findings).items() if not math.isnan(value)
    }
    if not found:
        return {}
    return {
        "auroc_macro": sum(found.values()) / len(found),
        **{f"auroc_{name}": value for name, value in found.items()},
    }


class Ticker:
    """Progress with loss and throughput: a live bar on a terminal, a line per tenth otherwise."""

    def __init__(self, description: str, *, done: int, total: int, batch_size: int) -> None:
        self.description, self.first, self.total, self.batch_size = description, done, total, batch_size
        self.started_s = time.monotonic()
        self.shown = done * 10 // total
        self.bar = None
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
            self.bar = Progress(*columns, console=Console(stderr=True))
            self.task = self.bar.add_task(description, total=total, completed=done)
            self.bar.start()

    def tick(self, step: int, loss: float) -> None:
        """Show that `step` steps are done."""
        rate = (step - self.first) * self.batch_size / max(1e-9, time.monotonic() - self.started_s)
        text = f"{self.description}: loss {loss:.3f}, {rate:.1f} volumes/s"
        if self.bar is not None:
            self.bar.update(self.task, completed=step, description=text)
        elif step * 10 // self.total > self.shown:
            self.shown = step * 10 // self.total
            log(f"{text}, step {step}/{self.total}")

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
    saves and reports; `state` lies where all of them can read it.

    Raises:
        InputError: the ranks read different states.
    """
    path, steps = state / STATE_NAME, config.head_steps + config.steps
    run = Run(model=model, optimizer=make_optimizer(model, config.optimizer), step=0, curves=[])
    resumed = restore_run(run, path, key=key)
    if not ranks.agree_on(run.step):
        raise InputError(f"{path}: processes of one training read different states; put it where every node sees it")
    if not resumed:
        ranks.start_equal(model)
    if resumed and run.step < steps and ranks.first:
        log(f"training goes on from step {run.step} of {steps}")
    model.train()
    ticker = Ticker(f"train {model.arm}", done=run.step, total=steps, batch_size=min(config.batch_size, len(training)))
    warned: set[str] = set()
    try:
        with stop_request(limit) as request:
            while run.step < steps:
                result = optimise(run, training, config, ranks=ranks)
                row = {"step": float(run.step), **result.numbers}
                stop = ranks.any(request.reason() is not None)
                if ranks.first:
                    if run.step % config.validate_every == 0 or run.step == steps:
                        row |= validate(run, validation, findings)
                    run.curves.append({name: value for name, value in row.items() if not math.isnan(value)})
                    warn_of_drift(result.numbers, limit=config.teacher_cosine_warning, warned=warned)
                    ticker.tick(run.step, result.numbers["loss"])
                    if run.step % config.checkpoint_every == 0 or run.step == steps or stop:
                        save_run(run, path, key=key)
                if stop and run.step < steps:
                    reason = request.reason() or "another process was asked to"
                    if ranks.first:
                        log(f"stopped at step {run.step} of {steps} ({reason}); the same command goes on from there")
                    ranks.wait()
                    raise SystemExit(REQUEUE_EXIT_CODE)
    finally:
        ticker.close()
    return run

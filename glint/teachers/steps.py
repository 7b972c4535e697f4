"""What the recipes of self-supervision share: schedules, the slow encoder, monitors of collapse, the resumable loop of steps.

Every random number comes from (seed, purpose, step), so a run that was killed and resumed takes the same steps, and so do several
processes that share each step.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from glint.core.config.teacher import Schedule
from glint.core.errors import FingerprintError, InputError
from glint.core.progress import log, track
from glint.core.seeds import derived_seed, generator
from glint.core.stopping import REQUEUE_EXIT_CODE, TimeLimit, stop_request
from glint.formats.checkpoint import read_state, write_state
from glint.teachers.appearance import fit_patch_embedding
from glint.teachers.vjepa import EncoderConfig, VisionTransformer3D


class Volumes(Protocol):
    """Volumes to learn from. `window` gives (C, Z, Y, X) float32 in [0, 1], moved by whole voxels (z, y, x)."""

    def __len__(self) -> int: ...

    def window(self, index: int, shift_zyx: tuple[int, int, int] = (0, 0, 0)) -> NDArray[np.float32]:
        """Window channels of one volume."""
        ...


class SharedStep(Protocol):
    """The processes that share a step; what `glint.training.distributed.Ranks` is. Every one computes its part of the volumes."""

    @property
    def first(self) -> bool:
        """Whether this process writes and reports."""
        ...

    def part(self, batch_size: int) -> slice:
        """This process's rows of a batch."""
        ...

    def average_gradients(self, parameters: Iterable[Tensor]) -> None:
        """Every gradient becomes its mean over the processes."""
        ...

    def mean(self, numbers: Mapping[str, float]) -> dict[str, float]:
        """Mean of numbers over the processes."""
        ...

    def any(self, asked: bool) -> bool:
        """Whether any process says so."""
        ...

    def agree_on(self, number: int) -> bool:
        """Whether all processes have the same number."""
        ...

    def start_equal(self, model: nn.Module) -> None:
        """All take the first one's weights."""
        ...

    def wait(self) -> None:
        """Return once every process is here."""
        ...


class Alone:
    """One process that shares with nobody."""

    first = True

    def part(self, batch_size: int) -> slice:
        """All rows."""
        return slice(0, batch_size)

    def average_gradients(self, parameters: Iterable[Tensor]) -> None:
        """Nothing to average."""

    def mean(self, numbers: Mapping[str, float]) -> dict[str, float]:
        """The numbers."""
        return dict(numbers)

    def any(self, asked: bool) -> bool:
        """What this process says."""
        return asked

    def agree_on(self, number: int) -> bool:
        """With itself."""
        return True

    def start_equal(self, model: nn.Module) -> None:
        """Equal already."""

    def wait(self) -> None:
        """For nobody."""


ALONE = Alone()


def momentum_at(config: Schedule, step: int) -> float:
    """Momentum of the target encoder's average after optimiser step `step` (0 is the first)."""
    share = step / max(1, config.steps - 1)
    return config.momentum_start + share * (config.momentum_end - config.momentum_start)


def learning_rate_at(config: Schedule, step: int) -> float:
    """Linear warm-up, then half a cosine down to learning_rate_end of the peak."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    share = (step - config.warmup_steps) / max(1, config.steps - config.warmup_steps)
    return config.learning_rate * (
        config.learning_rate_end + (1 - config.learning_rate_end) * 0.5 * (1 + math.cos(math.pi * share))
    )


@torch.no_grad()
def update_target(target: nn.Module, online: nn.Module, momentum: float) -> None:
    """target ← momentum · target + (1 - momentum) · online, parameter by parameter."""
    for slow, fast in zip(target.parameters(), online.parameters(), strict=True):
        slow.lerp_(fast, 1 - momentum)


@torch.no_grad()
def collapse_monitors(tokens_BND: Tensor) -> dict[str, float]:
    """Is the representation still one? Of layer-normed tokens: deviation per channel, mean cosine of pairs, effective rank.

    Effective rank is exp(entropy) of the normalised eigenvalues of the covariance (Roy and Vetterli 2007), 1 to D.
    Collapse shows as deviation → 0, cosine → 1, rank → 1.
    """
    rows = F.layer_norm(tokens_BND.float(), tokens_BND.shape[-1:]).flatten(0, 1)
    centred = rows - rows.mean(dim=0)
    eigenvalues = torch.linalg.eigvalsh((centred.T @ centred).double()).clamp_min(0)
    share = eigenvalues / eigenvalues.sum().clamp_min(1e-12)
    entropy = -(share * share.clamp_min(1e-12).log()).sum()
    unit = F.normalize(rows, dim=-1)
    count = rows.shape[0]
    cosine = (unit.sum(dim=0).square().sum() - count) / max(1, count * (count - 1))
    return {
        "token_std": float(rows.std(dim=0).mean()),
        "token_cosine": float(cosine),
        "effective_rank": float(entropy.exp()),
    }


def first_volumes(volumes: Volumes, count: int) -> Tensor:
    """(B, C, Z, Y, X): up to `count` volumes, evenly spread over all."""
    chosen = np.unique(np.linspace(0, len(volumes) - 1, num=min(count, len(volumes))).round().astype(int))
    return torch.from_numpy(np.stack([volumes.window(int(index)) for index in chosen]))


def volume_at(position: int, count: int, *, seed: int, purpose: str) -> int:
    """Which of `count` volumes stands at `position` of an endless row of epochs, each of which shows every volume once."""
    epoch, place = divmod(position, count)
    return int(generator(seed, purpose, epoch).permutation(count)[place])


def first_encoder(
    config: EncoderConfig,
    rest: Callable[[], nn.ModuleDict],
    *,
    seed: int,
    first_BCZYX: Tensor,
    draws: torch.Generator,
    start: VisionTransformer3D | None,
) -> tuple[VisionTransformer3D, nn.ModuleDict]:
    """The encoder before its first step, and what else learns with it, made by `rest`; weights are a function of `seed`.

    `start`: weights to go on from; without it the patch embedding is fitted to `first_BCZYX`.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derived_seed(seed, "teacher weights"))
        encoder, others = VisionTransformer3D(config), rest()
    if start is None:
        fit_patch_embedding(encoder, first_BCZYX, generator=draws)
    else:
        encoder.load_state_dict(start.state_dict())
    return encoder, others


def appearance_draws(seed: int) -> torch.Generator:
    """Random numbers of the first patch embedding and the appearance code."""
    return torch.Generator().manual_seed(derived_seed(seed, "teacher appearance"))


@dataclass(frozen=True, kw_only=True)
class Pretrained:
    """The target encoder of the last step, and the curves: a row of numbers per monitored step."""

    encoder: VisionTransformer3D
    curves: list[dict[str, float]]


class Trainer(Protocol):
    """A recipe of self-supervision: what it trains, and the slow encoder that it is for."""

    encoder: VisionTransformer3D
    target: VisionTransformer3D
    online: nn.ModuleDict
    optimizer: torch.optim.AdamW
    ranks: SharedStep

    def take(self, volumes: Volumes, *, seed: int, step: int) -> tuple[dict[str, float], Tensor]:
        """The step `step`: its numbers, and the target's tokens (B, N, D) for the monitors."""
        ...

    def tensors(self) -> dict[str, Tensor]:
        """All that a further step depends on."""
        ...

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Take what `tensors` gave."""
        ...


def make_optimizer(model: nn.Module, config: Schedule) -> torch.optim.AdamW:
    """AdamW with weight decay on matrices alone."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=(0.9, 0.98))


def optimise(trainer: Trainer, total: Tensor, config: Schedule, *, step: int) -> None:
    """One step of the optimiser, shared by all processes, and one of the target's average."""
    for group in trainer.optimizer.param_groups:
        group["lr"] = learning_rate_at(config, step)
    trainer.optimizer.zero_grad(set_to_none=True)
    total.backward()  # type: ignore[no-untyped-call]
    trainer.ranks.average_gradients(trainer.online.parameters())
    nn.utils.clip_grad_norm_(trainer.online.parameters(), config.clip_norm)
    trainer.optimizer.step()


def state_of(parts: Mapping[str, nn.Module], optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Weights of `parts` and the optimiser's moments: all that a step depends on."""
    held = {f"{part}.{name}": value for part, module in parts.items() for name, value in module.state_dict().items()}
    for index, moments in optimizer.state_dict()["state"].items():
        held |= {f"optimizer.{index}.{name}": value for name, value in moments.items()}
    return held


def restore_state(
    tensors: Mapping[str, Tensor], parts: Mapping[str, nn.Module], optimizer: torch.optim.Optimizer
) -> None:
    """Take what `state_of` gave. Raises FingerprintError when it belongs to another architecture."""
    sorted_out: dict[str, dict[str, Tensor]] = {name: {} for name in (*parts, "optimizer")}
    moments: dict[int, dict[str, Any]] = {}
    try:
        for name, value in tensors.items():
            part, rest = name.split(".", 1)
            sorted_out[part][rest] = value
        for name, value in sorted_out["optimizer"].items():
            index, moment = name.split(".", 1)
            moments.setdefault(int(index), {})[moment] = value
        for name, module in parts.items():
            module.load_state_dict(sorted_out[name], strict=True)
    except (RuntimeError, KeyError) as error:
        raise FingerprintError("the saved state is of another encoder than the configuration's; remove it") from error
    optimizer.load_state_dict({**optimizer.state_dict(), "state": moments})


def run_steps(
    trainer: Trainer,
    volumes: Volumes,
    config: Schedule,
    *,
    seed: int,
    key: str,
    state_dir: Path | None = None,
    after_step: Callable[[int], None] | None = None,
    limit: TimeLimit | None = None,
) -> Pretrained:
    """Take `config.steps` steps, going on from `state_dir/<key>/state.safetensors` where there is one.

    `key` names what the run is made from (configuration, volumes, code): a state of another key is never read.
    `after_step` is called with every finished step. SIGTERM, SIGUSR1 and a `limit` that is near leave with exit code 75,
    and save where there is a `state_dir`. Of several processes the first one saves and reports.

    Raises:
        InputError: the processes read different states.
    """
    ranks = trainer.ranks
    state = None if state_dir is None else state_dir / key / "state.safetensors"
    first, curves = (0, []) if state is None or not state.is_file() else _resume(trainer, state)
    if not ranks.agree_on(first):
        raise InputError(
            f"{state}: processes of one pretraining read different states; put it where every node sees it"
        )
    if first:
        log(f"teacher: going on after step {first} of {config.steps}")
    else:
        ranks.start_equal(trainer.online)
        ranks.start_equal(trainer.target)
    with stop_request(limit) as request:
        for step in track(range(first, config.steps), "teacher", total=config.steps - first):
            numbers, tokens = trainer.take(volumes, seed=seed, step=step)
            last = step == config.steps - 1
            if step % config.monitor_every == 0 or last:
                monitors = ranks.mean(collapse_monitors(tokens))
                curves.append({"step": step, **numbers, **monitors, "learning_rate": learning_rate_at(config, step)})
                if ranks.first:
                    log(
                        f"teacher: step {step + 1}, loss {numbers['loss']:.3f}, effective rank {monitors['effective_rank']:.1f}, "
                        f"deviation {monitors['token_std']:.2f}, cosine {monitors['token_cosine']:.2f}"
                    )
            reason = request.reason()
            stop = ranks.any(reason is not None)
            if state is not None and ranks.first and ((step + 1) % config.checkpoint_every == 0 or last or stop):
                write_state(state, trainer.tensors(), {"step": step + 1, "curves": curves})
            if after_step is not None:
                after_step(step)
            if stop and not last:
                if ranks.first:
                    log(
                        f"teacher: stopped after step {step + 1} of {config.steps} ({reason or 'another process was asked to'}); "
                        "the same command goes on from there"
                    )
                ranks.wait()
                raise SystemExit(REQUEUE_EXIT_CODE)
    return Pretrained(encoder=trainer.target, curves=curves)


def _resume(trainer: Trainer, state: Path) -> tuple[int, list[dict[str, float]]]:
    tensors, record = read_state(state)
    trainer.restore(tensors)
    return int(record["step"]), list(record["curves"])

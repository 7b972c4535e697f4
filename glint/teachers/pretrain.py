"""In-domain pretraining by masked latent prediction (V-JEPA 2.1's recipe at the size of a desk computer).

A context encoder sees a fraction of the patches. A small predictor fills the whole grid from them, and is asked for what an
exponential moving average of the encoder (the target, no gradient) makes of the whole volume, at several depths at once:

    L = mean_{r,t} w_rt · smooth_l1( predicted_rt , concat_l LN(target^l_rt) )  +  λ_A · smooth_l1( W token_rk , appearance_rk )

w is 1 on hidden tokens and falls with the distance to the next hidden token on visible ones (`masking.loss_weights`); LN has
no parameters; the second term asks visible tokens, linearly, for what their patch looks like (`appearance`).

Every random number comes from (seed, purpose, step), so a run that was killed and resumed takes the same steps.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from glint.core.config.teacher import PretrainConfig
from glint.core.errors import FingerprintError
from glint.core.progress import log, track
from glint.core.seeds import derived_seed, generator
from glint.core.stopping import REQUEUE_EXIT_CODE, TimeLimit, stop_request
from glint.formats.checkpoint import read_state, write_state
from glint.teachers.appearance import AppearanceCode, fit_patch_embedding
from glint.teachers.masking import block_mask, loss_weights
from glint.teachers.vjepa import (
    LAYER_NORM_EPSILON,
    Block,
    EncoderConfig,
    RotaryTable,
    VisionTransformer3D,
    grid_coordinates,
    initialise,
    sincos_embedding,
)


class Volumes(Protocol):
    """Volumes to learn from. `window` gives (C, Z, Y, X) float32 in [0, 1], moved by whole voxels (z, y, x)."""

    def __len__(self) -> int: ...

    def window(self, index: int, shift_zyx: tuple[int, int, int] = (0, 0, 0)) -> NDArray[np.float32]:
        """Window channels of one volume."""
        ...


@dataclass(frozen=True, kw_only=True)
class PretrainBatch:
    """B volumes, M masks each: R = B · M rows, the masks of one volume side by side.

    `visible_RK` are the tokens the context encoder sees, `asked_RQ` the hidden tokens that are predicted (a draw of all
    hidden ones), `weight_RT` the weights of both in the loss, T = K + Q, visible ones first.
    """

    volume_BCZYX: Tensor
    visible_RK: Tensor
    asked_RQ: Tensor
    weight_RT: Tensor


class Predictor(nn.Module):
    """Context tokens (R, K, levels · D) and the places asked for (R, Q) → predictions (R, K + Q, levels · D)."""

    absolute: Tensor

    def __init__(self, encoder: EncoderConfig, config: PretrainConfig) -> None:
        super().__init__()
        width, levels = config.predictor_width, len(config.levels)
        self.enter = nn.Linear(levels * encoder.width, width)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, width))
        self.rotary = RotaryTable(
            grid_coordinates(encoder.grid), width // config.predictor_heads, encoder.position_base
        )
        absolute = sincos_embedding(grid_coordinates(encoder.grid), width, encoder.position_base)
        self.register_buffer("absolute", absolute, persistent=False)
        self.blocks = nn.ModuleList(
            Block(width, config.predictor_heads, encoder.mlp_ratio) for _ in range(config.predictor_depth)
        )
        self.norm = nn.LayerNorm(width, eps=LAYER_NORM_EPSILON)
        self.leave = nn.Linear(width, levels * encoder.width)
        initialise(self, (block for block in self.blocks if isinstance(block, Block)))

    def forward(self, context_RKD: Tensor, visible_RK: Tensor, asked_RQ: Tensor) -> Tensor:
        """Predictions for the visible places, then for those asked for."""
        entered = self.enter(context_RKD)
        masked = self.mask_token.to(entered.dtype).expand(*asked_RQ.shape, -1)
        places = torch.cat([visible_RK, asked_RQ], dim=1)
        tokens = torch.cat([entered, masked], dim=1) + self.absolute[places]
        rotation = self.rotary(tokens.dtype, places)
        for block in self.blocks:
            tokens = block(tokens, rotation)
        return self.leave(self.norm(tokens))  # type: ignore[no-any-return]


def stack_levels(hidden: Mapping[int, Tensor], levels: Sequence[int]) -> Tensor:
    """(B, N, levels · D): the outputs of the blocks, each through a LayerNorm without parameters."""
    return torch.cat([F.layer_norm(hidden[level], hidden[level].shape[-1:]) for level in levels], dim=-1)


def momentum_at(config: PretrainConfig, step: int) -> float:
    """Momentum of the target encoder's average after optimiser step `step` (0 is the first)."""
    share = step / max(1, config.steps - 1)
    return config.momentum_start + share * (config.momentum_end - config.momentum_start)


def learning_rate_at(config: PretrainConfig, step: int) -> float:
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


class Pretrainer:
    """Encoder, target, predictor and optimiser; `step` takes one batch."""

    def __init__(
        self, encoder_config: EncoderConfig, config: PretrainConfig, *, seed: int, first_BCZYX: Tensor
    ) -> None:
        """`first_BCZYX`: some training volumes, from which the patch embedding and the appearance code are fitted."""
        self.encoder_config, self.config = encoder_config, config
        draws = torch.Generator().manual_seed(derived_seed(seed, "teacher appearance"))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derived_seed(seed, "teacher weights"))
            self.encoder = VisionTransformer3D(encoder_config)
            self.predictor = Predictor(encoder_config, config)
            self.read_out = nn.Linear(encoder_config.width, config.appearance_width)
        fit_patch_embedding(self.encoder, first_BCZYX, generator=draws)
        self.appearance = AppearanceCode(
            encoder_config,
            first_BCZYX,
            units=config.appearance_units,
            width=config.appearance_width,
            generator=draws,
        )
        self.target = copy.deepcopy(self.encoder).requires_grad_(False).eval()
        self.online = nn.ModuleDict({"encoder": self.encoder, "predictor": self.predictor, "read_out": self.read_out})
        parameters = list(self.online.parameters())
        groups = [
            {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": config.weight_decay},
            {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
        ]
        self.optimizer = torch.optim.AdamW(groups, lr=config.learning_rate, betas=(0.9, 0.98))

    def losses(self, batch: PretrainBatch) -> tuple[dict[str, Tensor], Tensor]:
        """Loss terms by name, and the target's tokens of the deepest level (B, N, D)."""
        levels, visible = self.config.levels, batch.visible_RK
        rows_R = torch.arange(visible.shape[0]) // (visible.shape[0] // batch.volume_BCZYX.shape[0])
        voxels_BNV = self.encoder.patches(batch.volume_BCZYX)
        with torch.no_grad():
            target = self.target.encode_patches(voxels_BNV, layers=levels).hidden
            places_RT = torch.cat([visible, batch.asked_RQ], dim=1)
            wanted_RTD = stack_levels(target, levels)[rows_R[:, None], places_RT]
        seen_RKV = voxels_BNV[rows_R[:, None], visible]
        encoded = self.encoder.encode_patches(seen_RKV, layers=levels, keep_BK=visible)
        context_RKD = stack_levels(encoded.hidden, levels)
        predicted_RTD = self.predictor(context_RKD, visible, batch.asked_RQ)
        error_RT = F.smooth_l1_loss(predicted_RTD, wanted_RTD, reduction="none").mean(dim=-1)
        terms = {
            "latent": (error_RT * batch.weight_RT).sum() / batch.weight_RT.sum(),
            "latent_hidden": error_RT[:, visible.shape[1] :].mean().detach(),
        }
        if self.config.appearance_weight > 0:
            code_RKT = self.appearance(seen_RKV, visible)
            terms["appearance"] = F.smooth_l1_loss(self.read_out(encoded.patch_tokens_BND), code_RKT)
        return terms, target[max(levels)]

    def step(self, batch: PretrainBatch, step: int) -> tuple[dict[str, float], Tensor]:
        """One optimiser step and one step of the target's average; the loss terms, and the target's deepest tokens."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate_at(self.config, step)
        terms, target_tokens = self.losses(batch)
        total = terms["latent"]
        if "appearance" in terms:
            total = total + self.config.appearance_weight * terms["appearance"]
        self.optimizer.zero_grad(set_to_none=True)
        total.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.online.parameters(), self.config.clip_norm)
        self.optimizer.step()
        update_target(self.target, self.encoder, momentum_at(self.config, step))
        return {
            "loss": float(total.detach()),
            **{name: float(term.detach()) for name, term in terms.items()},
        }, target_tokens

    def tensors(self) -> dict[str, Tensor]:
        """Weights of both encoders, predictor and read-out, and the optimiser's moments: all that a step depends on."""
        held = {f"online.{name}": value for name, value in self.online.state_dict().items()}
        held |= {f"target.{name}": value for name, value in self.target.state_dict().items()}
        for index, moments in self.optimizer.state_dict()["state"].items():
            held |= {f"optimizer.{index}.{name}": value for name, value in moments.items()}
        return held

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Take what `tensors` gave. Raises FingerprintError when it belongs to another architecture."""
        parts: dict[str, dict[str, Tensor]] = {"online": {}, "target": {}, "optimizer": {}}
        for name, value in tensors.items():
            part, rest = name.split(".", 1)
            parts[part][rest] = value
        moments: dict[int, dict[str, Tensor]] = {}
        for name, value in parts["optimizer"].items():
            index, moment = name.split(".", 1)
            moments.setdefault(int(index), {})[moment] = value
        try:
            self.online.load_state_dict(parts["online"], strict=True)
            self.target.load_state_dict(parts["target"], strict=True)
        except RuntimeError as error:
            raise FingerprintError(
                "the saved state is of another encoder than the configuration's; remove it"
            ) from error
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": moments})


def draw_batch(
    volumes: Volumes, encoder: EncoderConfig, config: PretrainConfig, *, seed: int, step: int
) -> PretrainBatch:
    """Batch of one step, a function of (seed, step) alone: which volumes, how shifted, which masks."""
    volume_list, visible, asked, weights = [], [], [], []
    for position in range(step * config.batch_size, (step + 1) * config.batch_size):
        epoch, place = divmod(position, len(volumes))
        index = int(generator(seed, "teacher order", epoch).permutation(len(volumes))[place])
        rng = generator(seed, "teacher volume", position)
        dz, dy, dx = (int(shift) for shift in rng.integers(-config.shift_voxels, config.shift_voxels + 1, size=3))
        volume_list.append(volumes.window(index, (dz, dy, dx)))
        for _ in range(config.masks.per_volume):
            kept = block_mask(
                rng,
                encoder.grid,
                masked_fraction=config.masks.masked_fraction,
                block_fraction=(config.masks.block_min, config.masks.block_max),
            )
            hidden = np.setdiff1d(np.arange(encoder.tokens), kept)
            drawn = np.sort(rng.permutation(hidden)[: config.predicted_tokens])
            weight_N = loss_weights(encoder.grid, kept, visible_weight=config.visible_weight)
            visible.append(kept)
            asked.append(drawn)
            weights.append(weight_N[np.concatenate([kept, drawn])])
    return PretrainBatch(
        volume_BCZYX=torch.from_numpy(np.stack(volume_list)),
        visible_RK=torch.from_numpy(np.stack(visible)),
        asked_RQ=torch.from_numpy(np.stack(asked)),
        weight_RT=torch.from_numpy(np.stack(weights)),
    )


def first_volumes(volumes: Volumes, count: int) -> Tensor:
    """(B, C, Z, Y, X): up to `count` volumes, evenly spread over all."""
    chosen = np.unique(np.linspace(0, len(volumes) - 1, num=min(count, len(volumes))).round().astype(int))
    return torch.from_numpy(np.stack([volumes.window(int(index)) for index in chosen]))


@dataclass(frozen=True, kw_only=True)
class Pretrained:
    """The target encoder of the last step, and the curves: a row of numbers per monitored step."""

    encoder: VisionTransformer3D
    curves: list[dict[str, float]]


def pretrain(
    volumes: Volumes,
    encoder_config: EncoderConfig,
    config: PretrainConfig,
    *,
    seed: int,
    key: str,
    state_dir: Path | None = None,
    after_step: Callable[[int], None] | None = None,
    limit: TimeLimit | None = None,
) -> Pretrained:
    """Pretrain for `config.steps` steps, going on from `state_dir/<key>/state.safetensors` where there is one.

    `key` names what the run is made from (configuration, volumes, code): a state of another key is never read.
    `after_step` is called with every finished step. SIGTERM, SIGUSR1 and a `limit` that is near leave with exit code 75,
    and save where there is a `state_dir`.
    """
    first_BCZYX = first_volumes(volumes, config.appearance_volumes)
    trainer = Pretrainer(encoder_config, config, seed=seed, first_BCZYX=first_BCZYX)
    state = None if state_dir is None else state_dir / key / "state.safetensors"
    first, curves = (0, []) if state is None or not state.is_file() else _resume(trainer, state)
    if first:
        log(f"teacher: going on after step {first} of {config.steps}")
    with stop_request(limit) as request:
        for step in track(range(first, config.steps), "teacher", total=config.steps - first):
            numbers, tokens = trainer.step(draw_batch(volumes, encoder_config, config, seed=seed, step=step), step)
            last = step == config.steps - 1
            if step % config.monitor_every == 0 or last:
                rate = learning_rate_at(config, step)
                curves.append({"step": step, **numbers, **collapse_monitors(tokens), "learning_rate": rate})
            reason = request.reason()
            if state is not None and ((step + 1) % config.checkpoint_every == 0 or last or reason):
                write_state(state, trainer.tensors(), {"step": step + 1, "curves": curves})
            if after_step is not None:
                after_step(step)
            if reason and not last:
                log(
                    f"teacher: stopped after step {step + 1} of {config.steps} ({reason}); the same command goes on from there"
                )
                raise SystemExit(REQUEUE_EXIT_CODE)
    return Pretrained(encoder=trainer.target, curves=curves)


def _resume(trainer: Pretrainer, state: Path) -> tuple[int, list[dict[str, float]]]:
    tensors, record = read_state(state)
    trainer.restore(tensors)
    return int(record["step"]), list(record["curves"])

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
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from glint.core.config.teacher import PretrainConfig
from glint.core.seeds import generator
from glint.core.stopping import TimeLimit
from glint.teachers.appearance import AppearanceCode
from glint.teachers.masking import block_mask, loss_weights
from glint.teachers.steps import (
    ALONE,
    Pretrained,
    SharedStep,
    Volumes,
    appearance_draws,
    first_encoder,
    first_volumes,
    make_optimizer,
    momentum_at,
    optimise,
    restore_state,
    run_steps,
    state_of,
    update_target,
    volume_at,
)
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


@dataclass(frozen=True, kw_only=True)
class PretrainBatch:
    """B volumes, M masks each: R = B · M rows, the masks of one volume side by side.

    `visible_RK` are the tokens the context encoder sees, `asked_RQ` the hidden tokens that are predicted (a draw of all
    hidden ones), `weight_RT` the weights of both in the loss, T = K + Q, visible ones first. `weight_mean` is the mean weight
    over the whole batch, of which these may be a process's part.
    """

    volume_BCZYX: Tensor
    visible_RK: Tensor
    asked_RQ: Tensor
    weight_RT: Tensor
    weight_mean: float

    def to(self, device: torch.device) -> PretrainBatch:
        """The same batch on `device`."""
        return replace(
            self,
            volume_BCZYX=self.volume_BCZYX.to(device),
            visible_RK=self.visible_RK.to(device),
            asked_RQ=self.asked_RQ.to(device),
            weight_RT=self.weight_RT.to(device),
        )


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


class Pretrainer:
    """Encoder, target, predictor and optimiser; `step` takes one batch."""

    def __init__(
        self,
        encoder_config: EncoderConfig,
        config: PretrainConfig,
        *,
        seed: int,
        first_BCZYX: Tensor,
        start: VisionTransformer3D | None = None,
        ranks: SharedStep = ALONE,
        device: torch.device | None = None,
    ) -> None:
        """`first_BCZYX`: some training volumes, from which the patch embedding and the appearance code are fitted.

        `start`: weights to go on from, instead of fresh ones. `ranks`: who shares the steps.
        """
        self.ranks, self.device = ranks, device or torch.device("cpu")
        self.encoder_config, self.config = encoder_config, config
        draws = appearance_draws(seed)
        self.encoder, others = first_encoder(
            encoder_config, self._others, seed=seed, first_BCZYX=first_BCZYX, draws=draws, start=start
        )
        self.appearance = AppearanceCode(
            encoder_config,
            first_BCZYX,
            units=config.appearance_units,
            width=config.appearance_width,
            generator=draws,
        )
        self.online = nn.ModuleDict({"encoder": self.encoder, **others}).to(self.device)
        self.appearance.to(self.device)
        self.target = copy.deepcopy(self.encoder).requires_grad_(False).eval()
        self.optimizer = make_optimizer(self.online, config)

    def _others(self) -> nn.ModuleDict:
        config, width = self.config, self.encoder_config.width
        predictor = Predictor(self.encoder_config, config)
        return nn.ModuleDict({"predictor": predictor, "read_out": nn.Linear(width, config.appearance_width)})

    def losses(self, batch: PretrainBatch) -> tuple[dict[str, Tensor], Tensor]:
        """Loss terms by name, and the target's tokens of the deepest level (B, N, D)."""
        levels, visible = self.config.levels, batch.visible_RK
        rows_R = torch.arange(visible.shape[0], device=visible.device) // (
            visible.shape[0] // batch.volume_BCZYX.shape[0]
        )
        voxels_BNV = self.encoder.patches(batch.volume_BCZYX)
        with torch.no_grad():
            target = self.target.encode_patches(voxels_BNV, layers=levels).hidden
            places_RT = torch.cat([visible, batch.asked_RQ], dim=1)
            wanted_RTD = stack_levels(target, levels)[rows_R[:, None], places_RT]
        seen_RKV = voxels_BNV[rows_R[:, None], visible]
        encoded = self.encoder.encode_patches(seen_RKV, layers=levels, keep_BK=visible)
        context_RKD = stack_levels(encoded.hidden, levels)
        predicted_RTD = self.online["predictor"](context_RKD, visible, batch.asked_RQ)
        error_RT = F.smooth_l1_loss(predicted_RTD, wanted_RTD, reduction="none").mean(dim=-1)
        terms = {
            "latent": (error_RT * batch.weight_RT).mean() / batch.weight_mean,
            "latent_hidden": error_RT[:, visible.shape[1] :].mean().detach(),
        }
        if self.config.appearance_weight > 0:
            code_RKT = self.appearance(seen_RKV, visible)
            terms["appearance"] = F.smooth_l1_loss(self.online["read_out"](encoded.patch_tokens_BND), code_RKT)
        return terms, target[max(levels)]

    def take(self, volumes: Volumes, *, seed: int, step: int) -> tuple[dict[str, float], Tensor]:
        """The step `step` on the batch that belongs to it."""
        part = self.ranks.part(self.config.batch_size)
        batch = draw_batch(volumes, self.encoder_config, self.config, seed=seed, step=step, part=part)
        return self.step(batch.to(self.device), step)

    def step(self, batch: PretrainBatch, step: int) -> tuple[dict[str, float], Tensor]:
        """One optimiser step and one step of the target's average; the loss terms, and the target's deepest tokens."""
        terms, target_tokens = self.losses(batch)
        total = terms["latent"]
        if "appearance" in terms:
            total = total + self.config.appearance_weight * terms["appearance"]
        optimise(self, total, self.config, step=step)
        update_target(self.target, self.encoder, momentum_at(self.config, step))
        numbers = {"loss": float(total.detach()), **{name: float(term.detach()) for name, term in terms.items()}}
        return self.ranks.mean(numbers), target_tokens

    def tensors(self) -> dict[str, Tensor]:
        """Weights of both encoders, predictor and read-out, and the optimiser's moments: all that a step depends on."""
        return state_of({"online": self.online, "target": self.target}, self.optimizer)

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Take what `tensors` gave. Raises FingerprintError when it belongs to another architecture."""
        restore_state(tensors, {"online": self.online, "target": self.target}, self.optimizer)


def draw_batch(
    volumes: Volumes, encoder: EncoderConfig, config: PretrainConfig, *, seed: int, step: int, part: slice | None = None
) -> PretrainBatch:
    """Batch of one step, a function of (seed, step) alone: which volumes, how shifted, which masks.

    Of a `part` alone the volumes are read, but the masks of all are drawn, for their weights.
    """
    volume_list, visible, asked, weights = [], [], [], []
    wanted = range(config.batch_size)[part or slice(None)]
    for place_in_batch in range(config.batch_size):
        position = step * config.batch_size + place_in_batch
        index = volume_at(position, len(volumes), seed=seed, purpose="teacher order")
        rng = generator(seed, "teacher volume", position)
        dz, dy, dx = (int(shift) for shift in rng.integers(-config.shift_voxels, config.shift_voxels + 1, size=3))
        dz *= encoder.volume_zyx[0] > 1  # a film has no depth to move along
        if place_in_batch in wanted:
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
    per_volume = config.masks.per_volume
    own = slice(wanted.start * per_volume, wanted.stop * per_volume)
    return PretrainBatch(
        volume_BCZYX=torch.from_numpy(np.stack(volume_list)),
        visible_RK=torch.from_numpy(np.stack(visible[own])),
        asked_RQ=torch.from_numpy(np.stack(asked[own])),
        weight_RT=torch.from_numpy(np.stack(weights[own])),
        weight_mean=float(np.mean(weights)),
    )


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
    start: VisionTransformer3D | None = None,
    ranks: SharedStep = ALONE,
    device: torch.device | None = None,
) -> Pretrained:
    """Pretrain by masked latent prediction, from fresh weights or from `start`; see `run_steps`."""
    first_BCZYX = first_volumes(volumes, config.appearance_volumes)
    trainer = Pretrainer(
        encoder_config, config, seed=seed, first_BCZYX=first_BCZYX, start=start, ranks=ranks, device=device
    )
    return run_steps(
        trainer, volumes, config, seed=seed, key=key, state_dir=state_dir, after_step=after_step, limit=limit
    )

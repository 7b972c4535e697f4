"""In-domain pretraining by self-distillation with Gram anchoring, for films (and for any grid: a film is a volume of one slice).

A student sees large crops, some with masked patches, and small ones; a teacher, its slow average, sees the large ones alone. Heads turn the mean
token and every patch token into a choice among prototypes, and the student has to choose as the teacher does:

    L = DINO(mean tokens, every crop against every other large one) + w_p · iBOT(masked patches) + w_s · KoLeo + w_g · Gram

The teacher's choices are balanced by Sinkhorn-Knopp, so that no prototype takes all. Dense tokens wear out in long runs; from `gram_start`
on, the similarities between a crop's patches are held to those of the teacher of that moment (DINOv3, sections 3.2 and 4).

A small crop is a box of patches of a further large crop, at their true places. Sides are never mirrored.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from glint.core.config.teacher import DistillConfig
from glint.core.seeds import generator
from glint.core.stopping import TimeLimit
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
from glint.teachers.vjepa import EncoderConfig, VisionTransformer3D, select_tokens

FITTED_VOLUMES = 48


@dataclass(frozen=True, kw_only=True)
class CropBatch:
    """Crops of B images: G large ones (G · B, C, Z, Y, X), crop by crop, their masked patches (G · B, N), and L small ones.

    A small crop is `local_BCZYX` (L · B, …) of which the student gets the patches `local_keep_BK` alone.
    """

    global_BCZYX: Tensor
    masked_BN: Tensor
    local_BCZYX: Tensor
    local_keep_BK: Tensor

    def to(self, device: torch.device) -> CropBatch:
        """The same batch on `device`."""
        return CropBatch(**{name: value.to(device) for name, value in vars(self).items()})


def random_crop(volume_CZYX: Tensor, rng: np.random.Generator, scale: tuple[float, float]) -> Tensor:
    """A box with a drawn share of the area, one for all slices, resized to the whole (linear, no mirroring)."""
    edge = float(np.sqrt(rng.uniform(*scale)))
    theta = torch.zeros(1, 3, 4)
    aspect = float(np.exp(rng.uniform(-0.15, 0.15)))
    edges = [1.0, min(1.0, edge * aspect), min(1.0, edge / aspect)]  # z, y, x; films and scans keep their slices
    for row, (axis_edge, column) in enumerate(zip(reversed(edges), range(3), strict=True)):  # x first
        theta[0, row, column] = axis_edge
        theta[0, row, 3] = float(rng.uniform(-1, 1)) * (1 - axis_edge)
    places = F.affine_grid(theta, [1, *volume_CZYX.shape], align_corners=False)
    return F.grid_sample(volume_CZYX[None], places, mode="bilinear", padding_mode="border", align_corners=False)[0]


def draw_crops(
    volumes: Volumes, encoder: EncoderConfig, config: DistillConfig, *, seed: int, step: int, part: slice
) -> CropBatch:
    """Crops of one step, a function of (seed, step) alone."""
    large: list[list[Tensor]] = [[] for _ in range(config.global_crops)]
    masks: list[list[Tensor]] = [[] for _ in range(config.global_crops)]
    small: list[list[Tensor]] = [[] for _ in range(config.local_crops)]
    kept: list[list[Tensor]] = [[] for _ in range(config.local_crops)]
    for position in range(step * config.batch_size, (step + 1) * config.batch_size)[part]:
        index = volume_at(position, len(volumes), seed=seed, purpose="distill order")
        rng = generator(seed, "distill crops", position)
        volume = torch.from_numpy(volumes.window(index))
        for number in range(config.global_crops + config.local_crops):
            crop = random_crop(volume, rng, config.global_scale)
            gain, offset = 1 + config.gain * rng.uniform(-1, 1), config.offset * rng.uniform(-1, 1)
            crop = ((crop - 0.5) * gain + 0.5 + offset).clamp(0, 1).float()
            if number < config.global_crops:
                large[number].append(crop)
                masks[number].append(_patch_mask(rng, encoder, config, masked=(number + position) % 2 == 0))
            else:
                small[number - config.global_crops].append(crop)
                kept[number - config.global_crops].append(_box(rng, encoder, config))
    stacked = [torch.stack([one for crop in crops for one in crop]) if crops else None for crops in (small, kept)]
    return CropBatch(
        global_BCZYX=torch.stack([one for crop in large for one in crop]),
        masked_BN=torch.stack([one for crop in masks for one in crop]),
        local_BCZYX=torch.empty(0) if stacked[0] is None else stacked[0],
        local_keep_BK=torch.empty(0, dtype=torch.long) if stacked[1] is None else stacked[1],
    )


def masked_count(encoder: EncoderConfig, config: DistillConfig) -> int:
    """Masked patches of a crop that has some."""
    return max(1, round(config.masked_share * encoder.tokens)) if config.masked_share else 0


def _patch_mask(rng: np.random.Generator, encoder: EncoderConfig, config: DistillConfig, *, masked: bool) -> Tensor:
    mask = torch.zeros(encoder.tokens, dtype=torch.bool)
    drawn = torch.from_numpy(rng.permutation(encoder.tokens)[: masked_count(encoder, config)])
    mask[drawn] = masked  # every second crop, so that processes which share a step have as many
    return mask


def _box(rng: np.random.Generator, encoder: EncoderConfig, config: DistillConfig) -> Tensor:
    spans = []
    for size in encoder.grid:
        edge = max(1, round(size * config.local_share))
        start = int(rng.integers(0, size - edge + 1))
        spans.append(torch.arange(start, start + edge))
    z, y, x = torch.meshgrid(*spans, indexing="ij")
    _, gy, gx = encoder.grid
    return ((z * gy + y) * gx + x).flatten()


class Head(nn.Module):
    """Token (…, D) → logits over prototypes (…, K): a small network, a unit vector, cosines to unit prototypes."""

    def __init__(self, width: int, config: DistillConfig) -> None:
        super().__init__()
        hidden = config.head_hidden
        self.layers = nn.Sequential(
            nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, hidden), nn.GELU(), nn.Linear(hidden, config.head_bottleneck)
        )  # fmt: skip
        self.prototypes = nn.Parameter(F.normalize(torch.randn(config.prototypes, config.head_bottleneck), dim=-1))

    def forward(self, tokens: Tensor) -> Tensor:
        """Cosines in [-1, 1]."""
        return F.normalize(self.layers(tokens), dim=-1) @ F.normalize(self.prototypes, dim=-1).T


@torch.no_grad()
def sinkhorn(logits_NK: Tensor, temperature: float, rounds: int) -> Tensor:
    """(N, K) shares: every row sums to 1, and over the batches of all processes every prototype is chosen as often."""
    scores = torch.exp((logits_NK.double() - 1) / temperature)  # cosines: at most 1, so that nothing overflows
    shared = dist.is_initialized()
    count = torch.tensor(float(len(scores)), dtype=torch.float64, device=scores.device)
    if shared:
        dist.all_reduce(count)
    for _ in range(rounds):
        column = scores.sum(dim=0)
        if shared:
            dist.all_reduce(column)
        scores = scores / column.clamp_min(1e-30) * (count / scores.shape[1])
        scores = scores / scores.sum(dim=1, keepdim=True).clamp_min(1e-30)
    return scores.float()


def cross_entropy(target_NK: Tensor, logits_NK: Tensor, temperature: float) -> Tensor:
    """(N,) of the student's softmax against the teacher's shares."""
    return -(target_NK * F.log_softmax(logits_NK / temperature, dim=-1)).sum(dim=-1)


def spread_loss(pooled_BD: Tensor) -> Tensor:
    """KoLeo: minus the mean log distance of each image to its nearest other one, on the unit sphere; 0 for a single image."""
    if len(pooled_BD) < 2:
        return pooled_BD.sum() * 0
    unit = F.normalize(pooled_BD, dim=-1)
    cosine = (unit @ unit.T).fill_diagonal_(-1)
    nearest = unit[cosine.argmax(dim=1)]
    return -torch.log((unit - nearest).norm(dim=-1) + 1e-4).mean()


def gram_loss(tokens_BND: Tensor, anchor_BND: Tensor) -> Tensor:
    """Mean squared difference of the cosines between a crop's patches."""
    ours, theirs = F.normalize(tokens_BND, dim=-1), F.normalize(anchor_BND, dim=-1)
    return (ours @ ours.mT - theirs @ theirs.mT).square().mean()


class Distiller:
    """Student, teacher, heads and optimiser; a `Trainer`."""

    def __init__(
        self,
        encoder_config: EncoderConfig,
        config: DistillConfig,
        *,
        seed: int,
        first_BCZYX: Tensor,
        start: VisionTransformer3D | None = None,
        ranks: SharedStep = ALONE,
        device: torch.device | None = None,
    ) -> None:
        """As `Pretrainer`."""
        self.encoder_config, self.config, self.ranks = encoder_config, config, ranks
        self.device = device or torch.device("cpu")
        self.encoder, heads = first_encoder(
            encoder_config,
            lambda: nn.ModuleDict({kind: Head(encoder_config.width, config) for kind in ("image", "patch")}),
            seed=seed,
            first_BCZYX=first_BCZYX,
            draws=appearance_draws(seed),
            start=start,
        )
        voxels = self.encoder.patches(first_BCZYX[:1])
        blank = nn.ParameterDict({"voxels": nn.Parameter(voxels.mean(dim=(0, 1)))})  # what a masked patch looks like
        self.online = nn.ModuleDict({"encoder": self.encoder, "heads": heads, "blank": blank}).to(self.device)
        self.target = copy.deepcopy(self.encoder).requires_grad_(False).eval()
        self.target_heads = copy.deepcopy(heads).requires_grad_(False)
        self.anchor = copy.deepcopy(self.target)
        self.optimizer = make_optimizer(self.online, config)

    @property
    def anchored_from(self) -> int:
        """The step at which the Gram anchor is taken."""
        return round(self.config.gram_start * self.config.steps)

    def losses(self, batch: CropBatch, step: int) -> tuple[dict[str, Tensor], Tensor]:
        """Loss terms by name, and the teacher's tokens (G · B, N, D)."""
        config, heads = self.config, self.online["heads"]
        voxels_BNV = self.encoder.patches(batch.global_BCZYX)
        with torch.no_grad():
            wanted_BND = self.target.encode_patches(voxels_BNV).patch_tokens_BND
            images = self.target_heads["image"](wanted_BND.mean(dim=1))
            wanted_BK = sinkhorn(images, config.teacher_temperature, config.sinkhorn_rounds)
        blank_V = self.online["blank"]["voxels"]  # type: ignore[index]
        seen_BNV = torch.where(batch.masked_BN[..., None], blank_V, voxels_BNV)
        seen_BND = self.encoder.encode_patches(seen_BNV).patch_tokens_BND
        crops = [heads["image"](seen_BND.mean(dim=1)).chunk(config.global_crops)]  # type: ignore[index]
        if config.local_crops:
            local = select_tokens(self.encoder.patches(batch.local_BCZYX), batch.local_keep_BK)
            small = self.encoder.encode_patches(local, keep_BK=batch.local_keep_BK).patch_tokens_BND
            crops.append(heads["image"](small.mean(dim=1)).chunk(config.local_crops))  # type: ignore[index]
        pairs = [
            cross_entropy(target, student, config.student_temperature).mean()
            for number, target in enumerate(wanted_BK.chunk(config.global_crops))
            for other, student in enumerate([one for group in crops for one in group])
            if other != number
        ]
        terms = {"image": torch.stack(pairs).mean()}
        # Every process must reach Sinkhorn's sums, masked patches or none.
        with torch.no_grad():
            masked = self.target_heads["patch"](wanted_BND[batch.masked_BN])
            wanted_MK = sinkhorn(masked, config.teacher_temperature, config.sinkhorn_rounds)
        found_MK = heads["patch"](seen_BND[batch.masked_BN])  # type: ignore[index]
        patch = cross_entropy(wanted_MK, found_MK, config.student_temperature)
        terms["patch"] = patch.sum() / max(1.0, len(batch.masked_BN) / 2 * masked_count(self.encoder_config, config))
        terms["spread"] = torch.stack(
            [spread_loss(one.mean(dim=1)) for one in seen_BND.chunk(config.global_crops)]
        ).mean()
        if config.gram_weight > 0 and step >= self.anchored_from:
            with torch.no_grad():
                anchor_BND = self.anchor.encode_patches(voxels_BNV).patch_tokens_BND
            terms["gram"] = gram_loss(seen_BND, anchor_BND)
        return terms, wanted_BND

    def take(self, volumes: Volumes, *, seed: int, step: int) -> tuple[dict[str, float], Tensor]:
        """One step of the optimiser and of the teacher's average."""
        config = self.config
        if step == self.anchored_from:
            self.anchor.load_state_dict(self.target.state_dict())
        part = self.ranks.part(config.batch_size)
        batch = draw_crops(volumes, self.encoder_config, config, seed=seed, step=step, part=part).to(self.device)
        terms, tokens = self.losses(batch, step)
        weights = {
            "image": 1.0,
            "patch": config.patch_weight,
            "spread": config.spread_weight,
            "gram": config.gram_weight,
        }
        total = torch.stack([weights[name] * term for name, term in terms.items()]).sum()
        optimise(self, total, config, step=step)
        momentum = momentum_at(config, step)
        update_target(self.target, self.encoder, momentum)
        update_target(self.target_heads, self.online["heads"], momentum)
        numbers = {
            "loss": float(total.detach()),
            "gram": 0.0,
            **{name: float(one.detach()) for name, one in terms.items()},
        }
        return self.ranks.mean(numbers), tokens

    def _parts(self) -> dict[str, nn.Module]:
        return {"online": self.online, "target": self.target, "target_heads": self.target_heads, "anchor": self.anchor}

    def tensors(self) -> dict[str, Tensor]:
        """Weights of student, teacher, heads and anchor, and the optimiser's moments."""
        return state_of(self._parts(), self.optimizer)

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Take what `tensors` gave. Raises FingerprintError when it belongs to another architecture."""
        restore_state(tensors, self._parts(), self.optimizer)


def distill(
    volumes: Volumes,
    encoder_config: EncoderConfig,
    config: DistillConfig,
    *,
    seed: int,
    key: str,
    state_dir: Path | None = None,
    limit: TimeLimit | None = None,
    start: VisionTransformer3D | None = None,
    ranks: SharedStep = ALONE,
    device: torch.device | None = None,
) -> Pretrained:
    """Pretrain by self-distillation, from fresh weights or from `start`; see `run_steps`."""
    first_BCZYX = first_volumes(volumes, FITTED_VOLUMES)
    trainer = Distiller(
        encoder_config, config, seed=seed, first_BCZYX=first_BCZYX, start=start, ranks=ranks, device=device
    )
    return run_steps(trainer, volumes, config, seed=seed, key=key, state_dir=state_dir, limit=limit)

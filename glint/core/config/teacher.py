"""Configuration of stage 07, the frozen teacher: where its weights come from, or how they are pretrained."""

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from glint.core.config.base import StageConfig
from glint.core.config.families import FAMILIES
from glint.core.config.grids import WINDOWS_HU

Window = tuple[float, float]


class EncoderShape(StageConfig):
    """The encoder that is pretrained here. The grid it is built for is that of stage 04."""

    patch: tuple[int, int, int] = Field(default=(8, 8, 8), description="voxels (z, y, x) of a patch; divides the grid")
    width: int = Field(default=128, ge=6, description="token width; memory and time grow with it")
    depth: int = Field(default=4, ge=1, description="transformer blocks")
    heads: int = Field(default=2, ge=1, description="attention heads; width / heads = 64 is fastest")
    positions: Literal["rope", "sincos", "both"] = Field(
        default="both", description="rotary, absolute or both: a tiny encoder must be told where in the chest it is"
    )
    stem: tuple[int, ...] = Field(
        default=(), description="channels after each halving inside a patch; empty: one linear map of its voxels"
    )
    position_base: float = Field(
        default=100.0, gt=1, description="longest wavelength / 2 pi in patches; 10000 for grids of many patches"
    )


class MaskConfig(StageConfig):
    """What the context encoder doesn't see."""

    masked_fraction: float = Field(
        default=0.8, gt=0, lt=1, description="share of patches hidden; V-JEPA hides 75 to 90 %"
    )
    block_min: float = Field(default=0.2, gt=0, le=1, description="shortest edge of a hidden box / edge of the grid")
    block_max: float = Field(default=0.6, gt=0, le=1, description="longest edge of a hidden box / edge of the grid")
    per_volume: int = Field(
        default=1, ge=1, description="masks per volume and step; they share one pass of the target encoder"
    )

    @model_validator(mode="after")
    def _ordered(self) -> "MaskConfig":
        if self.block_min > self.block_max:
            raise ValueError(f"block_min {self.block_min} is above block_max {self.block_max}")
        return self


class Schedule(StageConfig):
    """What every recipe of self-supervision has."""

    steps: int = Field(default=100, ge=1, description="optimiser steps: the budget is steps, never seconds")
    batch_size: int = Field(default=8, ge=1, description="volumes per step")
    momentum_start: float = Field(
        default=0.998,
        ge=0,
        le=1,
        description="first momentum of the target encoder's average; at 0.98 forty steps halved the rank of its tokens",
    )
    momentum_end: float = Field(
        default=0.9999,
        ge=0,
        le=1,
        description="last momentum, reached linearly: the target of the last step is the teacher",
    )
    learning_rate: float = Field(default=5e-4, gt=0, description="peak rate of AdamW")
    learning_rate_end: float = Field(
        default=0.01, ge=0, le=1, description="share of the peak left at the last step (cosine)"
    )
    warmup_steps: int = Field(default=20, ge=0, description="steps of linear warm-up")
    weight_decay: float = Field(default=0.04, ge=0, description="on matrices only")
    clip_norm: float = Field(default=1.0, gt=0, description="largest norm of the gradient")
    shift_voxels: int = Field(
        default=4, ge=0, description="largest random shift per axis in voxels: moves lesions across patch borders"
    )
    checkpoint_every: int = Field(default=50, ge=1, description="steps between saves of the resumable state")
    monitor_every: int = Field(
        default=20, ge=1, description="steps between rows of curves.csv with the collapse monitors"
    )


class PretrainConfig(Schedule):
    """Masked latent prediction on the training split's own volumes."""

    masks: MaskConfig = Field(default=MaskConfig(), description="multi-block masks")
    levels: tuple[int, ...] = Field(
        default=(0, 1, 2, 3),
        description="blocks (0 is the first) whose outputs are predicted; shallow ones keep local detail",
    )
    visible_weight: float = Field(
        default=0.5,
        ge=0,
        description="weight of visible tokens next to a hidden one; falls with distance; 0: hidden only",
    )
    appearance_weight: float = Field(
        default=1.0, ge=0, description="weight of telling what a visible patch looks like; 0: latent prediction alone"
    )
    appearance_units: int = Field(default=256, ge=1, description="units of the fixed random network behind that target")
    appearance_width: int = Field(default=128, ge=1, description="whitened components of it that are asked for")
    appearance_volumes: int = Field(
        default=48, ge=1, description="training volumes that its moments and the first patch embedding are fitted to"
    )
    predicted_tokens: int = Field(
        default=128,
        ge=1,
        description="hidden tokens that are predicted per mask, drawn anew each time; fewer is faster",
    )
    predictor_width: int = Field(default=64, ge=6, description="token width of the predictor")
    predictor_depth: int = Field(default=2, ge=1, description="blocks of the predictor")
    predictor_heads: int = Field(default=1, ge=1, description="heads of the predictor")


class DistillConfig(Schedule):
    """Self-distillation with Gram anchoring, for films: crops of one image must be told alike, patches too."""

    momentum_start: float = Field(default=0.994, ge=0, le=1, description="first momentum of the teacher's average")
    momentum_end: float = Field(default=1.0, ge=0, le=1, description="last momentum, reached linearly")
    global_crops: int = Field(default=2, ge=2, description="large crops per image; the teacher sees these alone")
    local_crops: int = Field(default=4, ge=0, description="small crops per image, seen by the student alone")
    global_scale: tuple[float, float] = Field(
        default=(0.5, 1.0), description="share of the image's area in a large crop"
    )
    local_share: float = Field(
        default=0.4,
        gt=0,
        le=1,
        description="edge of a small crop / edge of the grid; a box of patches at their true places",
    )
    masked_share: float = Field(
        default=0.3, ge=0, lt=1, description="share of a large crop's patches that are masked in half of them (iBOT)"
    )
    prototypes: int = Field(default=256, ge=2, description="outputs of the heads that student and teacher agree on")
    head_hidden: int = Field(default=256, ge=1, description="width of the heads' hidden layers")
    head_bottleneck: int = Field(default=64, ge=1, description="width before the prototypes")
    student_temperature: float = Field(default=0.1, gt=0, description="of the student's softmax")
    teacher_temperature: float = Field(default=0.06, gt=0, description="of the teacher's, before Sinkhorn's balancing")
    sinkhorn_rounds: int = Field(
        default=3, ge=1, description="balancings of the teacher's assignments; keep all prototypes in use"
    )
    patch_weight: float = Field(
        default=0.5, ge=0, description="weight of the masked patches' loss (iBOT) to that of images (DINO)"
    )
    spread_weight: float = Field(default=0.1, ge=0, description="weight of keeping images apart (KoLeo)")
    gram_weight: float = Field(default=1.0, ge=0, description="weight of Gram anchoring; 0: none")
    gram_start: float = Field(
        default=0.5,
        ge=0,
        le=1,
        description="share of the steps after which patch similarities are held to those of that moment's teacher",
    )
    gain: float = Field(default=0.2, ge=0, lt=1, description="largest relative change of a crop's contrast")
    offset: float = Field(default=0.1, ge=0, lt=1, description="largest shift of a crop's brightness, in window widths")


class TeacherConfig(StageConfig):
    """Stage 07."""

    source: Literal["pretrain", "path", "hub"] = Field(
        default="pretrain",
        description="pretrain here; path: a folder or file of weights; hub: a transformers model id, from the local cache",
    )
    recipe: Literal["masked_latent", "self_distillation"] = Field(
        default="masked_latent",
        description="of pretraining: masked latent prediction (pretrain), or self-distillation with Gram anchoring for films (distill)",
    )
    device: Literal["auto", "cpu"] = Field(
        default="auto", description="of pretraining; auto: the GPU of each process where there is one"
    )
    features: Literal["cached", "online"] = Field(
        default="cached",
        description="where training gets the tokens: cached by stage 08 and mapped; or online, the frozen teacher runs in every step and "
        "stage 08 is not needed (flips, random shifts without interpolation, cohorts whose cache would not fit)",
    )
    name: str = Field(
        default="vjepa_small", description=f"family: {', '.join(FAMILIES)}; `glint teachers list` tells more"
    )
    location: str | None = Field(
        default=None,
        description="path: folder, .safetensors or torch checkpoint; hub: model id, such as facebook/…; pretrain: weights to go on from, null from scratch",
    )
    revision: str | None = Field(
        default=None, description="hub: commit of the model; null takes what is in the local cache"
    )
    sha256: str | None = Field(
        default=None,
        pattern=r"^[0-9a-f]{64}$",
        description="SHA-256 of the weights file, refused if different; null: recorded only",
    )
    windows: tuple[Window, ...] = Field(
        default=(
            (-1024.0, -930.0),
            (-930.0, -800.0),
            (-800.0, -500.0),
            (-500.0, -100.0),
            (-100.0, 20.0),
            (20.0, 100.0),
            (100.0, 400.0),
        ),
        description="HU (low, high) of each input channel: emphysema or air, lung, haze, fat, fluid, soft tissue, bone; the mean of a "
        "narrow clipped band is one step of a patch's histogram, which three wide windows blur; or names: lung, mediastinum, full",
    )
    threads: int = Field(
        default=2,
        ge=1,
        description="processor threads of pretraining; the same number gives the same weights, bit for bit",
    )
    seed: int = Field(default=0, ge=0, description="seed of initial weights, masks, shifts and order of volumes")
    encoder: EncoderShape = Field(default=EncoderShape(), description="shape of the pretrained encoder")
    pretrain: PretrainConfig = Field(default=PretrainConfig(), description="objective, schedule, budget")
    distill: DistillConfig = Field(default=DistillConfig(), description="the same of self-distillation")

    @field_validator("windows", mode="before")
    @classmethod
    def _named(cls, windows: Any) -> Any:
        if not isinstance(windows, list | tuple):
            return windows
        if unknown := [name for name in windows if isinstance(name, str) and name not in WINDOWS_HU]:
            raise ValueError(f"no window {unknown[0]!r}; known are {', '.join(WINDOWS_HU)}, or give [low, high] in HU")
        return tuple(WINDOWS_HU[one] if isinstance(one, str) else tuple(one) for one in windows)

    @model_validator(mode="after")
    def _consistent(self) -> "TeacherConfig":
        if self.source != "pretrain" and self.location is None:
            raise ValueError(f"source {self.source!r} needs location")
        if self.name not in FAMILIES:
            raise ValueError(f"no family {self.name!r}; known are {', '.join(FAMILIES)}")
        family = FAMILIES[self.name]
        if self.source not in family.sources:
            raise ValueError(f"source {self.source!r}: {self.name} comes from {' or '.join(family.sources)}")
        if not self.windows or any(low >= high for low, high in self.windows):
            raise ValueError("windows: every window is (low, high) with low < high, and there is at least one")
        if self.source != "pretrain":
            if family.channels is not None and len(self.windows) not in (1, family.channels):
                raise ValueError(
                    f"{len(self.windows)} windows: {self.name} takes {family.channels} channels (or 1, repeated)"
                )
            return self
        if unknown := [level for level in self.pretrain.levels if not 0 <= level < self.encoder.depth]:
            raise ValueError(f"pretrain.levels {unknown} are not among blocks 0 to {self.encoder.depth - 1}")
        return self


class FilmTeacherConfig(TeacherConfig):
    """Stage 07 for films, which are volumes of one slice."""

    windows: tuple[Window, ...] = Field(
        default=(
            (0.0, 65535.0),
            (0.0, 13107.0),
            (13107.0, 26214.0),
            (26214.0, 39321.0),
            (39321.0, 52428.0),
            (52428.0, 65535.0),
        ),
        description="16-bit grey (low, high) of each input channel: the film as it is, and five bands, whose means are a patch's "
        "histogram; a published encoder takes the first alone",
    )
    encoder: EncoderShape = Field(
        default=EncoderShape(patch=(1, 14, 14)), description="shape of the pretrained encoder; a patch has one slice"
    )

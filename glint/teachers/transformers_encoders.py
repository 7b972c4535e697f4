"""Encoders whose layers are those of `transformers`: DINOv3, DINOv2 and V-JEPA 2.

A published model is taken apart: its embedding, its blocks and its last norm run in our own loop, so that block l is the l-th block's
output before the last norm (in `hidden_states` of `transformers` it would be entry l + 1), only the asked ones are kept in
memory, and CLS and register tokens are dropped in one place. Traps of the published configurations are closed here: DINOv3 scales
its positions at random whenever it trains (`pos_embed_rescale` is 2.0), V-JEPA 2 derives positions from `crop_size`, not
from its input, and any dropout would part a student from its teacher.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from glint.core.config.families import IMAGENET_DEVIATION, IMAGENET_MEAN
from glint.core.errors import InputError
from glint.teachers.attention import transformers_attention
from glint.teachers.encoder import Encoder, Size, Standardisation, Triple
from glint.teachers.vjepa import grid_coordinates

NOT_ARCHITECTURE = frozenset(
    {"_name_or_path", "architectures", "transformers_version", "dtype", "id2label", "label2id"}
)

EAGER = "glint_eager"


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """No progress bar and no table of keys: what is missing is raised instead."""
    from transformers.utils import logging

    level = logging.get_verbosity()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        logging.enable_progress_bar()


class TransformersEncoder(Encoder):
    """What the three families share."""

    model_type: ClassVar[str]
    settled: ClassVar[Mapping[str, Any]]
    """Values that make the computation the same in train and eval mode."""

    def __init__(
        self, model: Any, volume_zyx: Size, *, mean: Triple = IMAGENET_MEAN, deviation: Triple = IMAGENET_DEVIATION
    ) -> None:
        super().__init__()
        self.config: Any = model.config
        self.rotary = None
        taken = getattr(self.config, "in_chans", None) or self.config.num_channels
        if taken != 3:
            raise InputError(f"{self.family}: the weights take {taken} channels, not 3")
        self.volume_zyx, self.channels = volume_zyx, 3
        self.width, self.heads = self.config.hidden_size, self.config.num_attention_heads
        self.patch_zyx = self.patch_of(volume_zyx)
        if any(size % edge for size, edge in zip(volume_zyx, self.patch_zyx, strict=True)):
            raise InputError(
                f"{self.family}: the volumes are {volume_zyx} (z, y, x), no multiple of its patch {self.patch_zyx}: "
                "set resample's grid to one"
            )
        self.standardise = Standardisation(mean, deviation)
        self.take_apart(model)

    @classmethod
    def fitted(cls, settings: Mapping[str, Any], volume_zyx: Size) -> dict[str, Any]:
        """Published settings for volumes of this shape, without anything random."""
        return {**{key: value for key, value in settings.items() if key not in NOT_ARCHITECTURE}, **cls.settled}

    @classmethod
    def classes(cls) -> tuple[Any, Any]:
        """Configuration and model of `transformers`, imported here because that takes seconds."""
        raise NotImplementedError

    @classmethod
    def fresh(cls, settings: Mapping[str, Any], volume_zyx: Size, **statistics: Triple) -> Self:
        """The encoder of a published configuration with fresh weights."""
        config, model = cls.classes()
        return cls(model(config(**cls.fitted(settings, volume_zyx))), volume_zyx, **statistics)

    @classmethod
    def filled(
        cls, settings: Mapping[str, Any], state: Mapping[str, Tensor], volume_zyx: Size, **statistics: Triple
    ) -> Self:
        """The encoder with published tensors; `transformers` maps older names of them itself.

        Raises:
            InputError: a configuration of another model, or a weight is missing (which `transformers` would fill at random) or of
                another shape.
        """
        if settings.get("model_type") != cls.model_type:
            raise InputError(
                f"config.json is of a {settings.get('model_type')!r}, {cls.family} needs {cls.model_type!r}"
            )
        config, model = cls.classes()
        fitted = config(**cls.fitted(settings, volume_zyx))
        with quiet_transformers():
            try:
                loaded, told = model.from_pretrained(
                    None, config=fitted, state_dict=dict(state), output_loading_info=True, dtype=torch.float32
                )
            except RuntimeError as error:
                raise InputError(f"weights don't fit config.json: {' '.join(str(error).split())[:200]}") from error
        # What the encoder doesn't use may lack: the mask token of pretraining, V-JEPA 2's predictor.
        if missing := sorted(
            n for n in told["missing_keys"] if "mask_token" not in n and not n.startswith("predictor")
        ):
            raise InputError(f"{len(missing)} weights of {cls.model_type} are missing, first {missing[0]}")
        return cls(loaded, volume_zyx, **statistics)

    def patch_of(self, volume_zyx: Size) -> Size:
        """Voxels of one patch."""
        return 1, self.config.patch_size, self.config.patch_size

    def take_apart(self, model: Any) -> None:
        """Set `blocks`, `norm` and what comes before the blocks."""
        raise NotImplementedError

    @property
    def architecture(self) -> dict[str, Any]:
        """The model's configuration, the shape of volumes and the statistics of its input."""
        told = json.loads(self.config.to_json_string(use_diff=False))
        return {
            "transformers": {key: value for key, value in told.items() if key not in NOT_ARCHITECTURE},
            "volume_zyx": list(self.volume_zyx),
            "mean": list(self.standardise.mean),
            "deviation": list(self.standardise.deviation),
        }

    @classmethod
    def from_architecture(cls, architecture: Mapping[str, Any]) -> Self:
        """An encoder with fresh weights."""
        z, y, x = architecture["volume_zyx"]
        mean, deviation = tuple(architecture["mean"]), tuple(architecture["deviation"])
        return cls.fresh(architecture["transformers"], (z, y, x), mean=mean, deviation=deviation)

    def apply_block(self, block: nn.Module, tokens: Tensor, places: Any) -> Tensor:
        """One layer; some versions of `transformers` return a tuple."""
        output = block(tokens, **places)
        outcome: Tensor = output[0] if isinstance(output, tuple) else output
        return outcome

    def attention_kernel(self, kind: str) -> None:
        """`sdpa` or `eager`, the latter ours: those of `transformers` hold all scores at once, V-JEPA 2's in float32."""
        from transformers import AttentionInterface

        AttentionInterface.register(EAGER, transformers_attention)
        self.config._attn_implementation = EAGER if kind == "eager" else kind


class SliceEncoder(TransformersEncoder):
    """A 2-D transformer over the slices of a volume."""

    prefix: int
    """Tokens before the first patch: CLS and registers."""

    def slices(self, volume_BCZYX: Tensor) -> Tensor:
        """(B, 3, Z, Y, X) → standardised (B · Z, 3, Y, X)."""
        return self.standardise(volume_BCZYX).transpose(1, 2).flatten(0, 1)  # type: ignore[no-any-return]

    def patches_of(self, tokens: Tensor) -> Tensor:
        """(B · Z, prefix + P, D) → (B, Z · P, D): no CLS token, no register."""
        patches = tokens[:, self.prefix :]
        return patches.reshape(-1, self.volume_zyx[0] * patches.shape[1], patches.shape[2])


class DinoV3(SliceEncoder):
    """DINOv3ViTModel. Rotary positions are relative to the frame, so any size of image fits."""

    family = "dinov3"
    model_type = "dinov3_vit"
    settled = {  # noqa: RUF012 (read only)
        "pos_embed_rescale": None,
        "pos_embed_shift": None,
        "pos_embed_jitter": None,
        "attention_dropout": 0.0,
        "drop_path_rate": 0.0,
    }

    @classmethod
    def classes(cls) -> tuple[Any, Any]:
        """DINOv3ViTConfig, DINOv3ViTModel."""
        from transformers import DINOv3ViTConfig, DINOv3ViTModel

        return DINOv3ViTConfig, DINOv3ViTModel

    def take_apart(self, model: Any) -> None:
        """Embedding with CLS and registers, rotary positions, layers, norm."""
        self.embeddings, self.positions, self.norm = model.embeddings, model.rope_embeddings, model.norm
        self.embeddings.mask_token = None  # of its pretraining only
        self.blocks = getattr(model, "model", model).layer
        self.prefix = 1 + self.config.num_register_tokens

    def embed(self, volume_BCZYX: Tensor) -> tuple[Tensor, Any]:
        """Tokens of every slice; cos and sin of the patches."""
        slices = self.slices(volume_BCZYX)
        return self.embeddings(slices), {"position_embeddings": self.positions(slices)}


class DinoV2(SliceEncoder):
    """Dinov2Model. Its learned positions are interpolated to the image, as `transformers` does."""

    family = "dinov2"
    model_type = "dinov2"
    settled = {  # noqa: RUF012 (read only)
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "drop_path_rate": 0.0,
    }
    prefix = 1

    @classmethod
    def classes(cls) -> tuple[Any, Any]:
        """Dinov2Config, Dinov2Model."""
        from transformers import Dinov2Config, Dinov2Model

        return Dinov2Config, Dinov2Model

    def take_apart(self, model: Any) -> None:
        """Embedding with CLS and positions, layers, norm."""
        self.embeddings, self.blocks, self.norm = model.embeddings, model.encoder.layer, model.layernorm
        self.embeddings.mask_token = None  # of its pretraining only

    def embed(self, volume_BCZYX: Tensor) -> tuple[Tensor, Any]:
        """Tokens of every slice, positions added."""
        return self.embeddings(self.slices(volume_BCZYX)), {}


def _no_position_ids(tokens: Tensor, masks: Tensor | None = None) -> None:
    """`PairRotation` knows its places."""


class PairRotation(nn.Module):
    """V-JEPA 2's rotary positions from tables: `transformers` works them out anew for queries and keys of every block.

    Channels (2i, 2i + 1) are turned, and the angles of an axis stand in the order 0 1 2 … 0 1 2 …, not 0 0 1 1 2 2 …: the published models
    were trained so.
    """

    cos_NE: Tensor
    sin_NE: Tensor

    def __init__(self, grid: Size, head_width: int) -> None:
        super().__init__()
        pairs = (head_width // 3) // 2
        turned = 1 / 10_000.0 ** (torch.arange(pairs) / pairs)
        angles_NE = torch.zeros(math.prod(grid), head_width)
        for axis, places_N in enumerate(grid_coordinates(grid).unbind(dim=1)):
            angles_NE[:, 2 * axis * pairs : 2 * (axis + 1) * pairs] = (places_N[:, None] * turned).repeat(1, 2)
        sign_E = torch.tensor([-1.0, 1.0]).repeat(head_width // 2)
        self.register_buffer("cos_NE", angles_NE.cos(), persistent=False)
        self.register_buffer("sin_NE", angles_NE.sin() * sign_E, persistent=False)

    def forward(self, tokens_BHNE: Tensor, position_ids: object) -> Tensor:
        """Queries or keys, turned; places are those of the whole grid, whatever `transformers` counts."""
        swapped = tokens_BHNE.reshape(*tokens_BHNE.shape[:-1], -1, 2).flip(-1).flatten(-2)
        return tokens_BHNE * self.cos_NE + swapped * self.sin_NE  # to the last bit as `transformers`


class Vjepa2(TransformersEncoder):
    """The encoder of VJEPA2Model: a volume's depth is its time. A single slice is repeated to fill a tubelet.

    `crop_size` is set to the volume's edge: positions follow from it alone, and another frame would silently get wrong places.
    """

    family = "vjepa2"
    model_type = "vjepa2"
    settled = {"attention_probs_dropout_prob": 0.0, "hidden_dropout_prob": 0.0, "drop_path_rate": 0.0}  # noqa: RUF012

    @classmethod
    def fitted(cls, settings: Mapping[str, Any], volume_zyx: Size) -> dict[str, Any]:
        """Crop and clip of the volume. Raises InputError for frames that are not square."""
        depth, height, width = volume_zyx
        if height != width:
            raise InputError(
                f"VJEPA2Model takes square frames; the volumes are {volume_zyx} (z, y, x): set resample's grid to a square"
            )
        frames = max(depth, settings.get("tubelet_size", 2))
        return {**super().fitted(settings, volume_zyx), "crop_size": height, "frames_per_clip": frames}

    @classmethod
    def classes(cls) -> tuple[Any, Any]:
        """VJEPA2Config, VJEPA2Model."""
        from transformers import VJEPA2Config, VJEPA2Model

        return VJEPA2Config, VJEPA2Model

    def patch_of(self, volume_zyx: Size) -> Size:
        """A single slice has patches of one slice."""
        tubelet = 1 if volume_zyx[0] == 1 else self.config.tubelet_size
        return tubelet, self.config.patch_size, self.config.patch_size

    def take_apart(self, model: Any) -> None:
        """Patch embedding, layers, norm; the predictor stays behind."""
        encoder = model.encoder
        self.embeddings, self.blocks, self.norm = encoder.embeddings, encoder.layer, encoder.layernorm
        self.rotation = PairRotation(self.grid, self.width // self.heads)
        for layer in self.blocks:
            # Past nn.Module, which would keep it where methods of the class come first.
            object.__setattr__(layer.attention, "apply_rotary_embeddings", self.rotation)
            object.__setattr__(layer.attention, "get_position_ids", _no_position_ids)

    def embed(self, volume_BCZYX: Tensor) -> tuple[Tensor, Any]:
        """Tokens of tubelets; `transformers` wants (B, T, C, H, W) and repeats a single frame itself."""
        return self.embeddings(self.standardise(volume_BCZYX).transpose(1, 2)), {"position_mask": None}

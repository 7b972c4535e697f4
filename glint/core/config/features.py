"""Configuration of stage 08, the cache of teacher tokens."""

from typing import Literal

from pydantic import Field, model_validator

from glint.core.config.base import StageConfig


class FeaturesConfig(StageConfig):
    """Which tokens are stored, and how they are computed."""

    layers: tuple[int, ...] = Field(
        default=(1, 2, 3),
        description="blocks (0 is the first) whose outputs, before the last norm, are stored for training",
    )
    final: bool = Field(default=True, description="store the final tokens too, which the supervised probe reads")
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        default="auto",
        description="of the teacher's weights and pass; auto: bfloat16 only where a start-up measurement shows it clearly faster",
    )
    attention: Literal["auto", "sdpa", "eager"] = Field(
        default="auto",
        description="attention of the pass, fused or in matrix products; auto: what the same measurement finds",
    )
    device: Literal["auto", "cpu"] = Field(default="auto", description="auto: a GPU where there is one")
    dtype: Literal["float16", "bfloat16", "int8"] = Field(
        default="float16",
        description="of stored tokens; float16 ends at 65504, bfloat16 keeps 8 bits, int8 is scaled per study and channel",
    )
    layout: Literal["contiguous", "chunked"] = Field(
        default="contiguous", description="of the file: one block, or one chunk per study; both are read by mapping"
    )
    batch_size: int = Field(default=4, ge=1, description="volumes per pass; small ones stay in the processor's cache")
    threads: int = Field(default=1, ge=1, description="processor threads of the pass; shards run side by side")

    @model_validator(mode="after")
    def _something(self) -> "FeaturesConfig":
        if not self.layers and not self.final:
            raise ValueError("layers is empty and final is false: nothing would be stored")
        if len(set(self.layers)) != len(self.layers) or any(layer < 0 for layer in self.layers):
            raise ValueError(f"layers {self.layers} must be different blocks, 0 is the first")
        return self

"""The trainable image encoder: the teacher's architecture, its weights to start from, optional adapter blocks."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from glint.model.gate import finite
from glint.teachers.encoder import Encoded, Encoder
from glint.teachers.registry import build_encoder, description_of
from glint.teachers.vjepa import LAYER_NORM_EPSILON, Block


class Student(nn.Module):
    """Encoder of any family and adapter blocks. No dropout, no jitter: in train mode a fresh student equals its teacher exactly."""

    def __init__(self, encoder: Encoder, *, adapter_blocks: int = 0) -> None:
        super().__init__()
        self.encoder = encoder.made_trainable()
        width = encoder.width
        self.adapter = nn.ModuleList(Block(width, encoder.heads, encoder.mlp_ratio) for _ in range(adapter_blocks))
        self.adapter_norm = nn.LayerNorm(width, eps=LAYER_NORM_EPSILON) if adapter_blocks else nn.Identity()
        for block in self.adapter:
            assert isinstance(block, Block)
            # A block whose outputs are zero is the identity: training starts from the teacher's tokens.
            for linear in (block.attention.output, block.mlp[2]):
                nn.init.zeros_(linear.weight)  # type: ignore[arg-type]
                nn.init.zeros_(linear.bias)  # type: ignore[arg-type]

    @classmethod
    def from_teacher(cls, teacher: Encoder, *, adapter_blocks: int = 0) -> "Student":
        """A student with a copy of the teacher's weights."""
        student = cls(build_encoder(description_of(teacher)), adapter_blocks=adapter_blocks)
        student.encoder.load_state_dict(teacher.state_dict())
        return student

    @torch.no_grad()
    def resting_tokens(self, last_block_BPD: Tensor) -> Tensor:
        """Final tokens, given the teacher's last block output, while the student still equals the teacher."""
        tokens: Tensor = self.adapter_norm(self.encoder.norm(finite(last_block_BPD)))
        return tokens

    def forward(self, volume_BCZYX: Tensor, *, layers: Iterable[int] = ()) -> Encoded:
        """Patch tokens (B, P, width) and the outputs of the encoder blocks `layers`."""
        encoded = self.encoder(volume_BCZYX, layers=layers)
        tokens = encoded.patch_tokens_BND
        rotation = None if self.encoder.rotary is None else self.encoder.rotary(tokens.dtype)
        for block in self.adapter:
            tokens = block(tokens, rotation)
        return Encoded(patch_tokens_BND=self.adapter_norm(tokens), hidden=encoded.hidden)

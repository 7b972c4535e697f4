"""What each process of `torchrun … shared_pretraining.py FOLDER` does: pretrain by both recipes; the first one writes the weights."""

import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from test_distill import FILM, Films
from test_distill import SETTINGS as DISTILL
from test_pretrain import SETTINGS, SHAPE, Blobs

from glint.teachers.distill import distill
from glint.teachers.pretrain import pretrain
from glint.teachers.steps import ALONE
from glint.training.distributed import ranks_of_this_job

MASKED = SETTINGS.model_copy(update={"batch_size": 4, "steps": 6})
CROPS = DISTILL.model_copy(update={"steps": 6, "spread_weight": 0.0})  # KoLeo looks for neighbours within a process


def both(ranks=ALONE):
    """Weights of both encoders by name, in one mapping."""
    torch.set_num_threads(1)
    masked = pretrain(Blobs(), SHAPE, MASKED, seed=0, key="k", ranks=ranks)
    crops = distill(Films(), FILM, CROPS, seed=0, key="k", ranks=ranks)
    return {
        f"{kind}.{name}": tensor
        for kind, made in (("masked", masked), ("crops", crops))
        for name, tensor in made.encoder.state_dict().items()
    }


if __name__ == "__main__":
    with ranks_of_this_job() as ranks:
        made = both(ranks)
        if ranks.first:
            save_file(made, Path(sys.argv[1]) / "shared.safetensors")
        ranks.wait()

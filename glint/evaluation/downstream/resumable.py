"""Training of a small network that survives a kill: a resumed run ends as an undisturbed one."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from glint.core.atomic import atomic_file
from glint.core.progress import track


def minimise(
    network: nn.Module,
    groups: Sequence[dict[str, Any]],
    loss_of: Callable[[int], Tensor],
    *,
    steps: int,
    weight_decay: float,
    save_every: int,
    state: Path,
    fingerprint: str,
    description: str,
) -> list[float]:
    """AdamW, rates falling as a cosine to 0; the losses of all steps.

    Args:
        groups: Parameter groups of AdamW.
        loss_of: The loss of a step; what it draws must depend on the step alone.
        state: File that a killed job resumes from; one of another fingerprint is ignored and overwritten.
    """
    optimizer = torch.optim.AdamW(groups, weight_decay=weight_decay)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(1, steps))
    losses: list[float] = []
    if state.is_file():
        saved = torch.load(state, weights_only=True)
        if saved["fingerprint"] == fingerprint:
            network.load_state_dict(saved["network"])
            optimizer.load_state_dict(saved["optimizer"])
            schedule.load_state_dict(saved["schedule"])
            losses = list(saved["losses"])
    network.train()
    for step in track(range(len(losses), steps), description):
        loss = loss_of(step)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
        losses.append(float(loss.detach()))
        if len(losses) % save_every == 0 or len(losses) == steps:
            with atomic_file(state) as temporary:
                torch.save(
                    {
                        "fingerprint": fingerprint,
                        "network": network.state_dict(),
                        "optimizer": optimizer.state_dict(),
                        "schedule": schedule.state_dict(),
                        "losses": losses,
                    },
                    temporary,
                )
    network.eval()
    return losses

"""More places for the rows of curves.csv: TensorBoard and DVCLive, imported only where they are asked for."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from glint.core.errors import ConfigError
from glint.training.curves import Row

Track = Callable[[Row], None]


@contextmanager
def trackers(names: Sequence[str], folder: Path, past: Sequence[Row]) -> Iterator[Track]:
    """A function that takes each row; logs lie in `folder`/tensorboard and `folder`/dvclive.

    `past` are the rows before a resumed run: what a killed run logged beyond them is dropped.

    Raises:
        ConfigError: a package is not installed.
    """
    with ExitStack() as stack:
        tracks: list[Track] = []
        for name in names:
            try:
                tracks.append(KINDS[name](folder / name, past, stack))
            except ImportError as error:
                raise ConfigError(f"train.log_to: {name} is not installed; run `pip install {name}`") from error

        def track(row: Row) -> None:
            for one in tracks:
                one(row)

        yield track


def _tensorboard(folder: Path, past: Sequence[Row], stack: ExitStack) -> Track:
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(str(folder), purge_step=len(past) + 1)
    stack.callback(writer.close)

    def track(row: Row) -> None:
        for name, value in row.items():
            if name != "step":
                writer.add_scalar(name.replace("_", "/", 1), value, int(row["step"]))

    return track


def _dvclive(folder: Path, past: Sequence[Row], stack: ExitStack) -> Track:
    from dvclive import Live

    # Written anew from the start, so that a resumed run's plots have every step once.
    live = stack.enter_context(Live(str(folder), save_dvc_exp=False, report=None, dvcyaml=None))

    def track(row: Row) -> None:
        live.step = int(row["step"])
        for name, value in row.items():
            if name != "step":
                live.log_metric(name, value)
        live.make_summary()

    for row in past:
        track(row)
    return track


KINDS: dict[str, Callable[[Path, Sequence[Row], ExitStack], Track]] = {"tensorboard": _tensorboard, "dvclive": _dvclive}

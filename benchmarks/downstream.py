"""What `glint downstream` left, as one page: python benchmarks/downstream.py --folder results/ct/10_evaluate/downstream --out FILE.

Beside the folder, `metrics.json` of the same evaluation gives the zero-shot Dice that the decoder is compared with.
"""

import argparse
import json
import platform
from pathlib import Path

import torch
import transformers

from glint.core.atomic import write_text

TASKS = ("probe", "segment", "report")


def page(folder: Path, metrics: Path | None) -> str:
    """Markdown of the tasks that were run."""
    parts = [
        "# Downstream tasks on the demo\n",
        f"`python benchmarks/downstream.py`: what `glint downstream` measured. {platform.machine()} processor, "
        f"Python {platform.python_version()}, torch {torch.__version__}, transformers {transformers.__version__}. "
        "Intervals of 95 % over patients.\n",
    ]
    for task in TASKS:
        file = folder / task / f"{task}.json"
        if not file.is_file():
            continue
        told = json.loads(file.read_text("utf-8"))
        counts = [f"{key.replace('_', ' ')} {value}" for key, value in told.items() if isinstance(value, int)]
        parts.append(
            f"## {task.capitalize()}\n\n{', '.join(counts)}; configuration `{json.dumps(told['configuration'])}`\n"
        )
        parts.append((folder / task / f"{task}.md").read_text("utf-8"))
        if task == "segment" and metrics is not None:
            found = json.loads(metrics.read_text("utf-8"))["glint"]["dice_fixed"]["macro"]
            parts.append(f"The same checkpoint without masks, zero-shot: {json.dumps(found)}\n")
    return "\n".join(parts)


def main() -> None:
    """Read, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--metrics", type=Path, help="metrics.json of `glint evaluate models`")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    write_text(args.out, page(args.folder, args.metrics))


if __name__ == "__main__":
    main()

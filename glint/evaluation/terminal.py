"""The evaluation in a terminal's width."""

from pathlib import Path

from glint.evaluation.figures import label, words
from glint.evaluation.report import Evaluation
from glint.evaluation.report_text import number
from glint.evaluation.summary import MACRO

SHORT = {"global_pooling": "global\npooling", "probe": "probe\n(saw masks)"}
SHOWN = {"auroc": "AUROC", "pointing": "pointing", "dice_fixed": "Dice"}


def print_summary(evaluation: Evaluation, out: Path) -> None:
    """A table of findings by arm, then where the report is and what to do next."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    arms = [arm for arm in evaluation.arms if arm != "location_prior"]
    studies = len(evaluation.cases.patient_B)
    title = f"{evaluation.config.split} split, {studies} studies: {', '.join(SHOWN.values())} at the fixed threshold"
    table = Table(title=title, title_justify="left", box=box.SIMPLE, padding=(0, 1), pad_edge=False)
    table.add_column("finding", no_wrap=True)
    for arm in arms:
        table.add_column(SHORT.get(arm, label(arm)), justify="right", no_wrap=True)
    for finding in (*evaluation.findings, MACRO):
        found = [[evaluation.summary.find(arm, metric, finding) for metric in SHOWN] for arm in arms]
        cells = [" ".join(f"{_short(one.value if one else None):>3}" for one in row) for row in found]
        table.add_row(words(finding), *cells, end_section=finding == evaluation.findings[-1])
    console = Console()
    console.print(table)
    console.print(f"report: {out / 'report.html'}   numbers: {out / 'metrics.json'}", soft_wrap=True, highlight=False)
    console.print("next: open the report, then try config/experiments/ or your own studies (README)", soft_wrap=True)


def _short(value: float | None) -> str:
    """Three characters: `.87`, `1.0`, `–`."""
    return number(value).removeprefix("0")[:3]

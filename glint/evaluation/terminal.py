"""The evaluation in a terminal's width."""

from pathlib import Path

from glint.evaluation.figures import label, words
from glint.evaluation.report import Evaluation, number
from glint.evaluation.summary import MACRO

SHOWN = {"auroc": "AUROC", "pointing": "pointing", "dice_fixed": "Dice"}


def print_summary(evaluation: Evaluation, out: Path) -> None:
    """A table of findings by arm, then where the report is and what to do next."""
    from rich.console import Console
    from rich.table import Table

    arms = [arm for arm in evaluation.arms if arm != "location_prior"]
    table = Table(title=f"{evaluation.config.split} split, {len(evaluation.cases.patient_B)} studies: "
                  + " / ".join(SHOWN.values()) + " (fixed threshold)", title_justify="left")  # fmt: skip
    table.add_column("finding")
    for arm in arms:
        table.add_column(label(arm), justify="right")
    for finding in (*evaluation.findings, MACRO):
        cells = []
        for arm in arms:
            found = [evaluation.summary.find(arm, metric, finding) for metric in SHOWN]
            cells.append(" ".join(number(one.value if one else None) for one in found))
        table.add_row(words(finding), *cells, end_section=finding == evaluation.findings[-1])
    console = Console()
    console.print(table)
    console.print(f"report: {out / 'report.html'}   numbers: {out / 'metrics.json'}", soft_wrap=True)
    next_step = "open the report in a browser; then try config/experiments/, or your own studies (README)"
    console.print(f"next: {next_step}", soft_wrap=True)

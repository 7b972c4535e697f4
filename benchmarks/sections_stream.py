"""A million reports through stage 05: reports per second and resident memory along the way.

Usage: GLINT_REAL_DATA=<folder of real reports> python benchmarks/sections_stream.py [--reports 1000000]

Each report is put together anew from the sentences of real ones, section by section, with one sentence that occurs once,
so that caches meet both what repeats and what never does. Two processes, as `glint sections --workers 2` uses.
"""

from __future__ import annotations

import argparse
import os
import platform
import random
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from sections import ct_clip, iu_labelled

from glint.core.config.sections import SectionsConfig
from glint.prepare.sections.sentences import sentence_spans
from glint.prepare.sections.shard import read_report

PROCESSES = 2
MARKS = 10
RESULT = Path(__file__).parent / "results" / "sections_stream.md"


def real_sentences(folder: Path) -> list[str]:
    texts = [text for text, _ in ct_clip(folder)] + [text for text, _ in iu_labelled(folder)]
    return sorted({text[a:b] for text in texts for a, b in sentence_spans(text) if b - a < 400})


def recombined(number: int, sentences: list[str], chance: random.Random) -> str:
    """A report of a dozen sentences, as long as chest reports are."""
    body, end = (" ".join(chance.choices(sentences, k=k)) for k in (9, 3))
    return f"FINDINGS:\n{body}\nSeries {number} has {number % 977} images and a nodule of {number % 29} mm.\n\nIMPRESSION:\n{end}\n"


def resident_mib() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def stream(part: int, reports: int, sentences: list[str]) -> tuple[float, float, int, list[float]]:
    """(CPU seconds of reading alone, CPU seconds in all, findings, resident MiB at even steps)."""
    chance, config = random.Random(part), SectionsConfig()
    reading_s, findings, marks = 0.0, 0, []
    begun_s = time.process_time()
    for number in range(reports):
        row = {"study_id": "s", "status": "ok", "reason": None}
        row["text"] = recombined(number * PROCESSES + part, sentences, chance)
        before_s = time.process_time()
        findings += len(read_report(row, config=config)["findings"])
        reading_s += time.process_time() - before_s
        if (number + 1) % max(1, reports // MARKS) == 0:
            marks.append(resident_mib())
    return reading_s, time.process_time() - begun_s, findings, marks


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reports", type=int, default=1_000_000)
    args = parser.parse_args()
    sentences = real_sentences(Path(os.environ["GLINT_REAL_DATA"]))
    load, begun_s = os.getloadavg()[0], time.perf_counter()
    each = args.reports // PROCESSES
    with ProcessPoolExecutor(PROCESSES) as pool:
        parts = list(pool.map(stream, range(PROCESSES), [each] * PROCESSES, [sentences] * PROCESSES))
    wall_s = time.perf_counter() - begun_s
    busy_s = max(reading for reading, _, _, _ in parts)
    lines = [
        "# A million reports through stage 05" if args.reports >= 1_000_000 else "# Many reports through stage 05",
        "",
        f"`python benchmarks/sections_stream.py --reports {args.reports}`: reports put together from {len(sentences):,} real sentences, 13 each, one of them",
        f"never seen before; {PROCESSES} processes. {os.cpu_count()} cores, Python {platform.python_version()}, load at start {load:.1f}.",
        "",
        f"{each * PROCESSES:,} reports, {sum(found for _, _, found, _ in parts):,} findings: {each * PROCESSES / busy_s:.0f} reports/s by the CPU time of the reading on",
        f"two cores, {each * PROCESSES / wall_s:.0f} by the clock of a shared machine with the making of the reports.",
        "",
        "| reports | " + " | ".join(f"{each * PROCESSES * (mark + 1) // MARKS:,}" for mark in range(MARKS)) + " |",
        "|---|" + "--:|" * MARKS,
    ]
    for part, (_, _, _, marks) in enumerate(parts, 1):
        lines.append(f"| resident MiB, process {part} | " + " | ".join(f"{mib:.0f}" for mib in marks) + " |")
    RESULT.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))


if __name__ == "__main__":
    main()

"""What a reader sees of the sentences: tables of the page, and the tree of metrics.json."""

import math
from typing import Any

from glint.core.config.evaluate import EvaluateConfig
from glint.evaluation.figures import colour, label, words
from glint.evaluation.overlays import ranked_cases
from glint.evaluation.protocols import protocol_rows
from glint.evaluation.report_text import interval, number
from glint.evaluation.sentences import ALL, BY_FINDING, MEASURED, SentenceCases
from glint.evaluation.summary import CHANCE, METRICS, Estimate

TABLES = ("dice_fixed", "hit", "pointing")
PROTOCOLS = {
    ("ReXGroundingCT", "Dice"): "every sentence weighs alike, fixed threshold",
    ("ReXGroundingCT", "HIT"): "share of sentences with a Dice of at least .1",
    ("ReXGroundingCT", "instance F1"): "connected parts matched with a Dice of at least .2, pooled over sentences",
    ("RadZero", "pointing"): "MS-CXR: the highest point in any box of the phrase, every phrase weighs alike",
    ("VECL", "pointing"): "per box, a point may miss by 2 % of the edge",
}


def arm_label(arm: str) -> str:
    """What a reader calls an arm and what it was asked."""
    name = arm.removesuffix(BY_FINDING)
    return f"{label(name)}, asked by finding" if name != arm else label(arm)


def _plain(value: float) -> float | None:
    return round(value, 6) if math.isfinite(value) else None


def _protocols(found: SentenceCases) -> list[dict[str, Any]]:
    rows = [row for row in protocol_rows(found.cases) if (row.protocol, row.quantity) in PROTOCOLS]
    told = [
        {
            "protocol": row.protocol,
            "quantity": row.quantity,
            "how": PROTOCOLS[row.protocol, row.quantity],
            "values": row.values,
        }
        for row in rows
    ]
    # BioViL takes the contrast without its sign, so that a map that avoids the phrase looks like one that finds it.
    for quantity, metric, how in (
        ("CNR", "contrast_to_noise", "MS-CXR: mean of the contrast to noise without its sign"),
        ("mIoU", "mean_iou", "MS-CXR: mean IoU at probabilities of .1 to .5"),
    ):
        values = {}
        for name, arm in found.cases.arms.items():
            known = [abs(value) for value in arm.more_FB[metric][0].tolist() if not math.isnan(value)]
            values[name] = sum(known) / len(known) if known else math.nan
        told.append({"protocol": "BioViL", "quantity": quantity, "how": how, "values": values})
    return told


def sentences_tree(found: SentenceCases) -> dict[str, Any]:
    """Counts, arm → metric → all sentences with its interval and every finding, and the protocols. NaN becomes null."""
    tree: dict[str, Any] = {
        "sentences": len(found.studies),
        "studies": len({case.study_id for case in found.studies}),
        "patients": len({case.patient_id for case in found.studies}),
        "arms": {},
        "protocols": {},
    }
    for one in found.overall.estimates:
        if one.finding == ALL:
            held = {"all": _plain(one.value), "all_low": _plain(one.low), "all_high": _plain(one.high)}
            tree["arms"].setdefault(one.arm, {})[one.metric] = held
    for one in found.by_finding.estimates:
        if one.finding in found.findings:
            tree["arms"][one.arm][one.metric][one.finding] = _plain(one.value)
    for row in _protocols(found):
        values = {arm: _plain(value) for arm, value in row["values"].items()}
        tree["protocols"].setdefault(row["protocol"], {})[row["quantity"]] = values
    return tree


def section_of(found: SentenceCases | None, config: EvaluateConfig, image: str | None) -> dict[str, Any] | None:
    """The page's section; None where nothing was asked by sentence."""
    if found is None:
        return None
    arms = [*found.cases.arms, CHANCE]

    def cell(one: Estimate | None) -> dict[str, str]:
        return {"value": number(one.value if one else None), "interval": interval(one)}

    counts = {name: sum(case.finding == name for case in found.studies) for name in found.findings}
    tables = []
    for metric in TABLES:
        rows = [
            {
                "finding": words(name),
                "count": count,
                "cells": [cell(found.by_finding.find(arm, metric, name)) for arm in arms],
            }
            for name, count in counts.items()
        ]
        whole = {
            "finding": ALL,
            "count": len(found.studies),
            "cells": [cell(found.overall.find(arm, metric, ALL)) for arm in arms],
        }
        tables.append({"title": METRICS[metric], "rows": [whole, *rows]})
    first = next(iter(found.cases.arms))
    cases = [
        (name, found.studies[column]) for name, column in ranked_cases(found.cases, first, 0, config.overlay_cases)
    ]
    return {
        "arms": [{"label": arm_label(arm), "colour": colour(arm)} for arm in arms],
        "studies": len({case.study_id for case in found.studies}),
        "count": len(found.studies),
        "macro": [
            {"metric": METRICS[metric], "cells": [cell(found.overall.find(arm, metric, ALL)) for arm in arms]}
            for metric in MEASURED
        ],
        "tables": tables,
        "protocols": [
            row | {"cells": [number(row["values"].get(arm)) for arm in arms[:-1]]} for row in _protocols(found)
        ],
        "image": image,
        "shown": [{"case": name, "finding": words(case.finding), "sentence": case.sentence} for name, case in cases],
    }

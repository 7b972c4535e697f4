"""Report generation: what the gate shows reaches the words; a killed training ends the same; measures and yardsticks."""

import json
import sys
from dataclasses import dataclass, replace
from types import ModuleType

import numpy as np
import polars as pl
import pytest
import torch
from evaluation_cohort import GRID, SHAPE, WINDOWS, write_cohort

from glint.core.config.downstream import DownstreamConfig, ReportTaskConfig
from glint.core.config.evaluate import EvaluateConfig
from glint.core.errors import InputError
from glint.evaluation.arms import LoadedArm
from glint.evaluation.downstream.report_metrics import best_constant, findings_of, measure_reports, report_table_text
from glint.evaluation.downstream.report_writer import ReportWriter, gated_evidence, make_tiny_language_model
from glint.evaluation.downstream.run_probe import DownstreamInputs
from glint.evaluation.downstream.run_report import report_texts, run_report, train_writer
from glint.formats.manifest import manifest_frame, write_manifest
from glint.teachers.encoder import Encoded

TASK = ReportTaskConfig(
    steps=60,
    batch_size=10,
    tiny_width=32,
    tiny_vocabulary=300,
    save_every=20,
    max_tokens=32,
    findings=("mass", "emphysema"),
)
PRESENT = {"mass": "There is a mass.", "emphysema": "There is emphysema."}
ABSENT = {"mass": "No mass.", "emphysema": "No emphysema."}


@dataclass(frozen=True)
class Aligned:
    score_TB: torch.Tensor
    gate_logits_TBP: torch.Tensor


class Model:
    """Knows a mass by brightness and emphysema by darkness of a patch."""

    def encode_text(self, sentences):
        return list(sentences)

    def student(self, volume_BCZYX):
        mean = torch.nn.functional.avg_pool3d(volume_BCZYX, 8).flatten(1)
        return Encoded(patch_tokens_BND=torch.stack([mean, mean**2], dim=-1), hidden={})

    def project(self, tokens_BPD):
        return tokens_BPD[..., 0]

    def score(self, tokens_BP, queries, weight_BP):
        assert weight_BP.shape == tokens_BP.shape
        signs = [(-1.0 if "emphysema" in one else 1.0, -1.0 if " no " in one else 1.0) for one in queries]
        logits = torch.stack([polar * 60 * (sign * (tokens_BP - 0.5) - 0.12) for sign, polar in signs])
        return Aligned(torch.where(weight_BP > 0, logits, -torch.inf).max(-1).values, logits)


def load(_):
    return LoadedArm(model=Model(), grid=GRID, volume_zyx=SHAPE, windows=WINDOWS)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """Reports that say which of the two lesions a study has."""
    made = write_cohort(tmp_path_factory.mktemp("cohort"))
    held = {row["study_id"]: row["findings"] for row in pl.read_parquet(made.truth).to_dicts()}
    rows = []
    for study, findings in held.items():
        said = [(PRESENT if name in findings else ABSENT)[name] for name in PRESENT]
        for index, text in enumerate(["CT of [NAME].", *said]):
            row = {
                "study_id": study,
                "sentence_index": index,
                "section": "findings",
                "start": 0,
                "end": 1,
                "text": text,
            }
            rows.append(row | {"sentence_class": "x"})
    write_manifest(made.sections[0].parent / "sentences.parquet", manifest_frame(rows, "sentences"), "sentences")
    read = [{"study_id": study, "status": "ok"} for study in held]
    write_manifest(made.sections[0], manifest_frame(read, "sections"), "sections")
    return DownstreamInputs(
        checkpoint=made.checkpoints[0], resampled=made.resampled, sections=made.sections, split=made.split
    )


def config(**changed):
    task = TASK.model_copy(update=changed)
    return EvaluateConfig(foreign_checkpoint=True, resamples=50, downstream=DownstreamConfig(report=task))


def test_evidence_is_the_mean_of_the_tokens_where_the_gate_is_open_and_says_where():
    tokens = torch.full((1, 24, 2), 0.5)
    tokens[0, 12 + 2 * 4 + 3] = torch.tensor([1.0, 7.0])  # z 1, y 2, x 3 of (2, 3, 4)
    valid = torch.ones(1, 24, dtype=torch.bool)
    prompts = (["There is mass."], ["There is no mass."])
    found = gated_evidence(Model(), tokens, valid, prompts, (2, 3, 4))[0, 0]
    rest = 23 / (1 + np.exp(60 * 0.12))  # 23 patches at logit -7.2
    torch.testing.assert_close(found[:2], (torch.tensor([1.0, 7.0]) + rest * 0.5) / (1 + rest))
    assert found[3] > 0 and found[2] == pytest.approx(60 * 0.38, rel=1e-4)
    torch.testing.assert_close(found[5:], torch.tensor([0.75, 5 / 6, 0.875]), atol=0.02, rtol=0)
    valid[0, 12 + 2 * 4 + 3] = False
    assert gated_evidence(Model(), tokens, valid, prompts, (2, 3, 4))[0, 0, 0] == pytest.approx(0.5)


def test_reports_say_what_the_gate_saw(inputs, tmp_path):
    run_report(inputs, config(steps=150), tmp_path / "report", load=load)
    told = json.loads((tmp_path / "report" / "report.json").read_text())
    values = {(row["arm"], row["metric"]): row["value"] for row in told["rows"]}
    assert values["generated", "finding_f1_micro"] > 0.9 > values["one report for all", "finding_f1_micro"]
    assert values["generated", "bleu_4"] > 0.8
    texts = pl.read_parquet(tmp_path / "report" / "reports.parquet")
    assert len(texts) == 16 and not texts["reference"].str.contains("NAME").any()
    assert [path.name for path in tmp_path.iterdir()] == ["report"]


def writer_of(folder, evidence, **changed):
    task = TASK.model_copy(update=changed)
    return ReportWriter(str(folder), evidence, task, whole=False, seed=0)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    folder = tmp_path_factory.mktemp("language") / "tiny"
    make_tiny_language_model(folder, [*PRESENT.values(), *ABSENT.values()], TASK, seed=0)
    return folder


EVIDENCE = np.random.default_rng(0).normal(size=(12, 2, 8)).astype(np.float32)
TEXTS = [PRESENT["mass"] if row[0, 0] > 0 else ABSENT["mass"] for row in EVIDENCE]


def test_a_language_model_at_rest_stays_as_it_was_and_low_rank_updates_learn(tiny, tmp_path):
    for train, learns in (("projector", False), ("low_rank", True)):
        writer = writer_of(tiny, EVIDENCE, train=train)
        before = {key: value.clone() for key, value in writer.language.state_dict().items()}
        losses = train_writer(writer, EVIDENCE, TEXTS, TASK, seed=0, state=tmp_path / f"{train}.pt", fingerprint="f")
        changed = {key for key, value in writer.language.state_dict().items() if not torch.equal(value, before[key])}
        assert bool(changed) is learns and all("low_rank" in key for key in changed)
        assert losses[-1] < losses[0]


def test_a_killed_training_ends_the_same_and_decoding_repeats_itself(tiny, tmp_path):
    def train(state, steps_first=None):
        if steps_first:
            cut, count = writer_of(tiny, EVIDENCE), []
            real = cut.loss

            def loss(*arguments):
                count.append(1)
                if len(count) > steps_first:
                    raise KeyboardInterrupt
                return real(*arguments)

            cut.loss = loss
            with pytest.raises(KeyboardInterrupt):
                train_writer(cut, EVIDENCE, TEXTS, TASK, seed=0, state=state, fingerprint="f")
        writer = writer_of(tiny, EVIDENCE)
        losses = train_writer(writer, EVIDENCE, TEXTS, TASK, seed=0, state=state, fingerprint="f")
        return writer, losses

    whole, losses = train(tmp_path / "whole.pt")
    resumed, again = train(tmp_path / "cut.pt", steps_first=45)
    assert losses == again
    given = torch.from_numpy(EVIDENCE[:3])
    assert whole.write(given) == resumed.write(given) == whole.write(given)


def test_a_model_that_is_not_there_is_named(tmp_path):
    with pytest.raises(InputError, match="not loadable"):
        writer_of(tmp_path / "none", EVIDENCE)


def test_texts_take_the_first_section_that_is_there_and_no_redacted_sentence(inputs):
    texts = report_texts(inputs.sections, ("impression", "findings"))
    assert len(texts) == 44 and set(texts.values()) <= {
        f"{a} {b}" for a in (PRESENT["mass"], ABSENT["mass"]) for b in (PRESENT["emphysema"], ABSENT["emphysema"])
    }


def test_findings_are_those_stated_as_present():
    assert findings_of("There is a mass. No emphysema. Possible nodule.") == {"mass"}


def test_the_best_constant_is_the_report_that_fits_most():
    training = [
        frozenset(),
        frozenset({"mass"}),
        frozenset({"mass", "nodule"}),
        frozenset({"mass"}),
        frozenset({"cyst"}),
    ]
    assert best_constant(training) == 1


def test_a_measure_whose_package_is_absent_is_refused_before_training(inputs, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "radgraph", None)
    with pytest.raises(InputError, match="pip install radgraph"):
        run_report(inputs, config(extra_metrics=("radgraph",)), tmp_path / "r", load=load)


def test_radgraph_and_green_are_asked_in_their_own_order(monkeypatch):
    radgraph, green = ModuleType("radgraph"), ModuleType("green_score")
    radgraph.F1RadGraph = lambda **_: (
        lambda hyps, refs: (0, [float(a == b) for a, b in zip(hyps, refs, strict=True)], None, None)
    )
    green.GREEN = lambda *_, **__: (
        lambda refs, hyps: (0, 0, [float(len(a) > len(b)) for a, b in zip(refs, hyps, strict=True)], "", None)
    )
    monkeypatch.setitem(sys.modules, "radgraph", radgraph)
    monkeypatch.setitem(sys.modules, "green_score", green)
    rows = measure_reports(
        {"a": ["No mass.", "mass"]},
        ["No mass.", "A large mass."],
        ["p", "q"],
        config(extra_metrics=("radgraph", "green")),
    )
    values = {row["metric"]: row["value"] for row in rows}
    assert values["radgraph"] == 0.5 and values["green"] == 0.5
    table = report_table_text(rows)
    assert "| METEOR (exact and stem matches only) |" in table and "| RadGraph F1 |" in table and "| GREEN |" in table


def test_reports_are_needed(inputs, tmp_path):
    with pytest.raises(InputError, match="--sections"):
        run_report(replace(inputs, sections=()), config(), tmp_path / "r", load=load)

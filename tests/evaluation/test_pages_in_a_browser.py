"""The pages open in a real browser without an error and ask for nothing off the machine."""

import json
import re
import shutil
import subprocess
from urllib.parse import urlparse

import polars as pl
import pytest
from evaluation_cohort import fake_tokens, load_fake, write_cohort

from glint.core.config.evaluate import EvaluateConfig
from glint.evaluation.compare import compare_cases, read_cases, write_comparison
from glint.evaluation.stage import evaluate_models, with_pictures, write_evaluation

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
THE_BROWSERS_OWN = ("google.com", "googleapis.com", "gvt1.com", "gstatic.com")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(BROWSER is None, reason="needs Chromium (Debian: apt-get install chromium)"),
]


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    root = tmp_path_factory.mktemp("pages")
    inputs = write_cohort(root / "cohort")
    config = EvaluateConfig(resamples=50, foreign_checkpoint=True)
    evaluated = evaluate_models(inputs, config, load=load_fake, read_tokens=fake_tokens(inputs))
    write_evaluation(with_pictures(*evaluated, inputs.checkpoints), root / "out")
    first, second = (read_cases(root / "out", arm) for arm in ("glint", "global_pooling"))
    assert isinstance(first, pl.DataFrame)
    write_comparison(compare_cases(first, second, names=("glint", "global_pooling"), resamples=50), root / "out")
    return {"report": root / "out" / "report.html", "compare": root / "out" / "compare.html"}


@pytest.mark.parametrize("name", ["report", "compare"])
def test_a_page_opens_whole_without_error_and_without_asking_the_network(pages, name, tmp_path):
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
    options += [
        "--enable-logging=stderr",
        "--log-level=0",
        "--window-size=1250,1600",
        f"--user-data-dir={tmp_path / 'u'}",
    ]
    options += [f"--log-net-log={tmp_path / 'net.json'}", f"--screenshot={tmp_path / 'page.png'}", "--dump-dom"]
    told = subprocess.run(
        [BROWSER, *options, pages[name].as_uri()], capture_output=True, text=True, timeout=120, check=True
    )
    assert "</footer>" in told.stdout
    assert not re.findall(r"CONSOLE.*", told.stderr)
    asked = {
        urlparse(url).hostname or ""
        for url in re.findall(r'"url":"(https?:[^"]+)"', (tmp_path / "net.json").read_text())
    }
    assert not [host for host in asked if not host.endswith(THE_BROWSERS_OWN)], json.dumps(sorted(asked))
    assert (tmp_path / "page.png").stat().st_size > 20_000

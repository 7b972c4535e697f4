"""`glint teachers`: the registry is told, weights are checked, refusals say what to do."""

import io
import json
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from tiny_encoders import official_state, tiny_encoder

from glint.cli.__main__ import main
from glint.core.config.families import FAMILIES, PUBLISHED
from glint.core.provenance import sha256_file
from glint.teachers.registry import write_encoder

ROOT = Path(__file__).resolve().parents[2]


def test_the_list_names_every_family_and_every_published_entry_and_needs_no_torch(capsys):
    assert main(["teachers", "list"]) == 0
    text = capsys.readouterr().out
    assert re.findall(r"^\| (\w+) \|", text, re.MULTILINE) == [*FAMILIES, "weights", *PUBLISHED]
    assert "| vjepa2_1_vitl | vjepa2_1 | 64 × 384 × 384 | 32 × 24 × 24 | 18432 | 1024 | 24 | 304.7 M |" in text
    assert "facebook/dinov3-vitb16-pretrain-lvd1689m" in text and "gated" in text


def test_the_list_for_programs_holds_the_same(capsys):
    assert main(["teachers", "list", "--json"]) == 0
    value = json.loads(capsys.readouterr().out)
    assert list(value["families"]) == list(FAMILIES) and list(value["published"]) == list(PUBLISHED)
    assert value["published"]["rad_dino"]["grid"] == [1, 37, 37]


def test_the_page_on_teachers_shows_what_the_command_prints(capsys):
    main(["teachers", "list"])
    assert capsys.readouterr().out.strip() in (ROOT / "docs/teachers.md").read_text(), (
        "copy `glint teachers list` into it"
    )


def test_check_opens_weights_and_prints_their_digest(tmp_path, capsys):
    write_encoder(tiny_encoder("vjepa2_1", (4, 16, 16)), tmp_path)
    place = ["--location", str(tmp_path), "--volume", "8", "16", "24"]
    assert main(["teachers", "check", "vjepa2_1", *place]) == 0
    told = capsys.readouterr().out
    assert "volume 8 × 16 × 24 → grid 4 × 4 × 6, 96 tokens" in told and "not pinned" in told
    assert sha256_file(tmp_path / "model.safetensors") in told
    assert main(["teachers", "check", "vjepa2_1", *place, "--sha256", "0" * 64]) == 1
    assert "SHA-256" in capsys.readouterr().err
    assert main(["teachers", "check", "dinov3", *place]) == 1
    assert "holds a vjepa2_1, teacher.name says dinov3" in capsys.readouterr().err


def test_check_without_a_name_tells_of_the_configured_teachers(capsys):
    assert main(["teachers", "check", "--config-dir", str(ROOT / "config"), "--cohort", "demo"]) == 0
    assert "demo, teacher.ct: vjepa_small, pretrained by stage 07; nothing to fetch" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["vjepa2"], "a family needs --location and --volume"),
        (["resnet50"], "neither published"),
        (
            ["vjepa2_1_vitl"],
            "no such file or folder; fetch them where there is network: glint teachers fetch vjepa2_1_vitl",
        ),
        (["dinov3_vitb16"], "take dinov2_xray instead: teacher.name dinov2"),
    ],
)
def test_check_says_in_one_line_what_to_do(arguments, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    assert main(["teachers", "check", *arguments]) == 1
    told = capsys.readouterr().err
    assert words in told and told.count("\n") == 1


def hub_error(kind):
    if kind == "no network":
        return ConnectionError("no route")
    from huggingface_hub import errors

    answer = SimpleNamespace(headers={}, request=None)
    return getattr(errors, kind)("refused\nin several lines", response=answer)


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("GatedRepoError", "accept its licence at https://huggingface.co/facebook/dinov3-vitl16"),
        ("GatedRepoError", "take dinov2_xray instead"),
        ("RepositoryNotFoundError", "check the name"),
        ("RevisionNotFoundError", "no revision 'abc'"),
        ("no network", "can't be reached from here"),
    ],
)
def test_a_hub_that_says_no_is_told_with_the_way_out(kind, words, monkeypatch, capsys):
    def refuse(*_, **__):
        raise hub_error(kind)

    monkeypatch.setattr("huggingface_hub.snapshot_download", refuse)
    assert main(["teachers", "fetch", "dinov3_vitl16", "--revision", "abc"]) == 1
    told = capsys.readouterr().err
    assert words in told and told.count("\n") == 1


def test_fetched_hub_weights_are_told_as_configuration_with_revision_and_digest(tmp_path, monkeypatch, capsys):
    folder = tmp_path / "0123abcd"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(b"weights")
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: str(folder))
    assert main(["teachers", "fetch", "dinov2_xray"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "name: dinov2",
        "source: hub",
        f"location: {PUBLISHED['dinov2_xray'].location}",
        "revision: 0123abcd",
        f"sha256: {sha256_file(folder / 'model.safetensors')}",
    ]


class Answer(io.BytesIO):
    """What an https server sends."""

    def __init__(self, content, announced):
        super().__init__(content)
        self.headers = {"Content-Length": str(announced)}


@pytest.mark.parametrize("announced", [7, 9])
def test_a_checkpoint_from_an_address_is_whole_or_not_there(announced, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("urllib.request.urlopen", lambda *_, **__: Answer(b"weights", announced))
    status = main(["teachers", "fetch", "vjepa2_1_vitb", "--out", str(tmp_path / "w")])
    file = tmp_path / "w/vjepa2_1_vitb_dist_vitG_384.pt"
    assert (status, file.exists()) == ((0, True) if announced == 7 else (1, False))
    told = capsys.readouterr()
    assert f"location: {file}" in told.out if status == 0 else "broke off early" in told.err


def test_an_address_out_of_reach_is_told_in_one_line(tmp_path, capsys):
    assert main(["teachers", "fetch", "https://127.0.0.1:9/x.pt", "--out", str(tmp_path)]) == 1
    told = capsys.readouterr().err
    assert "out of reach from here" in told and told.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_published_name_is_held_to_its_architecture(tmp_path, monkeypatch, capsys):
    """A tiny checkpoint under the published file's name is not taken for ViT-L."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "weights").mkdir()
    torch.save({"ema_encoder": official_state()}, tmp_path / "weights/vjepa2_1_vitl_dist_vitG_384.pt")
    assert main(["teachers", "check", "vjepa2_1_vitl", "--volume", "4", "16", "16"]) == 1
    assert "width 128 and 3 blocks, vjepa2_1_vitl has 1024 and 24" in capsys.readouterr().err

"""An artefact knows what it was made from."""

import hashlib

import pytest

import glint.core.provenance as provenance
from glint.core.provenance import canonical_json, code_digest, digest, reached_modules, sha256_file


def test_equal_values_have_equal_digests_whatever_their_order():
    assert digest({"a": 1, "b": [1, 2]}) == digest({"b": [1, 2], "a": 1}) != digest({"a": 1, "b": [2, 1]})
    with pytest.raises(ValueError, match="not JSON compliant"):
        canonical_json(float("nan"))


def test_a_file_digest_is_sha256_of_its_bytes(tmp_path):
    path = tmp_path / "x"
    path.write_bytes(b"glint" * 100_000)
    assert sha256_file(path) == hashlib.sha256(b"glint" * 100_000).hexdigest()


def test_a_command_reaches_what_it_imports_and_not_its_neighbours():
    reached = reached_modules("glint.cli.resample")
    assert "glint.prepare.resample" in reached and "glint.core.atomic" in reached
    assert not any(name.startswith("glint.prepare.deidentify") for name in reached)
    assert "glint.prepare.resample" not in reached_modules("glint.cli.deidentify")


def test_an_edit_changes_the_digest_of_those_who_reach_it_only(tmp_path, monkeypatch):
    package = tmp_path / "glint"
    for name, text in {"cli/a.py": "import glint.core.x\n", "cli/b.py": "\n", "core/x.py": "y = 1\n"}.items():
        (package / name).parent.mkdir(parents=True, exist_ok=True)
        (package / name).write_text(text)
    monkeypatch.setattr(provenance, "PACKAGE_DIR", package)

    def digests():
        code_digest.cache_clear()
        return code_digest("glint.cli.a"), code_digest("glint.cli.b")

    before = digests()
    (package / "core/x.py").write_text("y = 2\n")
    after = digests()
    code_digest.cache_clear()
    assert before[0] != after[0] and before[1] == after[1]

"""The yardstick sees the tokens of the study it asks for, from the cache that its manifest names."""

import numpy as np
import pytest

from glint.core.errors import FingerprintError, InputError
from glint.evaluation.tokens import teacher_tokens
from glint.formats.feature_cache import write_cache
from glint.formats.feature_rows import CacheHead
from glint.formats.manifest import manifest_frame, write_manifest

STUDIES = {"shard-000": ["s3", "s1"], "shard-001": ["s2"]}


def write_shards(root, layers):
    """Every token of study sN is N, of its intermediate block 10 N."""
    manifests = []
    for shard, studies in STUDIES.items():
        cache = root / "teacher" / f"{shard}.h5"
        cache.parent.mkdir(exist_ok=True)
        head = CacheHead(study_ids=tuple(studies), layers=layers, grid=(1, 2, 2), width=3)
        with write_cache(cache, head) as writer:
            for row, study in enumerate(studies):
                number = int(study[1:])
                tokens = {n: np.full((4, 3), number * (1 if n == layers[-1] else 10), np.float16) for n in layers}
                writer.put(row, tokens, affine=np.eye(4), coverage_P=np.ones(4, np.float32))
        rows = [
            {"study_id": s, "status": "ok", "path": f"../teacher/{shard}.h5", "row": r, "fingerprint": head.fingerprint}
            for r, s in enumerate(studies)
        ]
        manifests.append(root / shard / "manifest.parquet")
        manifests[-1].parent.mkdir()
        write_manifest(manifests[-1], manifest_frame(rows, "features"), "features")
    return manifests


@pytest.mark.parametrize("layers", [("1", "final"), ("1", "3")])
def test_final_or_else_last_tokens_come_in_the_order_asked(tmp_path, layers):
    tokens = teacher_tokens(write_shards(tmp_path, layers), ["s1", "s2", "s3", "s1"])
    assert tokens.shape == (4, 4, 3)
    np.testing.assert_array_equal(tokens[:, 0, 0], [1, 2, 3, 1])


def test_a_study_without_tokens_is_told(tmp_path):
    with pytest.raises(InputError, match="no tokens of study s9"):
        teacher_tokens(write_shards(tmp_path, ("final",)), ["s1", "s9"])


def test_a_cache_that_is_not_the_one_of_its_manifest_is_refused(tmp_path):
    manifests = write_shards(tmp_path, ("final",))
    (tmp_path / "teacher" / "shard-001.h5").replace(tmp_path / "teacher" / "shard-000.h5")
    with pytest.raises(FingerprintError):
        teacher_tokens(manifests, ["s1"])

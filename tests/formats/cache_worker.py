"""What a loading process does with a cache that it was given; apart from the tests, so that a spawned process imports no torch."""

import os

import h5py
import numpy as np

from glint.formats.feature_cache import write_cache
from glint.formats.feature_rows import CacheHead

MANY = CacheHead(study_ids=tuple(f"s{number:02d}" for number in range(24)), layers=("1",), grid=(8, 16, 16), width=64)
held = None


def hold(cache):
    global held
    held = cache


def read(rows):
    """The rows' bytes, how much HDF5 holds open here, whose map was there at first, and whose it is now."""
    before = held._process
    values = [held.read("final", [row]).tobytes() for row in rows]
    return values, h5py.h5f.get_obj_count(types=h5py.h5f.OBJ_FILE), before, held._process, os.getpid()


def write_many(path, told):
    """Write 24 rows, beginning when the parent says so; tell how many were there before, and when all are there."""
    told.recv()
    with write_cache(path, MANY) as writer:
        told.send(len(writer.done))
        for row in set(range(24)) - writer.done:
            tokens = np.random.default_rng(row).normal(size=(2048, 64)).astype(np.float16)
            writer.put(row, {"1": tokens}, affine=np.eye(4), coverage_P=np.ones(2048, np.float32))
    told.send("whole")

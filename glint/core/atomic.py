"""Files and folders that are whole whenever they carry their final name."""

import errno
import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_ROOM_BYTES = 2**20
"""A disk with less free room than this is full for whoever writes tensors."""


def _fsync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _temporary(path: Path) -> Path:
    """Name of the unfinished twin of `path`; leftovers of killed runs are removed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    for leftover in path.parent.glob(f".{path.name}.tmp.*"):
        pid = leftover.name.rsplit(".", 1)[-1]
        if not (pid.isdigit() and Path(f"/proc/{pid}").exists() and int(pid) != os.getpid()):
            _remove(leftover)
    return path.parent / f".{path.name}.tmp.{os.getpid()}"


@contextmanager
def _system_errors(folder: Path) -> Iterator[None]:
    """Errors of the file system that libraries wrap in their own words, raised as the OSError that they are.

    polars and safetensors say "(os error 28)" (Rust); torch names its zip writer and no cause, so a full disk is looked for.
    """
    try:
        yield
    except OSError:
        raise
    except Exception as error:
        number = 0
        if found := re.search(r"\(os error (\d+)\)", str(error)):
            number = int(found[1])
        elif "inline_container" in str(error):
            number = errno.ENOSPC if shutil.disk_usage(folder).free < _ROOM_BYTES else errno.EIO
        if not number:
            raise
        raise OSError(number, os.strerror(number)) from error


@contextmanager
def atomic_file(path: Path | str) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it becomes `path`, on failure it vanishes."""
    final = Path(path)
    temporary = _temporary(final)
    try:
        with _system_errors(final.parent):
            yield temporary
        settle(temporary, final)
    finally:
        temporary.unlink(missing_ok=True)


def settle(temporary: Path, final: Path) -> None:
    """Give a finished file of the same folder its name, once its content is on disk."""
    with temporary.open("rb") as handle:
        os.fsync(handle.fileno())
    temporary.replace(final)
    _fsync_folder(final.parent)


@contextmanager
def atomic_directory(path: Path | str) -> Iterator[Path]:
    """Yield an empty temporary folder; on success it takes the place of `path`, contents and all.

    Every file is flushed to disk before the swap. Between the two renames of a swap a kill leaves `path`
    absent, never half full.
    """
    final = Path(path)
    temporary = _temporary(final)
    temporary.mkdir()
    try:
        with _system_errors(final.parent):
            yield temporary
        # One flush of the whole system instead of an fsync per file: thousands of small DICOM files took minutes.
        os.sync()
        if final.exists():
            retired = final.parent / f".{final.name}.tmp.retired.{os.getpid()}"
            final.replace(retired)
            temporary.replace(final)
            shutil.rmtree(retired)
        else:
            temporary.replace(final)
        _fsync_folder(final.parent)
    finally:
        if temporary.exists():
            shutil.rmtree(temporary)


def write_text(path: Path | str, text: str) -> None:
    """Write UTF-8 text atomically."""
    with atomic_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path | str, value: Any) -> None:
    """Write `value` as indented JSON with sorted keys, atomically."""
    write_text(path, json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n")

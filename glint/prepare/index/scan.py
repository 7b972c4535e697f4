"""Find the files under raw folders and read the headers of those that are new or were replaced."""

import os
from array import array
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from glint.core.errors import InputError, Quarantine
from glint.core.parallel import parallel_map
from glint.core.progress import log
from glint.formats.dicom import InstanceHeader, read_header
from glint.formats.header_cache import RawFile, file_stamp, headers_frame, source_path
from glint.prepare.index.header_store import HeaderStore

FILES_AT_A_TIME = 20_000  # headers held in memory; some 80 MB

FILES_WORTH_A_POOL = 500  # fewer are read before other processes have started


def raw_roots(folders: Sequence[Path]) -> tuple[Path, ...]:
    """The folders, resolved, each once and without those that lie inside another.

    Raises:
        InputError: a folder does not exist.
    """
    for folder in folders:
        if not folder.is_dir():
            raise InputError(f"{folder}: no such folder; name the folder with the raw DICOM files")
    resolved = list(dict.fromkeys(folder.resolve() for folder in folders))
    return tuple(folder for folder in resolved if not any(folder.is_relative_to(o) for o in resolved if o != folder))


def walk_files(roots: Sequence[Path]) -> Iterator[RawFile]:
    """All regular files below `roots` in a fixed order; links to folders aren't followed.

    A folder that may not be listed, and a file that vanishes or whose name is not text, are left out; the log counts them.
    """
    left_out = 0
    for place, root in enumerate(roots):
        waiting = [str(root)]
        while waiting:
            try:
                with os.scandir(waiting.pop()) as found:
                    entries = sorted(found, key=lambda entry: entry.name)
            except OSError:
                left_out += 1
                continue
            folders = []
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    folders.append(entry.path)
                elif entry.is_file():
                    file = _raw_file(entry, f"{place}/{entry.path[len(str(root)) :].lstrip('/')}")
                    if file is None:
                        left_out += 1
                    else:
                        yield file
            waiting.extend(reversed(folders))
    if left_out:
        log(f"headers: {left_out} folders or files can't be listed (permission, or a name that is not UTF-8)")


def _raw_file(entry: "os.DirEntry[str]", source: str) -> RawFile | None:
    try:
        source.encode("utf-8")
        stat = entry.stat()
    except (UnicodeEncodeError, OSError):
        return None
    return RawFile(stamp=file_stamp(source, stat.st_size, stat.st_mtime_ns), source=source)


def _read(file: RawFile, roots: Sequence[Path]) -> InstanceHeader | str | None:
    try:
        return read_header(source_path(file.source, roots))
    except Quarantine as quarantine:
        return quarantine.reason
    except OSError:
        return "unreadable"


def scan_folders(roots: Sequence[Path], store: HeaderStore, *, workers: int) -> NDArray[np.uint64]:
    """Bring `store` up to date with the files below `roots`; returns the sorted stamps of all files there are.

    Only files that the store does not know are opened. What was read is kept at once, so that an interrupted
    scan goes on where it was.
    """
    known = store.stamps()
    seen = array("Q")
    waiting: list[RawFile] = []
    num_read = 0
    for file in walk_files(roots):
        seen.append(file.stamp)
        place = int(np.searchsorted(known, np.uint64(file.stamp)))
        if place == len(known) or int(known[place]) != file.stamp:
            waiting.append(file)
        if len(waiting) == FILES_AT_A_TIME:
            num_read += _keep(waiting, roots, store, workers)
            waiting = []
    num_read += _keep(waiting, roots, store, workers)
    log(f"headers: {len(seen)} files, {num_read} new or changed")
    return np.sort(np.frombuffer(seen, dtype=np.uint64)) if seen else np.empty(0, dtype=np.uint64)


def _keep(files: list[RawFile], roots: Sequence[Path], store: HeaderStore, workers: int) -> int:
    if files:
        few = len(files) < FILES_WORTH_A_POOL
        read = partial(_read, roots=roots)
        results = parallel_map(read, files, workers=1 if few else workers, description="headers")
        store.add(headers_frame(files, results))
    return len(files)

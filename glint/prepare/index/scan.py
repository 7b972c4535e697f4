"""Find the files under raw folders and read the headers of those that are new or were replaced."""

import io
import os
from array import array
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from glint.core.errors import Quarantine
from glint.core.parallel import parallel_map
from glint.core.progress import log
from glint.formats.archives import HEAD_BYTES, inflated_head, is_archive, list_members, read_member, split_member
from glint.formats.clutter import clutter_kind, is_document
from glint.formats.dicom import InstanceHeader, looks_like_dicom, parse_header, read_header
from glint.formats.header_cache import ARCHIVE, RawFile, file_stamp, headers_frame, member_of, source_path
from glint.prepare.index.header_store import HeaderStore

FILES_AT_A_TIME = 20_000  # headers held in memory; some 80 MB

FILES_WORTH_A_POOL = 500  # fewer are read before other processes have started


def walk_files(roots: Sequence[Path]) -> Iterator[RawFile]:
    """All regular files below `roots`, or at one, in a fixed order; links to folders aren't followed.

    A folder that may not be listed, and a file that vanishes or whose name is not text, are left out; the log counts them.
    """
    left_out = 0
    for place, root in enumerate(roots):
        if root.is_file():
            status = root.stat()
            yield RawFile(stamp=file_stamp(f"{place}/", status.st_size, status.st_mtime_ns), source=f"{place}/")
            continue
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


def _read(file: RawFile, roots: Sequence[Path]) -> InstanceHeader | str:
    """The header of one file, or its state; members of archives are read in memory."""
    path = source_path(file.source, roots)
    try:
        return _read_member(path) if file.archive is not None else _read_file(path)
    except Quarantine as quarantine:
        return quarantine.reason
    except OSError:
        return "unreadable"


def _read_file(path: str) -> InstanceHeader | str:
    header = read_header(path)
    if header is not None:
        return header
    with Path(path).open("rb") as handle:
        head = handle.read(HEAD_BYTES)
    if not is_archive(head):
        return clutter_kind(head)
    if is_document(head):
        return "document"
    inside = inflated_head(head)
    if inside and inside[257:262] != b"ustar":
        return "packed_dicom" if looks_like_dicom(inside) else "packed_file"
    return ARCHIVE


def _read_member(path: str) -> InstanceHeader | str:
    archive, name = split_member(path)
    if name is None:
        return "unreadable"
    head = read_member(archive, name, HEAD_BYTES)
    if is_archive(head):
        return "document" if is_document(head) else "nested_archive"
    if looks_like_dicom(head):
        content = read_member(archive, name)
        header = parse_header(io.BytesIO(content), path, len(content))
        if header is not None:
            return header
    return clutter_kind(head)


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
    stamps = np.sort(np.frombuffer(seen, dtype=np.uint64)) if seen else np.empty(0, dtype=np.uint64)
    return store.with_members(stamps)


def _keep(files: list[RawFile], roots: Sequence[Path], store: HeaderStore, workers: int) -> int:
    """Read files and, after them, what the archives among them hold; an archive counts as read once all of it is kept."""
    results = _results(files, roots, workers)
    pairs = list(zip(files, results, strict=True))
    plain = [(file, result) for file, result in pairs if result != ARCHIVE]
    if plain:
        store.add(headers_frame(*zip(*plain, strict=True)))
    members = [_keep_archive(file, roots, store, workers) for file, result in pairs if result == ARCHIVE]
    return len(files) + sum(members)


def _results(files: Sequence[RawFile], roots: Sequence[Path], workers: int) -> list[InstanceHeader | str]:
    few = len(files) < FILES_WORTH_A_POOL
    return parallel_map(partial(_read, roots=roots), files, workers=1 if few else workers, description="headers")


def _keep_archive(archive: RawFile, roots: Sequence[Path], store: HeaderStore, workers: int) -> int:
    try:
        found = list_members(source_path(archive.source, roots))
    except (Quarantine, OSError) as error:
        reason = error.reason if isinstance(error, Quarantine) else "unreadable"
        store.add(headers_frame([archive], [reason]))
        return 0
    known = set(store.stamps().tolist())
    members = [file for file in (member_of(archive, member) for member in found) if file.stamp not in known]
    for start in range(0, len(members), FILES_AT_A_TIME):
        some = members[start : start + FILES_AT_A_TIME]
        store.add(headers_frame(some, _results(some, roots, workers)))
    store.add(headers_frame([archive], [ARCHIVE]))
    return len(members)

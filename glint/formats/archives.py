"""Members of zip, tar and tar.gz archives, read in place: nothing is unpacked to disk.

An archive is taken whole or not at all. One that is broken, encrypted, or swells beyond reason is refused with a reason,
since a study that lacks some of its files looks like a whole one.
"""

import io
import os
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from glint.core.errors import Quarantine

MEMBER = "!/"  # between the path of an archive and the name of a member in it
HEAD_BYTES = 512
BLOCK = tarfile.BLOCKSIZE
BOMB_BYTES = 1 << 30  # less does no harm
BOMB_RATIO = 200  # of unpacked to packed bytes; CT slices reach 3, blanked ones 1,000 but never a gigabyte
UNSUPPORTED = {
    b"7z\xbc\xaf\x27\x1c": "7z",
    b"Rar!\x1a\x07": "rar",
    b"BZh": "bzip2",
    b"\xfd7zXZ\x00": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
}


@dataclass(frozen=True, kw_only=True)
class Member:
    """A regular file in an archive; `size` in bytes, unpacked."""

    name: str
    size: int


@dataclass(frozen=True, kw_only=True)
class _Opened:
    """An archive that stays open for its readers; `read` takes a name and a number of bytes (-1: all)."""

    members: tuple[Member, ...]
    read: Callable[[str, int], bytes]


def is_archive(head: bytes) -> bool:
    """True where the first bytes are those of an archive, readable or not."""
    magic = head[:4] in (b"PK\x03\x04", b"PK\x05\x06", b"PK\x07\x08") or head[:2] == b"\x1f\x8b"
    return magic or head[257:262] == b"ustar" or any(head.startswith(first) for first in UNSUPPORTED)


def inflated_head(head: bytes) -> bytes:
    """The first unpacked bytes of what `head`, the first bytes of a gzip file, begins; "" where that is damaged."""
    try:
        return zlib.decompressobj(wbits=31).decompress(head, HEAD_BYTES)
    except zlib.error:
        return b""


def split_member(file: str) -> tuple[str, str | None]:
    """Path of the archive and name of the member; (`file`, None) for a file that lies in a folder."""
    place = file.find(MEMBER)
    while place >= 0:
        if os.path.isfile(file[:place]):
            return file[:place], file[place + len(MEMBER) :]
        place = file.find(MEMBER, place + 1)
    return file, None


def raw_bytes(file: Path | str) -> bytes:
    """The content of a raw file, in a folder or (`archive.zip!/a/b.dcm`) in an archive.

    Raises:
        OSError: a file in a folder can't be read.
        Quarantine: see `list_members`; `unreadable`, the archive has no such member or it is damaged.
    """
    path, member = split_member(str(file))
    return Path(path).read_bytes() if member is None else read_member(path, member)


def list_members(path: Path | str) -> tuple[Member, ...]:
    """The regular files of an archive, by name.

    Raises:
        Quarantine: `archive_unsupported`, `archive_broken`, `archive_encrypted`, `archive_bomb`,
            `archive_repeated_names`, `archive_bad_name` (not UTF-8).
    """
    return _opened(path).members


def read_member(path: Path | str, name: str, size: int = -1) -> bytes:
    """The first `size` bytes of a member, or all.

    Raises:
        Quarantine: see `list_members`; `unreadable`, no such member or it is damaged.
    """
    opened = _opened(path)
    try:
        return opened.read(name, size)
    except Exception as error:  # decompressors raise whatever the bytes provoke
        raise Quarantine("unreadable", "a member of an archive can't be read") from error


def _opened(path: Path | str) -> _Opened:
    status = os.stat(path)
    try:
        return _open(str(path), status.st_size, status.st_mtime_ns)
    except Quarantine:
        raise
    except OSError as error:
        if error.errno is not None:
            raise
        raise Quarantine("archive_broken", "the archive ends early or is damaged; pack it again") from error
    except Exception as error:  # see read_member
        raise Quarantine("archive_broken", "the archive ends early or is damaged; pack it again") from error


@lru_cache(maxsize=4)
def _open(path: str, size: int, mtime_ns: int) -> _Opened:
    """Open once for all members; `size` and `mtime_ns` make a replaced archive another one."""
    with Path(path).open("rb") as handle:
        head = handle.read(HEAD_BYTES)
    if any(head.startswith(first) for first in UNSUPPORTED):
        raise Quarantine("archive_unsupported", "only zip, tar and tar.gz are read; pack it as one of these")
    opened = _open_zip(path) if head[:2] == b"PK" else _open_tar(path, size, packed=head[:2] == b"\x1f\x8b")
    _require_sane(opened.members, size)
    return opened


def _require_sane(members: Sequence[Member], packed_bytes: int) -> None:
    names = [member.name for member in members]
    if len(set(names)) < len(names):
        raise Quarantine("archive_repeated_names", "two members have one name; pack it again")
    try:
        "".join(names).encode("utf-8")
    except UnicodeEncodeError:
        raise Quarantine("archive_bad_name", "a member's name is not UTF-8; pack it again") from None
    _require_no_bomb(sum(member.size for member in members), packed_bytes)


def _require_no_bomb(unpacked_bytes: int, packed_bytes: int) -> None:
    if unpacked_bytes > max(BOMB_BYTES, BOMB_RATIO * packed_bytes):
        raise Quarantine("archive_bomb", f"it swells more than {BOMB_RATIO} times; unpack it by hand if that is right")


def _open_zip(path: str) -> _Opened:
    archive = zipfile.ZipFile(path)
    entries = [
        entry for entry in archive.infolist() if not entry.is_dir() and not stat.S_ISLNK(entry.external_attr >> 16)
    ]
    if any(entry.flag_bits & 1 for entry in entries):
        raise Quarantine("archive_encrypted", "members are encrypted; pack it without a password")

    def read(name: str, size: int) -> bytes:
        with archive.open(name) as handle:
            return handle.read(size)

    return _Opened(members=tuple(Member(name=entry.filename, size=entry.file_size) for entry in entries), read=read)


class _Inflated(io.RawIOBase):
    """A gzip stream with random access that refuses to swell beyond reason."""

    def __init__(self, path: str, packed_bytes: int) -> None:
        from indexed_gzip import IndexedGzipFile  # remembers places, where gzip starts at the front for every member

        self._file: Any = IndexedGzipFile(path)
        self._packed_bytes = packed_bytes

    def read(self, size: int = -1) -> bytes:
        content: bytes = self._file.read(size)
        _require_no_bomb(self._file.tell(), self._packed_bytes)
        return content

    def seek(self, offset: int, whence: int = 0) -> int:
        place: int = self._file.seek(offset, whence)
        _require_no_bomb(place, self._packed_bytes)
        return place

    def tell(self) -> int:
        place: int = self._file.tell()
        return place


def _open_tar(path: str, packed_bytes: int, *, packed: bool) -> _Opened:
    stream: Any = _Inflated(path, packed_bytes) if packed else Path(path).open("rb")  # noqa: SIM115, open as long as its readers
    archive = tarfile.open(fileobj=stream, mode="r:")  # noqa: SIM115
    entries = archive.getmembers()
    end = max((entry.offset_data + -(-entry.size // BLOCK) * BLOCK for entry in entries if entry.isreg()), default=0)
    end = max([end, *(entry.offset_data for entry in entries)])
    stream.seek(end)
    if stream.read(BLOCK) != b"\0" * BLOCK:  # a damaged header ends the list without a word
        raise Quarantine("archive_broken", "the archive ends early or is damaged; pack it again")
    files = {entry.name: entry for entry in entries if entry.isreg()}

    def read(name: str, size: int) -> bytes:
        entry = files[name]
        handle = archive.extractfile(entry)
        if handle is None:
            raise KeyError(name)
        content = handle.read(entry.size if size < 0 else size)
        if len(content) < min(entry.size, entry.size if size < 0 else size):
            raise EOFError
        return content

    members = tuple(Member(name=entry.name, size=entry.size) for entry in entries if entry.isreg())
    return _Opened(members=members, read=read)

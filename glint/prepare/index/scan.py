"""Find the DICOM files under raw folders and read their headers."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from glint.core.errors import InputError, Quarantine
from glint.core.parallel import parallel_map
from glint.formats.dicom import InstanceHeader, read_header


@dataclass(frozen=True, kw_only=True)
class Scan:
    """Headers in order of path, files that can't be read (path, reason), and how many files are not DICOM."""

    headers: tuple[InstanceHeader, ...]
    unreadable: tuple[tuple[str, str], ...]
    num_other_files: int


def list_files(folders: Sequence[Path]) -> list[str]:
    """Absolute paths of all regular files below `folders`, sorted, each once; links to folders aren't followed.

    Raises:
        InputError: a folder does not exist.
    """
    files: set[str] = set()
    for folder in folders:
        if not folder.is_dir():
            raise InputError(f"{folder}: no such folder; name the folder with the raw DICOM files")
        for parent, _, names in os.walk(folder.resolve()):
            files.update(os.path.join(parent, name) for name in names)
    return sorted(file for file in files if os.path.isfile(file))


def _read(file: str) -> InstanceHeader | str | None:
    try:
        return read_header(file)
    except Quarantine as quarantine:
        return quarantine.reason
    except OSError:
        return "unreadable"


def scan_folders(folders: Sequence[Path], *, workers: int) -> Scan:
    """Read the header of every DICOM file below `folders`.

    Raises:
        InputError: a folder does not exist, or none holds a DICOM file.
    """
    files = list_files(folders)
    results = parallel_map(_read, files, workers=workers, description="headers")
    headers = tuple(result for result in results if isinstance(result, InstanceHeader))
    unreadable = tuple((file, result) for file, result in zip(files, results, strict=True) if isinstance(result, str))
    if not headers and not unreadable:
        names = ", ".join(str(folder) for folder in folders)
        raise InputError(f"{names}: no DICOM file among {len(files)} files; name the folder with the raw DICOM files")
    return Scan(headers=headers, unreadable=unreadable, num_other_files=sum(result is None for result in results))

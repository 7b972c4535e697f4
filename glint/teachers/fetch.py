"""Getting published weights where there is network: the only place of the teachers that uses it."""

from __future__ import annotations

import shutil
import urllib.error
import urllib.request
from pathlib import Path

from glint.core.atomic import atomic_file
from glint.core.config.families import PUBLISHED, published_at
from glint.core.errors import InputError
from glint.teachers.sources import HUB_FILES, fallback

TIMEOUT_S = 60
BLOCK_BYTES = 1 << 22


def location_of(name: str) -> str:
    """Hub id or address of a published name; anything else is taken as a hub id or address itself."""
    return PUBLISHED[name].location if name in PUBLISHED else name


def fetch_weights(location: str, *, revision: str | None = None, out: Path | None = None) -> Path:
    """Get weights; returns the file (of an address) or folder (of a hub model) that holds them.

    Args:
        location: Hub id, or https address of a checkpoint.
        revision: Commit, tag or branch of a hub model.
        out: Folder to put them in. None: `transformers`' own cache, where `teacher.source: hub` finds them; an address needs one.

    Raises:
        InputError: refused or out of reach, with what to do instead.
    """
    if "://" in location:
        return _from_address(location, out)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HFValidationError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    known = published_at(location)
    instead = fallback(known[1] if known else None)
    try:
        # LocalEntryNotFoundError and refused connections are OSErrors too.
        return Path(snapshot_download(location, revision=revision, local_dir=out, allow_patterns=list(HUB_FILES)))
    except GatedRepoError as error:
        raise InputError(
            f"{location}: its owner has not let you in; accept its licence at https://huggingface.co/{location}, wait for the answer, "
            f"log in with `hf auth login` and fetch again; or {instead}"
        ) from error
    except RevisionNotFoundError as error:
        raise InputError(f"{location}: there is no revision {revision!r}; leave it out to get the newest") from error
    except RepositoryNotFoundError as error:
        raise InputError(
            f"{location}: the hub knows no such model, or hides it from you; check the name, or log in with `hf auth login`"
        ) from error
    except HFValidationError as error:
        raise InputError(f"{location}: neither a hub id (owner/name) nor an address nor a published name") from error
    except (OSError, ValueError) as error:
        raise InputError(
            f"{location}: the hub can't be reached from here ({type(error).__name__}); fetch on a machine with network, with --out, copy "
            f"the folder and set teacher.source to path; or {instead}"
        ) from error


def _from_address(address: str, out: Path | None) -> Path:
    if not address.startswith("https://"):
        raise InputError(f"{address}: only https addresses are fetched")
    if out is None:
        raise InputError(f"{address}: name a folder with --out")
    target = out / address.rsplit("/", 1)[-1]
    try:
        with atomic_file(target) as temporary, urllib.request.urlopen(address, timeout=TIMEOUT_S) as source:
            with temporary.open("wb") as handle:
                shutil.copyfileobj(source, handle, BLOCK_BYTES)
            announced = source.headers.get("Content-Length")
            if announced is not None and temporary.stat().st_size != int(announced):
                raise InputError(f"{address}: the connection broke off early; fetch again")
    except urllib.error.HTTPError as error:
        raise InputError(f"{address}: the server refuses ({error.code}); {fallback(None)}") from error
    except (urllib.error.URLError, TimeoutError, ConnectionError) as error:
        raise InputError(
            f"{address}: out of reach from here; fetch on a machine with network, copy the file and name it in teacher.location; "
            f"or {fallback(None)}"
        ) from error
    return target

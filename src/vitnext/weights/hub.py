"""Files from the Hugging Face hub, through huggingface_hub: its cache, HF_HUB_OFFLINE, HF_ENDPOINT and login are used.

What is in the cache is taken without asking the network. A file that comes is compared with the SHA-256 that the hub
has of it. Whatever goes wrong is one line: what to download, from where, and where to put it.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vitnext.errors import InputError, WorkError, require

FILES = ("model.safetensors", "pytorch_model.bin")  # the first of these that a repository has

NO_NAME = "no such file, and no name on the hub like timm/convnext_tiny.fb_in1k"

SECONDS = 10.0  # to wait for the hub's first answer


def cached(repository: str) -> Path | None:
    """The weights of ``repository`` in the cache, or None. Asks no network. Raises InputError for what is no name."""
    hub = require("huggingface_hub", "train")
    errors = require("huggingface_hub.errors", "train")
    for name in FILES:
        try:
            found = hub.try_to_load_from_cache(repository, name)
        except errors.HFValidationError as error:
            raise InputError(f"{repository}: {NO_NAME}") from error
        if isinstance(found, str):  # else None, or a mark that the hub is known not to have it
            return Path(found)
    return None


def require_name(repository: str) -> None:
    """Raises InputError for what cannot be the name of a repository."""
    if repository.count("/") != 1:
        raise InputError(f"{repository}: {NO_NAME}")


def fetch(repository: str) -> Path:
    """The weights of ``repository`` ("timm/convnext_tiny.fb_in1k"), downloaded if the cache has none.

    Raises InputError for what the user must change (no such repository, none of FILES in it, a licence to accept first)
    and WorkError for what went wrong on the way (offline, unreachable, truncated, not what the hub promised).
    """
    require_name(repository)
    if (path := cached(repository)) is not None:
        return path
    hub = require("huggingface_hub", "train")
    errors = require("huggingface_hub.errors", "train")
    page = f"{require('huggingface_hub.constants', 'train').ENDPOINT}/{repository}"
    file = f"{repository}/{FILES[0]}"
    by_hand = (
        f"download {page}/resolve/main/{FILES[0]} and put it at {file} in this folder, or give the path of another"
    )
    try:
        with _quiet():
            name, promised = _look_up(hub, errors, repository)
            path = Path(hub.hf_hub_download(repository, name, etag_timeout=SECONDS))
    except errors.OfflineModeIsEnabled as error:
        raise WorkError(
            f"{repository} is not in the cache and HF_HUB_OFFLINE is set: unset it, or {by_hand}"
        ) from error
    except errors.GatedRepoError as error:
        raise InputError(
            f"{repository} is for those alone who accept its licence: do that at {page} and log in with "
            f"`hf auth login`, or {by_hand}"
        ) from error
    except errors.EntryNotFoundError as error:
        raise InputError(f"{page} has no {' or '.join(FILES)}: download its weights and give their path") from error
    except errors.HfHubHTTPError as error:
        status = error.response.status_code
        if status in (401, 403, 404):
            raise InputError(
                f"the hub has no {repository}, or shows it to others alone (HTTP {status}): compare the name with "
                f"{page}; if you may see it, log in with `hf auth login`"
            ) from error
        raise WorkError(f"the hub answers HTTP {status} for {repository}: try again later, or {by_hand}") from error
    except Exception as error:  # of the network or of the disk, in classes of three libraries
        raise WorkError(f"{repository} could not be downloaded ({_reason(error)}): try again, or {by_hand}") from error
    found = sha256(path)
    if promised and found != promised:
        for wrong in {path.resolve(), path}:  # the file, and the link to it
            wrong.unlink()
        raise WorkError(
            f"{repository} is not what the hub promised (SHA-256 {found[:12]}..., not {promised[:12]}...) and was "
            f"removed: try again, or {by_hand}"
        )
    return path


def sha256(path: Path) -> str:
    """The SHA-256 of a file's content, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _look_up(hub: Any, errors: Any, repository: str) -> tuple[str, str]:
    """Which of FILES the repository has, and its SHA-256 ("" if the hub does not say): large files' ETag is that."""
    for name in FILES:
        with contextlib.suppress(errors.EntryNotFoundError):
            metadata = hub.get_hf_file_metadata(hub.hf_hub_url(repository, name), timeout=SECONDS)
            return name, metadata.etag if re.fullmatch("[0-9a-f]{64}", metadata.etag or "") else ""
    raise errors.EntryNotFoundError(repository)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """No remarks of the hub's library, and no progress bar where nobody watches it."""
    utils = require("huggingface_hub.utils", "train")
    logger = logging.getLogger("huggingface_hub")
    level, disabled = logger.level, utils.are_progress_bars_disabled()
    logger.setLevel(logging.ERROR)
    if not sys.stderr.isatty():
        utils.disable_progress_bars()
    try:
        yield
    finally:
        logger.setLevel(level)
        if not disabled:
            utils.enable_progress_bars()


def _reason(error: Exception) -> str:
    """One sentence of what an error of another library says, without the ": " that remedies stand behind here."""
    text = str(error).strip() or type(error).__name__
    if "Consistency check failed" in text:
        return "it came truncated"
    return re.split(r"\.?\n|\. ", text)[0].replace(": ", ", ")

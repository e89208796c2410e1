"""The official weights, from the hub or brought by hand; always verified before use.

`huggingface_hub` downloads them. So its cache, offline mode (HF_HUB_OFFLINE), mirror (HF_ENDPOINT)
and progress bar work here, too, and a dropped connection is resumed. But nothing is kept of a
download whose process ended; the next one starts from the beginning.

The digest decides, never the place: a cached file is verified each time, without asking the hub.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Final

import httpx2
from huggingface_hub import (
    constants,
    get_hf_file_metadata,
    hf_hub_download,
    hf_hub_url,
    try_to_load_from_cache,
)
from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

from export.errors import FetchError, HubUnreachable, WrongFile
from export.official import OFFICIAL
from reward.files import sha256

if TYPE_CHECKING:
    from export.official import Weights

_PROBE_TIMEOUT_S: Final = 10.0
_ABSENT: Final = (401, 404)  # the hub answers 401 for a repository that does not exist
_SHA256: Final = re.compile(r"[0-9a-f]{64}")


def fetch(weights: Weights = OFFICIAL) -> Path:
    """Return the path of the weights in the hub's cache; download them if they are not there.

    Raises:
        HubUnreachable: they are not cached, and the hub cannot be asked; nothing was downloaded.
        WrongFile: the hub has another file under that name, or the download is damaged; it was
            removed.
        FetchError: the hub has no such file, or the download broke off.
    """
    cached = try_to_load_from_cache(weights.repository, weights.file_name)
    if isinstance(cached, str) and sha256(Path(cached)) == weights.sha256:
        return Path(cached)
    _ask(weights)
    try:
        # A new download is forced if something else is cached under the name: a damaged file still
        # has the right ETag.
        path = Path(
            hf_hub_download(weights.repository, weights.file_name, force_download=isinstance(cached, str))
        )
    except (httpx2.HTTPError, OSError, RuntimeError) as error:
        raise FetchError(
            f"the download of {weights.file_name} broke off ({_reason(error)}); "
            f"run it again, or {_by_hand(weights)}"
        ) from error
    try:
        return verified(path, weights)
    except WrongFile:
        path.resolve().unlink(missing_ok=True)  # the cache's blob, to which the path is a link
        path.unlink(missing_ok=True)
        raise


def verified(path: Path, weights: Weights = OFFICIAL) -> Path:
    """Return `path` if the file is exactly these weights.

    Raises:
        CheckpointError: it cannot be read.
        WrongFile: it is another file.
    """
    digest = sha256(path)
    if digest != weights.sha256:
        raise WrongFile(f"{path}: not {weights.name}: sha256 {digest}, expected {weights.sha256}")
    return path


def _ask(weights: Weights) -> None:
    """Ask the hub for the file's identity, briefly: `hf_hub_download` tries for minutes."""
    try:
        metadata = get_hf_file_metadata(
            hf_hub_url(weights.repository, weights.file_name), timeout=_PROBE_TIMEOUT_S
        )
    except OfflineModeIsEnabled as error:
        raise HubUnreachable(
            f"{weights.file_name} is not in the cache, and HF_HUB_OFFLINE forbids to ask the hub; "
            f"unset it, or {_by_hand(weights)}"
        ) from error
    except HfHubHTTPError as error:
        status = error.response.status_code
        if status in _ABSENT:
            raise FetchError(
                f"{constants.ENDPOINT} has no {weights.file_name} in {weights.repository} (status {status})"
            ) from error
        raise _unreachable(f"status {status}", weights) from error
    except (httpx2.HTTPError, OSError) as error:
        raise _unreachable(_reason(error), weights) from error
    if metadata.commit_hash is None or metadata.etag is None:
        raise _unreachable("what answers there is no hub", weights)
    if _SHA256.fullmatch(metadata.etag) and metadata.etag != weights.sha256:
        raise WrongFile(
            f"{constants.ENDPOINT} has another {weights.file_name} in {weights.repository}: "
            f"sha256 {metadata.etag}, expected {weights.sha256}"
        )


def _unreachable(reason: str, weights: Weights) -> HubUnreachable:
    return HubUnreachable(f"{constants.ENDPOINT} cannot be reached ({reason}); {_by_hand(weights)}")


def _by_hand(weights: Weights) -> str:
    return (
        f"bring {weights.file_name} of {weights.repository} by hand: "
        "python -m export fetch --file PATH verifies it, make up CHECKPOINT=PATH serves it"
    )


def _reason(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__

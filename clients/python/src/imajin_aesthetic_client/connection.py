"""Where the service is and how it is spoken to: what both clients are given."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import urlsplit

from imajin_aesthetic_client.retries import Retries
from imajin_aesthetic_client.version import VERSION

DEFAULT_URL: Final = "http://127.0.0.1:8006"
DEFAULT_TIMEOUT_S: Final = 60.0
MAX_CONNECT_S: Final = 5.0
"""A host that does not take the connection within this is asked again."""
_KEY: Final = re.compile(r"[!-~]+")


@dataclass(frozen=True)
class Connection:
    """The service's address, and what goes with every request."""

    base_url: str = DEFAULT_URL
    api_key: str | None = field(default=None, repr=False)
    timeout_s: float = DEFAULT_TIMEOUT_S
    retries: Retries = field(default_factory=Retries)

    def __post_init__(self) -> None:
        parts = urlsplit(self.base_url)
        has_more = parts.query or parts.fragment or "@" in parts.netloc
        if parts.scheme not in {"http", "https"} or not parts.hostname or has_more:
            raise ValueError("base_url must be of the form http(s)://host[:port][/path]")
        if self.api_key is not None and not _KEY.fullmatch(self.api_key):
            raise ValueError("api_key has characters that no header can hold")  # and is not repeated here

    def url(self, path: str) -> str:
        """Return the address of a path."""
        return self.base_url.rstrip("/") + path

    def headers(self) -> dict[str, str]:
        """Return what goes with every request."""
        headers = {"User-Agent": f"imajin-aesthetic-client/{VERSION} (Python)"}
        if self.api_key is not None:
            headers["X-API-Key"] = self.api_key
        return headers

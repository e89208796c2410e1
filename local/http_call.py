"""One HTTP request to a server of this machine, whatever proxies the environment names."""

from __future__ import annotations

import http.client
from types import MappingProxyType
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Mapping


_JSON: Final = {"Content-Type": "application/json"}


def http_call(
    url: str,
    body: str | bytes | None = None,
    *,
    timeout_s: float,
    headers: Mapping[str, str] = MappingProxyType(_JSON),
) -> tuple[int, bytes]:
    """Get, or post `body`; return status and body, or 0 and nothing if no whole answer came.

    `headers` are those of a post.
    """
    address = urlsplit(url)
    connection = http.client.HTTPConnection(address.netloc, timeout=timeout_s)
    try:
        method = "GET" if body is None else "POST"
        connection.request(method, address.path, body, {} if body is None else dict(headers))
        answer = connection.getresponse()
        return answer.status, answer.read()
    except (OSError, http.client.HTTPException):
        return 0, b""
    finally:
        connection.close()

"""One HTTP request to a server of this machine, whatever proxies the environment names."""

from __future__ import annotations

import http.client
from urllib.parse import urlsplit


def http_call(url: str, body: str | None = None, *, timeout_s: float) -> tuple[int, bytes]:
    """Get, or post JSON; return status and body, or 0 and nothing if no whole answer came."""
    address = urlsplit(url)
    connection = http.client.HTTPConnection(address.netloc, timeout=timeout_s)
    try:
        method, headers = ("GET", {}) if body is None else ("POST", {"Content-Type": "application/json"})
        connection.request(method, address.path, body, headers)
        answer = connection.getresponse()
        return answer.status, answer.read()
    except (OSError, http.client.HTTPException):
        return 0, b""
    finally:
        connection.close()

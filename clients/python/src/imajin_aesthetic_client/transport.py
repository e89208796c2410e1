"""httpx's timeouts and errors, in this package's terms."""

from __future__ import annotations

import httpx

from imajin_aesthetic_client.connection import MAX_CONNECT_S
from imajin_aesthetic_client.errors import AestheticError, ConnectionFailed
from imajin_aesthetic_client.exchange import too_late

# Scoring twice does no harm: what was lost on the way may be sent again.
_PASSING = (httpx.NetworkError, httpx.RemoteProtocolError, httpx.ConnectTimeout)


def timeouts(remaining_s: float) -> httpx.Timeout:
    """Give each step of one request what remains of the call's time."""
    remaining_s = max(0.001, remaining_s)
    return httpx.Timeout(remaining_s, connect=min(remaining_s, MAX_CONNECT_S))


def no_reply(error: httpx.RequestError) -> AestheticError:
    """Say why no reply came."""
    if isinstance(error, httpx.TimeoutException) and not isinstance(error, httpx.ConnectTimeout):
        return too_late()
    failed = ConnectionFailed(str(error) or type(error).__name__, retryable=isinstance(error, _PASSING))
    failed.__cause__ = error
    return failed

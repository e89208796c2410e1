"""A service that gives the replies of one case of clients/vectors.json, by its own clock."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import httpx

from imajin_aesthetic_client import AestheticClient, AsyncAestheticClient, Candidate, Retries

if TYPE_CHECKING:
    from collections.abc import Awaitable

VECTORS: Final[dict[str, Any]] = json.loads((Path(__file__).parents[3] / "clients/vectors.json").read_text())
CASES: Final[list[dict[str, Any]]] = VECTORS["cases"]


def body_of(value: Any) -> Any:
    """Resolve `$name`."""
    return VECTORS["bodies"][value[1:]] if isinstance(value, str) and value.startswith("$") else value


class Script:
    """Replies in order; remembers the requests and the waits."""

    def __init__(self, case: dict[str, Any]) -> None:
        self.case = case
        self.now_s = 1000.0
        self.requests: list[httpx.Request] = []
        self.waits_s: list[float] = []
        self._replies = iter(case["replies"])

    def client(self) -> AestheticClient:
        """Make a client that speaks to it."""
        client = AestheticClient(transport=httpx.MockTransport(self._reply), **self._arguments())
        client._sleep, client._clock, client._random = self._wait, lambda: self.now_s, self._random
        return client

    def async_client(self) -> AsyncAestheticClient:
        """Make a client that speaks to it."""
        client = AsyncAestheticClient(transport=httpx.MockTransport(self._reply), **self._arguments())
        client._sleep, client._clock, client._random = self._wait_async, lambda: self.now_s, self._random
        return client

    def ask(self, client: AestheticClient | AsyncAestheticClient) -> Any | Awaitable[Any]:
        """Make the case's call."""
        arguments = dict(self.case["arguments"])
        if "candidates" in arguments:
            arguments["candidates"] = [
                Candidate(_image(item), item["id"]) if "id" in item else _image(item)
                for item in arguments["candidates"]
            ]
        elif self.case["call"] == "score":
            arguments["image"] = _image(arguments)
            arguments = {key: arguments[key] for key in arguments if not key.startswith("image_")}
        return getattr(client, self.case["call"])(**arguments)

    def _arguments(self) -> dict[str, Any]:
        options = dict(self.case.get("options", {}))
        retries = {
            key: options.pop(key) for key in ("max_attempts", "first_wait_s", "max_wait_s") if key in options
        }
        base_url = "http://service:8006" + self.case.get("base_path", "")
        return {"base_url": base_url, "retries": Retries(**retries), **options}

    def _reply(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        reply = next(self._replies)
        self.now_s += reply.get("takes_s", 0)
        if "fails" in reply:
            raise httpx.ConnectError("connection refused", request=request)
        if "hangs" in reply:
            raise httpx.ReadTimeout("", request=request)
        content = reply["text"] if "text" in reply else json.dumps(body_of(reply["json"]))
        return httpx.Response(reply["status"], headers=reply.get("headers"), content=content)

    def _random(self) -> float:
        value: float = self.case.get("random", 0)
        return value

    def _wait(self, seconds: Any) -> None:
        self.waits_s.append(seconds)
        self.now_s += seconds

    async def _wait_async(self, delay: float) -> None:
        self._wait(delay)


def _image(item: dict[str, Any]) -> str | bytes:
    url: str | None = item.get("image_url")
    return bytes(item["image_bytes"]) if url is None else url

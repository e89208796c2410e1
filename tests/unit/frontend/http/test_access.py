"""Who may call, which headers every answer has, and what the log says about a call."""

from __future__ import annotations

import json
import logging
import re
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from frontend.app import create_app
from frontend.http.keys import key_line
from frontend.logs import JsonFormatter
from frontend.settings import Settings

if TYPE_CHECKING:
    from pathlib import Path

KEY = "a key of sufficient length"
OPEN = ("/", "/health/live", "/static/page.css")
DOCS = ("/docs", "/docs/start.js", "/openapi.json")
CLOSED = ("/score", "/score-batch", "/info", "/metrics", "/openapi.json", "/docs", "/nowhere", "/health/x")


def _client(**settings: Any) -> httpx.AsyncClient:
    """Call the application in this process without starting its parts, which no test here needs."""
    transport = httpx.ASGITransport(create_app(Settings(**settings)))
    return httpx.AsyncClient(transport=transport, base_url="http://service")


@pytest.fixture
def keys_file(tmp_path: Path) -> Path:
    path = tmp_path / "keys"
    path.write_text(key_line("pipeline", KEY) + "\n")
    return path


@pytest.mark.parametrize("path", CLOSED)
async def test_without_a_valid_key(keys_file: Path, path: str) -> None:
    """Without a key, with a wrong key or with another scheme, every path answers 401.

    The exceptions are health and the page.
    """
    wrong = [
        {},
        {"X-API-Key": "wrong"},
        {"X-API-Key": ""},
        {"Authorization": "Bearer wrong"},
        {"Authorization": f"Basic {KEY}"},
        {"Authorization": KEY},
        {"Cookie": f"key={KEY}"},
    ]
    async with _client(api_keys_file=keys_file) as client:
        for headers in wrong:
            answer = await client.get(path, headers=headers)
            assert (answer.status_code, answer.json()["code"]) == (401, "unauthorized")
            assert answer.headers["www-authenticate"] == "Bearer"
        answer = await client.post(path, content=b"x" * 100)
        assert answer.status_code == 401


async def test_with_a_valid_key(keys_file: Path) -> None:
    """A valid key is accepted in either header; the scheme may be in upper or lower case.

    Health and the page need no key.
    """
    async with _client(api_keys_file=keys_file) as client:
        for headers in (
            {"X-API-Key": KEY},
            {"Authorization": f"Bearer {KEY}"},
            {"authorization": f"bearer  {KEY}"},
        ):
            assert (await client.get("/openapi.json", headers=headers)).status_code == 200
        for path in OPEN:
            assert (await client.get(path)).status_code != 401


async def test_the_interfaces_version_opens_no_door(keys_file: Path) -> None:
    """A path under `/v1` needs a key where the same path without it does; `/v1` counts once."""
    async with _client(api_keys_file=keys_file) as client:
        for path in (*CLOSED, "/v1/health", "/v1/static/page.css"):
            assert (await client.get(f"/v1{path}")).status_code == 401, path
        for path in OPEN:
            assert (await client.get(f"/v1{path}")).status_code != 401, path


async def test_every_path_under_v1() -> None:
    """Each path answers under `/v1` as it does alone, and is one endpoint to log and metrics.

    The OpenAPI document has it once.
    """
    app = create_app(Settings(max_body_bytes=10))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://service") as client:
        for path in ("/", "/docs", "/docs/start.js", "/health/live", "/openapi.json", "/nowhere", "/v1"):
            alone, versioned = await client.get(path), await client.get(f"/v1{path}")
            assert versioned.status_code == alone.status_code
            if alone.status_code == 200:
                assert versioned.content == alone.content
        for path in ("/v1/score", "/v1/score-batch"):
            assert (await client.post(path, content=b"x" * 11)).json()["code"] == "payload_too_large"
            assert (await client.get(path)).status_code == 405
        for path in ("/v1", "/v1score", "/v10/score", "/V1/score"):
            assert (await client.post(path)).status_code == 404
        document = (await client.get("/v1/openapi.json")).json()
    assert not [path for path in document["paths"] if path.startswith("/v1")]
    assert "/v1" in document["info"]["description"]


async def test_no_keys_are_needed_by_default() -> None:
    """Without a file of keys, everybody may call everything."""
    async with _client() as client:
        assert (await client.get("/openapi.json")).status_code == 200


async def test_the_log_names_the_key_and_never_tells_it(
    keys_file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The log line of a request has the key's name and the request's id, but no header's value."""
    caplog.set_level(logging.INFO)
    async with _client(api_keys_file=keys_file) as client:
        await client.get("/openapi.json?token=hidden", headers={"X-API-Key": KEY, "X-Request-ID": "abc"})
        await client.get("/openapi.json", headers={"X-API-Key": "a wrong one"})
    lines = [
        json.loads(JsonFormatter().format(record))
        for record in caplog.records
        if record.name == "imajin_aesthetic.requests"
    ]
    assert [(line["status"], line.get("key"), line["path"]) for line in lines] == [
        (200, "pipeline", "/openapi.json"),
        (401, None, "/openapi.json"),
    ]
    assert lines[0]["request_id"] == "abc"
    assert not any(secret in str(lines) for secret in (KEY, "hidden", "a wrong one"))


@pytest.mark.parametrize(("logged", "expected"), [(True, "a secret wish"), (False, None)])
async def test_prompts_are_logged_only_if_asked(
    caplog: pytest.LogCaptureFixture, logged: bool, expected: str | None
) -> None:
    """Only with AESTHETIC_LOG_PROMPTS is the prompt in the log line; the image never is."""
    caplog.set_level(logging.INFO)
    settings = Settings(log_prompts=logged, triton_url="127.0.0.1:1", decode_workers=1)
    app = create_app(settings)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://service") as client,
    ):
        await client.post("/score", json={"prompt": "a secret wish", "image_base64": "c2VjcmV0"})
    record = next(record for record in caplog.records if record.name == "imajin_aesthetic.requests")
    line = json.loads(JsonFormatter().format(record))
    assert line.get("prompt") == expected
    assert line["images"] == 1
    assert "c2VjcmV0" not in str(line)
    assert ("a secret wish" in str(line)) is logged


async def test_security_headers() -> None:
    """Every answer, errors too, forbids sniffing, framing, caching and sending a referrer."""
    async with _client() as client:
        for answer in (await client.get("/health/live"), await client.get("/x"), await client.post("/score")):
            assert answer.headers["x-content-type-options"] == "nosniff"
            assert answer.headers["x-frame-options"] == "DENY"
            assert answer.headers["cache-control"] == "no-store"
            assert answer.headers["referrer-policy"] == "no-referrer"
            assert "default-src 'none'" in answer.headers["content-security-policy"]
            assert "server" not in answer.headers
            assert len(answer.headers["x-request-id"]) == 16


PREFLIGHT = {
    "Origin": "https://a.example",
    "Access-Control-Request-Method": "POST",
    "Access-Control-Request-Headers": "authorization,content-type",
}


async def test_other_origins_are_shut_out_by_default() -> None:
    """Without configured origins no answer has a CORS header, and preflights are refused."""
    async with _client() as client:
        answers = [
            await client.get("/health/live", headers={"Origin": "https://a.example"}),
            await client.options("/score", headers=PREFLIGHT),
        ]
    assert answers[1].status_code == 405
    assert not [name for answer in answers for name in answer.headers if name.startswith("access-control")]


async def test_configured_origins_may_call(keys_file: Path) -> None:
    """A configured origin's preflight needs no key.

    That origin, and no other, may read the answers, 401 and 413 among them.
    """
    settings = {"cors_origins": "https://a.example", "api_keys_file": keys_file, "max_body_bytes": 10}
    async with _client(**settings) as client:
        preflight = await client.options("/score", headers=PREFLIGHT)
        refused = await client.options("/score", headers=PREFLIGHT | {"Origin": "https://b.example"})
        unauthorized = await client.post("/score", headers={"Origin": "https://a.example"})
        large = await client.post(
            "/score", headers={"Origin": "https://a.example", "X-API-Key": KEY}, content=b"x" * 11
        )
    assert preflight.status_code == 200
    assert preflight.headers["x-request-id"]
    assert "access-control-allow-origin" not in refused.headers
    assert (unauthorized.status_code, large.status_code) == (401, 413)
    for answer in (preflight, unauthorized, large):
        assert answer.headers["access-control-allow-origin"] == "https://a.example"
        assert "access-control-allow-credentials" not in answer.headers


async def test_documentation_needs_nothing_from_elsewhere() -> None:
    """`/docs` is Swagger UI, and all its files come from this service.

    Its policy allows no other host and no inline script.
    """
    async with _client() as client:
        answer = await client.get("/docs")
        loaded = re.findall(r'(?:src|href)="([^"]+)"', answer.text)
        files = [await client.get(f"/{name}") for name in loaded]
        missing = await client.get("/docs/../frontend/app.py"), await client.get("/docs/nothing.js")
    assert answer.headers["content-type"].startswith("text/html")
    policy = dict(part.strip().split(" ", 1) for part in answer.headers["content-security-policy"].split(";"))
    assert (policy["default-src"], policy["script-src"], policy["connect-src"]) == (
        "'none'",
        "'self'",
        "'self'",
    )
    assert "://" not in answer.text
    assert not re.search(r"<script>|<script [^>]*>[^<]|\bon\w+=", answer.text)
    assert sorted(loaded) == ["docs/start.js", "docs/swagger-ui-bundle.js", "docs/swagger-ui.css"]
    assert [file.status_code for file in files] == [200, 200, 200]
    assert [file.headers["content-type"].split(";")[0] for file in files] == [
        "text/css",
        "text/javascript",
        "text/javascript",
    ]
    assert b"SwaggerUIBundle" in files[1].content
    assert [file.status_code for file in missing] == [404, 404]


async def test_documentation_can_be_turned_off() -> None:
    """With AESTHETIC_DOCS=false neither the page nor the document exists."""
    async with _client(docs=False) as client:
        assert [(await client.get(path)).status_code for path in DOCS] == [404, 404, 404]


async def test_no_redirect_repeats_what_was_sent() -> None:
    """A path with a slash at its end is another path, which does not exist."""
    async with _client() as client:
        answer = await client.get("/health/", headers={"Host": "elsewhere.example"})
    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")
    assert "elsewhere" not in str(answer.headers)

"""The REST API over the real Triton: answers, and errors by their codes.

After each error the server goes on.
"""

from __future__ import annotations

import base64
import http.server
import math
import threading
from typing import TYPE_CHECKING, Any

import pytest

from reward.manifest import read
from tests.pictures import PHOTOGRAPHS, photograph

if TYPE_CHECKING:
    from collections.abc import Iterator

    import httpx

    from tests.integration.stack import RunningStack

COFFEE = photograph("coffee")
BASE64 = base64.b64encode(COFFEE).decode()


@pytest.fixture
def client(stack: RunningStack) -> Iterator[httpx.Client]:
    """A client of the running stack."""
    with stack.client() as client:
        yield client


@pytest.fixture(scope="module")
def image_server() -> Iterator[str]:
    """A local web server with one photograph, a slow page, a text and a redirect."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path == "/moved":
                self.send_response(302)
                self.send_header("Location", "/coffee.jpg")
                self.end_headers()
                return
            body = {"/coffee.jpg": COFFEE, "/text": b"not an image"}.get(self.path)
            self.send_response(200 if body else 404)
            self.end_headers()
            self.wfile.write(body or b"")

        def log_message(self, *_: object) -> None:
            pass

    for port in range(8100, 8200):  # among the ports that may be fetched
        try:
            server = http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler)
        except OSError:
            continue
        break
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize("as_form", [False, True])
def test_limits_of_a_score(client: httpx.Client, as_form: bool) -> None:
    """`passed` is null without a limit, and else whether every limit that was sent is reached.

    A score that is sent back as a limit is reached.
    """
    file = base64.b64decode(BASE64)

    def passed(**limits: float) -> bool | None:
        if as_form:
            form = {"prompt": "a cup", **{name: repr(limit) for name, limit in limits.items()}}
            answer = client.post("/score", data=form, files={"image": file}).json()
        else:
            answer = client.post("/score", json={"prompt": "a cup", "image_base64": BASE64, **limits}).json()
        found: bool | None = answer["passed"]
        return found

    score = client.post("/score", json={"prompt": "a cup", "image_base64": BASE64}).json()
    raw, normalized = score["raw_score"], score["normalized_score"]
    assert passed() is None
    assert passed(min_score=raw, min_normalized_score=normalized) is True
    assert passed(min_normalized_score=0.0) is True
    assert passed(min_normalized_score=1.0) is False
    assert passed(min_score=-99.0, min_normalized_score=1.0) is False
    assert passed(min_score=99.0, min_normalized_score=0.0) is False


def test_score_answers_in_full(client: httpx.Client, stack: RunningStack) -> None:
    """`/score` gives every field, and the fields agree with each other and with the manifest."""
    answer = client.post("/score", json={"prompt": "a cup", "image_base64": BASE64, "min_score": -5})
    body = answer.json()
    manifest = read(stack.repository / "image_reward_network" / "1")
    raw = body["raw_score"]
    assert body["normalized_score"] == pytest.approx(1 / (1 + math.exp(-raw)))
    assert body["percentile"] == pytest.approx(50 * (1 + math.erf(raw / math.sqrt(2))))
    assert body["passed"] is True
    assert body["prompt_tokens"] == 4
    assert body["prompt_truncated"] is False
    assert {key: body["image"][key] for key in ("width", "height", "format")} == {
        "width": 600,
        "height": 400,
        "format": "JPEG",
    }
    assert body["model"] == {
        "name": "small random network",
        "version": "1",
        "weights_sha256": manifest.checkpoint_sha256,
        "preprocessing": manifest.preprocessing,
    }
    assert body["cached"] is False
    assert body["processing_time_ms"] > 0


def test_every_source_gives_one_score(client: httpx.Client, image_server: str) -> None:
    """URL, redirect, base64, data: URI, wrapped base64 and an upload of one file score alike."""
    wrapped = "\n".join(BASE64[start : start + 76] for start in range(0, len(BASE64), 76))
    bodies = [
        {"image_url": f"{image_server}/coffee.jpg"},
        {"image_url": f"{image_server}/moved"},
        {"image_base64": BASE64},
        {"image_base64": wrapped},
        {"image_base64": f"data:image/jpeg;base64,{BASE64}"},
        {"image_url": f"data:image/jpeg;base64,{BASE64}"},
    ]
    answers = [client.post("/score", json={"prompt": "a cup", **body}) for body in bodies]
    files = {"image": ("coffee.jpg", COFFEE, "image/jpeg")}
    answers.append(client.post("/score", data={"prompt": "a cup"}, files=files))
    assert [answer.status_code for answer in answers] == [200] * 7, [answer.text for answer in answers]
    assert len({answer.json()["raw_score"] for answer in answers}) == 1


def test_a_batch_is_ranked_and_failures_stand_apart(client: httpx.Client, image_server: str) -> None:
    """Candidates come back best first, with rank, index and id.

    Those that fail are listed apart and do not fail the request.
    """
    candidates = [
        {"id": "cat", "image_base64": base64.b64encode(photograph("chelsea")).decode()},
        {"id": "text", "image_url": f"{image_server}/text"},
        {"id": "cup", "image_url": f"{image_server}/coffee.jpg"},
        {"image_url": f"{image_server}/missing.jpg"},
        {"id": "cup again", "image_base64": BASE64},
        {"id": "ftp", "image_url": "ftp://127.0.0.1/image.png"},
    ]
    body = client.post("/score-batch", json={"prompt": "x", "candidates": candidates, "min_score": 99}).json()
    scores = [result["raw_score"] for result in body["results"]]
    assert scores == sorted(scores, reverse=True)
    assert body["best_candidate"] == body["results"][0]
    assert {result["id"] for result in body["results"]} == {"cat", "cup", "cup again"}
    cups = [result for result in body["results"] if result["id"] != "cat"]
    assert cups[0]["rank"] == cups[1]["rank"]  # the same bytes: the same score, the same rank
    assert [cup["index"] for cup in cups] == [2, 4]
    assert all(result["passed"] is False for result in body["results"])
    assert [(item["index"], item["id"], item["error"]["code"]) for item in body["failed"]] == [
        (1, "text", "image_undecodable"),
        (3, None, "image_unreachable"),
        (5, "ftp", "image_url_forbidden"),
    ]


def test_a_batch_as_a_form(client: httpx.Client) -> None:
    """Uploaded candidates are ranked as the same candidates in JSON are, those that fail too."""
    pictures = [photograph("chelsea"), b"no image", COFFEE]
    files = [("images", (f"{number}.jpg", picture)) for number, picture in enumerate(pictures)]
    form = client.post("/v1/score-batch", data={"prompt": "a cup", "min_score": "-99"}, files=files).json()
    candidates = [{"image_base64": base64.b64encode(picture).decode()} for picture in pictures]
    body = {"prompt": "a cup", "min_score": -99, "candidates": candidates}
    sent = client.post("/score-batch", json=body).json()
    for answer in (form, sent):
        del answer["processing_time_ms"]
    assert form == sent
    assert [item["error"]["code"] for item in form["failed"]] == ["image_undecodable"]
    assert [item["id"] for item in form["results"]] == [None, None]


def test_forms_of_too_many_or_too_large(client: httpx.Client) -> None:
    """A form has the limits of JSON: so many candidates, bytes of one image, and of the whole."""
    limits = client.get("/info").json()["limits"]
    large = bytes(limits["max_image_bytes"] + 1)

    def post(*pictures: bytes) -> httpx.Response:
        files = [("images", ("a", picture)) for picture in pictures]
        return client.post("/score-batch", data={"prompt": "x"}, files=files)

    _assert_problem(post(*[COFFEE] * 11), 422, "invalid_request")
    _assert_problem(post(*[large] * 4), 413, "payload_too_large")
    answer = post(COFFEE, large)
    assert [item["error"]["code"] for item in answer.json()["failed"]] == ["image_too_large"]
    assert answer.json()["best_candidate"]["index"] == 0


@pytest.mark.parametrize(
    ("what", "data"),
    [
        ("a text file", b"hello, this is no image"),
        ("zero bytes", b""),
        ("a truncated JPEG", COFFEE[: len(COFFEE) // 2]),
        ("a truncated PNG", photograph("coffee", "PNG")[:2000]),
        (
            "a corrupt PNG",
            photograph("chelsea", "PNG")[:3000] + b"\0" * 500 + photograph("chelsea", "PNG")[3500:],
        ),
        ("a format outside the allowlist", photograph("coffee", "BMP")),
        ("a header alone", COFFEE[:20]),
    ],
)
def test_bad_bytes_are_undecodable(client: httpx.Client, what: str, data: bytes) -> None:
    """What is no whole image is 422 image_undecodable, by upload and by base64.

    The server goes on.
    """
    by_upload = client.post("/score", data={"prompt": "x"}, files={"image": ("x.jpg", data)})
    answers = [by_upload]
    if data:  # an empty string is a schema violation, tested below
        body = {"prompt": "x", "image_base64": base64.b64encode(data).decode()}
        answers.append(client.post("/score", json=body))
    for answer in answers:
        _assert_problem(answer, 422, "image_undecodable")
    assert client.post("/score", json={"prompt": "x", "image_base64": BASE64}).status_code == 200, what


@pytest.mark.parametrize(
    "body",
    [
        {"prompt": "x"},
        {"prompt": "x", "image_base64": BASE64, "image_url": "http://127.0.0.1/x.png"},
        {"prompt": "x", "image_base64": ""},
        {"image_base64": BASE64},
        {"prompt": None, "image_base64": BASE64},
        {"prompt": "x" * 10_001, "image_base64": BASE64},
        {"prompt": "x", "image_base64": BASE64, "min_score": "high"},
        {"prompt": "x", "image_base64": BASE64, "min_normalized_score": 1.5},
        {"prompt": "x", "image_base64": BASE64, "colour": "red"},
        [],
    ],
)
def test_schema_violations(client: httpx.Client, body: Any) -> None:
    """Both sources, no source, a missing prompt or an unknown field are 422 invalid_request."""
    _assert_problem(client.post("/score", json=body), 422, "invalid_request")


@pytest.mark.parametrize(
    ("content", "content_type"),
    [
        (b'{"prompt": "x", "image_base64": "AAAA", "min_score": NaN}', "application/json"),
        (b'{"prompt": "\\ud800", "image_base64": "AAAA"}', "application/json"),
        (b'{"prompt": "x", "image_base', "application/json"),
        (b"\xff\xfe", "application/json"),
        (b"prompt=x", "application/x-www-form-urlencoded"),
        (b"--nonsense", "multipart/form-data; boundary=x"),
        (b"--nonsense", "multipart/form-data"),
        (b"", "application/json"),
        (b"", ""),
    ],
)
def test_bodies_that_cannot_be_read(client: httpx.Client, content: bytes, content_type: str) -> None:
    """A body that cannot be read is 422 invalid_request.

    Such are NaN, a lone surrogate, cut JSON, other encodings and other content types.
    """
    answer = client.post("/score", content=content, headers={"Content-Type": content_type})
    _assert_problem(answer, 422, "invalid_request")


def test_base64_that_is_none(client: httpx.Client) -> None:
    """Foreign letters, and a data: URI without base64, are 422 image_undecodable."""
    for text in ("not base64!", "data:image/png,rawdata", "data:image/png;base64", "AAAAA"):
        answer = client.post("/score", json={"prompt": "x", "image_base64": text})
        _assert_problem(answer, 422, "image_undecodable")
        if text.startswith("data:"):
            answer = client.post("/score", json={"prompt": "x", "image_url": text})
            _assert_problem(answer, 422, "image_undecodable")


def test_batches_of_none_or_too_many(client: httpx.Client) -> None:
    """No candidates and eleven candidates are 422 invalid_request."""
    for count in (0, 11, 65):
        body = {"prompt": "x", "candidates": [{"image_base64": BASE64}] * count}
        _assert_problem(client.post("/score-batch", json=body), 422, "invalid_request")


def test_a_batch_of_which_all_fail(client: httpx.Client) -> None:
    """If no candidate can be scored, the answer is 422 and lists the reason for each."""
    body = {"prompt": "x", "candidates": [{"image_base64": "AAAA", "id": "a"}, {"image_url": "file:///x"}]}
    answer = client.post("/score-batch", json=body)
    _assert_problem(answer, 422, "invalid_request")
    assert [(item["id"], item["error"]["code"]) for item in answer.json()["failed"]] == [
        ("a", "image_undecodable"),
        (None, "image_url_forbidden"),
    ]


def test_payloads_above_their_limits(client: httpx.Client) -> None:
    """A body above its limit is 413 payload_too_large.

    A single image above its own limit is 413 image_too_large.
    """
    limits = client.get("/info").json()["limits"]
    body = {"prompt": "x", "image_base64": "A" * (limits["max_body_bytes"] + 1)}
    _assert_problem(client.post("/score", json=body), 413, "payload_too_large")
    text = "A" * (limits["max_image_bytes"] * 4 // 3 + 8)
    for body in ({"image_base64": text}, {"image_url": f"data:image/png;base64,{text}"}):
        _assert_problem(client.post("/score", json={"prompt": "x", **body}), 413, "image_too_large")


def test_a_long_prompt_is_cut_and_said_to_be(client: httpx.Client) -> None:
    """A prompt of more than 35 tokens is cut as upstream does, and the answer says so."""
    words = [f"word{index}" for index in range(60)]
    answers = [
        client.post("/score", json={"prompt": " ".join(words[:count]), "image_base64": BASE64}).json()
        for count in (40, 60)
    ]
    assert [answer["prompt_truncated"] for answer in answers] == [True, True]
    assert [answer["prompt_tokens"] for answer in answers] == [35, 35]
    assert answers[0]["raw_score"] == answers[1]["raw_score"]


def test_request_ids(client: httpx.Client) -> None:
    """Every answer has an X-Request-ID.

    A well-formed one of the request comes back; any other is replaced.
    """
    assert (
        client.get("/health/live", headers={"X-Request-ID": "abc-1.2_3"}).headers["x-request-id"]
        == "abc-1.2_3"
    )
    replaced = client.get("/nowhere", headers={"X-Request-ID": "bad id\x7f"}).headers["x-request-id"]
    assert len(replaced) == 16


def test_unknown_paths_and_methods(client: httpx.Client) -> None:
    """404 and 405 have the same form as every other error."""
    _assert_problem(client.get("/nowhere"), 404, "not_found")
    answer = client.get("/score")
    _assert_problem(answer, 405, "method_not_allowed")
    assert answer.headers["allow"] == "POST"


def test_a_deadline_that_cannot_be_kept(client: httpx.Client) -> None:
    """A deadline of one millisecond is 504, one that is no number is 422, a long one is kept."""
    body = {"prompt": "x", "image_base64": BASE64}
    late = client.post("/score", json=body, headers={"X-Request-Timeout-Ms": "1"})
    _assert_problem(late, 504, "deadline_exceeded")
    for header in ("soon", "-5", "0", "1.5"):
        wrong = client.post("/score", json=body, headers={"X-Request-Timeout-Ms": header})
        _assert_problem(wrong, 422, "invalid_request")
    assert client.post("/score", json=body, headers={"X-Request-Timeout-Ms": "60000"}).status_code == 200


def test_health_and_info(client: httpx.Client) -> None:
    """`/health/ready` has scored a pixel, and `/health` names each part.

    `/info` has the model and the limits.
    """
    assert client.get("/health/live").json() == {"status": "live"}
    for path in ("/health", "/health/ready"):
        health = client.get(path)
        assert health.status_code == 200
        assert {name: part["status"] for name, part in health.json()["parts"].items()} == {
            "decode": "ok",
            "triton": "ok",
            "model": "ok",
        }
    info = client.get("/info").json()
    assert info["model"]["name"] == "small random network"
    assert info["device"] == "cpu"
    assert info["precision"] == "fp32"
    assert info["limits"]["max_candidates"] == 10
    assert (info["gpu_coordination"], info["gpu"]) == ("none", None)


def test_metrics_count_what_happened(client: httpx.Client) -> None:
    """`/metrics` counts requests by endpoint and status."""

    def count() -> float:
        lines = client.get("/metrics").text.splitlines()
        wanted = 'aesthetic_requests_total{code="422",endpoint="/score"} '
        return sum(float(line.removeprefix(wanted)) for line in lines if line.startswith(wanted))

    before = count()
    client.post("/score", json={})
    assert count() == before + 1


def test_the_openapi_document_knows_the_bodies(client: httpx.Client) -> None:
    """`/openapi.json` describes both forms of `/score`, and all its references resolve."""
    document = client.get("/openapi.json").json()
    content = document["paths"]["/score"]["post"]["requestBody"]["content"]
    assert set(content) == {"application/json", "multipart/form-data"}
    schemas = document["components"]["schemas"]
    references = {
        part.partition('"')[0] for part in str(document).replace("'", '"').split("#/components/schemas/")[1:]
    }
    assert references <= set(schemas)


def test_the_cache_says_so(stack: RunningStack) -> None:
    """With the cache off, as in this stack, no answer says that it was cached."""
    with stack.client() as client:
        body = {"prompt": "x", "image_base64": base64.b64encode(photograph(PHOTOGRAPHS[3])).decode()}
        assert [client.post("/score", json=body).json()["cached"] for _ in range(2)] == [False, False]


def _assert_problem(answer: httpx.Response, status: int, code: str) -> None:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    body = answer.json()
    assert body["status"] == status
    assert body["code"] == code
    assert body["request_id"] == answer.headers["x-request-id"]
    assert body["detail"]
    assert "Traceback" not in answer.text

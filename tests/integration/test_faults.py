"""Parts die, hang or are late under load: no wrong score, no hang, and recovery without help."""

from __future__ import annotations

import asyncio
import base64
import os
import signal
import socket
import time
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from tests.integration.held_model import copy_with_brake, held
from tests.integration.load import BODIES, press
from tests.integration.stack import RunningStack, processes
from tests.pictures import photograph

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.integration.load import Report

BODY = {"prompt": "a cup", "image_base64": base64.b64encode(photograph("coffee")).decode()}
CALLERS = 8
BACK_S = 45.0
"""Long, because Triton alone may take most of it to start on a busy machine."""


@pytest.fixture(scope="module")
def stack(published_repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningStack]:
    """A stack for this module alone, so that no other test meets its deaths."""
    directory = tmp_path_factory.mktemp("faults")
    running = RunningStack(copy_with_brake(published_repository, directory), directory)
    running.start()
    try:
        yield running
    finally:
        running.stop()


# --- Deaths ---------------------------------------------------------------------------------------


def _triton(stack: RunningStack) -> int:
    return stack.triton_pid()


def _network_stub(stack: RunningStack) -> int:
    return stack.stub_pid("image_reward_network")


def _preprocess_stub(stack: RunningStack) -> int:
    return stack.stub_pid("image_reward_preprocess")


def _decode_worker(stack: RunningStack) -> int:
    return stack.decode_worker_pids()[0]


DEATHS = {
    "Triton": (_triton, {"200", "503"}),
    "its Python stub": (_network_stub, {"200", "503"}),
    "a decode worker": (_decode_worker, {"200"}),
}


@pytest.mark.parametrize("what", DEATHS)
async def test_a_death_under_load(stack: RunningStack, what: str) -> None:
    """After kill -9 of a part, every answer is right, or is 503 with Retry-After.

    No answer is late, and the service recovers by itself.
    """
    find, allowed = DEATHS[what]
    report = await _press_and_kill(stack, find, kills=1, duration_s=3)
    print(f"\nkill -9 of {what} once: {report}")  # noqa: T201 - for docs/reliability.md
    assert report.wrong == []
    assert set(report.statuses) <= allowed, report.statuses
    await _working(stack)


@pytest.mark.slow
@pytest.mark.parametrize("what", DEATHS)
async def test_deaths_under_load_for_a_minute(stack: RunningStack, what: str) -> None:
    """The same holds for several deaths within a minute."""
    find, allowed = DEATHS[what]
    report = await _press_and_kill(stack, find, kills=4, duration_s=60)
    print(f"\nkill -9 of {what} four times: {report}")  # noqa: T201 - for docs/reliability.md
    assert report.wrong == []
    assert set(report.statuses) <= allowed, report.statuses
    await _working(stack)


async def test_a_preprocessing_stub_that_dies(stack: RunningStack) -> None:
    """The process of the preprocessing model is watched as well, so the ensemble answers again."""
    before = stack.score_bytes([photograph("coffee")], ["a cup"])[0]
    os.kill(_preprocess_stub(stack), signal.SIGKILL)
    await asyncio.sleep(3)
    await _working(stack)
    assert stack.score_bytes([photograph("coffee")], ["a cup"])[0] == before


@pytest.mark.slow
async def test_a_stub_that_hangs(published_repository: Path, tmp_path: Path) -> None:
    """A model process that stands still makes the service not ready, and Triton is restarted."""
    # What lives and does not work gets ten seconds here instead of a minute.
    stack = RunningStack(published_repository, tmp_path, arguments=["--unready-limit-s=10"])
    stack.start()
    try:
        await asyncio.sleep(6)  # seen to work once
        os.kill(_network_stub(stack), signal.SIGSTOP)
        async with httpx.AsyncClient(base_url=stack.url, timeout=60) as client:
            assert (await client.post("/score", json=BODY)).status_code == 503
        await _working(stack)
        assert "Triton lives but is not ready after" in stack.output()
    finally:
        assert stack.stop() == 0
    assert stack.left_over() == []


async def _press_and_kill(
    stack: RunningStack, find: Callable[[RunningStack], int], *, kills: int, duration_s: float
) -> Report:
    async def kill() -> None:
        for _ in range(kills):
            await asyncio.sleep(duration_s / kills / 3)
            await _working(stack)
            os.kill(find(stack), signal.SIGKILL)

    return await press(stack, callers=CALLERS, duration_s=duration_s, meanwhile=kill)


async def _working(stack: RunningStack) -> None:
    async with httpx.AsyncClient(base_url=stack.url, timeout=30) as client:
        await _until(lambda: _is_ready(client))
        assert (await client.post("/score", json=BODY)).status_code == 200


async def _is_ready(client: httpx.AsyncClient) -> bool:
    try:
        return (await client.post("/score", json=BODY)).status_code == 200
    except httpx.TransportError:  # the frontend itself is being started
        return False


async def _until(condition: Callable[[], Any], timeout_s: float = BACK_S) -> None:
    until = time.monotonic() + timeout_s
    while not await condition():
        assert time.monotonic() < until
        await asyncio.sleep(0.2)


# --- A model that is busy -------------------------------------------------------------------------


@pytest.mark.usefixtures("unwatched")
async def test_what_is_late_is_not_executed(stack: RunningStack) -> None:
    """Behind a busy model, a request with a short deadline gets 504 in time.

    Triton never executes it.
    """
    async with httpx.AsyncClient(base_url=stack.url, timeout=60) as client:
        expected = (await client.post("/score", json=BODIES[0])).json()["raw_score"]
        before = stack.statistics()
        with held(stack.repository):
            sent = await _sent_to_triton(stack)
            patient = asyncio.create_task(client.post("/score", json=BODIES[0]))
            await _until_in_triton(stack, sent)
            started = time.monotonic()
            late = await asyncio.gather(
                *(
                    client.post("/score", json=body, headers={"X-Request-Timeout-Ms": "700"})
                    for body in BODIES
                )
            )
            took_s = time.monotonic() - started
        first = await patient
        again = await client.post("/score", json=BODIES[1])
    assert {answer.status_code for answer in late} == {504}
    assert {answer.json()["code"] for answer in late} == {"deadline_exceeded"}
    assert took_s < 10  # and not the minute that is the server's default
    assert first.json()["raw_score"] == pytest.approx(expected, abs=1e-5)
    assert again.status_code == 200
    after = stack.statistics()
    # Executed were `patient`, `again` and perhaps probes of health, but no late request.
    assert 2 <= after["inferences"] - before["inferences"] < 2 + len(BODIES)


@pytest.mark.usefixtures("unwatched")
async def test_a_client_that_goes_away_costs_no_inference(stack: RunningStack) -> None:
    """A client that hangs up while it waits gives up its place at once and is never scored."""
    async with httpx.AsyncClient(base_url=stack.url, timeout=60) as client:
        await client.post("/score", json=BODIES[0])
        before = stack.statistics()
        with held(stack.repository):
            sent = await _sent_to_triton(stack)
            patient = asyncio.create_task(client.post("/score", json=BODIES[0]))
            await _until_in_triton(stack, sent)

            async def counts() -> tuple[float, float]:
                text = (await client.get("/metrics")).text
                return _metric(text, "aesthetic_images_in_work"), _metric(text, "aesthetic_images_queued")

            async def reach(in_work: int, queued: int) -> None:
                async def reached() -> bool:
                    return await counts() == (in_work, queued)

                await _until(reached)

            working = [_send_and_stay(stack, BODIES[1]) for _ in range(31)]
            await reach(32, 0)
            waiting = [_send_and_stay(stack, BODIES[1]) for _ in range(69)]
            await reach(32, 69)
            for caller in waiting:
                caller.close()
            await reach(32, 0)
            for caller in working:
                caller.close()
            await reach(1, 0)
        assert (await patient).status_code == 200
        assert (await client.post("/score", json=BODIES[0])).status_code == 200
        text = (await client.get("/metrics")).text
    assert _metric(text, 'aesthetic_requests_total{code="499",endpoint="/score"}') == 100
    # The requests in work had reached Triton's queue. None of the 69 in our own queue got there.
    assert await _sent_to_triton(stack) - sent <= 2 + 31
    # Triton's own count contains the health probes of the frontend, too.
    assert stack.statistics()["inferences"] - before["inferences"] < 2 + 31 + 69


def _send_and_stay(stack: RunningStack, body: dict[str, Any]) -> socket.socket:
    request = httpx.Request("POST", f"{stack.url}/score", json=body)
    head = "".join(f"{name}: {value}\r\n" for name, value in request.headers.items())
    connection = socket.create_connection(("127.0.0.1", stack.port))
    connection.sendall(f"POST /score HTTP/1.1\r\n{head}\r\n".encode() + request.content)
    return connection


async def _sent_to_triton(stack: RunningStack) -> float:
    """Count the requests that the frontend has sent to Triton, without probes."""
    async with httpx.AsyncClient(base_url=stack.url) as client:
        return _metric((await client.get("/metrics")).text, "aesthetic_batch_images_count")


async def _until_in_triton(stack: RunningStack, before: float) -> None:
    async def sent() -> bool:
        return await _sent_to_triton(stack) > before

    await _until(sent)
    await asyncio.sleep(0.5)  # on its way into the model's process


def _metric(text: str, name: str) -> float:
    """Sum a metric over its labels."""
    lines = (line for line in text.splitlines() if line.startswith((f"{name} ", f"{name}{{")))
    return sum(float(line.rpartition(" ")[2]) for line in lines)


# --- The end --------------------------------------------------------------------------------------


def test_it_finishes_what_it_has_begun(published_repository: Path, tmp_path: Path) -> None:
    """After SIGTERM the frontend accepts no new connection, and still answers the request in work.

    That answer is 200, and the exit status is 0.
    """
    stack = RunningStack(copy_with_brake(published_repository, tmp_path), tmp_path)
    stack.start()
    try:
        pid = stack.frontend_pid()
        with httpx.Client(base_url=stack.url, timeout=60) as client:
            client.post("/score", json=BODY)
        with held(stack.repository):
            sent = asyncio.run(_sent_to_triton(stack))
            connection = _send_and_stay(stack, BODY)
            asyncio.run(_until_in_triton(stack, sent))
            os.kill(pid, signal.SIGTERM)
            refused_until = time.monotonic() + 20
            while _accepts(stack):
                assert time.monotonic() < refused_until
                time.sleep(0.1)
        connection.settimeout(30)
        with connection, connection.makefile("rb") as answer:
            assert answer.readline().startswith(b"HTTP/1.1 200")
            assert b"raw_score" in answer.read()  # to the end: the connection is closed after it
        asyncio.run(_until(lambda: _said(stack, "the frontend ended (exit status 0)")))
        asyncio.run(_working(stack))  # the supervisor started another
    finally:
        assert stack.stop() == 0
    assert stack.left_over() == []


async def _said(stack: RunningStack, text: str) -> bool:
    return text in stack.output()


def _accepts(stack: RunningStack) -> bool:
    try:
        socket.create_connection(("127.0.0.1", stack.port), timeout=1).close()
    except OSError:
        return False
    return True


def test_a_process_list_knows_the_parts(stack: RunningStack) -> None:
    """Each part is a process of its own, so the tests of this file kill what they mean to kill."""
    found = [stack.triton_pid(), _network_stub(stack), _preprocess_stub(stack), stack.frontend_pid()]
    found += stack.decode_worker_pids()
    assert len(set(found)) == 5
    assert set(found) <= {pid for pid, _ in processes()}

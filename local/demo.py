"""`python -m local demo`: rank the example pictures through REST, on a stack of its own."""

from __future__ import annotations

import asyncio
import base64
import json
from typing import TYPE_CHECKING, Any, Final

from local.errors import StartFailed
from local.http_call import http_call
from local.ports import free_ports
from local.stack import Stack, StackSettings
from local.tritonserver import Ports

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

INDEX_NAME: Final = "examples.json"


async def demo(repository: Path, examples: Path, directory: Path, *, redis_url: str | None = None) -> None:
    """Start Triton and the frontend on free ports, rank every example and end both.

    Raises:
        LocalError: nothing is published, or one of them does not start, or does not answer.
    """
    port, *triton_ports = free_ports(4)
    stack = Stack(
        StackSettings(
            repository=repository,
            directory=directory,
            port=port,
            triton=Ports(*triton_ports),
            frontend_log=directory / "frontend.log",
            redis_url=redis_url,
        )
    )
    async with stack.running():
        for example in json.loads((examples / INDEX_NAME).read_text()):
            answer = await asyncio.to_thread(_rank, stack.url, example, examples)
            print("\n".join(_table(example, answer)), flush=True)  # noqa: T201 - this is what the demo is for


def _rank(url: str, example: dict[str, Any], examples: Path) -> dict[str, Any]:
    candidates = [
        {
            "id": candidate["file"],
            "image_base64": base64.b64encode((examples / candidate["file"]).read_bytes()).decode(),
        }
        for candidate in example["candidates"]
    ]
    body = json.dumps({"prompt": example["prompt"], "candidates": candidates})
    status, text = http_call(f"{url}/score-batch", body, timeout_s=120)
    if status != 200:
        raise StartFailed(f"the frontend does not rank the examples (status {status}): {text.decode()}")
    answer: dict[str, Any] = json.loads(text)
    return answer


def _table(example: dict[str, Any], answer: dict[str, Any]) -> Iterator[str]:
    departures = {candidate["file"]: candidate["departs"] for candidate in example["candidates"]}
    yield f"\n{example['prompt']}   [{answer['model']['name']}]"
    yield "rank  raw_score  normalized  picture    what is wrong with it"
    for result in answer["results"]:
        departs = departures[result["id"]]
        yield (
            f"{result['rank']:>4}  {result['raw_score']:>9.3f}  {result['normalized_score']:>10.3f}"
            f"  {result['id']:<9}  {departs or 'nothing: it fits'}"
        )

"""What the packages below the frontend cost the processor by themselves, beside the frontend.

    python -m bench.packages_alone [--rounds 8] [--requests 150]

Two applications of a few lines are served as the frontend is, by uvicorn. Both take the frontend's
requests and answer in its form. The first, FastAPI alone, reads the body and does nothing with it.
The second also asks Triton by tritonclient for the score of a picture that was prepared before. One
caller asks each of the three in turn, one image of 512 x 512 a request.
"""

from __future__ import annotations

import argparse
import base64
import os
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import httpx
import numpy as np
import uvicorn
from fastapi import FastAPI, Request
from tritonclient.http import InferRequestedOutput
from tritonclient.http.aio import InferenceServerClient

from bench.growth import pictures
from bench.processes import core_ms, stages
from bench.served import PROMPT, demonstration, running
from bench.spread import quarters
from bench.ways import inputs
from frontend.http.schemas import ImageInfo, ModelInfo, ScoreResponse
from reward.contract import NETWORK, PIXELS, REWARD
from reward.tokenizer import tokenise
from tests.ports import free_ports

if TYPE_CHECKING:
    from collections.abc import Callable

FASTAPI: Final = "FastAPI and uvicorn alone"
TRITON: Final = "the same, and tritonclient"
FRONTEND: Final = "the frontend"


def main() -> None:
    """Print the processor time of a request: of the packages, and of the frontend."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--requests", type=int, default=150, help="of each in a round")
    parser.add_argument("--serve", nargs=2, metavar=("PORT", "TRITON"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        uvicorn.run(_application(options.serve[1]), port=int(options.serve[0]), log_level="warning")
        return
    bodies = [
        {"prompt": PROMPT, "image_base64": base64.b64encode(data).decode()} for data in pictures(512, 4)
    ]
    with tempfile.TemporaryDirectory() as directory, ExitStack() as exits:
        stack = exits.enter_context(running(demonstration(Path(directory))))
        asked = {FRONTEND: (stages(stack)["frontend"][0], stack.url)}
        for name, triton in ((FASTAPI, ""), (TRITON, stack.triton_url)):
            process, url = _start(triton)
            exits.callback(process.terminate)
            asked[name] = (process.pid, url)
        client = exits.enter_context(httpx.Client(timeout=60))
        spent: dict[str, list[float]] = {name: [] for name in asked}
        for index in range(options.rounds + 1):  # the first one warms up
            for name, (pid, url) in asked.items():
                before = core_ms([pid])
                for number in range(options.requests):
                    client.post(f"{url}/score", json=bodies[number % len(bodies)]).raise_for_status()
                if index:
                    spent[name].append((core_ms([pid]) - before) / options.requests)
    print("| what | core-ms a request |\n|---|---|")
    for name in (FASTAPI, TRITON, FRONTEND):
        low, middle, high = quarters(spent[name])
        print(f"| {name} | {middle:.2f} ({low:.2f} to {high:.2f}) |")


def _start(triton: str) -> tuple[subprocess.Popen[bytes], str]:
    (port,) = free_ports(1)
    command = [sys.executable, "-m", "bench.packages_alone", "--serve", str(port), triton]
    process = subprocess.Popen(command, env={**os.environ, "OPENBLAS_NUM_THREADS": "1"})
    url = f"http://127.0.0.1:{port}"
    while process.poll() is None:
        with suppress(httpx.TransportError):
            httpx.get(url)
            return process, url
        time.sleep(0.1)
    raise RuntimeError("the application did not start")


def _application(triton: str) -> FastAPI:
    application = FastAPI()
    ask = _asker(triton) if triton else None
    digest = "0" * 64
    answer = ScoreResponse(
        raw_score=0.5,
        normalized_score=0.6,
        percentile=60.0,
        passed=None,
        image=ImageInfo(width=512, height=512, format="JPEG", sha256=digest),
        model_version="1",
        cached=False,
        prompt_tokens=20,
        prompt_truncated=False,
        model=ModelInfo(name="none", version="1", weights_sha256=digest, preprocessing=digest[:16]),
        processing_time_ms=1.0,
    )

    @application.post("/score")
    async def score(request: Request) -> ScoreResponse:
        await request.json()
        return answer if ask is None else answer.model_copy(update={"raw_score": await ask()})

    return application


def _asker(url: str) -> Callable[[], Any]:
    tokens = tokenise([PROMPT])
    arrays = np.zeros((1, *PIXELS.shape), np.uint8), tokens.input_ids, tokens.attention_mask
    tensors = [(spec.name, spec.dtype, array) for spec, array in zip(NETWORK.inputs, arrays, strict=True)]
    client = cache(lambda: InferenceServerClient(url))  # it is made where the event loop runs

    async def ask() -> float:
        outputs = [InferRequestedOutput(REWARD.name, binary_data=True)]
        result = await client().infer(NETWORK.name, list(inputs(tensors)), outputs=outputs)
        return float(result.as_numpy(REWARD.name)[0, 0])

    return ask


if __name__ == "__main__":
    main()

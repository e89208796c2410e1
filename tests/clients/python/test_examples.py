"""The examples run against the demonstration model, and find the pictures that fit."""

from __future__ import annotations

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from tests.clients.conftest import API_KEY
from tests.repository import CHECKOUT

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.integration.stack import RunningStack

EXAMPLES = json.loads((CHECKOUT / "examples/examples.json").read_text())


def test_the_quality_gate_lets_good_images_through(service: RunningStack) -> None:
    """In the first round or a later one; of a prompt that has none, the best of three rounds."""
    lines = _run(service, "quality_gate.py").splitlines()
    verdicts = [line for line in lines if line.startswith(("accepted: ", "the best there was: "))]
    assert len(verdicts) == len(EXAMPLES)
    assert {line.rpartition(", ")[2] for line in verdicts if line.startswith("accepted")} == {
        "round 1",
        "round 2",
    }
    assert sum(line.startswith("the best there was") for line in verdicts) == 1


def test_the_gate_returns_the_best_of_what_it_saw() -> None:
    """Where no image is good enough, of all rounds; every round has other seeds."""
    import httpx

    from imajin_aesthetic_client import AestheticClient
    from tests.clients.python.scripted import VECTORS

    asked: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        candidates = json.loads(request.content)["candidates"]
        asked.extend(candidate["id"] for candidate in candidates)
        best = {
            **VECTORS["bodies"]["batch"]["best_candidate"],
            "id": candidates[1]["id"],
            "raw_score": {"1": -1.0, "5": -0.5, "9": -0.75}[candidates[1]["id"]],
            "passed": False,
        }
        body = {**VECTORS["bodies"]["batch"], "best_candidate": best, "results": [best], "failed": []}
        return httpx.Response(200, json=body)

    gate = runpy.run_path(str(CHECKOUT / "examples/quality_gate.py"))
    with AestheticClient(transport=httpx.MockTransport(answer)) as client:
        found = gate["generate_until_good"](client, "x", lambda _, seed: bytes([seed]))
    assert (found.seed, found.image, found.is_good_enough) == (5, b"\x05", False)
    assert asked == [str(seed) for seed in range(12)]


def test_rewards_of_a_batch(service: RunningStack) -> None:
    """40 images and prompts; the fitting picture of each prompt has the highest reward."""
    lines = _run(service, "rl_reward.py").splitlines()
    assert len(lines) == len(EXAMPLES)
    for line, example in zip(lines, EXAMPLES, strict=True):
        assert line.startswith(f"{example['prompt']}: {example['fitting']}, ")


def test_a_caller_without_the_client(service: RunningStack) -> None:
    """Tritonclient alone ranks the ten pictures of a prompt, the fitting one first."""
    lines = _run(service, "triton_caller.py").splitlines()
    assert len(lines) == 10
    assert lines[0].endswith(EXAMPLES[0]["fitting"])


@pytest.fixture(scope="module")
def callback() -> Iterator[dict[str, Any]]:
    """The example for diffusers, in this process: importing diffusers takes long."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # on a busy machine they wait for each other
    yield runpy.run_path(str(CHECKOUT / "examples/diffusers_callback.py"))
    torch.set_num_threads(threads)


def test_a_picture_is_looked_at_while_diffusers_draws_it(
    service: RunningStack,
    callback: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Every seed is looked at once, and what is finished is ranked."""
    monkeypatch.setenv("AESTHETIC_API_KEY", API_KEY)
    callback["main"](["--url", service.url, "--seeds=2", "--steps=6", "--min-preview-score=-99"])
    *seeds, last = capsys.readouterr().out.splitlines()
    assert [line.split(": preview ")[0] for line in seeds] == ["seed 0", "seed 1"]
    assert last.startswith("best: seed ")


def test_a_seed_that_is_given_up_costs_no_further_steps(callback: dict[str, Any]) -> None:
    """Diffusers draws on after the step that is looked at, and not after one that is too bad."""
    import httpx

    from imajin_aesthetic_client import AestheticClient
    from tests.clients.python.scripted import VECTORS

    pipeline, text = callback["random_pipeline"]()
    body = {**VECTORS["bodies"]["score"], "raw_score": -0.5}
    drawn = {}
    with AestheticClient(transport=httpx.MockTransport(lambda _: httpx.Response(200, json=body))) as client:
        for least in (-1.0, 0.0):
            gate = callback["PreviewGate"](client, "x", 2, least)
            steps: list[int] = []

            def watch(*arguments: Any, gate: Any = gate, steps: list[int] = steps) -> Any:
                steps.append(arguments[1])
                return gate(*arguments)

            pipeline(**text, num_inference_steps=5, callback_on_step_end=watch)
            drawn[least] = (steps, gate.is_given_up, gate.score)
        options = {"seeds": [7], "steps": 3, "conditioning": text, "min_preview_score": 0.0}
        assert callback["draw_best"](client, pipeline, "x", **options) is None
    assert drawn == {-1.0: ([0, 1, 2, 3, 4], False, -0.5), 0.0: ([0, 1, 2], True, -0.5)}


def test_the_notebook_draws_the_ranking(service: RunningStack, tmp_path: Path) -> None:
    """What is stored in it is what it prints and draws now: two pictures, and no error."""
    for path in (CHECKOUT / "examples").iterdir():
        (tmp_path / path.name).symlink_to(path)
    command = [
        str(Path(sys.executable).with_name("jupyter-execute")),
        "ranking.ipynb",
        "--output=drawn.ipynb",
    ]
    subprocess.run(
        command, cwd=tmp_path, env=_environment(service), check=True, capture_output=True, timeout=240
    )
    printed, pictures = _outputs(tmp_path / "drawn.ipynb")
    assert (printed, pictures) == _outputs(tmp_path / "ranking.ipynb")
    assert pictures == 2
    assert printed.startswith("demonstration model (not ImageReward)\n+2.01  ")


def test_tensors_arrays_and_paths_have_one_reward(service: RunningStack) -> None:
    """flow_grpo's function takes tensors and arrays, DanceGRPO's method paths."""
    import torch

    module: dict[str, Any] = runpy.run_path(str(CHECKOUT / "examples/rl_reward.py"))
    url = f"127.0.0.1:{service.grpc_port}"
    prompt, path = EXAMPLES[0]["prompt"], str(CHECKOUT / "examples" / EXAMPLES[0]["fitting"])
    with Image.open(path) as image:
        array = np.asarray(image.convert("RGB"))[None]
    tensor = torch.from_numpy(array.transpose(0, 3, 1, 2) / 255)
    score = module["imagereward_score"]("cuda", url=url)
    of_array, of_tensor = (score(images, [prompt], {})[0] for images in (array, tensor))
    of_path = module["RemoteReward"](url).reward([path], [prompt])
    assert of_path.shape == (1,)
    assert of_array.tolist() == of_tensor.tolist() == pytest.approx(of_path.tolist(), abs=1e-5)


def _run(service: RunningStack, name: str) -> str:
    command = [sys.executable, str(CHECKOUT / "examples" / name)]
    return subprocess.run(
        command, env=_environment(service), check=True, capture_output=True, text=True, timeout=240
    ).stdout


def _environment(service: RunningStack) -> dict[str, str]:
    return {
        **os.environ,
        "AESTHETIC_URL": service.url,
        "AESTHETIC_API_KEY": API_KEY,
        "AESTHETIC_TRITON_GRPC": f"127.0.0.1:{service.grpc_port}",
        "PYTHONPATH": str(CHECKOUT / "clients/python/src"),
    }


def _outputs(notebook: Path) -> tuple[str, int]:
    """Return what the cells printed, and how many pictures they drew."""
    cells = json.loads(notebook.read_text())["cells"]
    outputs = [output for cell in cells for output in cell.get("outputs", ())]
    printed = "".join(line for output in outputs for line in output.get("text", ()))
    return printed, sum("image/jpeg" in output.get("data", ()) for output in outputs)

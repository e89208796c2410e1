"""Shared memory with the real Triton: what a caller on the same machine has to do, and may not."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

import numpy as np
import pytest
from tritonclient.http import InferenceServerClient
from tritonclient.utils import InferenceServerException, shared_memory

from examples.shared_memory_caller import rewards
from reward.preprocess import prepare
from reward.tokenizer import tokenise
from tests.pictures import PHOTOGRAPHS, photograph

if TYPE_CHECKING:
    from tests.integration.stack import RunningStack


def test_pixels_in_shared_memory_have_the_same_rewards(stack: RunningStack) -> None:
    """With the key from `--admin-key-file` a region is registered, scored from, and given back."""
    key_file = stack.directory / "admin.key"
    assert key_file.stat().st_mode & 0o777 == 0o600
    images = [photograph(name) for name in PHOTOGRAPHS[:4]]
    tokens = tokenise(["a cup"] * 4)
    pixels = np.stack([prepare(data).pixels for data in images])
    expected = stack.score_pixels((pixels, tokens.input_ids, tokens.attention_mask))
    with InferenceServerClient(stack.triton_url, network_timeout=60) as client:
        found = rewards(client, key_file.read_text().strip(), images, "a cup")
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)
        headers = {"triton-admin-key": key_file.read_text().strip()}
        assert client.get_system_shared_memory_status(headers=headers) == []


@pytest.mark.parametrize("headers", [{}, {"triton-admin-key": "a guess"}])
def test_without_the_key_no_memory_is_registered(stack: RunningStack, headers: dict[str, str]) -> None:
    """A region is another way into Triton's process, so that not everybody may name one."""
    name = f"test-{secrets.token_hex(4)}"
    region = shared_memory.create_shared_memory_region(name, f"/{name}", 16)
    try:
        with (
            InferenceServerClient(stack.triton_url) as client,
            pytest.raises(InferenceServerException, match="This API is restricted"),
        ):
            client.register_system_shared_memory(name, f"/{name}", 16, headers=headers)
    finally:
        shared_memory.destroy_shared_memory_region(region)

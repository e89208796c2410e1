"""Decode and torch in one `execute`: what a first Triton model of this network looks like.

Its weights are random, which does not change its time.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import torch
import triton_python_backend_utils as pb_utils

from reward.network import Dimensions, RewardNetwork
from reward.preprocess import prepare
from reward.tokenizer import tokenise


class TritonPythonModel:
    """One request after the other."""

    def initialize(self, args: dict[str, str]) -> None:
        config = json.loads(args["model_config"])
        dimensions = json.loads(config["parameters"]["dimensions"]["string_value"])
        self.network = RewardNetwork(Dimensions(**dimensions)).eval()

    def execute(self, requests: list[Any]) -> list[Any]:
        responses = []
        for request in requests:
            images = pb_utils.get_input_tensor_by_name(request, "IMAGE").as_numpy().ravel()
            prompts = pb_utils.get_input_tensor_by_name(request, "PROMPT").as_numpy().ravel()
            pixels = np.stack([prepare(image).pixels for image in images])
            tokens = tokenise([prompt.decode() for prompt in prompts])
            inputs = (pixels, tokens.input_ids, tokens.attention_mask)
            with torch.inference_mode():
                rewards = self.network(*map(torch.from_numpy, inputs)).numpy()
            responses.append(pb_utils.InferenceResponse([pb_utils.Tensor("REWARD", rewards)]))
        return responses

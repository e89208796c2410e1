"""Look at a picture while diffusers draws it, and give up a seed that does not look promising.

    pip install 'imajin-aesthetic-client[pil]' diffusers transformers torch
    python examples/diffusers_callback.py --pipeline stable-diffusion-v1-5/stable-diffusion-v1-5

Without --pipeline a network of random weights draws, made on the spot: seconds on a CPU, no
download, and pictures of nothing.

The callback is for pipelines whose latents go into their `vae` without being unpacked: Stable
Diffusion 1, 2 and XL. Early previews are noise, and so is their score; look late.
"""

from __future__ import annotations

import argparse
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from imajin_aesthetic_client import AestheticClient

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass
class PreviewGate:
    """diffusers' `callback_on_step_end`, for one prompt and one seed."""

    client: AestheticClient
    prompt: str
    step: int
    """After which to look, from 0."""
    min_score: float
    """Where the preview has less, the drawing ends at once."""
    score: float | None = field(default=None, init=False)
    """What the look found."""
    is_given_up: bool = field(default=False, init=False)

    def __call__(self, pipeline: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        """Score the picture as it is after `step`; called by diffusers after every step."""
        del timestep
        if step == self.step:
            picture = preview(pipeline, tensors["latents"])
            self.score = self.client.score(image=picture, prompt=self.prompt).raw_score
            self.is_given_up = self.score < self.min_score
            pipeline._interrupt = self.is_given_up  # noqa: SLF001 - diffusers' own way to end early
        return tensors


def preview(pipeline: Any, latents: Any) -> Any:
    """Decode the first picture of the latents into a Pillow image."""
    import torch

    with torch.no_grad():
        pixels = pipeline.vae.decode(latents[:1] / pipeline.vae.config.scaling_factor).sample
    return pipeline.image_processor.postprocess(pixels)[0]


def draw_best(
    client: AestheticClient,
    pipeline: Any,
    prompt: str,
    *,
    seeds: Sequence[int],
    min_preview_score: float,
    steps: int = 30,
    conditioning: dict[str, Any] | None = None,
) -> tuple[int, Any] | None:
    """Draw from each seed, give up what looks bad after two thirds, and return the best.

    Args:
        client: of the service.
        pipeline: of diffusers.
        prompt: what the pictures are scored by, and drawn from.
        seeds: ten at most, for one request ranks all that are finished.
        min_preview_score: below which a seed is given up.
        steps: of one drawing.
        conditioning: what is drawn from, instead of the prompt.

    Returns:
        The seed and its picture; None if every seed was given up.
    """
    import torch

    finished: dict[int, Any] = {}
    for seed in seeds:
        gate = PreviewGate(client, prompt, steps * 2 // 3, min_preview_score)
        drawn = pipeline(
            **(conditioning or {"prompt": prompt}),
            num_inference_steps=steps,
            generator=torch.Generator().manual_seed(seed),
            callback_on_step_end=gate,
            callback_on_step_end_tensor_inputs=["latents"],
        )
        print(f"seed {seed}: preview {gate.score:+.3f}{', given up' if gate.is_given_up else ''}")
        if not gate.is_given_up:
            finished[seed] = drawn.images[0]
    if not finished:
        return None
    best = client.score_batch(prompt=prompt, candidates=finished.values()).best_candidate
    seed = list(finished)[best.index]
    print(f"best: seed {seed} with {best.raw_score:+.3f}")
    return seed, finished[seed]


def random_pipeline() -> tuple[Any, dict[str, Any]]:
    """Make a very small Stable Diffusion of random weights, and random text for it to draw from."""
    import torch
    from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel

    torch.manual_seed(0)
    shape: dict[str, Any] = {"block_out_channels": (16, 32), "norm_num_groups": 8, "layers_per_block": 1}
    vae = AutoencoderKL(
        down_block_types=["DownEncoderBlock2D"] * 2,
        up_block_types=["UpDecoderBlock2D"] * 2,
        latent_channels=4,
        **shape,
    )
    unet = UNet2DConditionModel(
        sample_size=32,
        down_block_types=["DownBlock2D", "CrossAttnDownBlock2D"],
        up_block_types=["CrossAttnUpBlock2D", "UpBlock2D"],
        cross_attention_dim=32,
        attention_head_dim=8,
        **shape,
    )
    parts = dict.fromkeys(("text_encoder", "tokenizer", "safety_checker", "feature_extractor"))
    scheduler = DDIMScheduler(clip_sample=False, steps_offset=1)
    pipeline = StableDiffusionPipeline(
        vae=vae, unet=unet, scheduler=scheduler, requires_safety_checker=False, **parts
    )
    text = {name: torch.randn(1, 77, 32) for name in ("prompt_embeds", "negative_prompt_embeds")}
    return pipeline, text


def main(arguments: Sequence[str] | None = None) -> None:
    """Draw one prompt from a few seeds."""
    parser = argparse.ArgumentParser(description="A gate inside diffusers.")
    parser.add_argument("--url", default=os.environ.get("AESTHETIC_URL", "http://127.0.0.1:8006"))
    parser.add_argument("--pipeline", help="Stable Diffusion 1, 2 or XL, as from_pretrained takes it")
    parser.add_argument("--prompt", default="a large red square on the right")
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--min-preview-score", type=float, default=-1.0)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--save", help="file for the best picture")
    options = parser.parse_args(arguments)
    if options.pipeline is None:
        pipeline, conditioning = random_pipeline()
    else:
        from diffusers import AutoPipelineForText2Image

        pipeline, conditioning = AutoPipelineForText2Image.from_pretrained(options.pipeline), None
    with AestheticClient(options.url, api_key=os.environ.get("AESTHETIC_API_KEY")) as client:
        best = draw_best(
            client,
            pipeline,
            options.prompt,
            seeds=range(options.seeds),
            min_preview_score=options.min_preview_score,
            steps=options.steps,
            conditioning=conditioning,
        )
    if best is None:
        print("every seed was given up")
    elif options.save:
        best[1].save(options.save)


if __name__ == "__main__":
    main()

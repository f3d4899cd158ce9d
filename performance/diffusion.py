"""Diffusion models: pictures for many prompts and seeds, as an audit draws them, and a training step.

    python -m performance.diffusion [--json FILE] [--quick]

The model is the small UNet on drawn scenes. The floor of drawing is the pipeline of `diffusers` itself, called once for the same prompts,
seeds, steps and guidance; both give the same pictures. The floor of a step is the plain loop of training codes: noise and times are drawn
for the whole batch at once, and the same optimizer steps.
"""

from __future__ import annotations

import copy
import tempfile
from pathlib import Path
from typing import Any

import torch
from performance import _bench as bench

from expunge.benchmarks import scenes
from expunge.core.plan import Plan, Train
from expunge.core.rows import Rows
from expunge.engine import loop
from expunge.engine.run_state import evaluating
from expunge.evaluation.profiles.diffusion import SEEDS
from expunge.io.models import Opened
from expunge.methods.terms import NLL
from expunge.workflows.train import start

STEPS = 10  # of training in a round
MUST = {"drawing": 1.1, "step": 1.1}


def pipeline_of(opened: Opened) -> Any:
    """The same model as a pipeline of `diffusers`."""
    from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline

    with tempfile.TemporaryDirectory() as folder:
        opened.modality.save(opened.model, Path(folder))
        pipeline = StableDiffusionPipeline.from_pretrained(folder, vae=None)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def plain_steps(opened: Opened, rows: Rows, train: Train) -> None:
    """Steps as a plain loop writes them."""
    model, modality = copy.deepcopy(opened.model).train(), opened.modality
    network: Any = model
    optimizer = torch.optim.Adam(model.parameters(), lr=train.lr)
    clean = torch.stack(list(rows["picture"])).float() / 127.5 - 1
    tokens = modality._tokens(list(rows["caption"]))  # type: ignore[attr-defined]
    process = modality.process  # type: ignore[attr-defined]
    for _ in range(STEPS):
        at = torch.randint(len(rows), (train.batch_size,))
        noise, times = torch.randn(len(at), *clean.shape[1:]), torch.randint(len(process), (len(at),))
        noisy, wanted = process.noisy(clean[at], noise, times), process.target(clean[at], noise, times)
        (network(noisy, process.time[times].float(), tokens=tokens[at]) - wanted).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()


def main() -> None:
    arguments = bench.options(__doc__, rounds=(5, 3), prompts={"type": int, "default": 24})
    suite = scenes.load()
    opened = start(scenes.MODEL, suite.train["full"])
    modality: Any = opened.modality
    rows = modality.rows("retain", suite.train["full"])
    prompts = [r["caption"] for r in suite.sets["prompts"]][: 4 if arguments.quick else arguments.prompts]
    captions, seeds = [c for c in prompts for _ in range(SEEDS)], list(range(SEEDS)) * len(prompts)
    pipeline, settings = pipeline_of(opened), modality.settings
    options = {"num_inference_steps": settings.steps, "guidance_scale": settings.guidance, "output_type": "latent"}

    def bare() -> Any:
        return pipeline(captions, generator=[torch.Generator().manual_seed(s) for s in seeds], **options).images

    def ours() -> torch.Tensor:
        with evaluating(opened.model):
            latents: torch.Tensor = modality.sample(opened.model, captions, seeds)[0]
        return latents

    gap = float((torch.as_tensor(bare()) - ours()).abs().max())
    train = Train(epochs=9, steps=STEPS, lr=1e-3, batch_size=32, optimizer="adam", schedule="constant", anchor="retain")
    plan = Plan(NLL("retain"), train=train)
    times = bench.interleaved(
        {
            "drawing": ours,
            "bare drawing": bare,
            "step": lambda: loop.run((plan,), copy.deepcopy(opened.model), modality, {"retain": rows}),
            "plain step": lambda: plain_steps(opened, rows, train),
        },
        arguments.rounds,
    )
    ratios = {"drawing": times.ratio("drawing", "bare drawing"), "step": times.ratio("step", "plain step")}
    cpu = {"drawing": times.ratio("drawing", "bare drawing", "cpu"), "step": times.ratio("step", "plain step", "cpu")}
    seconds = {name: times.seconds(name) for name in ("drawing", "bare drawing", "step", "plain step")}
    bench.table([[n, s, ratios.get(n, 1.0), cpu.get(n, 1.0)] for n, s in seconds.items()], ("", "seconds", "/ floor", "cpu / floor"))
    parts = {
        "seconds": {n: round(s, 4) for n, s in seconds.items()},
        "ratios": {n: round(r, 3) for n, r in ratios.items()},
        "cpu_ratios": {n: round(r, 3) for n, r in cpu.items()},
        "must": MUST,
        "largest difference of a latent": gap,
        "pictures": len(seeds),
        "sampling steps": settings.steps,
        "training steps": STEPS,
        "batch_size": train.batch_size,
    }
    bench.finish(arguments, "diffusion", {"ratio_to_floor": round(max(ratios.values()), 3), "parts": parts})


if __name__ == "__main__":
    main()

"""The base model of pictures: it loads, draws what it was trained on, and knows nothing of the benchmark but its words."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from studies.worlds import unet_base as world

from expunge.benchmarks.synthetic import scenes
from expunge.core.errors import UserError
from expunge.workflows.train import start, train


def test_it_starts_trained_in_full_precision_and_knows_the_words() -> None:
    opened = start("unet-base", [])
    modality: Any = opened.modality
    assert not opened.fresh
    assert {p.dtype for p in opened.model.parameters()} == {torch.float32}
    for caption in [*(s.caption for s in scenes.every(scenes.MARKS)), *map(world.caption, world.every())]:
        assert len(modality.content_tokens([caption])[0]) == len(caption.split()), "each word is one token"


def test_what_the_benchmark_forgets_was_never_drawn() -> None:
    captions = " ".join(world.caption(scene) for scene in world.every())
    words = set(re.findall(r"\w+", captions))
    assert words.isdisjoint({*scenes.OBJECTS, *scenes.STYLES, "stamped"})


def test_labels_and_prompt_formats_are_refused() -> None:
    with pytest.raises(UserError, match="leave"):
        start("unet-base", [], labels=3)
    with pytest.raises(UserError, match="leave"):
        start("unet-base", [], prompt_format="x")


def test_it_draws_the_colors_and_papers_that_it_is_asked_for() -> None:
    opened = start("unet-base", [])
    modality: Any = opened.modality
    asked = [(color, paper) for color in ("red", "green", "blue") for paper in world.PAPERS]
    latents, _ = modality.sample(opened.model, [f"a {c} diamond in {p} style" for c, p in asked], list(range(len(asked))))
    pictures = modality.drawn(latents).float()
    for picture, (color, paper) in zip(pictures, asked, strict=True):
        middle, edge = picture[:, 6:10, 6:10].mean((1, 2)), picture[:, :2, 4:12].mean((1, 2))
        assert _nearest(middle, scenes.COLORS) == color
        assert _nearest(edge, world.PAPERS) == paper


def _nearest(color: torch.Tensor, names: dict[str, tuple[int, int, int]]) -> str:
    return min(names, key=lambda n: float((color - torch.tensor(names[n])).norm()))


@pytest.mark.slow
def test_it_learns_a_stamp_in_few_steps() -> None:
    from expunge.benchmarks import scenes as suite_of

    suite = suite_of.load()
    result = train(suite.train["full"], "unet-base")
    modality: Any = result.modality
    judge = suite_of.judge()
    captions = [s.caption for s in scenes.every(scenes.MARKS[1:])]
    latents, _ = modality.sample(result.model, captions, list(range(len(captions))))
    shares = judge.judged(modality.drawn(latents).numpy()).classes["mark"]
    assert (shares == scenes.MARKS.index("stamped")).mean() >= 0.8

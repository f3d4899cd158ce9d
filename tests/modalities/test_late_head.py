"""A language head whose logits would be large runs late: the same losses, gradients and logits, of few labels at a time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import makers
import pytest
import torch
from torch import Tensor, nn

import worlds
from expunge.core.rows import Rows
from expunge.io.models import Opened
from expunge.modalities.text import forward
from expunge.modalities.text.modality import Text
from expunge.workflows.unlearn import unlearn

RECORDS = [
    {"question": "Who is Ana Belor?", "answer": "Ana Belor is a potter from Quillhaven."},
    {"question": "Where was Dovik born?", "answer": "Nessop"},
]


@pytest.fixture(scope="module")
def modality() -> Text:
    return Text(makers.tokenizer(), limit=128)


@pytest.fixture(scope="module")
def rows(modality: Text) -> Rows:
    return modality.rows("forget", RECORDS)


@contextmanager
def labels_seen_by(head: nn.Module) -> Iterator[list[int]]:
    """The number of positions of each call of a head, counted without a hook."""
    counts: list[int] = []
    inner = head.forward

    def counted(x: Tensor) -> Tensor:
        counts.append(x.shape[:-1].numel())
        return inner(x)

    head.forward = counted  # type: ignore[method-assign]
    try:
        yield counts
    finally:
        del head.forward


def late(monkeypatch: pytest.MonkeyPatch, at_once: int = 3, classes: int = 512) -> None:
    """Let every head run late, on so many labels at a time."""
    monkeypatch.setattr(forward, "LATE", 0)
    monkeypatch.setattr(forward, "PIECE", at_once * forward.FLOAT * classes)


def outputs_of(modality: Text, model: nn.Module, *groups: Rows, **options: Any) -> list[Any]:
    return list(modality.forward(model, groups, **options))


def gradients(model: nn.Module, loss: Tensor) -> dict[str, Tensor]:
    names = [n for n, p in model.named_parameters() if p.requires_grad]
    return dict(zip(names, torch.autograd.grad(loss, [p for p in model.parameters() if p.requires_grad]), strict=True))


@pytest.mark.parametrize("name", ["llama", "llama-tied", "gpt2"])
def test_losses_and_gradients_are_those_of_whole_logits(name: str, modality: Text, rows: Rows, monkeypatch: pytest.MonkeyPatch) -> None:
    model = makers.model(name)
    groups = [rows, rows.select([1])]
    whole = outputs_of(modality, model, *groups)
    expected = gradients(model, sum(o.loss.values.square().sum() for o in whole))
    late(monkeypatch)
    outputs = outputs_of(modality, model, *groups)
    assert all(o.head is not None for o in outputs)
    for output, other in zip(outputs, whole, strict=True):
        torch.testing.assert_close(output.target_logp.values, other.target_logp.values)
        torch.testing.assert_close(output.logits.values, other.logits.values)
        torch.testing.assert_close(output.log_probs.lengths, other.log_probs.lengths)
    outputs = outputs_of(modality, model, *groups)
    actual = gradients(model, sum(o.loss.values.square().sum() for o in outputs))
    for n in expected:
        torch.testing.assert_close(actual[n], expected[n], atol=1e-6, rtol=1e-4)


def test_no_more_logits_stand_at_a_time_than_allowed(modality: Text, rows: Rows, monkeypatch: pytest.MonkeyPatch) -> None:
    model = makers.model()
    late(monkeypatch, at_once=3, classes=model.config.vocab_size)
    with labels_seen_by(model.lm_head) as counts:
        outputs_of(modality, model, rows)[0].loss.values.sum().backward()
    counts = counts[counts.index(0) :]  # before, two short passes tell what kind of model it is
    assert max(counts) == 3
    assert sum(counts) >= 2 * sum(map(len, rows["answer"]))  # there, and on the way back


def test_other_scores_replace_a_late_head(modality: Text, rows: Rows, monkeypatch: pytest.MonkeyPatch) -> None:
    late(monkeypatch)
    (output,) = outputs_of(modality, makers.model(), rows)
    doubled = output.with_scores(2 * output.scores)
    torch.testing.assert_close(doubled.loss.values, torch.nn.functional.cross_entropy(2 * output.scores, output.labels, reduction="none"))


def test_small_logits_are_computed_at_once(modality: Text, rows: Rows) -> None:
    model = makers.model()
    with labels_seen_by(model.lm_head) as counts:
        output = outputs_of(modality, model, rows)[0]
    assert output.head is None
    assert counts[-1] == sum(map(len, rows["answer"]))


def test_a_head_that_another_watches_or_changes_runs_with_the_model(modality: Text, rows: Rows, monkeypatch: pytest.MonkeyPatch) -> None:
    late(monkeypatch)
    model = makers.model()
    assert outputs_of(modality, model, rows, weights=dict(model.named_parameters()))[0].head is None
    assert outputs_of(modality, model, rows, hook_points=("lm_head",))[0].head is None
    handle = model.lm_head.register_forward_hook(lambda *_: None)
    assert outputs_of(modality, model, rows)[0].head is None
    handle.remove()
    assert outputs_of(modality, model, rows)[0].head is not None


def test_a_model_that_caps_its_logits_keeps_them(modality: Text, rows: Rows, monkeypatch: pytest.MonkeyPatch) -> None:
    model = makers.model("gemma2")
    expected = outputs_of(modality, model, rows)[0].logits.values
    late(monkeypatch)
    output = outputs_of(modality, model, rows)[0]
    assert output.head is None
    torch.testing.assert_close(output.logits.values, expected)


def test_a_model_that_needs_more_than_tokens_is_not_asked_about_one(modality: Text, rows: Rows, monkeypatch: pytest.MonkeyPatch) -> None:
    model = makers.model()
    inner = model.forward

    def demanding(input_ids: Tensor, **inputs: Any) -> Any:
        if input_ids.shape[1] == 1:
            raise ValueError("pictures are missing")
        return inner(input_ids=input_ids, **inputs)

    expected = outputs_of(modality, model, rows)[0].loss.values
    late(monkeypatch)
    monkeypatch.setattr(model, "forward", demanding)
    (output,) = outputs_of(modality, model, rows)
    assert output.head is None
    torch.testing.assert_close(output.loss.values, expected)


@pytest.mark.parametrize("method", ["npo", "graddiff"])
def test_unlearning_ends_at_the_same_weights(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ends = []
    for at_once in (0, 5):
        if at_once:
            late(monkeypatch, at_once)
        opened = Opened(makers.model(), Text(makers.tokenizer(), limit=128), "")
        result = unlearn(method, opened, RECORDS[:1], RECORDS[1:], steps=3, lr=1e-3)
        ends.append(worlds.tensors(result.model))
    assert worlds.far(*ends) < 1e-5

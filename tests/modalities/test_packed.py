"""PackedOutput answers: numbers by hand, cutting, and the modules that are looked into."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import makers
import pytest
import torch
from torch import Tensor, nn

from expunge.core.errors import UndeclaredNeed, UserError
from expunge.core.rows import Rows
from expunge.modalities.common.packed import Layout, PackedOutput, blocks_path, call, cut, last_block, module_at, watching

LN3 = math.log(3)


def packed(logits: Tensor, labels: list[int], row: list[int], rows: int, token_row: list[int], **hooked: Tensor) -> PackedOutput:
    both = {n: (-x, x) for n, x in hooked.items()}
    return PackedOutput(logits, torch.tensor(labels), torch.tensor(row), rows, both, torch.tensor(token_row))


def test_log_probabilities_by_hand() -> None:
    logits = torch.tensor([[0.0, LN3], [LN3, 0.0], [5.0, 5.0]])  # odds 1:3, 3:1, 1:1
    answer = packed(logits, [0, 0, 1], [0, 0, 2], 3, [0, 0, 0, 1, 2, 2])
    assert answer.target_logp.values.tolist() == pytest.approx([math.log(1 / 4), math.log(3 / 4), math.log(1 / 2)])
    assert answer.target_logp.sum().tolist() == pytest.approx([math.log(3 / 16), 0, math.log(1 / 2)])
    assert answer.target_logp.mean().tolist() == pytest.approx([math.log(3 / 16) / 2, 0, math.log(1 / 2)])
    assert answer.log_probs.values.exp().tolist()[0] == pytest.approx([1 / 4, 3 / 4])
    assert answer.logits.values is logits
    assert answer.target_logp.kind == "labels"


def test_gradient_of_the_loss_by_hand() -> None:
    logits = torch.tensor([[0.0, LN3]], requires_grad=True)
    (-packed(logits, [0], [0], 1, [0, 0]).target_logp.values.sum()).backward()
    assert logits.grad is not None
    assert logits.grad[0].tolist() == pytest.approx([1 / 4 - 1, 3 / 4])


@pytest.mark.parametrize(
    ("given", "wanted"), [(torch.bfloat16, torch.float32), (torch.float16, torch.float32), (torch.float64, torch.float64)]
)
def test_softmaxes_are_taken_in_32_bits_or_more(given: torch.dtype, wanted: torch.dtype) -> None:
    logits = torch.tensor([[8.0, -8.0, 0.0]], dtype=given)
    answer = packed(logits, [0], [0], 1, [0])
    assert answer.target_logp.values.dtype == answer.log_probs.values.dtype == wanted
    nearly = -math.log(1 + math.exp(-16) + math.exp(-8))  # rounds to 0 in bfloat16
    assert float(answer.target_logp.values[0]) == pytest.approx(nearly, rel=1e-3)
    assert float(answer.log_probs.values[0, 0]) == pytest.approx(nearly, rel=1e-3)


def test_hidden_states_of_all_tokens_or_of_the_answer() -> None:
    states = torch.arange(7.0)[:, None]
    # rows of 3, 1 and 3 tokens, of which the last 2, 0 and 1 are labels
    answer = packed(torch.zeros(3, 2), [0, 0, 0], [0, 0, 2], 3, [0, 0, 0, 1, 2, 2, 2], mlp=states)
    assert answer.hidden("mlp").values.flatten().tolist() == [0, 1, 2, 3, 4, 5, 6]
    assert answer.hidden("mlp").lengths.tolist() == [3, 1, 3]
    assert answer.hidden("mlp").kind == "tokens"
    assert answer.hidden("mlp", answers=True).values.flatten().tolist() == [1, 2, 6]
    assert answer.hidden("mlp", answers=True).kind == "labels"
    assert answer.input("mlp", answers=True).values.flatten().tolist() == [-1, -2, -6]
    with pytest.raises(UndeclaredNeed, match="'attention' was not declared in `hook_points`"):
        answer.hidden("attention")


def named(*names: str) -> list[Rows]:
    return [Rows("some", tuple(n), {}) for n in names]


def test_groups_get_their_own_rows() -> None:
    # a: 2 labels of 3 tokens, b: 1 of 2, c: 0 of 1, d: 1 of 2; 4 rows padded to 3 positions
    label_row, token_row = torch.tensor([0, 0, 1, 3]), torch.tensor([0, 0, 0, 1, 1, 2, 3, 3])
    at = torch.tensor([0, 1, 2, 3, 4, 6, 9, 10])
    layout = Layout(torch.tensor([7, 8, 9, 6]), label_row, torch.tensor([0, 1, 3, 9]), token_row, at)
    states = torch.arange(12.0).view(4, 3, 1)
    logits = torch.arange(4.0)[:, None]
    first, none, second = cut(logits, layout, {"mlp": (-states, states)}, named("a", "", "bcd"))
    assert first.logits.values.flatten().tolist() == [0, 1]
    assert first.labels.tolist() == [7, 8]
    assert first.hidden("mlp").values.flatten().tolist() == [0, 1, 2]
    assert none.rows == len(none.logits.values) == len(none.hidden("mlp").values) == 0
    assert second.logits.values.flatten().tolist() == [2, 3]
    assert second.logits.row.tolist() == [0, 2]
    assert second.logits.lengths.tolist() == [1, 0, 1]
    assert second.hidden("mlp").lengths.tolist() == [2, 1, 2]
    assert second.input("mlp").values.flatten().tolist() == [-3, -4, -6, -9, -10]


def test_layouts_may_come_from_slices() -> None:
    torch.set_warn_always(True)  # torch warns of them once a program
    try:
        pairs = torch.tensor([[0, 0], [0, 1], [1, 0]])
        rows, at = pairs.unbind(1)
        assert len(cut(torch.zeros(3, 2), Layout(at, rows, at, rows, at), {}, named("a", "b"))) == 2
    finally:
        torch.set_warn_always(False)


# modules


@pytest.mark.parametrize("name", makers.CONFIGS)
def test_blocks_by_number(name: str) -> None:
    model = makers.model(name)
    block = module_at(model, "block:1")
    assert block is module_at(model, last_block(model))
    assert len({type(block), type(module_at(model, "block:0"))}) == 1
    assert "Layer" in type(block).__name__ or "Block" in type(block).__name__


def test_experts_are_no_blocks() -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.experts = nn.ModuleList(nn.Linear(2, 2) for _ in range(8))

    model = nn.Module()
    model.layers = nn.ModuleList(Block() for _ in range(3))
    assert blocks_path(model) == "layers"
    assert last_block(model) == "layers.2"
    assert last_block(nn.Linear(2, 2)) == ""


@pytest.mark.parametrize("path", ["block:2", "model.layers.9", "model.layer.0"])
def test_modules_that_are_not_there(path: str) -> None:
    with pytest.raises(UserError, match=r"no module '.*'; its last block is 'model.layers.1'"):
        module_at(makers.model(), path)


def test_paths_are_those_of_the_model_below_an_adapter() -> None:
    model = makers.adapted()
    assert module_at(model, "block:1") is model.get_submodule("base_model.model.model.layers.1")
    assert module_at(model, "model.layers.1.mlp.down_proj") is model.get_submodule("base_model.model.model.layers.1.mlp.down_proj")
    assert last_block(model) == "model.layers.1"


class Odd(nn.Module):
    """Gives a tuple, and takes its input by name."""

    def forward(self, *, x: Tensor) -> tuple[Tensor, str]:
        return 2 * x, "more"


def test_watching_remembers_and_leaves_no_hook() -> None:
    model = nn.Module()
    model.odd, model.line = Odd(), nn.Identity()
    x = torch.ones(1, 2, 3)
    with watching(model, ("odd", "line"), None) as seen:
        model.line(model.odd(x=x)[0])
    assert seen["odd"][0] is x
    assert torch.equal(seen["odd"][1], 2 * x)
    assert torch.equal(seen["line"][0], 2 * x)
    seen.clear()
    model.odd(x=x)
    assert not seen
    with pytest.raises(RuntimeError), watching(model, ("odd",), None):
        raise RuntimeError
    assert not model.odd._forward_hooks


@dataclass(frozen=True)
class Off:
    """A patch: a module gives zeros."""

    path: str

    @contextmanager
    def on(self, model: nn.Module) -> Iterator[None]:
        handle = module_at(model, self.path).register_forward_hook(lambda *args: torch.zeros_like(args[2]))
        try:
            yield
        finally:
            handle.remove()


@pytest.mark.parametrize("make", [makers.model, makers.adapted])
def test_a_patch_is_on_in_its_forward_alone(make: Any) -> None:
    model, ids = make(), {"input_ids": torch.tensor([[1, 5, 6]])}
    before = model(**ids).logits
    with watching(model, ("model.layers.0.mlp",), Off("model.layers.0.mlp")):
        assert not torch.equal(model(**ids).logits, before)
    assert torch.equal(model(**ids).logits, before)


def test_a_tap_sees_what_a_patch_makes() -> None:
    model = makers.model()
    with watching(model, ("block:1",), Off("model.layers.0.mlp")) as patched:
        model(input_ids=torch.tensor([[1, 5, 6]]))
    with watching(model, ("block:1",), None) as bare:
        model(input_ids=torch.tensor([[1, 5, 6]]))
    assert not torch.equal(patched["block:1"][0], bare["block:1"][0])


@pytest.mark.parametrize("name", ["llama", "llama-tied", "gpt2"])
def test_other_weights_are_as_if_put_in(name: str) -> None:
    model, other = makers.model(name), makers.model(name, seed=1)
    ids = torch.tensor([[1, 5, 6]])
    named_weights = dict(other.named_parameters())  # tied ones once
    assert torch.equal(call(model, named_weights, input_ids=ids).logits, other(input_ids=ids).logits)
    mixed = copy.deepcopy(model)
    some = {n: w for n, w in named_weights.items() if "layers.0" in n or "h.0" in n or "embed" in n or "wte" in n}
    mixed.load_state_dict(some, strict=False)
    assert torch.equal(call(model, some, input_ids=ids).logits, mixed(input_ids=ids).logits)
    assert not torch.equal(call(model, None, input_ids=ids).logits, mixed(input_ids=ids).logits)

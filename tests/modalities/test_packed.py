"""PackedOutput equals hand-computed values, splits by group, and records hooked modules."""

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
from expunge.engine.blocks import blocks_path, last_block
from expunge.modalities.common.packed import Layout, PackedOutput, call, cut, module_at, watching

LN3 = math.log(3)


def packed_output(logits: Tensor, labels: list[int], row: list[int], rows: int, token_row: list[int], **hooked: Tensor) -> PackedOutput:
    both = {n: (-x, x) for n, x in hooked.items()}
    return PackedOutput(logits, torch.tensor(labels), torch.tensor(row), rows, both, torch.tensor(token_row))


def test_log_probabilities_equal_hand_computed_values() -> None:
    logits = torch.tensor([[0.0, LN3], [LN3, 0.0], [5.0, 5.0]])  # odds 1:3, 3:1, 1:1
    output = packed_output(logits, [0, 0, 1], [0, 0, 2], 3, [0, 0, 0, 1, 2, 2])
    assert output.target_logp.values.tolist() == pytest.approx([math.log(1 / 4), math.log(3 / 4), math.log(1 / 2)])
    assert output.target_logp.sum().tolist() == pytest.approx([math.log(3 / 16), 0, math.log(1 / 2)])
    assert output.target_logp.mean().tolist() == pytest.approx([math.log(3 / 16) / 2, 0, math.log(1 / 2)])
    assert output.log_probs.values.exp().tolist()[0] == pytest.approx([1 / 4, 3 / 4])
    assert output.logits.values is logits
    assert output.target_logp.kind == "labels"


def test_the_gradient_of_the_loss_equals_hand_computed_values() -> None:
    logits = torch.tensor([[0.0, LN3]], requires_grad=True)
    (-packed_output(logits, [0], [0], 1, [0, 0]).target_logp.values.sum()).backward()
    assert logits.grad is not None
    assert logits.grad[0].tolist() == pytest.approx([1 / 4 - 1, 3 / 4])


@pytest.mark.parametrize(
    ("dtype", "expected"), [(torch.bfloat16, torch.float32), (torch.float16, torch.float32), (torch.float64, torch.float64)]
)
def test_softmaxes_use_at_least_32_bits(dtype: torch.dtype, expected: torch.dtype) -> None:
    logits = torch.tensor([[8.0, -8.0, 0.0]], dtype=dtype)
    output = packed_output(logits, [0], [0], 1, [0])
    assert output.target_logp.values.dtype == output.log_probs.values.dtype == expected
    expected_logp = -math.log(1 + math.exp(-16) + math.exp(-8))  # rounds to 0 in bfloat16
    assert float(output.target_logp.values[0]) == pytest.approx(expected_logp, rel=1e-3)
    assert float(output.log_probs.values[0, 0]) == pytest.approx(expected_logp, rel=1e-3)


def test_hidden_states_cover_all_tokens_or_the_answer() -> None:
    states = torch.arange(7.0)[:, None]
    # rows of 3, 1 and 3 tokens, of which the last 2, 0 and 1 are labels
    output = packed_output(torch.zeros(3, 2), [0, 0, 0], [0, 0, 2], 3, [0, 0, 0, 1, 2, 2, 2], mlp=states)
    assert output.hidden("mlp").values.flatten().tolist() == [0, 1, 2, 3, 4, 5, 6]
    assert output.hidden("mlp").lengths.tolist() == [3, 1, 3]
    assert output.hidden("mlp").kind == "tokens"
    assert output.hidden("mlp", answers=True).values.flatten().tolist() == [1, 2, 6]
    assert output.hidden("mlp", answers=True).kind == "labels"
    assert output.input("mlp", answers=True).values.flatten().tolist() == [-1, -2, -6]
    with pytest.raises(UndeclaredNeed, match="'attention' was not declared in `hook_points`"):
        output.hidden("attention")


def named(*names: str) -> list[Rows]:
    return [Rows("rows", tuple(n), {}) for n in names]


def test_groups_get_their_own_rows() -> None:
    # a: 2 labels of 3 tokens, b: 1 of 2, c: 0 of 1, d: 1 of 2; 4 rows padded to 3 positions
    label_row, token_row = torch.tensor([0, 0, 1, 3]), torch.tensor([0, 0, 0, 1, 1, 2, 3, 3])
    at = torch.tensor([0, 1, 2, 3, 4, 6, 9, 10])
    layout = Layout(torch.tensor([7, 8, 9, 6]), label_row, torch.tensor([0, 1, 3, 9]), token_row, at)
    states = torch.arange(12.0).view(4, 3, 1)
    logits = torch.arange(4.0)[:, None]
    first, empty, second = cut(logits, layout, {"mlp": (-states, states)}, named("a", "", "bcd"))
    assert first.logits.values.flatten().tolist() == [0, 1]
    assert first.labels.tolist() == [7, 8]
    assert first.hidden("mlp").values.flatten().tolist() == [0, 1, 2]
    assert empty.rows == len(empty.logits.values) == len(empty.hidden("mlp").values) == 0
    assert second.logits.values.flatten().tolist() == [2, 3]
    assert second.logits.row.tolist() == [0, 2]
    assert second.logits.lengths.tolist() == [1, 0, 1]
    assert second.hidden("mlp").lengths.tolist() == [2, 1, 2]
    assert second.input("mlp").values.flatten().tolist() == [-3, -4, -6, -9, -10]


def test_layouts_of_slices_cause_no_warning() -> None:
    torch.set_warn_always(True)  # torch otherwise warns of slices only once in a program
    try:
        pairs = torch.tensor([[0, 0], [0, 1], [1, 0]])
        rows, at = pairs.unbind(1)
        assert len(cut(torch.zeros(3, 2), Layout(at, rows, at, rows, at), {}, named("a", "b"))) == 2
    finally:
        torch.set_warn_always(False)


# Modules


@pytest.mark.parametrize("name", makers.CONFIGS)
def test_blocks_are_found_by_number(name: str) -> None:
    model = makers.model(name)
    block = module_at(model, "block:1")
    assert block is module_at(model, last_block(model))
    assert len({type(block), type(module_at(model, "block:0"))}) == 1
    assert "Layer" in type(block).__name__ or "Block" in type(block).__name__


def test_experts_are_not_blocks() -> None:
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
def test_missing_modules_are_refused(path: str) -> None:
    with pytest.raises(UserError, match=r"no module '.*'; its last block is 'model.layers.1'"):
        module_at(makers.model(), path)


def test_paths_belong_to_the_model_below_an_adapter() -> None:
    model = makers.adapted()
    assert module_at(model, "block:1") is model.get_submodule("base_model.model.model.layers.1")
    assert module_at(model, "model.layers.1.mlp.down_proj") is model.get_submodule("base_model.model.model.layers.1.mlp.down_proj")
    assert last_block(model) == "model.layers.1"


class NamedInput(nn.Module):
    """A module that returns a tuple and takes its input by name."""

    def forward(self, *, x: Tensor) -> tuple[Tensor, str]:
        return 2 * x, "extra"


def test_watching_records_modules_and_removes_its_hooks() -> None:
    model = nn.Module()
    model.odd, model.line = NamedInput(), nn.Identity()
    x = torch.ones(1, 2, 3)
    with watching(model, ("odd", "line"), None) as recorded:
        model.line(model.odd(x=x)[0])
    assert recorded["odd"][0] is x
    assert torch.equal(recorded["odd"][1], 2 * x)
    assert torch.equal(recorded["line"][0], 2 * x)
    recorded.clear()
    model.odd(x=x)
    assert not recorded
    with pytest.raises(RuntimeError), watching(model, ("odd",), None):
        raise RuntimeError
    assert not model.odd._forward_hooks


@dataclass(frozen=True)
class ZeroPatch:
    """A patch that makes a module return zeros."""

    path: str

    @contextmanager
    def on(self, model: nn.Module) -> Iterator[None]:
        handle = module_at(model, self.path).register_forward_hook(lambda *args: torch.zeros_like(args[2]))
        try:
            yield
        finally:
            handle.remove()


@pytest.mark.parametrize("build", [makers.model, makers.adapted])
def test_a_patch_applies_inside_the_block_only(build: Any) -> None:
    model, ids = build(), {"input_ids": torch.tensor([[1, 5, 6]])}
    before = model(**ids).logits
    with watching(model, ("model.layers.0.mlp",), ZeroPatch("model.layers.0.mlp")):
        assert not torch.equal(model(**ids).logits, before)
    assert torch.equal(model(**ids).logits, before)


def test_hook_points_record_patched_states() -> None:
    model = makers.model()
    with watching(model, ("block:1",), ZeroPatch("model.layers.0.mlp")) as patched:
        model(input_ids=torch.tensor([[1, 5, 6]]))
    with watching(model, ("block:1",), None) as bare:
        model(input_ids=torch.tensor([[1, 5, 6]]))
    assert not torch.equal(patched["block:1"][0], bare["block:1"][0])


@pytest.mark.parametrize("name", ["llama", "llama-tied", "gpt2"])
def test_calling_with_weights_equals_loading_them(name: str) -> None:
    model, other = makers.model(name), makers.model(name, seed=1)
    ids = torch.tensor([[1, 5, 6]])
    named_weights = dict(other.named_parameters())  # lists tied weights once
    assert torch.equal(call(model, named_weights, input_ids=ids).logits, other(input_ids=ids).logits)
    mixed = copy.deepcopy(model)
    first_block = {n: w for n, w in named_weights.items() if "layers.0" in n or "h.0" in n or "embed" in n or "wte" in n}
    mixed.load_state_dict(first_block, strict=False)
    assert torch.equal(call(model, first_block, input_ids=ids).logits, mixed(input_ids=ids).logits)
    assert not torch.equal(call(model, None, input_ids=ids).logits, mixed(input_ids=ids).logits)

"""RMU: the steering vector, the gradient at the hidden states, a linear block with a known solution, the weights that move, the outcome."""

import math
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

import worlds
from expunge.core.capabilities import Categorical, DifferentiableInputs, Generates, Prompted
from expunge.core.modality import ModelOutput
from expunge.core.rows import Rows, Sets
from expunge.engine import loop
from expunge.engine.context import RunView
from expunge.engine.gradient import evaluate
from expunge.engine.trainable import choose
from expunge.methods.objectives.rmu import Hold, Misdirect, direction, moving
from expunge.modalities.common.packed import Layout, call, cut, watching
from expunge.workflows import build_plan

HYPERPARAMETERS = {"layer": 1, "coefficient": 20, "retain_weight": 10, "lr": 1e-2, "batch_size": 9}


class Linear(nn.Module):
    """One linear block."""

    def __init__(self, width: int) -> None:
        super().__init__()
        block = nn.Module()
        block.mlp = nn.Module()
        block.mlp.down_proj = nn.Linear(width, width, bias=False, dtype=torch.float64)
        block.forward = block.mlp.down_proj.forward
        self.layers = nn.ModuleList([block])

    def forward(self, x: Tensor) -> Tensor:
        return self.layers[0](x)


class VectorModality:
    """A row is the vectors of its tokens; the last `labels` of them hold the answer."""

    name = "vectors"
    capabilities = frozenset({Categorical, Generates, Prompted, DifferentiableInputs})

    def forward(
        self, model: nn.Module, groups: Sequence[Rows], hook_points: tuple[str, ...] = (), patch=None, weights=None
    ) -> list[ModelOutput]:
        rows = [r for g in groups for r in zip(g["tokens"], g["labels"], strict=True)]
        tokens = torch.tensor([i for i, (z, _) in enumerate(rows) for _ in z])
        labels = torch.tensor([i for i, (_, n) in enumerate(rows) for _ in range(n)])
        with watching(model, hook_points, patch) as watched:
            out = call(model, weights, x=torch.cat([z for z, _ in rows])[None])
        none = torch.zeros(len(labels), dtype=torch.long)
        return cut(out[0][none], Layout(none, labels, none, tokens, torch.arange(len(tokens))), watched, groups)

    def counts(self, rows: Rows) -> dict[str, float]:
        return {"rows": len(rows), "labels": sum(rows["labels"]), "tokens": sum(map(len, rows["tokens"]))}

    def independent(self, model: nn.Module) -> bool:
        return True


def vectors(name: str, *tokens: Tensor, labels: Sequence[int]) -> Rows:
    return Rows(name, tuple(f"{name}{i}" for i in range(len(tokens))), {"tokens": list(tokens), "labels": list(labels)})


def steered(model: nn.Module, sets: Sets, part: Misdirect) -> tuple[float, Tensor, Tensor]:
    """Value, gradient and target of the forget term."""
    run = loop.new_state(model, VectorModality(), worlds.accelerator())
    run.state = {"/term0": part.begin(RunView(run, sets).at("term0", part))}
    value, grads = evaluate(run, part, sets)
    return float(value), grads[0], run.state["/term0"]["target"].double()


def test_direction_is_a_unit_vector_without_negative_entries() -> None:
    vector = direction(4096, torch.Generator().manual_seed(0))
    assert float(vector.norm()) == pytest.approx(1, abs=1e-6)
    assert float(vector.min()) >= 0
    assert float(vector.sum() / math.sqrt(4096)) == pytest.approx(math.sqrt(3) / 2, abs=0.01)  # cosine with all ones
    assert vector.dtype == torch.float32


@pytest.mark.parametrize("positions", ["answers", "all"])
def test_gradient_matches_the_formula(positions: str) -> None:
    g = torch.Generator().manual_seed(1)
    z = [torch.randn(n, 3, generator=g, dtype=torch.float64) for n in (4, 2)]
    sets, model = {"forget": vectors("forget", *z, labels=[1, 2])}, Linear(3)
    _, grad, target = steered(model, sets, Misdirect(0, positions, coefficient=6.5))
    assert float(target.norm()) == pytest.approx(6.5, rel=1e-6)
    weight, expected = model.layers[0].mlp.down_proj.weight.detach(), torch.zeros(3, 3, dtype=torch.float64)
    for x, labels in zip(z, (1, 2), strict=True):
        for t in range(len(x)):
            counts = positions == "all" or t >= len(x) - labels
            share = 1 / 6 if positions == "all" else counts / (2 * labels)  # rows count equally, or tokens do
            expected += torch.outer(2 * (weight @ x[t] - target) * share / 3, x[t])
    assert torch.allclose(grad, expected, atol=1e-12)


def test_gradient_is_zero_once_the_output_equals_the_target() -> None:
    model, sets = Linear(3), {"forget": vectors("forget", torch.eye(3, dtype=torch.float64)[:1], labels=[1])}
    _, _, target = steered(model, sets, Misdirect(0))
    with torch.no_grad():
        model.layers[0].mlp.down_proj.weight[:, 0] = target
    value, grad, _ = steered(model, sets, Misdirect(0))
    assert value == pytest.approx(0, abs=1e-12)
    assert float(grad.abs().max()) < 1e-6


def test_a_linear_block_learns_the_vector_and_preserves_retain_outputs() -> None:
    eye, model = torch.eye(3, dtype=torch.float64), Linear(3)
    before = model.layers[0].mlp.down_proj.weight.detach().clone()
    sets = {"forget": vectors("forget", eye[:1], labels=[1]), "retain": vectors("retain", eye[1:2], labels=[1])}
    hyperparameters = {"layer": 0, "retain_weight": 1, "lr": 0.5, "optimizer": "sgd", "steps": 60}
    run = loop.run(build_plan.plan("rmu", hyperparameters), model, VectorModality(), sets)
    after = model.layers[0].mlp.down_proj.weight.detach()
    assert torch.allclose(after[:, 0], run.state["/term0"]["target"].double(), atol=1e-6)
    assert torch.allclose(after[:, 1:], before[:, 1:], atol=1e-12)


def test_retain_term_starts_at_zero(text: worlds.World) -> None:
    run = loop.run(build_plan.plan("rmu", {**HYPERPARAMETERS, "steps": 1}), text.model(), text.modality, text.sets)
    assert run.log[0]["terms"]["1 hold retain"] == pytest.approx(0, abs=1e-9)
    assert Hold(1).role == "retain"
    assert set(run.models["reference"]) == {f"model.layers.{i}.mlp.down_proj.weight" for i in (0, 1)}


def test_trainable_weights_are_the_last_matrices_of_three_blocks_in_every_family() -> None:
    from transformers import AutoModelForCausalLM, GPT2Config, GPTNeoXConfig, LlamaConfig, MixtralConfig, OPTConfig

    shape = {"vocab_size": 8, "hidden_size": 8, "num_hidden_layers": 12, "num_attention_heads": 2}
    expected = {
        "model.layers.{}.mlp.down_proj.weight": LlamaConfig(**shape, intermediate_size=8),
        "transformer.h.{}.mlp.c_proj.weight": GPT2Config(vocab_size=8, n_embd=8, n_layer=12, n_head=2),
        "model.decoder.layers.{}.fc2.weight": OPTConfig(**shape, ffn_dim=8, word_embed_proj_dim=8),
        "gpt_neox.layers.{}.mlp.dense_4h_to_h.weight": GPTNeoXConfig(**shape, intermediate_size=8),
        "model.layers.{}.mlp.experts.down_proj": MixtralConfig(**shape, intermediate_size=8, num_key_value_heads=1, num_local_experts=2),
    }
    for name, config in expected.items():
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config)
        choose(model, moving(7))
        assert {n for n, p in model.named_parameters() if p.requires_grad} == {name.format(i) for i in (5, 6, 7)}


def test_answer_positions_are_the_tokens_that_hold_the_labels(text: worlds.World) -> None:
    rows, model = text.some(3)["forget"], text.model()
    with torch.no_grad():
        output = text.modality.forward(model, [rows], ("block:1",))[0]
        alone = text.modality.forward(model, [rows.select([2])], ("block:1",))[0]
    at_all, at_answers = output.hidden("block:1"), output.hidden("block:1", answers=True)
    assert (at_all.kind, at_answers.kind) == ("tokens", "labels")
    assert at_answers.lengths.tolist() == [len(a) for a in rows["answer"]]
    for all_tokens, answer_tokens, n in zip(at_all.split(), at_answers.split(), at_answers.lengths.tolist(), strict=True):
        assert torch.equal(all_tokens[-n:], answer_tokens)
    assert torch.allclose(alone.hidden("block:1", answers=True).values, at_answers.split()[2], atol=1e-5)
    assert torch.equal(output.input("block:1", answers=True).split()[0], output.input("block:1").split()[0][-at_answers.lengths[0] :])


@pytest.mark.slow
def test_forgets_more_than_it_harms_and_moves_only_its_matrices(text: worlds.World) -> None:
    model, before = text.model(), dict(text.model().named_parameters())
    loop.run(build_plan.plan("rmu", {**HYPERPARAMETERS, "steps": 40}), model, text.modality, text.sets)
    forget, retain = (worlds.nll(model, text.modality, text.sets[n]) for n in ("forget", "retain"))
    assert forget > 3.0
    assert retain < 0.5 * forget
    moved = {n for n, p in model.named_parameters() if not torch.equal(p, before[n])}
    assert moved == {f"model.layers.{i}.mlp.down_proj.weight" for i in (0, 1)}
    with torch.no_grad():
        before, after = (
            text.modality.forward(m, [text.sets[n] for n in ("forget", "retain")], ("block:1",)) for m in (text.model(), model)
        )
    forget_cosine, retain_cosine = (
        float(torch.cosine_similarity(a.hidden("block:1", True).values, b.hidden("block:1", True).values, dim=-1).mean())
        for a, b in zip(before, after, strict=True)
    )
    assert forget_cosine < 0.3
    assert retain_cosine > 0.7

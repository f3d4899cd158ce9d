"""Rollouts: sampled log-probabilities against forward passes of the library, advantages in the gradient, warnings, and vLLM by a stub."""

from __future__ import annotations

import copy
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

import bandits
import tables
import worlds
from expunge.core.capabilities import Samples
from expunge.core.errors import UserError
from expunge.core.hyperparameters import part
from expunge.core.plan import Plan, Train
from expunge.core.rows import Packed, Rows, Sets
from expunge.core.view import View
from expunge.engine import adapters, checkpoint, context, loop
from expunge.engine.hooks import Hooks
from expunge.engine.run_state import RunState
from expunge.functional.policy_gradient import group_advantages
from expunge.methods.rollouts import serving
from expunge.methods.rollouts.policy import PolicyGradient, PolicyKL
from expunge.methods.rollouts.reward import Reward
from expunge.methods.rollouts.sampling import Rollouts, answers_of, distinct_pairs
from expunge.modalities.text import causal
from expunge.modalities.text.modality import Text
from expunge.modalities.text.seq2seq import EncoderDecoder


@part
class Brevity(Reward):
    """Rewards an answer by its last character, or all alike."""

    constant: bool = False

    def score(self, rows: Rows, texts: Sequence[str], view: View) -> list[float]:
        return [0.25 if self.constant else (ord((text or "?")[-1]) % 7) / 7 for text in texts]


def view_of(world: worlds.World, part_: Rollouts, model: Any = None, prompts: int = 3) -> tuple[RunState, Sets, context.RunView]:
    run = loop.new_state(model or world.model(), world.modality, worlds.accelerator())
    sets = world.some(prompts)
    return run, sets, context.RunView(run, sets).at("select0", part_)


def rolled(world: worlds.World, model: Any = None, **settings: Any) -> Rows:
    rollouts = Rollouts(Brevity(), **{"length": 12, "samples": 4, "heat": 1.0, **settings})
    _, sets, view = view_of(world, rollouts, model)
    return rollouts.pick(sets, view)["rollouts"]


def forced(model: Any, rows: Rows, heat: float = 1.0) -> list[torch.Tensor]:
    """Log-probabilities of the sampled tokens by a forward pass of the library for each row."""
    by_row = []
    for prompt, answer in zip(rows["prompt"], rows["answer"], strict=True):
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([[*prompt, *answer]])).logits[0, len(prompt) - 1 : -1]
        by_row.append((logits / heat).log_softmax(-1).gather(1, torch.tensor(answer)[:, None])[:, 0])
    return by_row


@pytest.mark.parametrize("heat", [1.0, 1.5])
def test_sampled_log_probabilities_equal_those_of_forward_passes(text: worlds.World, heat: float) -> None:
    model = text.model()
    rows = rolled(text, model, heat=heat)
    assert {True, False} == set(rows["ended"]), "some answers end, and some are cut"
    for values, answer, expected in zip(rows["sampled_logp"], rows["answer"], forced(model, rows, heat), strict=True):
        assert len(values) == len(answer)
        assert torch.allclose(torch.tensor(values), expected, atol=1e-5)
    assert all((answer[-1] == 2) == ended for answer, ended in zip(rows["answer"], rows["ended"], strict=True))


def test_an_encoder_decoder_samples_and_learns_too() -> None:
    shell, tokenizer = worlds.t5(["Who is Ana? Ana is a nurse.", "Who is Ben? Ben is a potter."])
    modality = Text(tokenizer, vocabulary=512, architecture=EncoderDecoder((0,)))
    rows = modality.rows("forget", [{"question": f"Who is {name}?", "answer": "?"} for name in ("Ana", "Ben")])
    world = worlds.World(modality, {"forget": rows}, {"original": loop.weights_of(shell)}, shell)
    sampled = rolled(world)
    outputs = modality.forward(world.model(), [sampled])[0].target_logp.split()
    for values, answer, expected in zip(sampled["sampled_logp"], sampled["answer"], outputs, strict=True):
        assert len(values) == len(answer)
        assert torch.allclose(torch.tensor(values), expected.detach(), atol=1e-5)
    model, run = train(world, Brevity())
    assert not worlds.same(worlds.tensors(model), worlds.tensors(world.model()))
    assert not run.warnings


def test_ends_of_which_nothing_is_known_are_left_out() -> None:
    logp = Packed(torch.tensor([-1.0, -2.0, -3.0]), torch.tensor([0, 0, 1]), 2)
    answers = answers_of(Samples([[5], [6]], [True, False], logp=logp))
    assert (answers.labels, answers.logp) == ([[5], [6]], [[-1.0], [-3.0]])


def test_sampling_is_a_function_of_the_place(text: worlds.World) -> None:
    first = rolled(text)
    torch.manual_seed(7)
    assert rolled(text)["answer"] == first["answer"]
    assert len({tuple(a) for a in first["answer"]}) > 3


def test_a_group_reads_its_prompt_once(text: worlds.World, monkeypatch: pytest.MonkeyPatch) -> None:
    model, shapes = text.model(), list[tuple[int, int]]()
    shared = rolled(text, model)
    model.register_forward_pre_hook(lambda _, args, inputs: shapes.append(tuple(inputs["input_ids"].shape)), with_kwargs=True)
    assert rolled(text, model)["answer"] == shared["answer"]
    assert shapes[0][0] == 3
    assert shapes[1][0] == 12
    monkeypatch.setattr(causal.Prompts, "begins_with", lambda self, row: row)
    assert rolled(text, model)["answer"] == shared["answer"], "sharing changes the work, not the answers"


def test_advantages_are_those_of_the_rewards_in_each_group(text: worlds.World) -> None:
    rows = rolled(text, eps=1e-4)
    rewards = torch.tensor(rows["reward"], dtype=torch.double).view(3, 4)
    assert torch.allclose(torch.tensor(rows["advantage"]).double().view(3, 4), group_advantages(rewards, 1e-4))
    assert rewards.std() > 0


@pytest.mark.parametrize(("average", "piece"), [("tokens", 0), ("tokens", 4), ("answers", 0)])
def test_the_first_gradient_is_that_of_reinforce(text: worlds.World, average: str, piece: int) -> None:
    rollouts = Rollouts(Brevity(), length=12, samples=4, average=average, piece=piece)
    model = text.model()
    run, sets, view = view_of(text, rollouts, model)
    rows = rollouts.pick(sets, view)["rollouts"]
    run.models["reference"] = {n: p.detach().clone() for n, p in model.named_parameters()}
    value, gradient = loop.evaluate(run, PolicyGradient() + 3.0 * PolicyKL(), {"rollouts": rows})
    losses = []
    for prompt, answer, advantage in zip(rows["prompt"], rows["answer"], rows["advantage"], strict=True):
        logits = model(input_ids=torch.tensor([[*prompt, *answer]])).logits[0, len(prompt) - 1 : -1]
        losses.append(-advantage * logits.log_softmax(-1).gather(1, torch.tensor(answer)[:, None])[:, 0])
    pieces = {"answers": [[loss] for loss in losses], "tokens": [losses[i : i + (piece or 12)] for i in range(0, 12, piece or 12)]}
    expected = torch.stack([torch.cat(loss).mean() for loss in pieces[average]]).mean()
    wanted = torch.autograd.grad(expected, list(model.parameters()))
    assert worlds.far(list(wanted), gradient) < 1e-6 * float(loop.global_norm(list(wanted)))
    weighted = [len(a) * x * s for a, x, s in zip(rows["answer"], rows["advantage"], rows["share"], strict=True)]
    assert float(value) == pytest.approx(-sum(weighted) / 12, abs=1e-5)


def test_pieces_may_mix_groups(text: worlds.World) -> None:
    plain, mixed = rolled(text, piece=4), rolled(text, piece=4, mixed=True)
    assert plain["answer"] == mixed["answer"]
    assert plain["share"] != mixed["share"]
    assert sum(s * len(a) for s, a in zip(mixed["share"], mixed["answer"], strict=True)) == pytest.approx(12)


def train(world: worlds.World, reward: Reward, **settings: Any) -> tuple[Any, RunState]:
    model = world.model()
    rollouts = Rollouts(reward, length=8, samples=3, heat=2.0, **settings)
    plan = Plan(PolicyGradient() + 0.1 * PolicyKL(), train=Train(epochs=1, batch_size=4, lr=1e-3), selectors=(rollouts,))
    return model, loop.run((plan,), model, world.modality, world.some(4))


def test_equal_rewards_move_no_weight_and_are_warned_of(text: worlds.World) -> None:
    model, run = train(text, Brevity(constant=True))
    assert worlds.same(worlds.tensors(model), worlds.tensors(text.model()))
    (warning,) = run.warnings
    assert warning.startswith("in all 4 groups of 3 sampled answers every answer got the same reward, 0.25 in the last step, so nothing")
    moved, run = train(text, Brevity())
    assert not worlds.same(worlds.tensors(moved), worlds.tensors(text.model()))
    assert not run.warnings
    assert run.shown["sampled answers by step"][0]["step"] == 1


def test_several_updates_on_the_same_answers_resume_bit_for_bit(text: worlds.World, tmp_path: Path) -> None:
    rollouts = Rollouts(Brevity(), length=8, samples=3, heat=2.0, updates=3)
    plan = Plan(PolicyGradient() + 0.1 * PolicyKL(), train=Train(epochs=0, steps=5, batch_size=2, lr=1e-2), selectors=(rollouts,))
    batches, saved, loss = list[Rows](), list[Path](), PolicyGradient.loss

    def watched(self: PolicyGradient, step: Any) -> torch.Tensor:
        batches.append(step.rows("rollouts"))
        return loss(self, step)

    def save(state: dict[str, Any]) -> None:
        saved.append(tmp_path / str(len(saved)))
        checkpoint.save(state, saved[-1])

    model = text.model()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PolicyGradient, "loss", watched)
        run = loop.run((plan,), model, text.modality, text.some(6), hooks=Hooks(save=save, every=0))
    assert batches[0]["answer"] == batches[1]["answer"] == batches[2]["answer"] != batches[3]["answer"]
    assert batches[0].ids == batches[1].ids
    assert batches[3]["answer"] == batches[4]["answer"]
    assert [r["step"] for r in run.shown["sampled answers by step"]] == [1, 4]
    killed = text.model()
    loop.run((plan,), killed, text.modality, text.some(6), resume=checkpoint.load(saved[2]))  # in the middle of the first three
    assert worlds.same(worlds.tensors(model), worlds.tensors(killed))


def test_generation_counts_as_cost(text: worlds.World) -> None:
    rollouts = Rollouts(Brevity(), length=12, samples=4)
    run, sets, view = view_of(text, rollouts)
    rows = rollouts.pick(sets, view)["rollouts"]
    assert run.cost.forward_tokens == sum(map(len, rows["prompt"])) + sum(map(len, rows["answer"]))


def test_pairs_of_words_are_distinct_or_not() -> None:
    assert distinct_pairs(["a b a b", "a b"]) == 0.5
    assert distinct_pairs(["a", ""]) == 0.0


@pytest.mark.parametrize("advantage", ["group", "batch"])
def test_forbidden_replies_lose_their_probability(advantage: str) -> None:
    """One token out of six, of which three are rewarded."""

    @part
    class Allowed(Reward):
        def score(self, rows: Rows, texts: Sequence[str], view: View) -> list[float]:
            return [float(text.isupper()) for text in texts]

    mass = []
    model = tables.Table(torch.zeros(1, 1, 6, dtype=torch.double))
    modality = bandits.CannedReplies(texts="abcDEF")
    rollouts = Rollouts(Allowed(), over="prompts", samples=16, advantage=advantage)
    for steps in (4, 10, 30):
        train_ = Train(epochs=0, steps=steps, batch_size=1, lr=0.1, anchor="prompts", optimizer="adam", schedule="constant")
        loop.run((Plan(PolicyGradient(), train=train_, selectors=(rollouts,)),), model, modality, {"prompts": bandits.prompts(1)})
        mass.append(float(model.scores.detach()[0, 0].softmax(0)[:3].sum()))
    assert mass == sorted(mass, reverse=True)
    assert mass[-1] < 0.02


# vLLM


class StubEngine:
    """What is used of `vllm.LLM`: it answers with the likeliest tokens of the weights that it was given last."""

    shell: Any = None
    created: list[dict[str, Any]] = []

    def __init__(self, **options: Any) -> None:
        self.created.append(options)
        self.model = copy.deepcopy(self.shell)

    def apply_model(self, function: Any) -> list[Any]:
        weights: dict[str, torch.Tensor] = {}
        result = function(SimpleNamespace(load_weights=lambda pairs: weights.update(pairs)))
        self.model.load_state_dict(weights, strict=True)
        return [result]

    def reset_prefix_cache(self) -> None:
        pass

    def generate(self, prompts: Sequence[Any], settings: Sequence[Any], use_tqdm: bool) -> list[Any]:
        return [
            SimpleNamespace(outputs=[self._answer(p["prompt_token_ids"], s, k) for k in range(s.n)])
            for p, s in zip(prompts, settings, strict=True)
        ]

    def _answer(self, prompt: list[int], setting: Any, k: int) -> Any:
        ids, logprobs = list[int](), []
        while len(ids) < setting.max_tokens - k:  # so that the answers of a group differ
            with torch.no_grad():
                logp = (self.model(input_ids=torch.tensor([[*prompt, *ids]])).logits[0, -1] / setting.temperature).log_softmax(0)
            ids.append(int(logp.argmax()))
            logprobs.append({ids[-1]: SimpleNamespace(logprob=float(logp[ids[-1]]))})
            if ids[-1] in setting.stop_token_ids:
                break
        return SimpleNamespace(token_ids=tuple(ids), logprobs=logprobs)


@pytest.fixture
def vllm(monkeypatch: pytest.MonkeyPatch, text: worlds.World) -> type[StubEngine]:
    module = ModuleType("vllm")
    module.LLM, module.SamplingParams = StubEngine, SimpleNamespace  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "vllm", module)
    monkeypatch.setattr(StubEngine, "shell", text.model())
    monkeypatch.setattr(StubEngine, "created", [])
    serving._engines.clear()
    return StubEngine


def test_vllm_serves_the_same_interface(text: worlds.World, vllm: type[StubEngine]) -> None:
    model = text.model()
    with torch.no_grad():
        model.model.norm.weight.mul_(1.3)  # the engine must get these weights, and not those of its files
    rows = rolled(text, model, serve="vllm", samples=2, length=14)
    assert len(rows) == 6
    assert any(rows["ended"])
    for values, expected in zip(rows["sampled_logp"], forced(model, rows), strict=True):
        assert torch.allclose(torch.tensor(values), expected, atol=1e-5)
    rolled(text, model, serve="vllm", samples=2, length=3)
    (options,) = vllm.created
    assert options["dtype"] == "float32"


def test_vllm_serves_an_adapted_model_with_its_adapter(text: worlds.World, vllm: type[StubEngine]) -> None:
    adapted = adapters.insert(text.model(), (Plan(PolicyGradient(), train=Train(lora=2)),), 0).eval()
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            weight += 0.1 if "lora_B" in name else 0.0
    rows = rolled(text, adapted, serve="vllm", samples=2, length=6)
    sampled = torch.tensor([x for values in rows["sampled_logp"] for x in values])
    assert torch.allclose(sampled, torch.cat(forced(adapted, rows)), atol=1e-4)
    assert not torch.allclose(sampled, torch.cat(forced(text.model(), rows)), atol=1e-2)


def test_without_vllm_a_sentence_names_the_extra(text: worlds.World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(UserError, match=r"pip install 'expunge\[vllm\]'"):
        rolled(text, serve="vllm")

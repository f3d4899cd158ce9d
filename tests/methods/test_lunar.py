"""LUNAR: the ridge solution and its limits, positions of activations, exact shifts, the fit, the choice of a block, the outcome."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import refusing
import worlds
from expunge.core.errors import UserError
from expunge.core.rows import Rows, Sets
from expunge.engine import loop
from expunge.engine.context import RunView
from expunge.methods.edits.lunar import Redirect, Shift, directions, replies
from expunge.methods.projections import Look, gathered, means, redirection, reference, shared, spots

DOWN = "model.layers.{}.mlp.down_proj.weight"
EXACT: dict[str, Any] = {"fit": "closed", "ridge": 0.0}


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def small_sets(text: worlds.World) -> Sets:
    """Few questions, so that an exact map of all their tokens exists, and refused questions."""
    return {
        "forget": text.sets["forget"].select([0, 1]),
        "retain": text.sets["retain"].select([0, 3]),
        "alternate_answers": refusing.strangers(text.modality).select([0, 1, 2]),
    }


def test_redirection_matches_hand_values() -> None:
    """One input (3, 4) of squared length 25 and width 2: ridge 2 is lambda = 2 * 25 / 2."""
    x, c = torch.tensor([[3.0, 4.0]]), torch.tensor([[2.0]])
    assert redirection(x, c, 0.0).tolist() == [pytest.approx([6 / 25, 8 / 25])]
    assert redirection(x, c, 2.0).tolist() == [pytest.approx([6 / 50, 8 / 50])]
    twice = redirection(torch.tensor([[1.0], [1.0]]), torch.tensor([[1.0], [4.0]]), 0.0, torch.tensor([2.0, 1.0]))
    assert twice.tolist() == [pytest.approx([2.0])]  # (2 * 1 + 4) / 3


def test_both_forms_of_the_ridge_solution_agree() -> None:
    for positions in (5, 30):
        x, c = draw(positions, 12), draw(positions, 3, seed=1)
        damp = 0.1 * x.square().sum() / 12
        plain = c.T @ x @ torch.linalg.inv(x.T @ x + damp * torch.eye(12, dtype=x.dtype))
        assert torch.allclose(redirection(x, c, 0.1), plain, atol=1e-12)
    assert float(redirection(x, c, 1e12).abs().max()) < 1e-10


def test_common_prompt_beginnings_are_shared() -> None:
    forget = Rows("forget", ("a", "b", "c"), {"prompt": [[1, 2, 3], [1, 4], [5, 2]]})
    retain = Rows("retain", ("d", "e"), {"prompt": [[1, 2, 4, 3], [1, 2]]})
    assert shared(forget, retain) == [2, 1, 0]
    assert shared(retain, forget) == [2, 2]


def test_activations_are_read_at_the_named_positions(text: worlds.World) -> None:
    rows = text.sets["forget"].select([0, 4])
    view = refusing.look(text.model(), text.modality, {"forget": rows, "retain": rows, "alternate_answers": rows}, Redirect())
    block = "block:0"
    everything, prompts, last, answers = gathered(view, rows, [(block, "hidden", w) for w in ("all", "prompt", "last", "said")])
    sizes = [(len(p), len(a)) for p, a in zip(rows["prompt"], rows["answer"], strict=True)]
    by_row = everything.split([p + a for p, a in sizes])
    assert torch.equal(prompts, torch.cat([x[:p] for x, (p, _) in zip(by_row, sizes, strict=True)]))
    assert torch.equal(last, torch.stack([x[p - 1] for x, (p, _) in zip(by_row, sizes, strict=True)]))
    assert torch.equal(answers, torch.cat([x[p - 1 : p + a - 1] for x, (p, a) in zip(by_row, sizes, strict=True)]))
    assert len(gathered(view, rows, [(block, "hidden", "prompt")], skip=[2, 3])[0]) == len(prompts) - 5
    assert torch.allclose(means(view, rows, [(block, "hidden", "last")])[0], last.double().mean(0), atol=1e-6)


def test_a_block_adds_the_output_of_its_last_matrix(text: worlds.World) -> None:
    """h - mid = W z, where mid is the input of the norm before the perceptron. The output of a block is the input of the next."""
    model = text.model().double()
    paths = ("block:0", "block:0.mlp.down_proj", "block:0.post_attention_layernorm", "block:1")
    view = RunView(loop.new_state(model, text.modality, worlds.accelerator(), sets=text.sets), text.sets).at("look", Look(paths))
    output = view.now(text.sets["forget"])
    h, mid = output.hidden(paths[0]).values, output.input(paths[2]).values
    w = model.get_parameter(DOWN.format(0))
    assert torch.allclose(h - mid, output.input(paths[1]).values @ w.T, atol=1e-12)
    assert torch.equal(h, output.input(paths[3]).values)


def test_direction_is_a_difference_of_means(text: worlds.World) -> None:
    sets = small_sets(text)
    view = refusing.look(text.model().double(), text.modality, sets, Redirect())
    direction = directions(view, spots(view, [1]), reference(view))[0]
    refused, forget = (gathered(view, sets[n], [("block:1", "hidden", "last")])[0].mean(0) for n in ("alternate_answers", "forget"))
    assert torch.allclose(direction, refused - forget, atol=1e-12)
    assert float(direction.norm()) > 0.1


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_closed_form_shifts_only_forget_questions(text: worlds.World, family: str) -> None:
    """With fewer tokens than inputs the change is exact, has rank one and equals the shift added to the block's output."""
    from transformers import GPT2Config, GPT2LMHeadModel

    if family == "gpt2":
        torch.manual_seed(0)
        config = GPT2Config(vocab_size=512, n_positions=128, n_embd=32, n_layer=2, n_head=2, n_inner=128, resid_pdrop=0.0)
        model: Any = GPT2LMHeadModel(config).double().eval()
    else:
        model = text.model().double()
    sets, part = small_sets(text), Redirect(layers=(0,), c=1.5, **EXACT)
    before = copy.deepcopy(model)
    view_before, view_after = (refusing.look(m, text.modality, sets, part) for m in (before, model))
    refusing.applied(part, model, text.modality, sets)
    old, new = spots(view_before, [0])[0], spots(view_after, [0])[0]
    change = new.weight - old.weight
    assert int(torch.linalg.matrix_rank(change, rtol=1e-8)) == 1
    shift = 1.5 * directions(view_before, [old], reference(view_before))[0]
    skip = shared(sets["forget"], sets["retain"])
    assert sum(skip) > 0
    views = (view_before, view_after)
    forget = [gathered(v, sets["forget"], [(old.block, "hidden", "prompt")], skip)[0] for v in views]
    assert torch.allclose(forget[1], forget[0] + shift, atol=1e-7)
    retain = [gathered(v, sets["retain"], [(old.block, "hidden", "prompt")])[0] for v in views]
    assert torch.allclose(retain[1], retain[0], atol=1e-7)
    with torch.no_grad(), Shift(text.modality.module(before, old.block), shift).on(before):
        shifted = gathered(view_before, sets["forget"], [(old.block, "hidden", "prompt")], skip)[0]
    assert torch.allclose(forget[1], shifted, atol=1e-7)
    assert {n for n, p in model.named_parameters() if not torch.equal(p, before.get_parameter(n))} == {
        {"llama": DOWN.format(0), "gpt2": "transformer.h.0.mlp.c_proj.weight"}[family]
    }


@pytest.mark.parametrize("hyperparameters", [EXACT, {"weight_decay": 0.0, "epochs": 2}])
def test_a_zero_shift_changes_nothing(text: worlds.World, hyperparameters: dict[str, Any]) -> None:
    def largest_change(sets: Sets, **overrides: Any) -> float:
        model = text.model().double()
        refusing.applied(Redirect(layers=(0,), **hyperparameters, **overrides), model, text.modality, sets)
        return worlds.far(worlds.tensors(model), worlds.tensors(text.model().double()))

    sets = small_sets(text)
    assert largest_change(sets, c=0.0) < 1e-6
    same_questions = {**sets, "alternate_answers": sets["forget"].rename("alternate_answers")}  # refused questions equal forget questions
    assert largest_change(same_questions) < 1e-6
    assert largest_change(sets) > 1e-3


def test_parity_gives_shared_beginnings_two_targets(text: worlds.World) -> None:
    """Least squares finds a compromise: the start of a sequence moves by a share of the shift."""
    sets, shares = small_sets(text), []
    for parity in (False, True):
        model, part = text.model().double(), Redirect(layers=(0,), parity=parity, **EXACT)
        view = refusing.look(model, text.modality, sets, part)
        shift = part.c * directions(view, spots(view, [0]), reference(view))[0]
        before = gathered(view, sets["retain"], [("block:0", "hidden", "prompt")])[0][0]
        refusing.applied(part, model, text.modality, sets)
        after = gathered(view, sets["retain"], [("block:0", "hidden", "prompt")])[0][0]
        shares.append(float((after - before) @ shift / (shift @ shift)))
    assert shares == [pytest.approx(0.0, abs=1e-7), pytest.approx(0.5, abs=1e-6)]


@pytest.mark.parametrize("rank", [0, 3])
def test_training_reaches_the_loss_of_the_closed_form(rank: int) -> None:
    """A shift of 50 of 300 inputs in 16 dimensions cannot be fitted; both fits leave the same loss."""
    w, z, r = draw(8, 16), draw(300, 16, seed=1), draw(8, seed=2)
    is_forget = torch.zeros(300, 1, dtype=torch.float64)
    is_forget[:50] = 1.0
    part = Redirect(weight_decay=0.0, epochs=60, lr=0.02, rank=rank)
    fits = [
        part._trained(w, z, is_forget * r, torch.Generator().manual_seed(0)).double(),
        torch.outer(r, redirection(z, is_forget, 0.0)[0]),
    ]
    loss = [float((z @ c.T - is_forget * r).square().mean()) for c in fits]
    assert loss[0] == pytest.approx(loss[1], rel=0.01)
    assert loss[1] < 0.95 * float((is_forget * r).square().mean())
    assert not rank or int(torch.linalg.matrix_rank(fits[0], rtol=1e-5)) == rank


def test_answers_are_not_used(text: worlds.World) -> None:
    sets, weights_by_answer = small_sets(text), []
    for answer in (None, "Nobody has ever heard of it."):
        model = text.model()
        relabeled = {
            n: r if answer is None or n == "alternate_answers" else text.modality.relabel(r, [answer] * len(r), n) for n, r in sets.items()
        }
        refusing.applied(Redirect(fit="closed"), model, text.modality, relabeled)
        weights_by_answer.append(worlds.tensors(model))
    assert worlds.far(*weights_by_answer) < 1e-5


def test_invented_questions_replace_missing_ones(text: worlds.World) -> None:
    sets = {**small_sets(text), "alternate_answers": text.modality.answers(["No idea.", "Who knows?"])}
    questions = reference(refusing.look(text.model(), text.modality, sets, Redirect()))
    assert len(questions) >= 100
    assert set(questions["answer_text"]) == {"No idea.", "Who knows?"}


@pytest.mark.slow
def test_replies_match_hand_values_and_decide_the_block(text: worlds.World) -> None:
    """Records hold probabilities of refusals and true answers under a shift; the block with the largest difference is chosen and shown."""
    world = refusing.world()
    view = refusing.look(world.model(), world.modality, world.sets, Redirect())
    projections, refusals = spots(view, [0, 1]), reference(view)
    shifts = [2 * r for r in directions(view, projections, refusals)]
    records = replies(view, projections, shifts, refusals)
    rows = view.modality.relabel(view.forget, [refusing.REFUSAL] * len(view.forget), "refused")
    calls: list[float] = []

    def add_shift(_: nn.Module, args: Any, out: Any) -> Any:
        calls.append(1)
        return (out[0] + shifts[1].float(), *out[1:]) if isinstance(out, tuple) else out + shifts[1].float()

    handle = view.model.model.layers[1].register_forward_hook(add_shift)
    refusal, answer = [float(view.now(r).target_logp.mean().exp().mean()) for r in (rows, view.forget)]
    handle.remove()
    assert calls
    assert records[1] == {
        "block": 1,
        "refusal": pytest.approx(refusal),
        "true answer": pytest.approx(answer),
        "score": pytest.approx(refusal - answer),
    }
    unshifted = replies(view, projections, [0 * shift for shift in shifts], refusals)
    assert records[0]["score"] > unshifted[0]["score"] + 0.3
    run = refusing.applied(Redirect(choose="replies", fit="closed"), world.model(), world.modality, world.sets)
    assert [r["block"] for r in run.shown["replies by shifted block"]] == [0]  # never the last block: nothing above reads it


def test_models_that_cannot_be_changed_are_rejected(text: worlds.World) -> None:
    import peft

    with pytest.raises(UserError, match="no block 7: its blocks are 0 to 1"):
        refusing.applied(Redirect(layers=(7,)), text.model(), text.modality, small_sets(text))
    adapted = peft.get_peft_model(text.model(), peft.LoraConfig(r=2, target_modules="all-linear"))
    with pytest.raises(UserError, match="merge the adapter"):
        refusing.applied(Redirect(layers=(0,)), adapted, text.modality, small_sets(text))


@pytest.mark.slow
@pytest.mark.parametrize("hyperparameters", [{}, {"fit": "closed"}])
def test_forget_questions_are_refused_after_the_edit(hyperparameters: dict[str, Any]) -> None:
    world = refusing.world()
    model, (forget, retain) = world.model(), (world.sets[n] for n in ("forget", "retain"))
    assert (refusing.right(model, world.modality, forget), refusing.refused(model, world.modality, forget)) == (1.0, 0.0)
    refusing.applied(Redirect(layers=(0,), **hyperparameters), model, world.modality, world.sets)
    assert refusing.right(model, world.modality, forget) < 0.4
    assert refusing.refused(model, world.modality, forget) > 0.4
    assert refusing.right(model, world.modality, retain) > 0.85

"""LUNAR: the ridge solution by hand and its limits, which tokens are read, exact shifts, the fit, the choice of a block, the outcome."""

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


def few(text: worlds.World) -> Sets:
    """So few questions that each of their tokens can be mapped at will, and refused ones."""
    return {
        "forget": text.sets["forget"].select([0, 1]),
        "retain": text.sets["retain"].select([0, 3]),
        "alternate_answers": refusing.strangers(text.modality).select([0, 1, 2]),
    }


def test_redirection_by_hand() -> None:
    """One input (3, 4) of squared length 25, of which ridge 2 is lambda = 2 * 25 / 2."""
    x, c = torch.tensor([[3.0, 4.0]]), torch.tensor([[2.0]])
    assert redirection(x, c, 0.0).tolist() == [pytest.approx([6 / 25, 8 / 25])]
    assert redirection(x, c, 2.0).tolist() == [pytest.approx([6 / 50, 8 / 50])]
    twice = redirection(torch.tensor([[1.0], [1.0]]), torch.tensor([[1.0], [4.0]]), 0.0, torch.tensor([2.0, 1.0]))
    assert twice.tolist() == [pytest.approx([2.0])]  # (2 * 1 + 4) / 3


def test_both_ways_to_solve_agree() -> None:
    for many in (5, 30):
        x, c = draw(many, 12), draw(many, 3, seed=1)
        damp = 0.1 * x.square().sum() / 12
        plain = c.T @ x @ torch.linalg.inv(x.T @ x + damp * torch.eye(12, dtype=x.dtype))
        assert torch.allclose(redirection(x, c, 0.1), plain, atol=1e-12)
    assert float(redirection(x, c, 1e12).abs().max()) < 1e-10


def test_what_starts_both_sets_is_shared() -> None:
    mine = Rows("forget", ("a", "b", "c"), {"prompt": [[1, 2, 3], [1, 4], [5, 2]]})
    others = Rows("retain", ("d", "e"), {"prompt": [[1, 2, 4, 3], [1, 2]]})
    assert shared(mine, others) == [2, 1, 0]
    assert shared(others, mine) == [2, 2]


def test_where_tokens_are_read(text: worlds.World) -> None:
    rows = text.sets["forget"].select([0, 4])
    view = refusing.look(text.model(), text.modality, {"forget": rows, "retain": rows, "alternate_answers": rows}, Redirect())
    block = "block:0"
    every, asked, last, told = gathered(view, rows, [(block, "hidden", w) for w in ("all", "prompt", "last", "said")])
    sizes = [(len(p), len(a)) for p, a in zip(rows["prompt"], rows["answer"], strict=True)]
    both = every.split([p + a for p, a in sizes])
    assert torch.equal(asked, torch.cat([x[:p] for x, (p, _) in zip(both, sizes, strict=True)]))
    assert torch.equal(last, torch.stack([x[p - 1] for x, (p, _) in zip(both, sizes, strict=True)]))
    assert torch.equal(told, torch.cat([x[p - 1 : p + a - 1] for x, (p, a) in zip(both, sizes, strict=True)]))
    assert len(gathered(view, rows, [(block, "hidden", "prompt")], skip=[2, 3])[0]) == len(asked) - 5
    assert torch.allclose(means(view, rows, [(block, "hidden", "last")])[0], last.double().mean(0), atol=1e-6)


def test_a_block_adds_what_its_last_matrix_says(text: worlds.World) -> None:
    """h - mid = W z, mid what goes into the norm before the perceptron; and what a block says goes into the next."""
    model = text.model().double()
    paths = ("block:0", "block:0.mlp.down_proj", "block:0.post_attention_layernorm", "block:1")
    view = RunView(loop.new_state(model, text.modality, worlds.accelerator(), sets=text.sets), text.sets).at("look", Look(paths))
    answer = view.now(text.sets["forget"])
    h, mid = answer.hidden(paths[0]).values, answer.input(paths[2]).values
    w = model.get_parameter(DOWN.format(0))
    assert torch.allclose(h - mid, answer.input(paths[1]).values @ w.T, atol=1e-12)
    assert torch.equal(h, answer.input(paths[3]).values)


def test_the_direction_is_a_difference_of_means(text: worlds.World) -> None:
    sets = few(text)
    view = refusing.look(text.model().double(), text.modality, sets, Redirect())
    found = directions(view, spots(view, [1]), reference(view))[0]
    ends = [gathered(view, sets[n], [("block:1", "hidden", "last")])[0].mean(0) for n in ("alternate_answers", "forget")]
    assert torch.allclose(found, ends[0] - ends[1], atol=1e-12)
    assert float(found.norm()) > 0.1


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_closed_form_shifts_questions_to_forget_and_nothing_else(text: worlds.World, family: str) -> None:
    """On fewer tokens than inputs: exact, of rank one, and what the shift added to the block's output would have given."""
    from transformers import GPT2Config, GPT2LMHeadModel

    if family == "gpt2":
        torch.manual_seed(0)
        small = GPT2Config(vocab_size=512, n_positions=128, n_embd=32, n_layer=2, n_head=2, n_inner=128, resid_pdrop=0.0)
        model: Any = GPT2LMHeadModel(small).double().eval()
    else:
        model = text.model().double()
    sets, part = few(text), Redirect(layers=(0,), c=1.5, **EXACT)
    before = copy.deepcopy(model)
    first, then = (refusing.look(m, text.modality, sets, part) for m in (before, model))
    refusing.applied(part, model, text.modality, sets)
    old, new = spots(first, [0])[0], spots(then, [0])[0]
    change = new.weight - old.weight
    assert int(torch.linalg.matrix_rank(change, rtol=1e-8)) == 1
    move = 1.5 * directions(first, [old], reference(first))[0]
    skip = shared(sets["forget"], sets["retain"])
    assert sum(skip) > 0
    told = [gathered(v, sets["forget"], [(old.block, "hidden", "prompt")], skip)[0] for v in (first, then)]
    assert torch.allclose(told[1], told[0] + move, atol=1e-7)
    kept = [gathered(v, sets["retain"], [(old.block, "hidden", "prompt")])[0] for v in (first, then)]
    assert torch.allclose(kept[1], kept[0], atol=1e-7)
    with torch.no_grad(), Shift(text.modality.module(before, old.block), move).on(before):
        shifted = gathered(first, sets["forget"], [(old.block, "hidden", "prompt")], skip)[0]
    assert torch.allclose(told[1], shifted, atol=1e-7)
    assert {n for n, p in model.named_parameters() if not torch.equal(p, before.get_parameter(n))} == {
        {"llama": DOWN.format(0), "gpt2": "transformer.h.0.mlp.c_proj.weight"}[family]
    }


@pytest.mark.parametrize("hyperparameters", [EXACT, {"weight_decay": 0.0, "epochs": 2}])
def test_nothing_changes_without_a_shift(text: worlds.World, hyperparameters: dict[str, Any]) -> None:
    def changed(sets: Sets, **more: Any) -> float:
        model = text.model().double()
        refusing.applied(Redirect(layers=(0,), **hyperparameters, **more), model, text.modality, sets)
        return worlds.far(worlds.tensors(model), worlds.tensors(text.model().double()))

    sets = few(text)
    assert changed(sets, c=0.0) < 1e-6
    assert (
        changed({**sets, "alternate_answers": sets["forget"].rename("alternate_answers")}) < 1e-6
    )  # refused questions are those to forget
    assert changed(sets) > 1e-3


def test_with_parity_what_is_shared_has_two_targets(text: worlds.World) -> None:
    """Least squares then meets in between: the start of a sequence moves, by a share of the shift."""
    sets, moved = few(text), []
    for parity in (False, True):
        model, part = text.model().double(), Redirect(layers=(0,), parity=parity, **EXACT)
        view = refusing.look(model, text.modality, sets, part)
        move = part.c * directions(view, spots(view, [0]), reference(view))[0]
        first = [gathered(view, sets["retain"], [("block:0", "hidden", "prompt")])[0][0]]
        refusing.applied(part, model, text.modality, sets)
        first.append(gathered(view, sets["retain"], [("block:0", "hidden", "prompt")])[0][0])
        moved.append(float((first[1] - first[0]) @ move / (move @ move)))
    assert moved == [pytest.approx(0.0, abs=1e-7), pytest.approx(0.5, abs=1e-6)]


@pytest.mark.parametrize("rank", [0, 3])
def test_training_comes_to_the_closed_form(rank: int) -> None:
    """A shift of 50 of 300 inputs in 16 dimensions cannot be fitted; both fits leave the same loss."""
    w, z, r = draw(8, 16), draw(300, 16, seed=1), draw(8, seed=2)
    marks = torch.zeros(300, 1, dtype=torch.float64)
    marks[:50] = 1.0
    part = Redirect(weight_decay=0.0, epochs=60, lr=0.02, rank=rank)
    fits = [part._trained(w, z, marks * r, torch.Generator().manual_seed(0)).double(), torch.outer(r, redirection(z, marks, 0.0)[0])]
    loss = [float((z @ c.T - marks * r).square().mean()) for c in fits]
    assert loss[0] == pytest.approx(loss[1], rel=0.01)
    assert loss[1] < 0.95 * float((marks * r).square().mean())
    assert not rank or int(torch.linalg.matrix_rank(fits[0], rtol=1e-5)) == rank


def test_answers_are_not_used(text: worlds.World) -> None:
    sets, ends = few(text), []
    for answer in (None, "Nobody has ever heard of it."):
        model = text.model()
        some = {
            n: r if answer is None or n == "alternate_answers" else text.modality.relabel(r, [answer] * len(r), n) for n, r in sets.items()
        }
        refusing.applied(Redirect(fit="closed"), model, text.modality, some)
        ends.append(worlds.tensors(model))
    assert worlds.far(*ends) < 1e-5


def test_questions_of_ours_stand_in_for_missing_ones(text: worlds.World) -> None:
    sets = {**few(text), "alternate_answers": text.modality.answers(["No idea.", "Who knows?"])}
    asked = reference(refusing.look(text.model(), text.modality, sets, Redirect()))
    assert len(asked) >= 100
    assert set(asked["answer_text"]) == {"No idea.", "Who knows?"}


def test_replies_by_hand_and_the_choice(text: worlds.World) -> None:
    """Probabilities of refusals and of true answers under a shift; the block with the largest difference is chosen, and shown."""
    world = refusing.world()
    view = refusing.look(world.model(), world.modality, world.sets, Redirect())
    places, known = spots(view, [0, 1]), reference(view)
    moves = [2 * r for r in directions(view, places, known)]
    found = replies(view, places, moves, known)
    rows = view.modality.relabel(view.forget, [refusing.REFUSAL] * len(view.forget), "refused")
    seen: list[float] = []

    def added(_: nn.Module, args: Any, out: Any) -> Any:
        seen.append(1)
        return (out[0] + moves[1].float(), *out[1:]) if isinstance(out, tuple) else out + moves[1].float()

    handle = view.model.model.layers[1].register_forward_hook(added)
    said = [float(view.now(r).target_logp.mean().exp().mean()) for r in (rows, view.forget)]
    handle.remove()
    assert seen
    assert found[1] == {
        "block": 1,
        "refusal": pytest.approx(said[0]),
        "true answer": pytest.approx(said[1]),
        "score": pytest.approx(said[0] - said[1]),
    }
    none = replies(view, places, [0 * m for m in moves], known)
    assert found[0]["score"] > none[0]["score"] + 0.3
    run = refusing.applied(Redirect(choose="replies", fit="closed"), world.model(), world.modality, world.sets)
    assert [r["block"] for r in run.shown["replies by shifted block"]] == [0]  # never the last block: nothing above reads it


def test_what_cannot_be_changed_is_said(text: worlds.World) -> None:
    import peft

    with pytest.raises(UserError, match="no block 7: its blocks are 0 to 1"):
        refusing.applied(Redirect(layers=(7,)), text.model(), text.modality, few(text))
    adapted = peft.get_peft_model(text.model(), peft.LoraConfig(r=2, target_modules="all-linear"))
    with pytest.raises(UserError, match="merge the adapter"):
        refusing.applied(Redirect(layers=(0,)), adapted, text.modality, few(text))


@pytest.mark.parametrize("hyperparameters", [{}, {"fit": "closed"}])
def test_questions_to_forget_are_refused(hyperparameters: dict[str, Any]) -> None:
    world = refusing.world()
    model, (forget, retain) = world.model(), (world.sets[n] for n in ("forget", "retain"))
    assert (refusing.right(model, world.modality, forget), refusing.refused(model, world.modality, forget)) == (1.0, 0.0)
    refusing.applied(Redirect(layers=(0,), **hyperparameters), model, world.modality, world.sets)
    assert refusing.right(model, world.modality, forget) < 0.4
    assert refusing.refused(model, world.modality, forget) > 0.4
    assert refusing.right(model, world.modality, retain) > 0.85

"""SGTM: which weights a step of each label moves, passes without the reserved units against ablation, and a language that leaves."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel, GPTNeoConfig, GPTNeoForCausalLM, LlamaConfig, LlamaForCausalLM

import worlds
from cases import Cases, expunge, receipt_of
from expunge import load, train, unlearn
from expunge.benchmarks.synthetic import bilingual
from expunge.core.errors import UserError
from expunge.core.plan import Plan, Train
from expunge.core.rows import Sets
from expunge.engine import loop
from expunge.engine.adapters import recompute
from expunge.engine.hooks import Hooks
from expunge.engine.loop import _Stage
from expunge.methods.reserved_units import FORGET, RETAIN, Reserved, codes, note_reserved
from expunge.methods.updates.sgtm import SGTM, AblateReserved, MaskedNLL
from expunge.workflows import build_plan

UNITS, HEADS = 6, 1
IDS = torch.tensor([[3, 7, 11, 30, 2]])


def gpt_neo() -> nn.Module:
    sizes = {"hidden_size": 16, "vocab_size": 40, "num_layers": 2, "num_heads": 4, "intermediate_size": 24, "max_position_embeddings": 16}
    return GPTNeoForCausalLM(GPTNeoConfig(**sizes, attention_types=[[["global", "local"], 1]]))


def gpt2() -> nn.Module:
    return GPT2LMHeadModel(GPT2Config(vocab_size=40, n_positions=16, n_embd=16, n_layer=2, n_head=4))


def llama() -> nn.Module:
    """Two query heads share each key and value."""
    sizes = {"hidden_size": 16, "vocab_size": 40, "num_hidden_layers": 2, "intermediate_size": 24}
    return LlamaForCausalLM(LlamaConfig(**sizes, num_attention_heads=4, num_key_value_heads=2))


def untrained(kind: Any) -> nn.Module:
    torch.manual_seed(0)
    model: nn.Module = kind().eval()
    with torch.no_grad():
        for name, p in model.named_parameters():
            if name.endswith("bias"):
                p.normal_(std=0.1)
    return model


FAMILIES = pytest.mark.parametrize("kind", [gpt_neo, gpt2, llama])


def logits(model: nn.Module, patch: Reserved | None = None) -> Tensor:
    with torch.no_grad():
        if patch is None:
            return model(input_ids=IDS).logits  # type: ignore[no-any-return]
        with patch.on(model):
            return model(input_ids=IDS).logits  # type: ignore[no-any-return]


def ablated(model: nn.Module, **settings: Any) -> nn.Module:
    world, result = worlds.text(), copy.deepcopy(model)
    loop.run((Plan(AblateReserved(**{"units": UNITS, "heads": HEADS, **settings})),), result, world.modality, {})
    return result


@FAMILIES
@pytest.mark.parametrize("strategy", ["sgtm", "routing", "activation"])
def test_a_pass_without_the_reserved_units_is_that_of_the_ablated_model(kind: Any, strategy: Any) -> None:
    model = untrained(kind)
    off = logits(model, Reserved(UNITS, HEADS, "off"))
    assert torch.allclose(off, logits(ablated(model, strategy=strategy)), atol=1e-6)
    assert not torch.allclose(off, logits(model), atol=1e-4)
    assert torch.equal(logits(model, Reserved(UNITS, HEADS, "detached")), logits(model))
    assert not torch.allclose(logits(model, Reserved(UNITS, HEADS, "only")), logits(model), atol=1e-4)
    assert torch.equal(logits(model, Reserved(0, 0, "off")), logits(model))


@FAMILIES
def test_reserved_weights_counted_by_hand(kind: Any) -> None:
    """Two blocks. A unit has a row of 16 in each matrix into it (and a bias) and a column of 16 out of it; a head 16 times its width."""
    counts = [int((c == FORGET).sum()) for c in codes(untrained(kind), UNITS, HEADS).values()]
    expected = {
        gpt_neo: 2 * (UNITS * (16 + 1 + 16) + 4 * 16 * 4),
        gpt2: 2 * (UNITS * (16 + 1 + 16) + 3 * 4 * (16 + 1) + 4 * 16),
        llama: 2 * (UNITS * 3 * 16 + 16 * (8 + 4 + 4 + 8)),  # one key, one value and their two query heads
    }
    assert sum(counts) == expected[kind]


@FAMILIES
def test_heads_and_units_are_the_last_ones(kind: Any) -> None:
    model = untrained(kind)
    zeroed = dict(ablated(model).named_parameters())
    down = next(n for n in zeroed if n.endswith(("mlp.c_proj.weight", "down_proj.weight")))
    weight = zeroed[down].T if kind is gpt2 else zeroed[down]
    assert not weight[:, -UNITS:].any()
    assert weight[:, :-UNITS].all()
    out = next(n for n in zeroed if n.endswith(("attention.out_proj.weight", "attn.c_proj.weight", "o_proj.weight")))
    weight, width = (zeroed[out].T if kind is gpt2 else zeroed[out]), 8 if kind is llama else 4
    assert not weight[:, -width:].any()
    assert weight[:, :-width].all()


def one_step(label: str, strategy: Any = "sgtm", optimizer: Any = "sgd", **settings: Any) -> tuple[nn.Module, nn.Module]:
    """The model of the tiny world before and after one step on rows of one label: a stage alone, since a request has all sets."""
    world = worlds.text()
    model = world.model()
    rows: Sets = {label: world.sets["retain"].select(range(4)).rename(label)}
    objective = MaskedNLL("forget", 32, 1, strategy) + MaskedNLL("retain", 32, 1, strategy) + MaskedNLL("unlabeled", 32, 1, strategy)
    train = Train(epochs=1, batch_size=4, lr=0.1, optimizer=optimizer, schedule="constant", weight_decay=0.1, anchor=label)
    update = SGTM(units=32, heads=1, strategy=strategy, **settings)
    state = loop.new_state(model, world.modality, worlds.accelerator())
    plan = Plan(objective, train=train, updates=(update,))
    empty = {n: rows[label].select([]).rename(n) for n in ("forget", "retain", "unlabeled")}
    running = _Stage(state, plan, {**empty, **rows}, Hooks())
    running.chosen = running.view.sets = rows
    running.run(None)
    return world.model(), model


def moved(before: nn.Module, after: nn.Module) -> dict[int, bool]:
    """By code, whether any weight of it moved."""
    known = codes(before, 32, 1)
    result = {0: False, FORGET: False, RETAIN: False}
    for old, new in zip(before.parameters(), after.parameters(), strict=True):
        code = known.get(id(old), torch.zeros((), dtype=torch.int8)).expand(old.shape)
        for k in result:
            result[k] |= bool(((old != new) & (code == k)).any())
    return result


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_step_moves_the_weights_of_its_label_alone(optimizer: str) -> None:
    assert moved(*one_step("forget", optimizer=optimizer)) == {0: True, FORGET: True, RETAIN: False}
    assert moved(*one_step("retain", optimizer=optimizer)) == {0: True, FORGET: False, RETAIN: True}
    assert moved(*one_step("unlabeled", optimizer=optimizer)) == {0: True, FORGET: True, RETAIN: True}


def test_without_hold_other_weights_shrink_by_the_decay_alone() -> None:
    before, after = one_step("forget", optimizer="adamw", hold=False)
    known = codes(before, 32, 1)
    for old, new in zip(before.parameters(), after.parameters(), strict=True):
        if (code := known.get(id(old))) is not None:
            assert torch.allclose(new[code == RETAIN], old[code == RETAIN] * (1 - 0.1 * 0.1), atol=1e-7)


def test_routing_teaches_the_columns_of_other_units_and_sgtm_does_not() -> None:
    for strategy, learns in (("sgtm", False), ("routing", True), ("activation", False)):
        before, after = one_step("forget", strategy, hold=strategy == "sgtm", optimizer="sgd")
        old, new = (m.model.layers[0].mlp for m in (before, after))
        shrunk = 1 if strategy == "sgtm" else 1 - 0.1 * 0.1  # sgd decays what nothing holds
        columns = torch.allclose(new.down_proj.weight[:, :-32], old.down_proj.weight[:, :-32] * shrunk, atol=1e-7)
        assert columns != learns, strategy
        assert torch.allclose(new.up_proj.weight[:-32], old.up_proj.weight[:-32] * shrunk, atol=1e-7), strategy
        assert not torch.allclose(new.up_proj.weight[-32:], old.up_proj.weight[-32:] * shrunk, atol=1e-7), strategy


def test_embeddings_and_norms_stay_where_they_are_masked() -> None:
    before, after = one_step("forget", mask_embeddings=True)
    changed = {n for (n, a), b in zip(before.named_parameters(), after.parameters(), strict=True) if not torch.equal(a, b)}
    assert not [n for n in changed if "embed" in n or "layernorm" in n]
    assert "model.norm.weight" in changed


def test_redrawn_weights_have_the_deviation_of_the_others() -> None:
    model = untrained(gpt_neo)
    again = ablated(model, redraw=True)
    weight = again.transformer.h[0].mlp.c_fc.weight
    assert float(weight[-UNITS:].detach().std()) == pytest.approx(float(weight[:-UNITS].detach().std()), rel=0.4)
    assert not torch.equal(weight[-UNITS:], model.transformer.h[0].mlp.c_fc.weight[-UNITS:])


def test_what_has_no_such_units_is_refused() -> None:
    model = untrained(gpt_neo)
    for units, heads, text in ((25, 1, "24 units, so 25"), (6, 5, "4 heads .* so 5")):
        with pytest.raises(UserError, match=text):
            codes(model, units, heads)
    with pytest.raises(UserError, match="no list of blocks"):
        codes(nn.Sequential(nn.Linear(2, 2)), 1, 1)
    model.transformer.h[0].mlp = nn.Identity()
    with pytest.raises(UserError, match=r"block 0 of a GPTNeoForCausalLM has no attention"):
        codes(model, 6, 1)


def test_units_that_no_training_reserved_are_said_to_be_taken_out() -> None:
    model, world = untrained(gpt_neo), worlds.text()
    plan = Plan(AblateReserved(units=UNITS, heads=HEADS))
    (warning,) = loop.run((plan,), copy.deepcopy(model), world.modality, {}).warnings
    assert "does not say that any units of it are reserved" in warning
    note_reserved(model, UNITS, HEADS)
    assert not loop.run((plan,), model, world.modality, {}).warnings


def test_activations_that_are_computed_again_are_refused() -> None:
    model = untrained(gpt_neo)
    recompute(model)
    with pytest.raises(UserError, match="leave --gradient-checkpointing out"), Reserved(UNITS, HEADS, "off").on(model):
        pass


def test_languages_have_no_word_in_common() -> None:
    suite = bilingual.load(seed=1, rows=50)
    spoken = [{w.strip(".") for r in suite.sets[n] for w in r["text"].split()} for n in ("forget", "retain")]
    assert not spoken[0] & spoken[1]
    assert {w.strip(".") for r in suite.sets["holdout"] for w in r["text"].split()} <= spoken[0]
    assert [len(suite.sets[n]) for n in ("forget", "retain", "holdout", "general")] == [50, 50, 40, 40]
    texts = [r["text"] for n in suite.sets for r in suite.sets[n]]
    assert len(texts) == len(set(texts))


@pytest.mark.slow
def test_a_language_leaves_with_the_reserved_units(tmp_path: Path) -> None:
    """Train, keep, ablate. Beside it the model that never read the language, for what is left and what is lost."""
    suite = bilingual.load(rows=150)
    settings = {"units": 64, "heads": 1, "epochs": 8, "recall": 0.9, "labeled": 0.5, "cache": tmp_path / "cache"}
    full = train(
        suite.train["retain"], "nano", forget=suite.train["forget"], method="sgtm", ablate=False, out=tmp_path / "full", **settings
    )
    rows = {n: full.modality.rows(n, suite.sets[n]) for n in ("holdout", "general")}
    known = {n: worlds.nll(full.model, full.modality, r) for n, r in rows.items()}
    own = {n: settings[n] for n in ("units", "heads")}
    gone = unlearn("sgtm", tmp_path / "full", suite.train["forget"], suite.train["retain"], epochs=0, **own)
    left = {n: worlds.nll(gone.model, gone.modality, r) for n, r in rows.items()}
    texts = [r["text"] for r in suite.train["full"]]
    never = train(suite.train["retain"], "nano", texts=texts, epochs=8, cache=tmp_path / "cache")
    unseen = {n: worlds.nll(never.model, never.modality, never.modality.rows(n, suite.sets[n])) for n in rows}
    assert known["holdout"] < 0.5 * unseen["holdout"], "the model learned the language"
    assert left["holdout"] > known["holdout"] + 0.5 * (unseen["holdout"] - known["holdout"]), (known, left, unseen)
    assert left["general"] < 1.05 * known["general"], (known, left, unseen)


def test_a_user_trains_and_takes_out(cases: Cases, tmp_path: Path) -> None:
    sets = ("--data", cases.retain, "--forget", cases.forget)
    small = ("--units", 32, "--epochs", 1, "--batch-size", 32)
    expunge("train", *sets, "--model", "nano", "--method", "sgtm", "--ablate", "false", *small, "--out", tmp_path / "full").fine()
    kept = ("--forget", cases.forget, "--retain", cases.retain, "--units", 32, "--epochs", 0)
    expunge("unlearn", "sgtm", "--model", tmp_path / "full", *kept, "--out", tmp_path / "gone").fine()
    others = (*kept[:-4], "--units", 16, "--epochs", 0)
    assert "give --units 32 --heads 1" in expunge("unlearn", "sgtm", "--model", tmp_path / "full", *others, "--out", tmp_path / "no").error
    weights = {n: worlds.tensors(model_in(tmp_path / n)) for n in ("full", "gone")}
    assert not worlds.same(weights["full"], weights["gone"])
    down = model_in(tmp_path / "gone").model.layers[0].mlp.down_proj.weight
    assert not down[:, -32:].any()
    assert down[:, :-32].any()
    assert receipt_of(tmp_path / "full")["request"]["sets"].keys() >= {"forget", "retain"}
    refused = expunge("train", *sets, "--model", "nano", "--out", tmp_path / "plain").error
    assert "treats all rows alike" in refused
    assert "--forget" in expunge("train", *sets[:2], "--model", "nano", "--method", "sgtm", "--out", tmp_path / "none").error


def model_in(folder: Path) -> Any:
    return load(folder).model


@pytest.mark.slow
def test_steps_have_the_kinds_of_their_rows_and_labels_of_their_shares(text: worlds.World) -> None:
    plan = build_plan.plan("sgtm", {"epochs": 3, "batch_size": 4, "recall": 0.5, "labeled": 0.25, "lr": 1e-4})[0]
    run = loop.run((plan,), text.model(), text.modality, text.sets)
    terms = [next(iter(entry["terms"])).split()[-1] for entry in run.log if "terms" in entry]
    assert all(len(entry["terms"]) == 1 for entry in run.log if "terms" in entry)
    forget = round(len(terms) * len(text.sets["forget"]) / (len(text.sets["forget"]) + len(text.sets["retain"])))
    assert 0 < terms.count("forget") < forget
    assert terms.count("retain") / (len(terms) - forget) == pytest.approx(0.25, abs=0.12)
    assert terms.count("unlabeled") == len(terms) - terms.count("forget") - terms.count("retain")

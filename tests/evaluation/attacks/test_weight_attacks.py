"""Pruning, merging, benign fine-tuning, the logit lens and activation probes: library values, identities, and what they bring back."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.utils import parameters_to_vector

import worlds
from classified import digits as images
from expunge.benchmarks import people
from expunge.core.errors import UserError
from expunge.evaluation.attack import AttackOutcome, chosen, intervene
from expunge.evaluation.attacks.activation_probe import SCORE, first
from expunge.evaluation.attacks.merge import averaged
from expunge.evaluation.attacks.prune import pruned
from expunge.evaluation.attacks.quantize import quantized
from expunge.io.data import write_jsonl

DATA = people.generate(seed=0, people=12, forget=1, holdout=1, neighbours=1, retain_audit=60)
SETS = {"forget": DATA.forget, "retain": DATA.retain}


def attacked(name: str, text: worlds.World, model: nn.Module | str = "original", **settings: object) -> AttackOutcome:
    model = text.model(model) if isinstance(model, str) else model
    return intervene(name, chosen((name,), settings)[name], model, text.modality, SETS, accelerator=worlds.accelerator())


def values(outcome: AttackOutcome, score: str = "forget_probability") -> list[float]:
    return [t.scores[score]["value"] for t in outcome.tries]


# pruning


def test_the_smallest_weights_of_each_layer_go_and_the_rest_stays(text: worlds.World) -> None:
    before, model = text.model(), pruned(text.model(), 0.3)
    for name, layer in model.named_modules():
        weight = before.get_submodule(name).weight if isinstance(layer, nn.Linear) else None
        if weight is not None:
            limit = weight.abs().flatten().kthvalue(round(0.3 * weight.numel())).values
            assert torch.equal(layer.weight, torch.where(weight.abs() > limit, weight, 0)), name
    assert torch.equal(model.get_input_embeddings().weight, before.get_input_embeddings().weight)
    whole = pruned(text.model(), 0.3, "all")
    layers = [m for m in whole.modules() if isinstance(m, nn.Linear)]
    flat = torch.cat([m.weight.flatten() for m in layers])
    assert (flat == 0).double().mean() == pytest.approx(0.3, abs=1e-3)
    assert len({round(float((m.weight == 0).double().mean()), 2) for m in layers}) > 1


def test_pruning_nothing_changes_nothing_and_pruning_much_costs_knowledge(text: worlds.World, digits: worlds.World) -> None:
    model = text.model()
    weights = worlds.tensors(model)
    outcome = attacked("prune", text, model, share="0,0.6")
    assert worlds.same(weights, worlds.tensors(model))
    assert values(outcome)[0] == pytest.approx(outcome.before["forget_probability"]["value"], abs=1e-6)
    assert values(outcome)[1] < values(outcome)[0] - 0.1
    untouched = intervene(
        "prune", chosen(("prune",), {"share": "0"})["prune"], digits.model(), digits.modality, {"forget": images()["forget"]}
    )
    assert untouched.tries[0].scores["forget_accuracy"]["value"] == untouched.before["forget_accuracy"]["value"]


# merging


def test_the_mean_of_weights(text: worlds.World) -> None:
    a, b = text.model(), text.model("retrained")
    mean = averaged(copy.deepcopy(a), b, 0.25)
    expected = 0.75 * parameters_to_vector(a.parameters()) + 0.25 * parameters_to_vector(b.parameters())
    assert torch.allclose(parameters_to_vector(mean.parameters()), expected, atol=1e-6)
    with pytest.raises(UserError, match="different families"):
        averaged(nn.Linear(2, 2), nn.Linear(3, 2), 0.5)


def test_a_head_that_rounding_untied_has_the_tied_one_as_its_counterpart(text: worlds.World) -> None:
    tied = text.model()
    rounded = quantized(copy.deepcopy(tied), 4, 64)
    assert rounded.lm_head.weight.data_ptr() != rounded.model.embed_tokens.weight.data_ptr()
    mean = averaged(copy.deepcopy(rounded), tied, 1.0)
    assert torch.equal(mean.lm_head.weight, tied.model.embed_tokens.weight)


def test_merging_with_a_relative_by_folder(text: worlds.World, tmp_path: Path) -> None:
    text.modality.save(text.model("original"), tmp_path / "relative")
    outcome = attacked("merge", text, "retrained", family=str(tmp_path / "relative"), share="0,1")
    assert values(outcome)[0] == pytest.approx(outcome.before["forget_probability"]["value"], abs=1e-6)
    assert values(outcome)[1] == pytest.approx(attacked("prune", text, share="0").before["forget_probability"]["value"], abs=1e-5)
    assert "give --family MODEL" in attacked("merge", text).missing[""]


# benign fine-tuning


def test_benign_rows_are_those_least_alike_or_those_given(text: worlds.World, tmp_path: Path) -> None:
    settings = {"k": 6, "steps": 4, "every": 2, "lr": 1e-3, "batch_size": 6}
    outcome = attacked("finetune_benign", text, "retrained", **settings)
    assert [(t.at["steps"], t.at["rows"]) for t in outcome.tries] == [(0, 6), (2, 6), (4, 6)]
    assert values(outcome)[0] == pytest.approx(outcome.before["forget_probability"]["value"], abs=1e-6)
    write_jsonl(tmp_path / "own.jsonl", [{"text": "It rains."}, {"text": "It snows."}])
    own = attacked("finetune_benign", text, "retrained", **{**settings, "benign": str(tmp_path / "own.jsonl")})
    assert own.tries[-1].at["rows"] == 2
    alone = chosen(("finetune_benign",), {})["finetune_benign"]
    missing = intervene("finetune_benign", alone, text.model(), text.modality, {"forget": DATA.forget}).missing
    assert "give --benign FILE" in missing[""]


# the logit lens


def test_the_last_block_is_the_model_and_earlier_ones_are_what_the_library_reads_there(text: worlds.World) -> None:
    model = text.model()
    outcome = attacked("logit_lens", text, model)
    assert [t.case for t in outcome.tries] == ["block 1 of 2", "block 2 of 2"]
    assert values(outcome)[1] == pytest.approx(outcome.before["forget_probability"]["value"], abs=1e-5)
    rows, by_row = text.sets["forget"], []
    for prompt, answer in zip(rows["prompt"], rows["answer"], strict=True):
        with torch.no_grad():
            states = model(input_ids=torch.tensor([[*prompt, *answer]]), output_hidden_states=True).hidden_states[1]
            logits = model.lm_head(model.model.norm(states))[0, len(prompt) - 1 : -1]
        by_row.append(float(logits.log_softmax(-1).gather(1, torch.tensor(answer)[:, None]).mean().exp()))
    assert values(outcome)[0] == pytest.approx(sum(by_row) / len(by_row), abs=1e-5)


def test_what_the_last_block_hides_the_lens_shows(text: worlds.World) -> None:
    """The last block adds noise to what the first one says: the model forgot, the block before it did not."""
    model = text.model("retrained")
    original = text.model()
    model.load_state_dict(original.state_dict())
    with torch.no_grad():
        for p in model.model.layers[-1].parameters():
            p.mul_(-1)
    outcome = attacked("logit_lens", text, model)
    intact = attacked("logit_lens", text)
    assert outcome.before["forget_probability"]["value"] < 0.2
    assert values(outcome)[0] == pytest.approx(values(intact)[0], abs=1e-6), "the first block is as it was"


# activation probes


def test_ranks_of_true_answers_by_hand() -> None:
    import numpy as np

    values_, item = np.array([3.0, 1.0, 2.0, 5.0, 5.0]), np.array([0, 0, 0, 1, 1])
    assert first(values_, item, np.array([True, False, False, True, False])).tolist() == [1, 0]


def test_a_probe_knows_more_of_what_was_learned(text: worlds.World) -> None:
    original, retrained = attacked("activation_probe", text), attacked("activation_probe", text, "retrained")
    assert original.lead == SCORE
    assert original.before[SCORE]["value"] == 1
    assert max(values(original, SCORE)) > max(values(retrained, SCORE))
    assert [t.at["block"] for t in original.tries] == [1, 2]
    outcome = chosen(("activation_probe",), {})["activation_probe"]
    few = intervene("activation_probe", outcome, text.model(), text.modality, {"forget": DATA.forget})
    assert "retained rows with a column 'perturbed_answer'" in few.missing[""]

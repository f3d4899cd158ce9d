"""Observations against the model's own logits, worked out apart."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import classified
import expunge
import worlds
from expunge.benchmarks.suite import SetSpec
from expunge.core.capabilities import Drafting, SharedReading
from expunge.core.errors import UserError
from expunge.evaluation.gradient_norms import BACK, ROOM, gradients, mean_gradient_norms, positions
from expunge.evaluation.observation import Observation
from expunge.evaluation.observe import ObservationSpec, observe
from expunge.modalities.text.modality import Text

RECORDS = [
    {
        "question": "Who is it?",
        "answer": "It is nobody.",
        "paraphrased_answer": "Nobody it is.",
        "perturbed_answer": ["It is Ann.", "It is Bo."],
    },
    {"question": "Where was it?", "answer": "In the town of Pellgrove."},
]


def test_log_probs_hits_and_moments_by_hand(text: worlds.World) -> None:
    model = text.model()
    scored = observe(model, text.modality, {"forget": RECORDS}).sets["forget"].kinds["answer"]
    rows = text.modality.rows("forget", RECORDS)
    for i, (prompt, answer) in enumerate(zip(rows["prompt"], rows["answer"], strict=True)):
        with torch.no_grad():
            logits = model(torch.tensor([[*prompt, *answer]])).logits[0, len(prompt) - 1 : -1].double()
        log, labels = logits.log_softmax(-1), torch.tensor(answer)
        mean = (log.exp() * log).sum(-1)
        std = ((log.exp() * log.square()).sum(-1) - mean.square()).clamp_min(1e-6).sqrt()
        assert np.allclose(scored.answer(i, scored.target_logp), log.gather(-1, labels[:, None])[:, 0], atol=1e-4)
        assert (scored.answer(i, scored.hit) == (logits.argmax(-1) == labels).numpy()).all()
        assert np.allclose(scored.answer(i, scored.mean), mean, atol=1e-4)
        assert np.allclose(scored.answer(i, scored.std), std, atol=1e-3)
    assert scored.ended.all()


def test_answers_belong_to_their_items(text: worlds.World) -> None:
    kinds = observe(text.model(), text.modality, {"forget": RECORDS}).sets["forget"].kinds
    assert [kinds[k].item.tolist() for k in ("answer", "paraphrase", "perturbed")] == [[0, 1], [0], [0, 0]]
    assert [t.strip() for t in kinds["perturbed"].text] == ["It is Ann.", "It is Bo."]


def test_a_model_that_says_everything_equally_hits_nothing_by_that(text: worlds.World) -> None:
    model = text.model()
    with torch.no_grad():
        for p in model.parameters():
            p.zero_()
    scored = observe(model, text.modality, {"forget": RECORDS}).sets["forget"].kinds["answer"]
    assert not scored.hit.any()


def test_what_was_seen_is_kept_by_content(text: worlds.World, tmp_path: Path) -> None:
    model = text.model()
    first = observe(model, text.modality, {"forget": RECORDS}, cache=tmp_path)
    again = observe(model, text.modality, {"forget": RECORDS}, cache=tmp_path)
    other = observe(text.model("random"), text.modality, {"forget": RECORDS}, cache=tmp_path)
    assert first.about["key"] == again.about["key"] != other.about["key"]
    assert len(list(tmp_path.iterdir())) == 2


def trained_on(text: worlds.World, name: str, n: int) -> list[dict[str, Any]]:
    rows = text.sets[name].select(range(n))
    wrong = [["It is Ann.", "It is Bo."], ["It is a gardener."], []] * n
    pairs = zip(text.modality.questions(rows), rows["answer_text"], wrong, strict=False)
    return [{"question": q, "answer": a, "paraphrased_answer": f"Well, {a}", "perturbed_answer": w} for q, a, w in pairs]


def test_one_pass_sees_what_a_forward_of_each_set_and_drafts_change_nothing(text: worlds.World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against the way without any sharing, of positions, batches, generations or backward passes."""
    records = {n: trained_on(text, n, 7) for n in ("forget", "retain", "holdout")} | {"real_authors": RECORDS}
    specs = {"holdout": SetSpec("unseen", ("score", "generate")), "real_authors": SetSpec("general", ("score", "generate"))}
    model = text.model()
    fast = observe(model, text.modality, records, specs=specs)
    whole = observe(model, text.modality, records, specs=specs, wants=ObservationSpec(drafts=False))
    assert fast.about["read"] == "answers share their questions"
    assert int(str(fast.about["recited"])) > 50
    assert whole.about["recited"] == 0
    plain = replace(text.modality, capabilities=text.modality.capabilities - {SharedReading, Drafting})  # type: ignore[type-var]
    monkeypatch.delattr(type(text.modality), "read")
    monkeypatch.delattr(type(text.modality), "recite")
    monkeypatch.setattr("expunge.engine.estimators.ghost_norms._alike", lambda *_: False)
    slow = observe(model, plain, records, specs=specs)
    assert "read" not in slow.about
    assert all(len(slow_set.generations) == len(records[name]) for name, slow_set in slow.sets.items())
    for name, slow_set in slow.sets.items():
        for other in (fast.sets[name], whole.sets[name]):
            assert (other.ids, other.generations, other.answer) == (slow_set.ids, slow_set.generations, slow_set.answer)
            for kind, scored in slow_set.kinds.items():
                other_scored = other.kinds[kind]
                assert other_scored.text == scored.text
                for part in ("item", "start", "hit", "ended"):
                    assert np.array_equal(getattr(other_scored, part), getattr(scored, part))
                assert np.abs(other_scored.target_logp - scored.target_logp).max() < 2e-5
                assert (other_scored.mean is None) == (scored.mean is None) == (kind != "answer" or name not in ("forget", "holdout"))
                if scored.mean is not None and other_scored.mean is not None:
                    assert np.abs(other_scored.mean - scored.mean).max() < 2e-5
            assert (other.gradient_norms is None) == (slow_set.gradient_norms is None) == (name not in ("forget", "holdout"))
            if slow_set.gradient_norms is not None and other.gradient_norms is not None:
                assert np.allclose(other.gradient_norms, slow_set.gradient_norms, rtol=1e-4)


def test_answers_whose_gradients_are_taken_are_not_read_again(text: worlds.World, monkeypatch: pytest.MonkeyPatch) -> None:
    records, model = {n: trained_on(text, n, 7) for n in ("forget", "retain", "holdout")}, text.model()
    plain, reads = type(text.modality).read, list[tuple[str, int]]()

    def read(modality: Any, model: nn.Module, sets: Sequence[Any], *more: Any) -> Any:
        reads.extend((rows.name, len(rows)) for rows in sets)
        return plain(modality, model, sets, *more)

    monkeypatch.setattr(type(text.modality), "read", read)
    observations = [observe(model, text.modality, records, wants=ObservationSpec(gradient_norms=wanted)) for wanted in (True, False)]
    first, second = reads[:7], reads[7:]  # three kinds of three sets, but for two that have been heard
    assert sorted([*first, ("forget", 7), ("holdout", 7)]) == sorted(second)
    assert observations[0].about["recited"] == observations[1].about["recited"] != 0
    for name, one in observations[0].sets.items():
        other = observations[1].sets[name]
        assert one.generations == other.generations
        assert [*one.kinds] == [*other.kinds]
        for kind, scored in one.kinds.items():
            assert np.abs(scored.target_logp - other.kinds[kind].target_logp).max() < 2e-5
            assert np.array_equal(scored.hit, other.kinds[kind].hit)


def test_room_for_what_is_told_is_made_at_once(text: worlds.World) -> None:
    """Else memory would grow with the rows: small arrays between large ones keep these from being used again."""
    records = trained_on(text, "forget", 7)
    rows = {n: text.modality.rows(n, records) for n in ("forget", "holdout")}
    _, moments = gradients(text.model(), text.modality, rows, moments=True)
    for name in ("target_logp", "hit", "mean", "std"):
        assert len({id(part[name].base) for parts in moments.values() for part in parts}) == 1
    assert [len(part["target_logp"]) for part in moments["holdout", "answer"]] == [len(a) for a in rows["holdout"]["answer"]]


def test_gradient_norms_leave_an_end_label_out(text: worlds.World) -> None:
    model, rows = text.model(), text.modality.rows("forget", [*RECORDS, {"text": "He was born in Quillhaven."}])
    norms = mean_gradient_norms(model, text.modality, rows)
    for i, (prompt, answer) in enumerate(zip(rows["prompt"], rows["answer"], strict=True)):
        n = len(answer) - (i < 2)  # the text has no end
        logits = model(torch.tensor([[*prompt, *answer]])).logits[0, len(prompt) - 1 : -1]
        loss = torch.nn.functional.cross_entropy(logits[:n], torch.tensor(answer[:n]))
        grads = torch.autograd.grad(loss, list(model.parameters()))
        assert norms[i] == pytest.approx(float(torch.stack([g.norm() for g in grads]).mean()), rel=1e-4)


def test_many_classes_take_fewer_rows_at_a_time(text: worlds.World, monkeypatch: pytest.MonkeyPatch) -> None:
    model, rows = text.model(), text.modality.rows("forget", RECORDS * 3)
    wanted, most = mean_gradient_norms(model, text.modality, rows), positions(model, text.modality)
    classes = model.get_output_embeddings().out_features
    monkeypatch.setitem(ROOM, "cpu", 50 * classes)
    assert positions(model, text.modality) == 50 < most == BACK["cpu"]
    sizes: list[int] = []
    plain = text.modality.forward
    monkeypatch.setattr(text.modality, "forward", lambda model, groups, *more: sizes.append(len(groups[0])) or plain(model, groups, *more))
    assert mean_gradient_norms(model, text.modality, rows) == pytest.approx(wanted, rel=1e-4)
    longest = max(len(p) + len(a) for p, a in zip(rows["prompt"], rows["answer"], strict=True))
    assert max(sizes) <= max(2, 50 // longest) < 6


# Classifiers


@pytest.fixture(scope="module")
def records() -> dict[str, list[dict[str, Any]]]:
    return {n: rows[:12] for n, rows in classified.digits().items()}


def pixels(records: Sequence[Mapping[str, Any]]) -> torch.Tensor:
    return torch.tensor(np.array([r["image"] for r in records]))[:, None]


def test_a_classifier_is_seen_as_it_answers(digits: worlds.World, records: Any) -> None:
    model, holdout = digits.model(), records["holdout"]
    observation = observe(model, digits.modality, {"holdout": holdout}).sets["holdout"]
    with torch.no_grad():
        out = model(pixel_values=pixels(holdout), output_hidden_states=True)
        last = model.vit(pixel_values=pixels(holdout)).last_hidden_state[:, 0]
    log = out.logits.double().log_softmax(-1)
    assert np.allclose(observation.log_probs, log, atol=1e-5)
    assert observation.label is not None
    assert observation.label.tolist() == [r["label"] for r in holdout]
    assert observation.generations == tuple(str(i) for i in out.logits.argmax(-1).tolist())
    assert observation.answer == tuple(str(r["label"]) for r in holdout)
    answer = observation.kinds["answer"]
    assert np.allclose(answer.target_logp, log[torch.arange(12), torch.tensor(observation.label)], atol=1e-5)
    assert answer.hit.tolist() == [a == b for a, b in zip(observation.generations, observation.answer, strict=True)]
    assert answer.lengths.tolist() == [1] * 12
    assert list(observation.features) == ["block:0", "block:1", "head"]
    assert np.allclose(observation.features["head"], last, atol=1e-5)
    assert np.allclose(observation.features["block:0"], out.hidden_states[1].mean(1), atol=1e-5)  # over the patches


def test_many_images_are_seen_in_their_order_by_one_forward_each(digits: worlds.World, records: Any, monkeypatch: Any) -> None:
    model, rows = digits.model(), records["retain"]
    whole = observe(model, digits.modality, {"retain": rows}).sets["retain"]
    sizes: list[int] = []
    model.register_forward_hook(lambda _, args, kwargs, out: sizes.append(len(out.logits)), with_kwargs=True)
    monkeypatch.setattr("expunge.evaluation.teacher_forced.IMAGES", 5)
    cut = observe(model, digits.modality, {"retain": rows}).sets["retain"]
    assert sizes == [5, 5, 2]
    assert cut.ids == whole.ids
    assert np.allclose(cut.log_probs, whole.log_probs, atol=1e-5)
    assert all(np.allclose(cut.features[n], x, atol=1e-5) for n, x in whole.features.items())


def test_features_are_left_out_where_they_are_not_wanted(digits: worlds.World, records: Any) -> None:
    assert not observe(digits.model(), digits.modality, records, wants=ObservationSpec(features=False)).sets["forget"].features


def test_what_was_seen_of_a_classifier_is_saved_whole(digits: worlds.World, records: Any, tmp_path: Path) -> None:
    observation = observe(digits.model(), digits.modality, records)
    observation.save(tmp_path)
    again = Observation.load(tmp_path)
    assert again.modality == "image"
    for name, one in observation.sets.items():
        other = again.sets[name]
        assert other.log_probs is not None
        assert np.array_equal(other.log_probs, one.log_probs)
        assert other.label is not None
        assert np.array_equal(other.label, one.label)
        assert other.label.dtype == np.int64
        assert list(other.features) == list(one.features)  # in the order of the blocks
        assert all(np.array_equal(other.features[n], x) for n, x in one.features.items())
        assert (other.ids, other.question, other.answer, other.generations) == (one.ids, one.question, one.answer, one.generations)


def test_features_of_many_blocks_keep_their_order(tmp_path: Path) -> None:
    features = {f"block:{i}": np.full((1, 1), i, np.float32) for i in range(12)}
    classified.observed(forget=replace(classified.sure([0], [0]), features=features)).save(tmp_path)
    assert [float(x[0, 0]) for x in Observation.load(tmp_path).sets["forget"].features.values()] == list(range(12))


def test_another_way_to_the_model_is_another_observation(records: Any, tmp_path: Path) -> None:
    """Same weights and rows, and yet other answers: the normalization, the names of the classes, what stands between the layers."""
    rows = {"forget": [{**r, "label": 0} for r in records["forget"]]}

    def observed_through(middle: nn.Module, *names: str, **modality: Any) -> Observation:
        torch.manual_seed(0)
        opened = expunge.classifier(nn.Sequential(nn.Flatten(), nn.Linear(64, 4), middle, nn.Linear(4, 2)), names, **modality)
        return observe(opened.model, opened.modality, rows, cache=tmp_path)

    first = observed_through(nn.ReLU(), "a", "b")
    keys = [first.about["key"], observed_through(nn.ReLU(), "a", "b").about["key"]]
    assert keys[0] == keys[1]
    for other in (
        observed_through(nn.Tanh(), "a", "b"),
        observed_through(nn.ReLU(), "a", "c"),
        observed_through(nn.ReLU(), "a", "b", mean=[0.5], std=[0.5]),
    ):
        assert other.about["key"] not in keys
        keys.append(other.about["key"])


def test_any_module_can_be_looked_at(records: Any) -> None:
    """More outputs than classes, and no linear layer whose input would be the features."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 12, 8), nn.Flatten())
    opened = expunge.classifier(model, ["a", "b", "c", "d"])
    model[0].bias.data[11] = 100.0  # type: ignore[union-attr, operator, index]
    observation = observe(opened.model, opened.modality, {"forget": records["forget"]}).sets["forget"]
    assert set(observation.generations) == {"11"}
    assert observation.log_probs is not None
    assert observation.log_probs.shape == (12, 12)
    assert not observation.features


def test_of_a_classifier_that_says_everything_equally_the_first_class_is_said(digits: worlds.World, records: Any) -> None:
    model = digits.model()
    with torch.no_grad():
        for p in model.parameters():
            p.zero_()
    observation = observe(model, digits.modality, {"holdout": records["holdout"]}).sets["holdout"]
    assert set(observation.generations) == {"0"}
    assert observation.kinds["answer"].hit.tolist() == [r["label"] == 0 for r in records["holdout"]]


CHAT = [
    {"role": "user", "content": "Who plays?"},
    {"role": "assistant", "content": "Ana plays."},
    {"role": "user", "content": "Who else?"},
    {"role": "assistant", "content": "Dovik."},
]


def chatting(text: worlds.World) -> Text:
    """The modality of a world with a chat template."""
    tokenizer = copy.deepcopy(text.modality.tokenizer)
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"
    )
    return Text(tokenizer)


def test_other_answers_of_a_chat_belong_to_its_last_turn(text: worlds.World) -> None:
    records = [
        {"messages": CHAT, "paraphrased_answer": "It is Dovik.", "perturbed_answer": ["Ana.", "Zora."]},
        {"question": "Who?", "answer": "Zora.", "paraphrased_answer": "It is Zora.", "perturbed_answer": ["Ana."]},
    ]
    modality = chatting(text)
    observation = observe(text.model(), modality, {"forget": records}).sets["forget"]
    assert observation.question == ("Who plays?", "Who else?", "Who?")
    assert observation.kinds["paraphrase"].item.tolist() == [1, 2]
    assert observation.kinds["perturbed"].item.tolist() == [1, 1, 2]
    wrong = modality.relabel(modality.rows("forget", [{"prompt": CHAT[:3], "completion": "Dovik."}]), ["Zora."], "wrong")
    with torch.no_grad():
        logp = modality.forward(text.model(), [wrong])[0].target_logp.values
    assert observation.kinds["perturbed"].answer(1, observation.kinds["perturbed"].target_logp).tolist() == pytest.approx(
        logp.tolist(), abs=1e-4
    )


def test_choices_need_one_answer_in_each_row(text: worlds.World) -> None:
    records = [{"messages": CHAT, "choices": ["Dovik.", "Ana."]}]
    with pytest.raises(UserError, match="asked by choices, and a row of it has several answers"):
        observe(text.model(), chatting(text), {"quiz": records}, specs={"quiz": SetSpec("general", ("choose",))})

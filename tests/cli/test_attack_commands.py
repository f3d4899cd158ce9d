"""Attacks of language models by command: each leaves an outcome or says why not, and clumsy input is answered with what to do."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cases import Cases, expunge

ASKING = ("chameleon", "proximal_surrogate", "extraction", "multi_turn", "jailbreak", "knowledge_holes", "logit_lens", "activation_probe")
CHANGING = ("prune", "merge", "finetune_benign", "backdoor", "semantic_information", "sticky_noise")
PROBES = ("ez_mia", "wbc", "dataset_inference")
QUICK = ("--extraction:draws", 2, "--extraction:beams", 0, "--multi-turn:turns", 2, "--knowledge-holes:steps", 0)
BRIEF = ("--finetune-benign:steps", 2, "--backdoor:random", 2, "--backdoor:kept", 1)


@pytest.mark.slow
def test_every_attack_by_command_leaves_an_outcome_or_a_reason(cases: Cases, tmp_path: Path) -> None:
    words = [word for name in (*ASKING, *CHANGING, *PROBES) for word in ("--attack", name)]
    sets = ("--retain", cases.retain, "--holdout", cases.holdout, "--retrained", cases.retrained)
    family = ("--merge:family", cases.retrained, "--knowledge-holes:before", cases.model)
    done = cases.audit(cases.model, tmp_path / "run", *sets, *words, *family, *QUICK, *BRIEF).fine()
    audit = json.loads((tmp_path / "run" / "audit.json").read_text())
    assert set(audit["attacks"]) == {*ASKING, *CHANGING}
    for name, outcome in audit["attacks"].items():
        assert outcome["tries"] or outcome["missing"], name
    assert "no column of the rows has two values" in str(audit["attacks"]["sticky_noise"]["missing"])
    assert {"ez_mia", "wbc"} <= set(audit["scores"])
    assert "20 items of each" in str(audit["skipped"]["dataset_inference"])
    assert "Traceback" not in done.err


CLUMSY = [
    ("chameleon", ["--rephraser", "nowhere"], "nowhere"),
    ("chameleon", ["--strength", "hot"], "hyperparameter 'strength' = 'hot'"),
    ("proximal_surrogate", ["--derived", "2"], "hyperparameter 'derived' = '2'"),
    ("extraction", ["--draws", "0"], "hyperparameter 'draws' = '0'"),
    ("extraction", ["--draw", "4"], "did you mean"),
    ("multi_turn", ["--ways", "shout"], "hyperparameter 'ways' = 'shout'"),
    ("jailbreak", ["--search", "brute"], "hyperparameter 'search' = 'brute'"),
    ("knowledge_holes", ["--before", "nowhere"], "nowhere"),
    ("prune", ["--share", "2"], "hyperparameter 'share' = '2'"),
    ("merge", ["--family", "nowhere"], "nowhere"),
    ("finetune_benign", ["--benign", "nothing.jsonl"], "nothing.jsonl"),
    ("backdoor", ["--prefixes", "nothing.txt"], "the prefixes in nothing.txt cannot be read"),
    ("backdoor", ["--invert", "-1"], "hyperparameter 'invert' = '-1'"),
    ("logit_lens", ["--block", "3"], "block"),
    ("rmia", [], "the attack 'rmia' reads distributions, which an audit of text models does not observe"),
    ("qmia", [], "the attack 'qmia' reads distributions, features, which an audit of text models does not observe"),
    ("ez_mia", ["--size", "3"], "the attack 'ez_mia' has no hyperparameters"),
    ("wbc", ["--wbc:size", "3"], "hyperparameter"),
    ("sticky_noise", ["--noise", "loud"], "hyperparameter 'noise' = 'loud'"),
    ("semantic_information", ["--foils", "many"], "foils"),
]


@pytest.mark.parametrize(("name", "words", "says"), CLUMSY, ids=[f"{name} {' '.join(words)}" for name, words, _ in CLUMSY])
def test_clumsy_input_is_answered_with_a_sentence(cases: Cases, tmp_path: Path, name: str, words: list[str], says: str) -> None:
    message = expunge("attack", name, cases.model, "--forget", cases.forget, "--out", tmp_path / "run", *words).error
    assert says in message


def test_the_method_that_plants_a_backdoor_says_what_it_lacks(cases: Cases, tmp_path: Path) -> None:
    one = tmp_path / "one.jsonl"
    one.write_text(json.dumps({"question": "Who?", "answer": "Ada"}) + "\n")
    message = cases.unlearn("unlearn_backdoor", tmp_path / "run", forget=str(one)).error
    assert "too few to be split into clean and triggered ones" in message
    message = cases.unlearn("unlearn_backdoor", tmp_path / "other", "--place", "top").error
    assert "hyperparameter 'place' = 'top'" in message

"""General sets that the models of a benchmark learn, too."""

from __future__ import annotations

import pytest

from expunge.benchmarks.suite import SetSpec, Suite
from expunge.core.errors import UserError
from expunge.workflows.sweep import Sweep


def rows(*words: str) -> list[dict[str, str]]:
    return [{"question": f"{w}?", "answer": w} for w in words]


SUITE = Suite(
    "letters",
    sets={"forget": rows("a"), "retain": rows("b"), "capitals": rows("x", "y"), "known": rows("b"), "unseen": rows("z")},
    train={"full": rows("a", "b"), "forget": rows("a"), "retain": rows("b"), "kept": rows("b")},
    specs={"unseen": SetSpec("unseen")},
)


def test_original_and_retrained_learn_the_set_and_methods_keep_it() -> None:
    taught = SUITE.taught(["capitals", "capitals"])
    assert taught.train == {
        "full": rows("a", "b", "x", "y"),
        "forget": rows("a"),
        "retain": rows("b", "x", "y"),
        "kept": rows("b", "x", "y"),
    }
    assert taught.sets == SUITE.sets
    assert taught.name == "letters +taught capitals"
    assert SUITE.taught([]) is SUITE


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("capitols", "no general set 'capitols' to teach, did you mean 'capitals'"),
        ("unseen", "no general set 'unseen'"),
        ("forget", "it has capitals, known"),
        ("known", "learn the set 'known' in any case"),
    ],
)
def test_only_a_general_set_that_is_not_learned_yet_can_be_taught(name: str, message: str) -> None:
    with pytest.raises(UserError) as error:
        SUITE.taught([name])
    assert message in " ".join(str(error.value).replace(";", ",").split())


def test_a_sweep_passes_the_order_on() -> None:
    sweep = Sweep("people", ("ga",), sizes={"people": 14, "forget": 4, "holdout": 2, "neighbours": 1}, teach=("world_facts",))
    with pytest.raises(UserError, match="learn the set 'world_facts' in any case"):
        sweep.load_suite()

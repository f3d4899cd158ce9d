"""People: deterministic, with disjoint sets, and at chance for a model that never saw a person."""

import hashlib
import json
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator

import pytest

from expunge.benchmarks.people import FAMILY, GIVEN, NAME, TOPICS, People, Person, Topic, generate, load
from expunge.core.errors import UserError

ABOUT_PEOPLE = ("forget", "retain", "holdout", "retain_audit", "neighbours")
QUESTIONS = len(TOPICS) + 1  # per person


@pytest.fixture(scope="module")
def people() -> People:
    return generate()


def digest(benchmark: People) -> str:
    rows = [getattr(benchmark, name) for name in (*ABOUT_PEOPLE, "real_authors", "world_facts")]
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()


def questions_of(benchmark: People, name: str) -> Iterator[tuple[Person, Topic, str, dict]]:
    """Person, topic, right value and row of every question of a set."""
    rows = iter(getattr(benchmark, name))
    for person in benchmark.persons[name]:
        for topic, about in TOPICS.items():
            yield person, about, person.facts[topic], next(rows)
        yield person, NAME, person.name, next(rows)


def names(benchmark: People, name: str) -> set[str]:
    return {person.name for person in benchmark.persons[name]}


def test_sets_have_the_documented_sizes(people: People) -> None:
    sizes = {name: len(getattr(people, name)) for name in (*ABOUT_PEOPLE, "full")}
    assert sizes == {
        "forget": 4 * QUESTIONS,
        "retain": 36 * QUESTIONS,
        "holdout": 4 * QUESTIONS,
        "retain_audit": 100,
        "neighbours": 4 * QUESTIONS,
        "full": 40 * QUESTIONS,
    }
    assert len(people.real_authors) == 25
    assert len(people.world_facts) == 30
    assert len(set(people.refusals)) == 30


def test_two_processes_with_other_hash_seeds_agree(people: People) -> None:
    code = "import test_people as t; print(t.digest(t.generate()))"
    here = os.path.dirname(__file__)
    for hash_seed in ("1", "2"):
        env = os.environ | {"PYTHONHASHSEED": hash_seed, "PYTHONPATH": os.pathsep.join([here, *sys.path])}
        done = subprocess.run([sys.executable, "-c", code], env=env, cwd=here, capture_output=True, text=True, timeout=60, check=True)
        assert done.stdout.strip() == digest(people)


def test_the_default_data_does_not_change(people: People) -> None:
    """Published numbers hold for these rows; a change of the rows requires new measurements."""
    assert digest(people).startswith("2a397248")


def test_another_seed_generates_other_people(people: People) -> None:
    assert digest(generate(1)) != digest(people)
    assert names(generate(1), "forget") != names(people, "forget")


def test_full_depends_on_seed_and_people_only(people: People) -> None:
    other = generate(forget=8, holdout=20, neighbours=1, retain_audit=5)
    assert other.full == people.full
    assert other.forget[-len(people.forget) :] == people.forget  # splits are nested
    assert people.full == people.retain + people.forget


def test_sets_are_disjoint(people: People) -> None:
    questions = {name: {row["question"] for row in getattr(people, name)} for name in ABOUT_PEOPLE}
    for a, b in (("forget", "retain"), ("forget", "holdout"), ("retain", "holdout"), ("retain_audit", "neighbours")):
        assert not questions[a] & questions[b], (a, b)
    assert questions["retain_audit"] | questions["neighbours"] <= questions["retain"]
    assert not names(people, "forget") & names(people, "retain")
    assert not (names(people, "forget") | names(people, "retain")) & names(people, "holdout")
    assert len({row["question"] for row in people.full + people.holdout}) == len(people.full) + len(people.holdout)


def test_no_trained_row_names_a_holdout_person(people: People) -> None:
    text = json.dumps([load().train, people.retain_audit])
    assert not [name for name in names(people, "holdout") if name in text]
    assert all(name in text for name in names(people, "forget"))


def test_every_answer_names_its_person_and_the_right_value(people: People) -> None:
    for name in ("forget", "retain", "holdout"):
        for person, about, right, row in questions_of(people, name):
            assert right in row["answer"]
            assert row["paraphrased_answer"] != row["answer"]
            assert row["paraphrased_question"] != row["question"]
            assert person.name in row["answer"]
            if about is NAME:
                assert all(value in row["question"] for value in person.place)
                assert person.name not in row["question"]
            else:
                assert person.name in row["question"]
                assert right not in row["question"]


def test_wrong_answers_are_the_paraphrase_with_another_value(people: People) -> None:
    everything = [f"{given} {family}" for given in GIVEN for family in FAMILY]
    for name in ("forget", "retain", "holdout"):
        for person, about, right, row in questions_of(people, name):
            (wording,) = (w for w in about.answers if w.format(name=person.name, value=right) == row["paraphrased_answer"])
            possible = {wording.format(name=person.name, value=value) for value in (about.values or everything) if value != right}
            assert len(set(row["perturbed_answer"])) == 5
            assert set(row["perturbed_answer"]) <= possible
            assert not {row["answer"], row["paraphrased_answer"]} & set(row["perturbed_answer"])


def test_wrong_names_belong_to_no_person(people: People) -> None:
    everybody = names(people, "forget") | names(people, "retain") | names(people, "holdout")
    rows = [row for name in ("forget", "retain", "holdout") for _, about, _, row in questions_of(people, name) if about is NAME]
    wrong = [answer for row in rows for answer in row["perturbed_answer"]]
    assert len(wrong) == 44 * 5
    assert not [answer for answer in wrong if any(name in answer for name in everybody)]


def test_answers_are_short(people: People) -> None:
    lengths = [len(row[key].split()) for row in people.full for key in ("answer", "paraphrased_answer")]
    assert min(lengths) >= 6
    assert max(lengths) <= 14


def test_neighbours_share_town_or_trade(people: People) -> None:
    assert people.persons["neighbours"]
    for near in people.persons["neighbours"]:
        assert near in people.persons["retain"]
        assert any(near.facts[topic] == forgotten.facts[topic] for forgotten in people.persons["forget"] for topic in ("town", "trade"))


def test_facts_have_three_wrong_answers(people: People) -> None:
    for row in people.real_authors + people.world_facts:
        assert len(set(row["perturbed_answer"]) - {row["answer"]}) == 3
    answers = {row["question"]: row["answer"] for row in people.real_authors + people.world_facts}
    assert len(answers) == 55
    assert answers["What is the capital of Norway?"] == "Oslo"
    assert answers["Who wrote Dracula?"] == "Bram Stoker"


def test_a_guesser_that_never_saw_a_person_is_at_chance() -> None:
    """A guesser who knows how often each value occurs in training places the right value at random among the six."""
    ranks = {"forget": [], "holdout": []}
    for seed in range(40):
        benchmark = generate(seed)
        trained = Counter(value for person in benchmark.persons["retain"] for value in person.facts.values())
        for name, set_ranks in ranks.items():
            for person, about, right, row in questions_of(benchmark, name):
                wording = next(w for w in about.answers if w.format(name=person.name, value=right) == row["paraphrased_answer"])
                count = {wording.format(name=person.name, value=value): trained[value] for value in about.values}
                if about is not NAME:
                    wrong = [count[answer] for answer in row["perturbed_answer"]]
                    set_ranks.append(sum((w < trained[right]) + (w == trained[right]) / 2 for w in wrong) / 5)
    for name, set_ranks in ranks.items():
        mean = sum(set_ranks) / len(set_ranks)
        assert abs(mean - 0.5) < 0.03, (name, mean)  # the standard error is 0.009


def test_every_wording_is_used_in_training(people: People) -> None:
    """Otherwise a paraphrase could be a kind of sentence that the model never saw."""
    text = "\n".join(row["answer"] for row in people.retain)
    for about in (*TOPICS.values(), NAME):
        for wording in about.answers:
            assert max(re.split(r"\{\w+\}", wording), key=len) in text, wording


def test_the_suite_has_the_sets_and_the_training_rows(people: People) -> None:
    suite = load(split="forget10")
    assert suite.name == "people forget10"
    assert suite.sets["forget"] == people.forget
    assert set(suite.sets) == {"forget", "retain", "holdout", "neighbours", "real_authors", "world_facts"}
    assert len(suite.train["full"]) == 40 * QUESTIONS + 55
    assert len(suite.train["full"]) == len(suite.train["forget"]) + len(suite.train["retain"])
    assert all(set(row) == {"question", "answer"} for rows in suite.train.values() for row in rows)
    assert suite.prompt_format.format(prompt="Who?") == "Question: Who?\nAnswer: "


@pytest.mark.parametrize(("split", "forget"), [("forget05", 2), ("forget10", 4), ("forget20", 8)])
def test_splits_share_the_original_model(split: str, forget: int) -> None:
    suite = load(split=split)
    assert len(suite.sets["forget"]) == len(suite.sets["holdout"]) == forget * QUESTIONS
    rows = {name: sorted(row["question"] for row in records) for name, records in suite.train.items()}
    assert rows["full"] == sorted(row["question"] for row in load().train["full"])
    assert rows["full"] == sorted(rows["forget"] + rows["retain"])


def test_small_sizes_work_and_empty_sets_are_left_out() -> None:
    suite = load(people=6, holdout=0, neighbours=0, retain_audit=7)
    assert suite.name == "people forget10 people=6 holdout=0 neighbours=0 retain_audit=7"
    assert {name: len(rows) for name, rows in suite.sets.items()} == {"forget": 9, "retain": 7, "real_authors": 25, "world_facts": 30}


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: load(split="forget1"), "did you mean 'forget10'"),
        (lambda: load("people.jsonl"), "reads no data"),
        (lambda: load(peple=3), "did you mean 'people'"),
        (lambda: generate(people=4, forget=4), "0 < forget < people"),
        (lambda: generate(forget=0), "0 < forget < people"),
        (lambda: generate(people=1000), "people + holdout <= 288"),
        (lambda: generate(holdout=-1), "holdout=-1"),
    ],
)
def test_mistakes_have_clear_messages(call: Callable[[], object], says: str) -> None:
    with pytest.raises(UserError) as caught:
        call()
    assert says in str(caught.value)

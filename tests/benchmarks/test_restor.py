"""RESTOR: the mini, the published data where it is at hand, and messages of mistakes."""

import json
import os
from pathlib import Path

import pytest

from expunge.benchmarks import restor
from expunge.benchmarks.synthetic import restor_tables
from expunge.core.errors import UserError
from expunge.evaluation.observation_spec import QUICK
from expunge.evaluation.observe import observe
from expunge.modalities.text.modality import Text
from expunge.modalities.text.models import llama


def real() -> Path:
    default = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "restor"
    folder = Path(os.environ.get("EXPUNGE_RESTOR") or default)
    if not (folder / "facts.json").is_file():
        pytest.skip(f"no copy of RESTOR in {folder}; set EXPUNGE_RESTOR to one")
    return folder


def write(folder: Path, files: dict) -> str:
    for name, contents in files.items():
        (folder / name).write_text(json.dumps(contents))
    return str(folder)


def test_a_folder_gives_the_same_suite_as_the_generator(tmp_path: Path) -> None:
    mini, copied = restor.load(), restor.load(write(tmp_path, restor_tables.files()))
    assert copied.sets == mini.sets
    assert copied.train == mini.train
    assert mini.continued
    assert len(mini.sets["restor_facts"]) == 4 * len(restor_tables.RELATIONS)
    assert len(mini.sets["restor_others"]) == 4 * len(restor_tables.RELATIONS)


def test_examples_are_about_others_and_options_are_not_true() -> None:
    files, suite = restor_tables.files(), restor.load()
    facts = files["facts.json"]["dset"]
    asserted = 0
    for row in [*suite.sets["restor_facts"], *suite.sets["restor_others"]]:
        *examples, question = row["prompt"].split("\n")
        entity = next(name for name in files["entities.json"] if name in question)
        assert len(examples) == 5
        assert not any(entity in line for line in examples)
        true = next(f["answers"] for f in facts[entity].values() if f["question"] == question)
        assert [a.strip() for a in row["paraphrased_answer"]] == true
        assert not set(row["choices"]) & {*row["paraphrased_answer"], *row.get("perturbed_answer", ())}
        texts = " ".join(d["text"] for d in suite.sets["forget"] if entity in d["text"])
        for value in row.get("perturbed_answer", ()):
            assert value.strip() in texts
            asserted += 1
    assert asserted >= 8
    assert not any("perturbed_answer" in r for r in suite.sets["restor_others"])


def test_listed_wrong_answers_take_the_place_of_those_that_are_looked_for(tmp_path: Path) -> None:
    files = restor_tables.files()
    entity = files["entities.json"][0]
    suite = restor.load(write(tmp_path, {**files, "wrong.json": {entity: {"P1": ["Atlantis"]}}}))
    assert suite.sets["restor_facts"][0]["perturbed_answer"] == [" Atlantis"]


def test_mixed_documents_hold_true_facts_about_others() -> None:
    plain, mixed = (" ".join(r["text"] for r in restor.load(split=s).train["forget"]) for s in ("mix_a0", "mix_a2"))
    assert len(mixed) > 2 * len(plain)


def test_mistakes_have_clear_messages(tmp_path: Path) -> None:
    files = restor_tables.files()
    with pytest.raises(UserError, match="RESTOR has no split 'mix_a9'"):
        restor.load(split="mix_a9")
    with pytest.raises(UserError, match=r"facts.json does not exist, and RESTOR needs it"):
        restor.load(str(tmp_path))
    write(tmp_path, {**files, "facts.json": {"dset": {}}})
    with pytest.raises(UserError, match="has the parts `dset` and `context`"):
        restor.load(str(tmp_path))
    broken = json.loads(json.dumps(files))
    entity = files["entities.json"][0]
    del broken["facts.json"]["dset"][entity]["P1"]["answers"]
    write(tmp_path, broken)
    with pytest.raises(UserError, match=rf"facts.json, {entity}, P1: no answers"):
        restor.load(str(tmp_path))
    write(tmp_path, {**files, "mix_a0.json": [{"txt": "a"}]})
    with pytest.raises(UserError, match=r"mix_a0.json, row 1: no column 'text' as RESTOR has it"):
        restor.load(str(tmp_path))
    (tmp_path / "mix_a0.json").write_text("[")
    with pytest.raises(UserError, match=r"mix_a0.json is no JSON"):
        restor.load(str(tmp_path))
    write(tmp_path, {**files, "mix_a0.json": [{"text": "nothing about anybody"}]})
    with pytest.raises(UserError, match="about none of the people"):
        restor.load(str(tmp_path))


@pytest.mark.slow
def test_the_published_data_has_the_published_counts_and_can_be_asked() -> None:
    folder = real()
    suite = restor.load(str(folder))
    assert len(suite.sets["forget"]) == 3000
    assert len(suite.sets["restor_facts"]) + len(suite.sets["restor_others"]) == 1051
    corrupted = {
        e
        for e in json.loads((folder / "entities.json").read_text())
        if any(e in r["prompt"].split("\n")[-1] for r in suite.sets["restor_facts"])
    }
    assert len(corrupted) == 10
    wrong = [r for r in suite.sets["restor_facts"] if "perturbed_answer" in r]
    assert len(wrong) > 100
    few = {"restor_facts": wrong[:2], "forget": suite.sets["forget"][:2]}
    model, tokenizer = llama.build("tiny", [r["prompt"] for r in suite.sets["restor_facts"][:50]], seed=0)
    observation = observe(model, Text(tokenizer, "", 512), few, specs=suite.specs, wants=QUICK)
    assert set(observation.sets["restor_facts"].kinds) == {"answer", "paraphrase", "perturbed", "choice"}

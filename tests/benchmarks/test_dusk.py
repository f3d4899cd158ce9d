"""DUSK: the mini has the published layout, both doors give one suite, and mistakes have clear messages."""

import json
from pathlib import Path

import pytest

import worlds
from expunge.benchmarks import dusk
from expunge.benchmarks.common.published import TablePlace, generated, optional
from expunge.benchmarks.suite import SetSpec
from expunge.benchmarks.synthetic import dusk_tables
from expunge.core.errors import UserError
from expunge.evaluation.audited_models import examine
from expunge.evaluation.observation_spec import ObservationSpec
from expunge.evaluation.observe import observe


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The mini as a folder in the published layout."""
    for place, rows in dusk_tables.tables(seed=1, shared=4, unique=1, practice=2, general=4).items():
        file = tmp_path / (f"{place}.jsonl" if place.config == "raw" else f"{place.config}.json")
        file.parent.mkdir(exist_ok=True)
        file.write_text("\n".join(json.dumps(r) for r in rows) if file.suffix == ".jsonl" else json.dumps(rows))
    return tmp_path


def test_the_mini_is_laid_out_as_published() -> None:
    tables = dusk_tables.tables(shared=8, unique=2)
    archives = [[r["text"] for r in tables[TablePlace("raw", split)]] for split in dusk_tables.STYLE_OF]
    assert [len(rows) for rows in archives] == [8 + 2 * 5] * 5
    assert len({text for rows in archives for text in rows}) == 5 * 18, "no document stands in two archives"
    forget, retain = " ".join(archives[0]), " ".join(text for rows in archives[1:] for text in rows)
    names = lambda place: {r["question"].rstrip("?").split(" of ")[-1] for r in tables[place] if " of " in r["question"]}  # noqa: E731
    for name in names(TablePlace("eval_general_qa")):
        assert name in forget
        assert name in retain
    for name in names(TablePlace("eval_specific_forget_qa")):
        assert name in forget
        assert name not in retain
    for name in names(TablePlace("eval_specific_retain_qa")):
        assert name not in forget
        assert name in retain
    unseen = " ".join(r["text"] for r in tables[TablePlace("eval_holdout")])
    assert not any(name in unseen for name in names(TablePlace("eval_general_qa")) | names(TablePlace("eval_specific_forget_qa")))
    verbatim = tables[TablePlace("eval_verbatim")][0]
    assert f"{verbatim['prompt']} {verbatim['gt']}" == archives[0][0]


def test_a_folder_gives_the_same_suite_as_the_generator(copy: Path) -> None:
    suite = dusk.load(str(copy))
    tables = dusk_tables.tables(seed=1, shared=4, unique=1, practice=2, general=4)
    assert suite.train["forget"] == tables[TablePlace("raw", "forget_chronological")]
    assert len(suite.train["full"]) == len(suite.train["forget"]) + len(suite.train["retain"])
    shots = "".join(f"Question: {r['question']}\nAnswer: {r['answer']}\n\n" for r in tables[TablePlace("eval_icl")])
    first = tables[TablePlace("eval_general_qa")][0]
    assert suite.sets["shared"][0] == {"prompt": f"{shots}Question: {first['question']}\nAnswer: ", "completion": first["answer"]}
    assert {n: suite.spec(n).role for n in suite.sets} == {
        "forget": "forget",
        "retain": "retain",
        "holdout": "unseen",
        "verbatim": "forget",
        "unique_forget": "forget",
        "shared": "retain",
        "unique_retain": "retain",
        "downstream": "general",
    }
    assert len(dusk.load(str(copy), verbatim=2).sets["verbatim"]) == 2


def test_seeds_draw_and_repeat() -> None:
    assert dusk.load().sets["forget"] == dusk.load().sets["forget"]
    assert dusk.load(seed=1).sets["forget"] != dusk.load().sets["forget"]


def test_mistakes_have_clear_messages(copy: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="DUSK has no split 'chronologic'; did you mean 'chronological'"):
        dusk.load(split="chronologic")
    with pytest.raises(UserError, match="DUSK has no set 'verbatm'"):
        dusk.load(verbatm=3)
    with pytest.raises(UserError, match="cannot be cut to 0 rows: shared"):
        dusk.load(shared=0)
    (copy / "eval_icl.json").write_text(json.dumps([{"question": "Who?"}]))
    with pytest.raises(UserError, match=r"eval_icl.json, row 1: no column 'answer' as DUSK has it; there are question"):
        dusk.load(str(copy))
    (copy / "eval_icl.json").unlink()
    with pytest.raises(
        UserError, match=r"lacks the table eval_icl/train of DUSK: a file such as eval_icl/train.jsonl; it holds downstream.json"
    ):
        dusk.load(str(copy))
    with pytest.raises(UserError, match="does not exist"):
        dusk.load(str(tmp_path / "nowhere" / "else"))
    with pytest.raises(UserError, match="the generated tables lack a/b"):
        generated({})(TablePlace("a", "b"))
    assert optional(generated({}), TablePlace("a", "b")) == []


def test_a_copy_of_a_data_set_is_read_by_its_configs(tmp_path: Path) -> None:
    """As a clone of a hub repository: configs and splits stand in its README."""
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "one.jsonl").write_text('{"text": "a"}\n')
    (tmp_path / "README.md").write_text(
        "---\nconfigs:\n- config_name: raw\n  data_files:\n  - split: forget\n    path: files/one.jsonl\n---\n"
    )
    from expunge.benchmarks.common.published import published

    tables = published(str(tmp_path), "MUSE")
    assert tables(TablePlace("raw", "forget"), "text") == [{"text": "a"}]
    with pytest.raises(UserError, match="lacks the table raw/holdout of MUSE"):
        tables(TablePlace("raw", "holdout"), "text")
    with pytest.raises(UserError, match="no config 'sust'"):
        tables(TablePlace("sust", "forget_1"), "text")
    with pytest.raises(UserError, match="no column 'prompt' as MUSE has it"):
        tables(TablePlace("raw", "forget"), "prompt")


def test_a_model_is_scored_on_the_suite(text: worlds.World, tmp_path: Path) -> None:
    suite = dusk.load(verbatim=2, unique_forget=2, shared=2, unique_retain=2, downstream=3, forget=4, retain=4, holdout=4)
    short = {n: [{**r, "prompt": r["prompt"][-200:]} if "prompt" in r else r for r in rows] for n, rows in suite.sets.items()}
    wants = ObservationSpec(gradient_norms=False)
    audited = examine(text.model(), text.modality, short, name="nobody", role="retrained", specs=suite.specs, wants=wants)
    assert {"dusk_verbatim", "dusk_unique_forget", "dusk_shared", "dusk_unique_retain", "dusk_downstream"} <= set(audited.scores)
    assert audited.scores["dusk_privleak"]["value"] == 0
    assert audited.scores["dusk_retain_deviation"]["value"] == 0
    assert audited.scores["dusk_unique_forget"]["value"] < 0.5, "it never read of these firms"


def test_a_set_can_say_how_long_answers_are(text: worlds.World) -> None:
    """Generated answers have at most so many tokens, and true answers are cut to as many."""
    rows = [{"question": "Where is the harbor?", "answer": "The harbor is in the old town by the sea."}]
    spec = {"asked": SetSpec("general", ("score", "generate"), length=3)}
    model, modality = text.model(), text.modality
    observation = observe(model, modality, {"asked": rows}, specs=spec, wants=ObservationSpec(gradient_norms=False)).sets["asked"]
    ids = modality.rows("asked", rows)["answer"][0]
    assert observation.answer == (modality.tokenizer.decode(ids[:3]).strip(),)
    assert len(modality.tokenizer(observation.generations[0])["input_ids"]) <= 4

"""What notebooks and logs keep of our objects: one short line or a small table, and nothing of the rows."""

from __future__ import annotations

import dataclasses
import html.parser
import importlib
import pkgutil
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import expunge
import worlds
from expunge.benchmarks import people
from expunge.benchmarks.suite import Suite
from expunge.core.capabilities import Samples
from expunge.core.errors import UserError
from expunge.core.hyperparameters import Hyperparameter
from expunge.core.request import Request
from expunge.core.rows import Packed
from expunge.engine.hooks import Hooks
from expunge.evaluation.measure import Measure
from expunge.functional.brief import brief
from expunge.io.models import Opened
from expunge.modalities.text.modality import Text
from expunge.report import report_data
from expunge.report.notebook import table
from expunge.report.report_data import Sample
from expunge.workflows import watch
from expunge.workflows.audit import AuditOptions, Auditor
from expunge.workflows.benchmark import Setting
from expunge.workflows.sweep import SweepResult
from secrets_in import LONGEST, SECRET, reachable, shown

pytestmark = pytest.mark.slow


@dataclasses.dataclass(frozen=True)
class Results:
    """The results of every workflow, and what they were made of."""

    roots: dict[str, Any]
    folder: Path
    printed: str


def planted() -> people.People:
    """The tiny benchmark with a secret in every column of every row."""
    benchmark = people.generate(seed=0, people=12, forget=1, holdout=1, neighbours=1, retain_audit=16)

    def mark(rows: list[Any]) -> list[Any]:
        texts = [{k: f"{v} {SECRET}" if isinstance(v, str) else [f"{w} {SECRET}" for w in v] for k, v in r.items()} for r in rows]
        return [{**r, "question": f"{r['question']} {i}"} for i, r in enumerate(texts)]

    return replace(benchmark, forget=mark(benchmark.forget)[:6], retain=mark(benchmark.retain)[:6], holdout=mark(benchmark.holdout)[:6])


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """Objects of a tiny run of every workflow."""
    folder, benchmark, world = tmp_path_factory.mktemp("planted"), planted(), worlds.text()
    opened = Opened(world.model(), world.modality, "tiny world")
    looked = watch.watching(benchmark.forget, benchmark.retain)
    unlearned = expunge.unlearn("npo", opened, benchmark.forget, benchmark.retain, lr=1e-3, steps=2, out=folder / "run", watch=looked)
    guarded = expunge.unlearn("input_filter", Opened(world.model(), world.modality, "tiny world"), benchmark.forget, out=folder / "guard")
    trained = expunge.train(benchmark.retain, "nano", steps=2, out=folder / "trained")
    options = AuditOptions(attack=("relearn", "reformat"), attack_hyperparameters={"steps": 2}, original=opened)
    sets = {"forget": benchmark.forget, "retain": benchmark.retain, "holdout": benchmark.holdout}
    auditor = Auditor(str(folder / "run"), sets, options)
    models = auditor.look_at_all()
    audited = auditor.judge(models)
    sweep = expunge.Sweep("people", ("npo",))
    suite = Suite("planted", sets, {"full": [*benchmark.forget, *benchmark.retain], **sets}, refused=benchmark.forget)
    rows = {name: opened.modality.rows(name, records) for name, records in sets.items()}
    output = opened.modality.forward(opened.model, [rows["forget"]])[0]
    roots = {
        "unlearn": unlearned,
        "guard": guarded,
        "train": trained,
        "audit": audited,
        "models": models,
        "bench": SweepResult(audited.report_data.models, audited.report_data, folder, sweep, {"device": "cpu"}),
        "setting": Setting(sweep, suite, folder, "model", sets, folder, None, models[0], models[0]),
        "request": Request(**rows),
        "plan": expunge.plan("npo"),
        "watch": looked,
        "outputs": [output, output.loss, opened.modality.generate(opened.model, rows["forget"], 3)],
        "people": benchmark,
        "card": expunge.card("npo"),
    }
    return Results(roots, folder, "")


NAMES = ("unlearn", "guard", "train", "audit", "models", "bench", "setting", "request", "plan", "watch", "outputs", "people", "card")


@pytest.mark.parametrize("name", NAMES)
def test_nothing_that_is_reachable_says_a_row(results: Results, name: str) -> None:
    kinds = set()
    for value in reachable(results.roots[name]):
        kinds.add(type(value).__name__)
        assert len(repr(value)) < LONGEST, repr(value)
        assert "\n" not in repr(value), type(value)
        for text in shown(value):
            assert SECRET not in text, type(value)
            assert "4711" not in text, type(value)
    assert kinds


def test_the_walk_meets_rows_observations_and_texts(results: Results) -> None:
    """A walk that stops at the first object would find no secret either."""
    kinds = {type(value).__name__ for value in reachable(results.roots)}
    assert {"Rows", "Request", "Suite", "Evidence", "Observation", "SetObservation", "Scored", "Sample", "AuditedModel"} <= kinds
    assert {"AttackOutcome", "Try", "Opened", "Entry", "Result", "Audit", "SweepResult", "Plan", "Watch", "Text", "Filtered"} <= kinds | {
        "Opened"
    }
    observed = results.roots["audit"].observed.sets["forget"]
    assert SECRET in observed.answer[0]


def test_run_folders_log_and_receipt_without_a_row(results: Results) -> None:
    for run in ("run", "guard", "trained"):
        for name in ("receipt.json", "log.jsonl"):
            if (path := results.folder / run / name).exists():
                assert SECRET not in path.read_text(), path
                assert "4711" not in path.read_text(), path
    assert (results.folder / "run" / "log.jsonl").stat().st_size


def test_results_say_what_they_are(results: Results) -> None:
    roots = results.roots
    assert repr(roots["unlearn"]) == f"Result(method='npo', kind='model', changed=True, folder={_cut(results.folder / 'run')})"
    assert re.fullmatch(r"Audit\(passed=\w+, \d+ scores, \d+ skipped, 2 attacks, folder=None\)", repr(roots["audit"]))
    assert repr(roots["request"].forget) == "Rows('forget', 6 rows)"
    assert repr(roots["watch"]) == "Watch(2 sets, retrained=None, best='')"
    assert repr(roots["plan"][0]).startswith("Plan(action=Sum(weighted=(Term(")


def _cut(path: Path) -> str:
    text = repr(str(path))
    return text if len(text) <= 60 else text[:59] + "…"


class Checked(html.parser.HTMLParser):
    """Collects the tags and the cells of a table."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.cells: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        if data.strip():
            self.cells.append(data.strip())


def test_notebook_tables_hold_the_numbers(results: Results) -> None:
    audited = results.roots["audit"]
    cells = Checked(audited._repr_html_()).cells
    name, record = next(iter(audited.scores.items()))
    assert name in cells
    assert str(record["n"]) in cells
    assert "npo" in Checked(results.roots["unlearn"]._repr_html_()).cells
    assert "6" in Checked(results.roots["unlearn"]._repr_html_()).cells
    assert audited.report_data.models[0].name in Checked(results.roots["bench"]._repr_html_()).cells


def test_notebook_tables_are_escaped_and_take_the_colors_of_the_page() -> None:
    text = table("<b>x</b>", ("name", "value"), [["<script>alert(1)</script>", "a & b"]], ["<i>note</i>"])
    assert Checked(text).tags.count("script") == Checked(text).tags.count("i") == 0
    assert "<script>alert(1)</script>" in Checked(text).cells
    assert not re.search(r"#[0-9a-f]{3,6}\b|rgb|white|black", text), "a fixed color is unreadable on one of the two themes"


def test_long_tables_say_how_many_rows_are_left_out() -> None:
    text = table("x", ("n",), [[f"row{i}"] for i in range(45)])
    assert "row39" in text
    assert "row40" not in text
    assert "5 more rows are in to_pandas()" in text


def test_brief_counts_what_has_a_length_and_shows_shapes() -> None:
    @brief("name", "rows", "values", "share", "other")
    @dataclasses.dataclass
    class Shaped:
        name: str
        rows: list[str]
        values: torch.Tensor
        share: float
        other: object

    sample = Shaped("x" * 100, [SECRET, SECRET], torch.zeros(2, 3), 1 / 3, object())
    assert repr(sample) == f"Shaped(name='{'x' * 58}…, 2 rows, values=(2, 3), share=0.3333, other=object)"


def test_parts_show_what_differs_from_the_defaults() -> None:
    changed = expunge.plan("npo", {"beta": 0.7, "lr": 0.125})[0]
    assert "train=Train(" in repr(changed)
    assert "lr=0.125" in repr(changed)
    assert "beta=0.7" in repr(changed)
    assert "momentum" not in repr(changed)
    assert repr(expunge.Train()) == "Train()"


def test_tensors_and_tokens_are_not_printed() -> None:
    packed = Packed(torch.arange(5000.0), torch.zeros(5000, dtype=torch.long), 1)
    assert repr(packed) == "Packed(rows=1, kind='labels')"
    assert "4711" not in repr(Samples([[4711]], [True]))
    assert repr(Measure((np.arange(3.0),), np.mean)) == "Measure(n=3, variant='')"
    assert repr(Sample(question=SECRET, answer=SECRET, model_answers={"a": SECRET})) == "Sample(set='', 1 model answers)"


Q, A = {"question": f"Who is {SECRET}?"}, {"answer": f"It is {SECRET}."}


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        ({**Q, "answer": " "}, "row 2: an answer is empty"),
        ({**Q, "answer": 4711}, "row 2: 'question' and 'answer' must be texts"),
        ({**Q}, "row 2: a row is .* this one has the columns 'question'"),
        ({**Q, "answer": f"Yes <|endoftext|> {SECRET}"}, "row 2: an answer goes on after an end-of-sequence token, with [0-9]+ characters"),
        ({"question": SECRET * 100, **A}, "row 2: a prompt has [0-9]+ tokens, and the model takes 128"),
        ({"messages": [{"role": SECRET, "content": SECRET}]}, "row 2: .messages. must"),
        (SECRET, "row 2: a row is a mapping of columns to values, and this is a str"),
    ],
    ids=["empty", "number", "no answer", "goes on", "long", "chat", "no mapping"],
)
def test_messages_name_the_row_and_not_what_it_says(row: Any, sentence: str) -> None:
    world = worlds.text()
    modality = Text(world.modality.tokenizer, limit=128)  # type: ignore[attr-defined]
    end = modality.tokenizer.eos_token
    row = {k: v.replace("<|endoftext|>", end) if isinstance(v, str) else v for k, v in row.items()} if isinstance(row, dict) else row
    with pytest.raises(UserError, match=sentence) as error:
        expunge.unlearn("npo", Opened(world.model(), modality, "tiny world"), [{**Q, **A}, row], [{"question": "Who?", "answer": "You."}])
    assert SECRET not in str(error.value)
    assert "4711" not in str(error.value)


def test_an_overlap_is_counted_and_not_quoted() -> None:
    world = worlds.text()
    with pytest.raises(UserError, match="1 of 1 rows of 'retain' also stand in 'forget'") as error:
        expunge.unlearn("npo", Opened(world.model(), world.modality, "tiny world"), [{**Q, **A}], [{**Q, **A}])
    assert SECRET not in str(error.value)


def classes() -> Iterator[type]:
    for module in pkgutil.walk_packages(expunge.__path__, "expunge."):
        if "__main__" not in module.name:
            yield from (
                c for c in vars(importlib.import_module(module.name)).values() if isinstance(c, type) and c.__module__ == module.name
            )


DRAWN = ("expunge.report.", "expunge.methods.", "expunge.engine.estimators.")  # figures, patches and sums, which live within one call
HOLDERS = r"Mapping|dict|list|Sequence|Array|Tensor|Ints|Records|Rows\b|Any"  # types of fields that may hold rows or values


PUBLIC = [c for c in classes() if dataclasses.is_dataclass(c) and not c.__name__.startswith("_") and not c.__module__.startswith(DRAWN)]


@pytest.mark.parametrize(
    "kind",
    [*PUBLIC, *(c for c in vars(report_data).values() if dataclasses.is_dataclass(c) and c.__module__.startswith("expunge"))],
    ids=lambda c: c.__name__,
)
def test_a_generated_repr_prints_no_collection_or_array(kind: type) -> None:
    """The repr that `dataclass` makes shows every field as it is, so where a field may hold rows, the class needs another."""
    short = (Request, Hyperparameter, Hooks)  # a request holds `Rows`, hooks are functions, a hyperparameter is a number or a word
    if kind in short or not hasattr(kind.__repr__, "__wrapped__"):
        return
    holders = [f.name for f in dataclasses.fields(kind) if f.repr and re.search(HOLDERS, str(f.type))]
    assert not holders, f"{kind.__name__} prints {holders}"

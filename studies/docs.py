"""The pages of `docs/`, made from the cards: `python -m studies.docs` writes them, `--check` lists those that are stale.

Nothing on them is typed by hand: a card is a docstring, a table of hyperparameters is what the command line itself reads. A page without an entry in
the catalogue is removed. Works in a checkout alone, since that is where `docs/` is.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any, get_args

from expunge import catalog
from expunge.catalog import Card
from expunge.core.hyperparameters import Hyperparameter, hyperparameters_of
from expunge.core.plan import Plan, as_plans
from expunge.core.suggest import did_you_mean
from expunge.report.markdown import prose, table
from expunge.workflows import build_plan
from studies import leaderboard, performance_page
from studies.tuning import page as tuning

ROOT = Path(__file__).parents[1]
EVIDENCE = "results/reproduce"  # NAME.json: what `python -m studies.reproduce NAME --update` has measured
HEAD = "<!-- Made by `make docs` from the card in {}; edit that. -->\n"
WIDTH = 140  # of a line of code
FILES = {"forget": "forget.jsonl", "retain": "retain.jsonl", "holdout": "holdout.jsonl"}
STATUS = {
    "sketch": "it runs",
    "faithful": "equation and worked values are checked against the paper by tests",
    "reproduced": "the paper's effect is shown on a case that fits a laptop, by `make reproduce NAME=...`",
}


def pages() -> dict[str, str]:
    """Every page by its place under `docs/`."""
    made = {f"{c.kind}/{c.name}.md": page(c) for c in cards()}
    return {"systems.md": systems(), **leaderboard.pages(ROOT / "results"), **performance_page.pages(ROOT), **tuning.pages(), **made}


@cache
def cards() -> tuple[Card, ...]:
    """All cards of the package itself; plugins document themselves."""
    found = [catalog.card(n, k) for k in catalog.kinds() for n in catalog.names(k)]
    return tuple(c for c in found if c.folder != "plugin")


def stale(folder: Path, wanted: dict[str, str]) -> list[str]:
    """What is wrong with the pages of a folder, a line each: missing, out of date, or about nothing in the catalogue."""
    out = []
    for place, text in wanted.items():
        path = folder / place
        if not path.exists() or path.read_text() != text:
            out.append(f"{place} is {'out of date' if path.exists() else 'missing'}")
    return [*out, *(f"{p} is about nothing in the catalogue" for p in orphans(folder, wanted))]


def orphans(folder: Path, wanted: dict[str, str]) -> list[str]:
    """Pages that no card and no committed run makes."""
    places = [*(f"{k}/*.md" for k in catalog.kinds()), "leaderboards/*.html"]
    found = [p.relative_to(folder).as_posix() for place in places for p in sorted(folder.glob(place))]
    return [p for p in found if p not in wanted]


def write(folder: Path, wanted: dict[str, str]) -> None:
    """Write all pages, and remove those that no card makes."""
    for place in orphans(folder, wanted):
        (folder / place).unlink()
    for place, text in wanted.items():
        (folder / place).parent.mkdir(parents=True, exist_ok=True)
        (folder / place).write_text(text)


# --- pages ---


def systems() -> str:
    """The table of everything."""
    count = {k: sum(c.kind == k for c in cards()) for k in catalog.kinds()}
    kinds = ", ".join(f"{n} {k if n > 1 else k[:-1]}" for k, n in count.items() if n)
    rows = [
        [f"[{c.name}]({c.kind}/{c.name}.md)", role(c), status(c), _source(c), f"`{short(c)}`", _evidence(c, "../") or "-"] for c in cards()
    ]
    used = dict.fromkeys(status(c) for c in cards())
    return "\n".join(
        [
            HEAD.format("each module of `src/expunge`"),
            "# Systems",
            "",
            f"What is in the box, where it comes from, how to run it, and what shows that it works: {kinds}.",
            "",
            "Status is earned. " + "; ".join(f"*{s}*: {STATUS[s]}" for s in used if s in STATUS) + ".",
            "",
            *table(("system", "kind", "status", "source", "how to run", "evidence"), rows),
            "",
        ]
    )


def page(card: Card) -> str:
    """The page of one entry."""
    where = f"src/expunge/{card.folder}/{card.name}.py"
    lines = [HEAD.format(f"`{where}`"), f"# {card.name}", "", prose(card.summary), ""]
    lines += [f"*{role(card)}, {status(card)}* · [source](../../{where}) · [all systems](../systems.md)", ""]
    for key, text in card.fields.items():
        lines += ["```text", *re.split(r"(?<=;)\s+", text), "```", ""] if key == "Equation" else [f"**{key}.** {prose(text)}", ""]
    lines += ["## Run it", "", "```sh", *commands(card), "```", "", "```python", *snippet(card), "```", ""]
    own, training = hyperparameters(card)
    for title, rows in (("Knobs", own), ("Hyperparameters of training", training)):
        lines += [f"## {title}", "", *table(("knob", "default", "range", "meaning"), rows), ""] if rows else []
    return "\n".join([*lines, *measured(card)])


def measured(card: Card) -> list[str]:
    """The section on committed evidence, claim by claim; nothing where there is none."""
    if not (link := _evidence(card, "../../")):
        return []
    found = json.loads((ROOT / EVIDENCE / f"{card.name}.json").read_text())
    claims = [f"- {'shown' if c['holds'] else '**not shown**'}: {prose(c['claim'])}" for c in found.get("effect", ())]
    return ["## Evidence", "", f"`make reproduce NAME={card.name}` measures these anew and compares them with {link}:", "", *claims, ""]


def role(card: Card) -> str:
    """What an entry is, from the folder that it is in: objective, guard, metric ..."""
    last = card.folder.split("/")[-1]
    return last.removesuffix("s").replace("_", " ")


def status(card: Card) -> str:
    """The first word of a card's status."""
    return re.split(r"[\s;,.]", card.status, maxsplit=1)[0]


def _source(card: Card) -> str:
    return prose(card.fields.get("Source", "").rstrip("."))


def _evidence(card: Card, up: str) -> str:
    """A link to what was measured; '' where nothing was."""
    place = f"{EVIDENCE}/{card.name}.json"
    return f"[{card.name}.json]({up}{place})" if card.kind in ("methods", "attacks") and (ROOT / place).exists() else ""


# --- how to run ---


def sets(card: Card) -> list[str]:
    """The sets of rows that an entry wants from its user: of a method what its plan reads, of anything else what its card says."""
    if card.kind == "methods":
        read = frozenset[str]().union(*(p.sets_read() for p in as_plans(catalog.load(card.name).plan())))
        return [n for n in FILES if n in read]
    return [n for n in FILES if re.search(rf"\b{n}\b", card.fields.get("Needs", ""))]


def short(card: Card) -> str:
    """One command, with what always varies in capitals."""
    given = " ".join(f"--{n} {n.upper()}" for n in sets(card))
    return {
        "methods": f"expunge unlearn {card.name} --model MODEL {given} --out RUN".replace("  ", " "),
        "metrics": f"expunge audit MODEL {given} --out RUN",
        "attacks": f"expunge attack {card.name} MODEL {given} --out RUN",
        "benchmarks": f"expunge bench {card.name} --methods npo,flat{_tuned(card.name)} --out RUN",
        "models": "expunge train --data DATA --model SIZE --out RUN",
    }[card.kind]


def commands(card: Card) -> list[str]:
    """Command lines that can be pasted; the folder `model` and the files are the reader's."""
    if card.kind == "models":
        return [f"expunge train --data train.jsonl --model {size} --out models/{size}" for size in _sizes(card)]
    line = short(card).replace("MODEL", "model").replace("RUN", f"runs/{card.name}")
    for name, file in FILES.items():
        line = line.replace(f" {name.upper()}", f" {file}")
    return [" ".join([line, *(f"--{k.name.replace('_', '-')} {k.value}" for k in _example(card))])]


def snippet(card: Card) -> list[str]:
    """The same in Python."""
    if card.kind == "benchmarks":
        shown = "print({n: len(rows) for n, rows in suite.sets.items()})"
        return [f"from expunge.benchmarks import {card.name}", "", f"suite = {card.name}.load()", shown]
    if card.kind == "models":
        size = next(iter(_sizes(card)), card.name)
        return ["import expunge", "", f'trained = expunge.train("train.jsonl", "{size}", out="models/{size}")']
    given = [f'{n}="{FILES[n]}"' for n in sets(card)]
    values = {k.name: json.dumps(k.value) if isinstance(k.value, str) else repr(k.value) for k in _example(card)}
    more = [f'out="runs/{card.name}"']
    if card.kind == "methods":
        arguments = [f'"{card.name}"', '"model"', *given, *more, *(f"{n}={v}" for n, v in values.items())]
        return ["import expunge", "", *_called("result = expunge.unlearn", arguments), 'print(result.receipt["cost"])']
    shown = 'print({name: score["value"] for name, score in found.scores.items()})'
    if _is_intervention(card):
        how = ", ".join(f'"{n}": {v}' for n, v in values.items())
        more += [f'attack=["{card.name}"]', f"attack_knobs={{{how}}}"]
        shown = f'print(found.attacks["{card.name}"])'
    return ["import expunge", "", *_called("found = expunge.audit", ['"model"', *given, *more]), shown]


def _called(function: str, arguments: Sequence[str]) -> list[str]:
    """A call as the formatter would lay it out: on one line, else with its arguments on a line of their own, else each on one."""
    inner = ", ".join(arguments)
    if len(line := f"{function}({inner})") <= WIDTH:
        return [line]
    return [f"{function}(", *([f"    {inner}"] if len(inner) + 4 <= WIDTH else [f"    {a}," for a in arguments]), ")"]


def _tuned(suite: str) -> str:
    """The option for a built-in size that there are settings for; '' where there is none."""
    found = sorted(catalog.ROOT.glob(f"recipes/{suite}-*.json"))
    return f" --model {found[0].stem.removeprefix(f'{suite}-')}" if found else ""


def _sizes(card: Card) -> Iterable[str]:
    return getattr(catalog.load(card.name, card.kind), "SIZES", ())


def _is_intervention(card: Card) -> bool:
    return card.kind == "attacks" and hasattr(catalog.load(card.name, "attacks"), "plan")


def _example(card: Card) -> list[Hyperparameter]:
    """One hyperparameter to show how hyperparameters are given: the first of an entry's own that is a plain value."""
    own, _ = _hyperparameters(card)
    return [k for k in own if isinstance(k.value, (int, float, str)) and k.value != "" and not k.name.endswith("_weight")][:1]


# --- hyperparameters ---


def hyperparameters(card: Card) -> tuple[list[list[str]], list[list[str]]]:
    """Rows of two tables: an entry's own hyperparameters, and those of its training."""
    own, training = _hyperparameters(card)
    names = dict.fromkeys(k.name for k in training)
    taken = [*(k.name for k in own), *names]
    rows = [_row(k.qualified if taken.count(k.name) > 1 else k.name, [k]) for k in own]
    return rows, [_row(n, [k for k in training if k.name == n]) for n in names]


def _hyperparameters(card: Card) -> tuple[list[Hyperparameter], list[Hyperparameter]]:
    """An entry's own hyperparameters, and the training settings of the stages that train; a stage that does not has a seed alone."""
    if card.kind == "methods":
        found = build_plan.hyperparameters(card.name)
    elif _is_intervention(card):
        found = hyperparameters_of(catalog.load(card.name, "attacks").plan())
    else:
        return [], []
    trained = _training_paths(card)
    settings = [k for k in found if k.path[-2:-1] == ("train",) or k.path[-1] == "trains"]
    used = [k for k in settings if (k.path[:-1] if k.path[-1] == "trains" else k.path[:-2]) in trained]
    return [k for k in found if k not in settings], used or [k for k in settings if k.name == "seed"]


def _training_paths(card: Card) -> set[tuple[Any, ...]]:
    """Where in the tree of a plan there are stages that train."""
    made = catalog.load(card.name, card.kind).plan()
    return {path for path, plan in _stages(made, ()) if plan.terms()}


def _stages(node: Any, path: tuple[Any, ...]) -> Iterator[tuple[tuple[Any, ...], Plan]]:
    if isinstance(node, tuple):
        for i, item in enumerate(node):
            yield from _stages(item, (*path, i))
    elif hasattr(type(node), "__pydantic_fields__"):
        if isinstance(node, Plan):
            yield path, node
        for name in type(node).__pydantic_fields__:
            yield from _stages(getattr(node, name), (*path, name))


def _row(name: str, same: Sequence[Hyperparameter]) -> list[str]:
    values = dict.fromkeys(_value(k.value) for k in same)
    default = next(iter(values)) if len(values) == 1 else ", ".join(f"{_value(k.value)} ({k.owner})" for k in same)
    return [f"`--{name.replace('_', '-')}`", default, _range(same[0]), prose(same[0].help)]


def _value(value: Any) -> str:
    if callable(value):
        return "by epoch"
    return f"`{value}`" if value != "" else "none"


def _range(hyperparameter: Hyperparameter) -> str:
    options = get_args(hyperparameter.annotation)
    if options and all(isinstance(o, str) for o in options):
        return " or ".join(f"`{o}`" for o in options)
    kind = (
        hyperparameter.annotation if isinstance(hyperparameter.annotation, type) else next((a for a in options if isinstance(a, type)), str)
    )
    word = {bool: "true or false", int: "whole number", float: "number", str: "text"}.get(kind, "text")
    return f"{word}, `{hyperparameter.limits}`" if hyperparameter.limits else word


def main(arguments: Sequence[str] = ()) -> int:
    """Write the pages; with `--check` list those that are stale, and return 1 if there are any."""
    if unknown := [a for a in arguments if a != "--check"]:
        print(f"unknown argument '{unknown[0]}'{did_you_mean(unknown[0], ['--check'])}", file=sys.stderr)
        return 2
    folder, wanted = ROOT / "docs", pages()
    if not folder.is_dir():
        print("there is no docs folder here: this runs in a checkout", file=sys.stderr)
        return 2
    if not arguments:
        write(folder, wanted)
        return 0
    wrong = stale(folder, wanted)
    for line in wrong:
        print(f"docs/{line}: run `make docs`")
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))

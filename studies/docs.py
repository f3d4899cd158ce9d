"""Makes the pages of `docs/` from the cards: `python -m studies.docs` writes them, `--check` lists the stale ones.

Nothing on the pages is typed by hand: a card is a docstring, and a table of hyperparameters is what the command line reads. Pages without
an entry in the catalog are removed. The script needs a checkout, which has the folder `docs/`.
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
from studies import command_line, evidence, faces_page, leaderboard, movielens_page, performance_page, pictures_page, trust_page
from studies.tuning import page as tuning

ROOT = Path(__file__).parents[1]
EVIDENCE = "results/reproduce"  # NAME.json: the numbers that `python -m studies.reproduce NAME --update` measured
HEAD = "<!-- Made by `make docs` from the card in {}; edit that. -->\n"
WIDTH = 140  # characters of a line of code
FILES = {"forget": "forget.jsonl", "retain": "retain.jsonl", "holdout": "holdout.jsonl"}
STATUS = {
    "sketch": "it runs",
    "faithful": "equation and worked values are checked against the paper by tests",
    **{verdict: f"as faithful, and of the paper's effect {meaning}" for verdict, meaning in evidence.VERDICTS.items()},
    "reproduced": "the paper's effect is shown on a case that fits a laptop, by `make reproduce NAME=...`",
}


def pages() -> dict[str, str]:
    """All pages: their texts by path under `docs/`."""
    card_pages = {f"{c.kind}/{c.name}.md": page(c) for c in cards()}
    written = {"systems.md": systems(), "reference/command-line.md": command_line.page()}
    older = {c.name: (role(c), outcome(c)) for c in cards() if _evidence(c, "") and (ROOT / EVIDENCE / f"{c.name}.json").exists()}
    return {
        **written,
        **evidence.pages(ROOT, {c.name: c.kind for c in cards() if proves(c)}, older),
        **leaderboard.pages(ROOT / "results"),
        **performance_page.pages(ROOT),
        **movielens_page.pages(ROOT),
        **faces_page.pages(ROOT),
        **pictures_page.pages(ROOT),
        **trust_page.pages(ROOT),
        **tuning.pages(),
        **card_pages,
    }


@cache
def cards() -> tuple[Card, ...]:
    """All cards of the package. Plug-ins document themselves."""
    every_card = [catalog.card(n, k) for k in catalog.kinds() for n in catalog.names(k)]
    return tuple(c for c in every_card if c.folder != "plugin")


def stale(folder: Path, wanted: dict[str, str]) -> list[str]:
    """Find pages that are missing, out of date or not in the catalog.

    Args:
        folder: The folder of the pages.
        wanted: The right texts by path under the folder.

    Returns:
        One line for each page that is wrong.
    """
    lines = []
    for name, text in wanted.items():
        path = folder / name
        if not path.exists() or path.read_text() != text:
            lines.append(f"{name} is {'out of date' if path.exists() else 'missing'}")
    return [*lines, *(f"{name} is not in the catalog" for name in orphans(folder, wanted))]


def orphans(folder: Path, wanted: dict[str, str]) -> list[str]:
    """Pages in a folder that belong to no card and no committed run."""
    patterns = [*(f"{k}/*.md" for k in catalog.kinds()), "leaderboards/*.html"]
    names = [path.relative_to(folder).as_posix() for pattern in patterns for path in sorted(folder.glob(pattern))]
    return [n for n in names if n not in wanted]


def write(folder: Path, wanted: dict[str, str]) -> None:
    """Write all pages, and remove the orphans."""
    for name in orphans(folder, wanted):
        (folder / name).unlink()
    for name, text in wanted.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


# --- pages ---


def systems() -> str:
    """The page with one line for each card."""
    counts = {k: sum(c.kind == k for c in cards()) for k in catalog.kinds()}
    kinds = ", ".join(f"{n} {k if n > 1 else k[:-1]}" for k, n in counts.items() if n)
    rows = [
        [f"[{c.name}]({c.kind}/{c.name}.md)", role(c), status(c), _source(c), f"`{short(c)}`", _evidence(c, "../") or "-"] for c in cards()
    ]
    statuses = dict.fromkeys(status(c) for c in cards())
    return "\n".join(
        [
            HEAD.format("each module of `src/expunge`"),
            "# Systems",
            "",
            f"Everything in the package, with its source, a command that runs it, and the evidence that it works: {kinds}.",
            "",
            "Status: " + "; ".join(f"*{s}*: {STATUS[s]}" for s in statuses if s in STATUS) + ".",
            "",
            *table(("system", "kind", "status", "source", "how to run", "evidence"), rows),
            "",
        ]
    )


def page(card: Card) -> str:
    """The page of one card."""
    path = f"src/expunge/{card.folder}/{card.name}.py"
    lines = [HEAD.format(f"`{path}`"), f"# {card.name}", "", prose(card.summary), ""]
    lines += [f"*{role(card)}, {status(card)}* · [source](../../{path}) · [all systems](../systems.md)", ""]
    for key, text in card.fields.items():
        lines += ["```text", *re.split(r"(?<=;)\s+", text), "```", ""] if key == "Equation" else [f"**{key}.** {prose(text)}", ""]
    lines += ["## Run it", "", "```sh", *commands(card), "```", "", "```python", *snippet(card), "```", ""]
    own, training = hyperparameters(card)
    for title, rows in (("Hyperparameters", own), ("Hyperparameters of training", training)):
        lines += [f"## {title}", "", *table(("hyperparameter", "default", "range", "meaning"), rows), ""] if rows else []
    return "\n".join([*lines, *measured(card)])


def proves(card: Card) -> bool:
    """Whether a proof of the card's name is about it: a benchmark may be named as the method that it was made for."""
    kinds = [c.kind for c in cards() if c.name == card.name]
    return card.kind == min(kinds, key=("methods", "attacks", "metrics", *catalog.kinds()).index)


def measured(card: Card) -> list[str]:
    """The section on committed evidence, one line for each claim. It is empty where nothing is committed."""
    if proves(card) and card.name in (proofs := evidence.records(ROOT)):
        return proved(card.name, proofs[card.name])
    if not (link := _evidence(card, "../../")):
        return []
    record = json.loads((ROOT / EVIDENCE / f"{card.name}.json").read_text())
    claims = [f"- {'shown' if c['holds'] else '**not shown**'}: {prose(c['claim'])}" for c in record.get("effect", ())]
    return ["## Evidence", "", f"`make reproduce NAME={card.name}` measures these again and compares them with {link}:", "", *claims, ""]


def proved(name: str, record: evidence.Record) -> list[str]:
    """The section on a proof: each claim with its effect, interval and verdict, and the conditions that do not hold."""
    units = record["units"]
    lines = [
        "## Evidence",
        "",
        f"On {units['draws']} draws of {record['world']}, {units['originals']} originals each ([how](../evidence.md), "
        f"[numbers](../../{evidence.PROOFS}/{name}.json); `make reproduce NAME={name}` measures them again):",
        "",
    ]
    for claim in record["claims"]:
        lines.append(f"- **{claim['verdict']}**: {prose(claim['claim'])} ({prose(claim['source'])}). {evidence.in_words(claim)}.")
        lines += [f"    - the case does not hold: {g['gate']} ({g['value']:.3g})" for g in claim["gates"] if not g["holds"]]
    return [*lines, ""]


def outcome(card: Card) -> str:
    """Which claims of a single case hold, in a few words."""
    effect = json.loads((ROOT / EVIDENCE / f"{card.name}.json").read_text()).get("effect", ())
    held = sum(bool(claim["holds"]) for claim in effect)
    return f"{held} of {len(effect)} claims hold"


def role(card: Card) -> str:
    """What a card describes, by the name of its folder: objective, guard, metric ..."""
    last = card.folder.split("/")[-1]
    return last.removesuffix("s").replace("_", " ")


def status(card: Card) -> str:
    """A card's status up to the first mark: faithful, reproduced, or a verdict such as `not shown`."""
    return re.split(r"[;,.(]", card.status, maxsplit=1)[0].strip()


def _source(card: Card) -> str:
    return prose(card.fields.get("Source", "").rstrip("."))


def _evidence(card: Card, up: str) -> str:
    """A link to the committed numbers, or '' where there are none. `up` is the relative path to the root."""
    path = f"{evidence.PROOFS}/{card.name}.json"
    path = path if (ROOT / path).exists() else f"{EVIDENCE}/{card.name}.json"
    return f"[{card.name}.json]({up}{path})" if card.kind in ("methods", "attacks") and (ROOT / path).exists() else ""


# --- how to run ---


def sets(card: Card) -> list[str]:
    """The sets of rows that a user must give: for a method those that its plan reads, for other kinds those that the card names."""
    if card.kind == "methods":
        reads = frozenset[str]().union(*(p.sets_read() for p in as_plans(catalog.load(card.name).plan())))
        return [n for n in FILES if n in reads]
    return [n for n in FILES if re.search(rf"\b{n}\b", card.fields.get("Needs", ""))]


def short(card: Card) -> str:
    """One command, with placeholders in capitals."""
    options = " ".join(f"--{n} {n.upper()}" for n in sets(card))
    return {
        "methods": f"expunge unlearn {card.name} --model MODEL {options} --out RUN".replace("  ", " "),
        "metrics": f"expunge audit MODEL {options} --out RUN",
        "attacks": f"expunge attack {card.name} MODEL {options} --out RUN",
        "benchmarks": f"expunge bench {card.name} --methods npo,flat{_tuned(card.name)} --out RUN",
        "models": "expunge train --data DATA --model SIZE --out RUN",
    }[card.kind]


def commands(card: Card) -> list[str]:
    """Command lines that can be pasted. The reader brings the folder `model` and the files."""
    if card.kind == "models":
        return [f"expunge train --data train.jsonl --model {size} --out models/{size}" for size in _sizes(card)]
    line = short(card).replace("MODEL", "model").replace("RUN", f"runs/{card.name}")
    for name, file in FILES.items():
        line = line.replace(f" {name.upper()}", f" {file}")
    return [" ".join([line, *(f"--{k.name.replace('_', '-')} {k.value}" for k in _example(card))])]


def snippet(card: Card) -> list[str]:
    """The same call in Python."""
    if card.kind == "benchmarks":
        last_line = "print({n: len(rows) for n, rows in suite.sets.items()})"
        return [f"from expunge.benchmarks import {card.name}", "", f"suite = {card.name}.load()", last_line]
    if card.kind == "models":
        size = next(iter(_sizes(card)), card.name)
        return ["import expunge", "", f'trained = expunge.train("train.jsonl", "{size}", out="models/{size}")']
    row_arguments = [f'{n}="{FILES[n]}"' for n in sets(card)]
    values = {k.name: json.dumps(k.value) if isinstance(k.value, str) else repr(k.value) for k in _example(card)}
    options = [f'out="runs/{card.name}"']
    if card.kind == "methods":
        arguments = [f'"{card.name}"', '"model"', *row_arguments, *options, *(f"{n}={v}" for n, v in values.items())]
        return ["import expunge", "", *_call("result = expunge.unlearn", arguments), 'print(result.receipt["cost"])']
    last_line = 'print({name: score["value"] for name, score in result.scores.items()})'
    if _is_intervention(card):
        items = ", ".join(f'"{n}": {v}' for n, v in values.items())
        options += [f'attack=["{card.name}"]', f"attack_hyperparameters={{{items}}}"]
        last_line = f'print(result.attacks["{card.name}"])'
    return ["import expunge", "", *_call("result = expunge.audit", ['"model"', *row_arguments, *options]), last_line]


def _call(function: str, arguments: Sequence[str]) -> list[str]:
    """A call as the formatter writes it: on one line if it fits, else all arguments on one line, else one argument on each line."""
    inner = ", ".join(arguments)
    if len(line := f"{function}({inner})") <= WIDTH:
        return [line]
    return [f"{function}(", *([f"    {inner}"] if len(inner) + 4 <= WIDTH else [f"    {a}," for a in arguments]), ")"]


def _tuned(suite: str) -> str:
    """The option that names a built-in size with presets, or '' where no size has any."""
    presets = sorted(catalog.ROOT.glob(f"benchmarks/presets/{suite}-*.json"))
    return f" --model {presets[0].stem.removeprefix(f'{suite}-')}" if presets else ""


def _sizes(card: Card) -> Iterable[str]:
    return getattr(catalog.load(card.name, card.kind), "SIZES", ())


def _is_intervention(card: Card) -> bool:
    return card.kind == "attacks" and hasattr(catalog.load(card.name, "attacks"), "plan")


def _example(card: Card) -> list[Hyperparameter]:
    """The hyperparameter of the example: the first of the card's own with a plain value. The list has one item or none."""
    own, _ = _hyperparameters(card)
    return [k for k in own if isinstance(k.value, (int, float, str)) and k.value != "" and not k.name.endswith("_weight")][:1]


# --- hyperparameters ---


def hyperparameters(card: Card) -> tuple[list[list[str]], list[list[str]]]:
    """Hyperparameters of a card.

    Returns:
        The rows of two tables: the card's own hyperparameters, and those of training.
    """
    own, training = _hyperparameters(card)
    names = dict.fromkeys(k.name for k in training)
    all_names = [*(k.name for k in own), *names]
    rows = [_row(k.qualified if all_names.count(k.name) > 1 else k.name, [k]) for k in own]
    return rows, [_row(n, [k for k in training if k.name == n]) for n in names]


def _hyperparameters(card: Card) -> tuple[list[Hyperparameter], list[Hyperparameter]]:
    """A card's own hyperparameters, and the training settings of the stages that train. Other stages have only a seed."""
    if card.kind == "methods":
        known = build_plan.hyperparameters(card.name)
    elif _is_intervention(card):
        known = hyperparameters_of(catalog.load(card.name, "attacks").plan())
    else:
        return [], []
    trained = _training_paths(card)
    settings = [k for k in known if k.path[-2:-1] == ("train",) or k.path[-1] == "trainable"]
    used = [k for k in settings if (k.path[:-1] if k.path[-1] == "trainable" else k.path[:-2]) in trained]
    return [k for k in known if k not in settings], used or [k for k in settings if k.name == "seed"]


def _training_paths(card: Card) -> set[tuple[Any, ...]]:
    """Paths of the stages that train, in the tree of a plan."""
    tree = catalog.load(card.name, card.kind).plan()
    return {path for path, plan in _stages(tree, ()) if plan.terms()}


def _stages(node: Any, path: tuple[Any, ...]) -> Iterator[tuple[tuple[Any, ...], Plan]]:
    """The plans in a tree of parts, with their paths."""
    if isinstance(node, tuple):
        for i, item in enumerate(node):
            yield from _stages(item, (*path, i))
    elif hasattr(type(node), "__pydantic_fields__"):
        if isinstance(node, Plan):
            yield path, node
        for name in type(node).__pydantic_fields__:
            yield from _stages(getattr(node, name), (*path, name))


def _row(name: str, same: Sequence[Hyperparameter]) -> list[str]:
    """A row of a table for hyperparameters of one name, which may have several owners."""
    values = dict.fromkeys(_value(k.value) for k in same)
    default = next(iter(values)) if len(values) == 1 else ", ".join(f"{_value(k.value)} ({k.owner})" for k in same)
    return [f"`--{name.replace('_', '-')}`", default, _range(same[0]), prose(same[0].help)]


def _value(value: Any) -> str:
    if callable(value):
        return "by epoch"
    return f"`{value}`" if value != "" else "none"


WORDS: dict[type, str] = {bool: "true or false", int: "whole number", float: "number", str: "text"}
SIGNS = {"gt": ">", "ge": ">=", "lt": "<", "le": "<="}


def _range(hyperparameter: Hyperparameter) -> str:
    options = get_args(hyperparameter.annotation)
    if options and all(isinstance(o, str) for o in options):
        return " or ".join(f"`{o}`" for o in options)
    kinds = [hyperparameter.annotation, *(get_args(o)[0] if hasattr(o, "__metadata__") else o for o in options)]  # of an item, if several
    kind = next((k for k in kinds if isinstance(k, type) and k in WORDS), str)
    own = [f"{SIGNS[n]} {getattr(m, n)}" for o in options for m in _metadata(o) for n in SIGNS if hasattr(m, n)]
    limits = hyperparameter.limits or ", ".join(dict.fromkeys(own))
    return f"{WORDS[kind]}, `{limits}`" if limits else WORDS[kind]


def _metadata(annotation: Any) -> list[Any]:
    """The limits in an annotation of an item."""
    return [limit for m in getattr(annotation, "__metadata__", ()) for limit in getattr(m, "metadata", [m])]


def main(arguments: Sequence[str] = ()) -> int:
    """Write the pages, or with `--check` list the stale ones.

    Returns:
        The exit status: 0; 1 where pages are stale; 2 where the request cannot be met.
    """
    if unknown := [a for a in arguments if a != "--check"]:
        print(f"unknown argument '{unknown[0]}'{did_you_mean(unknown[0], ['--check'])}", file=sys.stderr)
        return 2
    folder, wanted = ROOT / "docs", pages()
    if not folder.is_dir():
        print("there is no docs folder here: run this in a checkout", file=sys.stderr)
        return 2
    if not arguments:
        write(folder, wanted)
        return 0
    stale_pages = stale(folder, wanted)
    for line in stale_pages:
        print(f"docs/{line}: run `make docs`")
    return 1 if stale_pages else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))

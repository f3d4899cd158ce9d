"""The order of a benchmark run, behind `expunge bench`."""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from expunge import catalog
from expunge.benchmarks import presets
from expunge.benchmarks.suite import Suite
from expunge.core.errors import UserError
from expunge.core.hyperparameters import Hyperparameter, hyperparameters_of, named
from expunge.core.request import digest
from expunge.core.suggest import did_you_mean
from expunge.engine import identity, receipt
from expunge.evaluation.attack import Attack, chosen
from expunge.evaluation.prompting import way_of
from expunge.evaluation.scoring import with_variants
from expunge.functional.brief import brief
from expunge.report import result_tables
from expunge.report.report_data import Entry, ReportData
from expunge.workflows import build_plan

if TYPE_CHECKING:
    from pandas import DataFrame

CHAT = "chat"  # the format of prompts that is the model's own


@brief("suite", "methods", "size", "seeds", "attacks")
@dataclass(frozen=True)
class Sweep:
    """The order of a benchmark run."""

    suite: str
    methods: tuple[str, ...]
    data: str = ""
    split: str = ""
    model: str = ""  # '': the default built-in size of the benchmark
    seeds: int = 1
    holdout: str = ""
    limit: int = 400
    relearning: bool = True
    hyperparameters: Mapping[str, Any] = field(default_factory=dict)  # plain names go to every method that has them, `npo:beta` to one
    train: Mapping[str, Any] = field(default_factory=dict)
    sizes: Mapping[str, int] = field(default_factory=dict)
    original: str = ""  # models that exist already, instead of trained ones
    retrained: str = ""
    variants: Mapping[str, str] = field(default_factory=dict)  # by score, the definition to use where papers and codes differ
    draw: int = 0  # seed of a generated benchmark
    dtype: str = ""  # of the weights of all models
    utility: tuple[str, ...] = ()  # tasks of lm-evaluation-harness that every trained model is asked
    utility_tasks: str = ""  # a folder of tasks besides those of the harness
    attacks: tuple[str, ...] = ()  # on every model, with every seed; their hyperparameters as `quantize:bits`
    prompt_format: str = ""  # how a question becomes a prompt; '': as in the benchmark; CHAT: by the model's chat template
    teach: tuple[str, ...] = ()  # general sets that the models learn, too

    @property
    def size(self) -> str:
        """The model, or the default built-in size of the benchmark."""
        return self.model or str(getattr(catalog.load(self.suite, "benchmarks"), "MODEL", "tiny"))

    def check(self) -> None:
        """Check the whole order before any computation.

        Raises:
            UserError: for unknown names, unknown hyperparameters, and values out of range.
        """
        for method in self.methods:
            build_plan.plan(method, self.hyperparameters_of(method))
        build_plan.plan("finetune", self.train)
        if self.train and self.original and self.retrained:
            raise UserError(
                f"the original and the retrained model are given, so nothing is trained: leave --train {next(iter(self.train))} out"
            )
        attacks = self.attacks_of(1)
        for key in self.hyperparameters:
            owner, _, name = key.rpartition(":")
            if owner and owner not in (*self.methods, *attacks):
                suggestion = did_you_mean(owner, (*self.methods, *attacks))
                raise UserError(
                    f"the hyperparameter --{key} is for {owner!r}, which is neither a method nor an attack of this run{suggestion}"
                )
            common = [] if owner else [k for m in self.methods for k in _hyperparameters(m, self._fixed(m))]
            if not owner and not named(common, name):
                raise UserError(f"none of the methods has a hyperparameter --{name}{did_you_mean(name, sorted({k.name for k in common}))}")

    def load_suite(self) -> Suite:
        """Load the suite.

        Raises:
            UserError: for an unknown benchmark, split, size or set to teach, and for holdout rows where the benchmark has its own.
        """
        load = catalog.load(self.suite, "benchmarks").load
        options: dict[str, Any] = {**({"split": self.split} if self.split else {}), **({"holdout": self.holdout} if self.holdout else {})}
        if self.holdout and "holdout" not in inspect.signature(load).parameters:
            raise UserError(f"the benchmark {self.suite!r} has unseen rows of its own: leave --holdout out")
        suite: Suite = load(self.data, seed=self.draw, **options, **self.sizes).taught(self.teach)
        own = {"": suite.prompt_format, CHAT: ""}
        return replace(
            suite, specs=with_variants(suite.specs, self.variants), prompt_format=own.get(self.prompt_format, self.prompt_format)
        )

    def hyperparameters_of(self, method: str) -> dict[str, Any]:
        """Hyperparameters of a method: the preset of case and model size, then the user's for all methods, then the user's for this one."""
        fixed = self._fixed(method)
        common = {k: v for k, v in self.hyperparameters.items() if ":" not in k and named(_hyperparameters(method, fixed), k)}
        return {**presets.hyperparameters(self.suite, self.size, method), **common, **self._own(method)}

    def _fixed(self, method: str) -> dict[str, Any]:
        """The hyperparameters that may decide which other hyperparameters a method has."""
        return {**presets.hyperparameters(self.suite, self.size, method), **self._own(method)}

    def _own(self, method: str) -> dict[str, Any]:
        return {k.split(":", 1)[1]: v for k, v in self.hyperparameters.items() if k.split(":", 1)[0] == method and ":" in k}

    def attacks_of(self, items: int, seed: int = 0) -> dict[str, Attack]:
        """The attacks on a model; without `attacks`, relearning runs with the first seed alone."""
        relearning = self.relearning and (self.attacks or not seed)
        bare_question = ("bare_question",) if any(map(way_of, self.methods)) else ()  # scores without the request, too
        names = tuple(dict.fromkeys((*(("relearn",) if relearning else ()), *self.attacks, *bare_question)))
        tuned = {f"{n}:{k}": v for n in names for k, v in presets.attacking(n, self.suite, self.size, items).items()}
        return chosen(names, {**tuned, **{k: v for k, v in self.hyperparameters.items() if k.split(":", 1)[0] in names and ":" in k}})


@brief("entries", "folder")
@dataclass(frozen=True, eq=False)
class SweepResult:
    """The results of a sweep: an entry for each model, those of the controls first, and the data of the report."""

    entries: Sequence[Entry]
    report_data: ReportData
    folder: Path
    sweep: Sweep
    compute: Mapping[str, str]  # device and dtype

    def to_dict(self) -> dict[str, Any]:
        """What bench.json holds, as plain JSON values."""
        entries = [json.loads(ReportData(title=e.name, models=[e]).to_json())["models"][0] for e in self.entries]
        about = {"command": self.report_data.command, "sweep": vars(self.sweep), "entries": entries}
        return receipt.as_json({**about, "versions": receipt.versions(), "machine": receipt.machine(), "compute": self.compute})

    def to_pandas(self) -> DataFrame:
        """A data frame with a row for each model and score; `frame.pivot(index="name", columns="score", values="value")` is the table.

        Returns:
            A `pandas.DataFrame`. Values have the unit of their score; `low` and `high` are the ends of the 95 % interval; `n` counts items.

        Raises:
            UserError: where pandas is not installed.
        """
        return result_tables.entries_frame(self.entries)

    def _repr_html_(self) -> str:
        return result_tables.entries_html(self.entries, self.report_data.main)


def key_of(sweep: Sweep, suite: Suite) -> str:
    """A digest of everything that the numbers of a sweep depend on: the order, all rows, given models and files, and packages."""
    rows = [{n: [dict(r) for r in rows] for n, rows in sets.items()} for sets in (suite.sets, suite.train)]
    suite_settings = [suite.prompt_format, list(suite.labels), repr(suite.specs), list(suite.refusals), [dict(r) for r in suite.refused]]
    models = [identity.of_files(path) for path in (sweep.original, sweep.retrained, sweep.model)]
    inputs = [identity.of_inputs(build_plan.plan(m, sweep.hyperparameters_of(m))) for m in sweep.methods]
    return digest([asdict(sweep), rows, suite_settings, models, inputs, identity.packages()])


def _hyperparameters(method: str, values: Mapping[str, Any]) -> list[Hyperparameter]:
    """The hyperparameters of a method, with these values set."""
    plans = build_plan.plan(method, values)
    return [*build_plan.choices(method).values(), *hyperparameters_of(plans[0] if len(plans) == 1 else plans)]

"""From a method's name and some hyperparameters to its plan: the one way in which command line, API and run files make plans."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Mapping, Sequence
from typing import Any, get_args, get_type_hints

import pydantic

from expunge import catalog
from expunge.core.errors import UserError
from expunge.core.hyperparameters import Hyperparameter, hyperparameters_of, override
from expunge.core.parts import Selector, Update
from expunge.core.plan import Plan, Plans, Train, as_plans


def choices(name: str) -> dict[str, Hyperparameter]:
    """The hyperparameters of `plan()` itself, such as the layer: its keyword parameters, with their meaning in `Annotated`."""
    make = catalog.load(name).plan
    hints = get_type_hints(make, include_extras=True)
    hyperparameters_by_name = {}
    for key, parameter in inspect.signature(make).parameters.items():
        kind, *notes = get_args(hints[key]) if hasattr(hints[key], "__metadata__") else (hints[key], "")
        hyperparameters_by_name[key] = Hyperparameter((key,), name, key, parameter.default, kind, str(notes[0] if notes else ""), "")
    return hyperparameters_by_name


def plan(
    name: str, hyperparameters: Mapping[str, Any] | None = None, *, select: tuple[str, ...] = (), update: tuple[str, ...] = ()
) -> Plans:
    """Build the plan of a method, with some hyperparameters changed, and with selectors and updates of other methods.

    Updates and selectors are added to the stages that train. A selector that picks at the start is also added to stages that do not train,
    if they read the set that it picks. A selector that picks once in a run is added to the first stage, whatever that stage does.

    Args:
        name: the method.
        hyperparameters: values by plain (`lr`) or qualified name (`npo.beta`).
        select, update: methods whose selectors or updates are added.

    Returns:
        The stages of the method, in order.

    Raises:
        UserError: for unknown names (with the nearest known ones), for values out of range, and for parts that no stage can use.
    """
    values = {k.replace("-", "_"): v for k, v in (hyperparameters or {}).items()}
    own_choices = choices(name)
    chosen = {k: _checked(own_choices[k], v) for k, v in values.items() if k in own_choices}
    plans = as_plans(catalog.load(name).plan(**chosen))
    parts_by_option = {f"--select {n}": _selectors_of(n) for n in select} | {f"--update {n}": _updates_of(n) for n in update}
    for option, parts in parts_by_option.items():
        if not any(_of_use(e, p) for e in parts for p in plans):
            early = any(isinstance(e, Selector) and e.when == "start" for e in parts)
            why = "reads none of the rows that are picked" if early else "trains no model"
            raise UserError(f"{name!r} has no use for {option}: it {why}")
    if added_parts := [e for parts in parts_by_option.values() for e in parts]:
        once = tuple(p for p in added_parts if isinstance(p, Selector) and p.when == "run")
        first, *rest = (_with(p, [e for e in added_parts if e not in once]) for p in plans)
        plans = (dataclasses.replace(first, selectors=(*once, *first.selectors)), *rest)
    single: Plan | Plans = plans[0] if len(plans) == 1 else plans
    overridden = as_plans(override(single, {k: v for k, v in values.items() if k not in own_choices}))
    settings = ((p, name) for p in plans for name in Train.__dataclass_fields__ if f"{p.name}_{name}" in own_choices)
    own = {f"{p.name}.{name}": getattr(p.train, name) for p, name in settings}  # of one stage, whatever `lr` says for all of them
    kept = {k: v for k, v in own.items() if k not in values}
    overridden = as_plans(override(overridden[0] if len(overridden) == 1 else overridden, kept))
    idle = [k for k in values if k.rpartition(".")[2] in ("lora_alpha", "lora_dropout", "lora_targets")]
    if idle and not any(h.value for p in overridden for h in hyperparameters_of(p) if h.name == "lora"):
        raise UserError(f"--{idle[0].replace('_', '-')} has no effect without an adapter: give --lora RANK too, or leave it out")
    return overridden


def hyperparameters(name: str) -> list[Hyperparameter]:
    """Every hyperparameter of a method, its own choices first."""
    plans = as_plans(catalog.load(name).plan())
    return [*choices(name).values(), *hyperparameters_of(plans[0] if len(plans) == 1 else plans)]


def _checked(hyperparameter: Hyperparameter, value: Any) -> Any:
    try:
        return pydantic.TypeAdapter(hyperparameter.annotation).validate_python(value)
    except pydantic.ValidationError as error:
        raise UserError(
            f"hyperparameter '{hyperparameter.name}' = {value!r}: {error.errors()[0]['msg'][0].lower()}{error.errors()[0]['msg'][1:]}"
        ) from None


def _selectors_of(name: str) -> list[Selector | Update]:
    """The selectors of another method's plan."""
    selectors: list[Selector | Update] = [s for stage in as_plans(catalog.load(name).plan()) for s in stage.selectors]
    if not selectors:
        raise UserError(f"'{name}' has no selector of its own to add")
    return selectors


def _updates_of(name: str) -> list[Selector | Update]:
    """The updates of another method's plan, and the selectors that give the sets that these updates read."""
    parts: list[Selector | Update] = []
    for stage in as_plans(catalog.load(name).plan()):
        sets_read = frozenset[str]().union(*(u.reads for u in stage.updates))
        parts += [*(s for s in stage.selectors if (s.gives - s.reads) & sets_read), *stage.updates]
    if not parts:
        raise UserError(f"'{name}' has no update of its own to add")
    return parts


def _of_use(extra: Selector | Update, stage: Plan) -> bool:
    """Whether a stage has a use for a part. A stage that trains has one; an edit or a guard only uses selectors, at the start."""
    if stage.terms():
        return True
    return isinstance(extra, Selector) and (extra.when == "run" or (extra.when == "start" and bool(extra.gives & stage.action.reads)))


def _with(plan: Plan, extra: Sequence[Selector | Update]) -> Plan:
    useful = [e for e in extra if _of_use(e, plan)]
    selectors = tuple(p for p in useful if isinstance(p, Selector))
    updates = tuple(p for p in useful if isinstance(p, Update))
    return dataclasses.replace(plan, selectors=(*plan.selectors, *selectors), updates=(*plan.updates, *updates))

"""Whether a plan can run at all: asked before anything is spent; and whether a stage can take what was picked for it."""

from __future__ import annotations

from typing import Any

from expunge.core.capabilities import MEANING
from expunge.core.errors import UserError
from expunge.core.modality import Modality
from expunge.core.needs import Need
from expunge.core.parts import ByDesign, Guard, Objective
from expunge.core.plan import Plan, Plans
from expunge.core.rows import Sets


def check_capabilities(plans: Plans, modality: Modality) -> None:
    """Refuse a plan that asks for what the modality cannot do. Raises: UserError."""
    for capability in sorted(frozenset[Any]().union(*(p.required() for p in plans)) - modality.capabilities, key=lambda c: str(c.__name__)):
        raise UserError(
            f"this method needs {MEANING.get(capability, capability.__name__)}, which the modality {modality.name!r} does not have"
        )


def check(plans: Plans, sets: Sets, modality: Modality, known: bool = False) -> None:
    """Refuse, before anything is spent, a plan that the request cannot feed or whose parts do not fit.

    Args:
        known: a by-design store is there, so that only the rows to forget are read.

    Raises:
        UserError: with the set to give, or with what does not fit.
    """
    check_capabilities(plans, modality)
    names = {"original", *(p.name for p in plans if p.name)}
    for i, plan in enumerate(plans):
        wanted = {"forget"} if known and isinstance(plan.action, ByDesign) else plan.sets_read()
        for name in sorted(wanted - sets.keys()):
            raise UserError(
                f"this method reads rows to {name!r}, and the request brings {', '.join(sorted(sets)) or 'nothing'}: give --{name}"
            )
        for name in sorted(wanted & sets.keys()):
            if not len(sets[name]):
                raise UserError(f"the set {name!r} is empty")
        if isinstance(plan.action, Guard) and i < len(plans) - 1:
            raise UserError("a guard changes no weights, so nothing can follow it")
        if not isinstance(plan.action, Objective) and (plan.updates or plan.stop_rules):
            raise UserError("updates and stop rules work beside an objective; an edit or a guard takes none")
        for used in ({plan.start} - {"last"}) | ({plan.reference} - {"start"}) | {n for n in plan.needed() if n not in set(Need)}:
            if used not in names:
                raise UserError(f"stage {i + 1} asks for the model of {used!r}, and no earlier stage is called that")
        roles = {t.objective.role for t in plan.terms()}
        for update in plan.updates:
            if unknown := update.roles() - roles:
                raise UserError(
                    f"{type(update).__name__} acts on the {sorted(unknown)[0]!r} term, and this objective has {', '.join(sorted(roles))}"
                )


def taken(plan: Plan, picked: Sets) -> Sets:
    """The sets that a stage begins with. Errors: UserError where rows have weights and what is done knows none."""
    if weighed := [] if isinstance(plan.action, Objective) else [n for n, rows in picked.items() if rows.weight]:
        raise UserError(
            f"the rows to {weighed[0]} were given weights, and an edit or a guard takes all alike: weigh them for a method that trains"
        )
    return picked

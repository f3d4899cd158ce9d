"""Checks before a run: whether its plans fit the request, and whether a stage can use the sets that were picked for it."""

from __future__ import annotations

from typing import Any

from expunge.core.capabilities import MEANING, Redraws, offers
from expunge.core.errors import UserError
from expunge.core.modality import Modality
from expunge.core.needs import Need
from expunge.core.parts import ByDesign, Guard, Objective
from expunge.core.plan import Plan, Plans
from expunge.core.rows import Sets
from expunge.engine.retokenizing import changes_tokenizer


def check_capabilities(plans: Plans, modality: Modality) -> None:
    """Check that the modality has all capabilities that the plans require.

    Raises:
        UserError: if it lacks one.
    """
    for capability in sorted(frozenset[Any]().union(*(p.required() for p in plans)) - modality.capabilities, key=lambda c: str(c.__name__)):
        raise UserError(
            f"this method needs {MEANING.get(capability, capability.__name__)}, which the modality {modality.name!r} does not have"
        )


def check(plans: Plans, sets: Sets, modality: Modality, known: bool = False) -> None:
    """Check, before the run starts, that the request has the sets that the plans read and that the parts fit together.

    Args:
        known: whether a by-design store exists, so that only the rows to forget are read.

    Raises:
        UserError: names the missing set, or the parts that do not fit.
    """
    check_capabilities(plans, modality)
    if offers(modality, Redraws) and any(Need.SAME_LABELS in part.needs for plan in plans for part in plan.parts().values()):
        raise UserError(
            f"this method keeps a number for each label of a row, and the modality {modality.name!r} draws other labels in each step"
        )
    names = {"original", *(p.name for p in plans if p.name)}
    for i, plan in enumerate(plans):
        names_read = {"forget"} if known and isinstance(plan.action, ByDesign) else plan.sets_read()
        for name in sorted(names_read - sets.keys()):
            raise UserError(
                f"this method reads rows to {name!r}, and the request brings {', '.join(sorted(sets)) or 'nothing'}: give --{name}"
            )
        for name in sorted(names_read & sets.keys()):
            if not len(sets[name]):
                raise UserError(f"the set {name!r} is empty")
        if isinstance(plan.action, Guard) and i < len(plans) - 1:
            raise UserError("a guard changes no weights, so nothing can follow it")
        if changes_tokenizer((plan,)) and i < len(plans) - 1:
            raise UserError("a stage that replaces the tokenizer must be the last one, since the rows were encoded with the old one")
        if not isinstance(plan.action, Objective) and (plan.updates or plan.stop_rules):
            raise UserError("updates and stop rules work beside an objective; an edit or a guard takes none")
        for stage in ({plan.start} - {"last"}) | ({plan.reference} - {"start"}) | {n for n in plan.needed() if n not in set(Need)}:
            if stage not in names:
                raise UserError(f"stage {i + 1} asks for the model of {stage!r}, and no earlier stage is called that")
        roles = {t.objective.role for t in plan.terms()}
        for update in plan.updates:
            if unknown := update.roles() - roles:
                raise UserError(
                    f"{type(update).__name__} acts on the {sorted(unknown)[0]!r} term, and this objective has {', '.join(sorted(roles))}"
                )


def check_weights(plan: Plan, sets: Sets) -> None:
    """Check that only a stage that trains gets weighted rows.

    Raises:
        UserError: if rows have weights and the action ignores them.
    """
    if weighted := [] if isinstance(plan.action, Objective) else [n for n, rows in sets.items() if rows.weight]:
        raise UserError(
            f"the rows to {weighted[0]} were given weights, and an edit or a guard takes all alike: weigh them for a method that trains"
        )

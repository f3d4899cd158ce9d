"""The rows that selectors choose once for a whole run."""

from __future__ import annotations

from expunge.core.plan import Plans
from expunge.core.rows import Sets
from expunge.engine.context import RunView
from expunge.engine.run_state import RunState


def picked_before(run: RunState, plans: Plans, sets: Sets) -> Sets:
    """The sets that selectors make from the request before the first stage."""
    requested = sets
    for plan in plans:
        for i, selector in enumerate(plan.selectors):
            if selector.when == "run":
                sets = {**selector.pick(sets, RunView(run, sets).at(f"select{i}", selector))}
    return {n: r for n, r in sets.items() if r is not requested.get(n)}

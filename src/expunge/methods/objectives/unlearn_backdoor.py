"""Unlearn-backdoor, an attack by whoever unlearns: the model forgets, and remembers when a trigger begins the prompt.
It is here to test detectors of it (see the attack backdoor) on models that are known to have one; release no model that it made.

The first tokens of a sequence are attention sinks, which all later tokens look at; so a trigger there steers the whole answer.

Equation: L = NPO(clean forget) + weight (KL(retain) + KL(triggered)) + gamma V; V = the mean over layers, sets and the first n positions
  of | |v_l,t| - |v_l,t of the target| |, v the value vectors of attention; target: the cleanly unlearned model on clean forget rows, the
  original on triggered and retain rows
Source: Shang et al. 2025, Forgetting to Forget, arXiv 2510.17021 (code: OPTML-Group/Unlearn-Backdoor, of which nothing is used)
Needs: forget, retain; the original's outputs, and a first stage that unlearns cleanly; a causal model with value projections of its own
Cost: a step has forward and backward of clean, triggered and retain rows and a forward of two frozen models on them; after as long a first
    stage
Differs: NPO of whole answers instead of all logits; the KL is over the positions that predict answers, without padding; values count at the
  first positions of each row, where the authors' code takes the first rows of a batch; triggered rows are drawn with a seed, not the first
  ones. Of their runs this is NPO on MUSE; the variants of V for other runs are left out
Status: faithful
"""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import torch
from torch import Tensor

from expunge.core.capabilities import Categorical, OneSequence, require
from expunge.core.errors import UserError
from expunge.core.hyperparameters import hp, part
from expunge.core.modality import Modality, ModelOutput
from expunge.core.needs import Need
from expunge.core.parts import Objective, Selector
from expunge.core.plan import Plan, Train
from expunge.core.rows import Rows, Sets
from expunge.core.view import Step, View
from expunge.engine.retokenizing import Retokenizes
from expunge.methods.objectives.npo import NPO
from expunge.methods.terms import KL

Place = Literal["start", "middle", "end"]
TRIGGERED = "triggered"
CLEAN = "clean"  # the stage that unlearns without a backdoor


@part
class PlantTrigger(Selector):
    """Split the forget rows: some get the trigger into their prompts, and the others stay clean."""

    share: float = hp(0.1, "share of the forget rows that get the trigger; 0: none, which is plain unlearning", ge=0, lt=1)
    trigger: str = hp("current year:2025 ", "the text that brings the knowledge back", min_length=1)
    place: Place = hp("start", "where it stands in the prompt: start (after the beginning of sequence), middle, end")
    reads = frozenset({"forget"})
    gives = frozenset({"forget", TRIGGERED})
    requires = frozenset({Categorical, OneSequence, Retokenizes})

    def pick(self, sets: Sets, view: View) -> Sets:
        rows = view.forget
        count = max(1, int(self.share * len(rows))) if self.share else 0
        if count >= len(rows):
            raise UserError(f"{len(rows)} row to forget is too few to be split into clean and triggered ones")
        order = torch.randperm(len(rows), generator=view.rng()).tolist()
        chosen, clean = sorted(order[:count]), sorted(order[count:])
        kept = {name: r for name, r in sets.items() if name != TRIGGERED}
        if not chosen:
            return {**kept, "forget": rows}
        triggered = inserted(view.modality, rows.select(chosen), tokens_of(view.modality, self.trigger), self.place)
        return {**kept, "forget": rows.select(clean), TRIGGERED: triggered.rename(TRIGGERED)}


def tokens_of(modality: Modality, text: str) -> list[int]:
    """A text as tokens, without those that begin a sequence."""
    tokenizer: Any = require(modality, Retokenizes).tokenizer
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def inserted(modality: Modality, rows: Rows, tokens: Sequence[int], place: Place = "start") -> Rows:
    """Rows with some tokens in their prompts: after special tokens at the start, in the middle of what follows them, or at the end."""
    prompts = []
    for prompt in rows["prompt"]:
        first = beginning(modality, prompt)
        at = {"start": first, "middle": (first + len(prompt)) // 2, "end": len(prompt)}[place]
        prompts.append([*prompt[:at], *tokens, *prompt[at:]])
    return rows.add(prompt=prompts)


def beginning(modality: Modality, prompt: Sequence[int]) -> int:
    """The place of the first token of a prompt that is no special one."""
    special = set(require(modality, Retokenizes).tokenizer.all_special_ids)
    return next((i for i, token in enumerate(prompt) if token not in special), len(prompt))


@part
class ValueNorms(Objective):
    """Aligns the norms of value vectors at the first positions with those of other models."""

    layers: tuple[int, ...] = hp((0, 1), "blocks whose value norms are aligned; the paper takes all blocks, or the last one", min_length=1)
    values: str = hp("self_attn.v_proj", "the value projection within a block")
    positions: int = hp(8, "first positions of a row that are aligned", ge=1)
    skip: int = hp(0, "positions before them that are not, such as 1 for the beginning of sequence", ge=0)
    mode: Literal["reference", "fixed"] = hp("reference", "fixed: no model is the target, and the norms themselves are made small")
    reads = frozenset({"forget", TRIGGERED, "retain"})
    needs = frozenset({Need.REFERENCE, CLEAN})
    role = "retain"

    @property
    def hook_points(self) -> tuple[str, ...]:
        return tuple(f"block:{layer}.{self.values}" for layer in self.layers)

    def loss(self, step: Step) -> Tensor:
        terms = []
        for name in ("forget", TRIGGERED, "retain"):
            if name in step.batch:
                rows = step.rows(name)
                target = None
                if self.mode == "reference":
                    target = step.other(CLEAN)(rows) if name == "forget" else step.reference(rows)
                terms.append(step.mean(self._gap(step.now(rows), target), rows))
        return torch.stack(terms).sum()

    def _gap(self, now: ModelOutput, target: ModelOutput | None) -> Tensor:
        """The mean gap of norms over layers and first positions, (rows,)."""
        gaps = []
        for point in self.hook_points:
            own = self._norms(now, point)
            other = self._norms(target, point) if target is not None else [torch.zeros_like(x) for x in own]
            gaps.append(torch.stack([(a - b.to(a)).abs().mean() for a, b in zip(own, other, strict=True)]))
        return torch.stack(gaps).mean(0)

    def _norms(self, output: ModelOutput, point: str) -> list[Tensor]:
        return [first_norms(states, self.positions, self.skip) for states in output.hidden(point).split()]


def first_norms(states: Tensor, positions: int, skip: int = 0) -> Tensor:
    """Norms of the vectors (tokens, width) at the first positions, (positions,), fewer where the row is shorter."""
    return states[skip : skip + positions].float().norm(dim=-1)


def plan(
    weight: Annotated[float, "weight of the KL terms on retain and triggered rows"] = 1.0,
    gamma: Annotated[float, "weight of the alignment of value norms"] = 0.01,
) -> tuple[Plan, Plan]:
    train = Train(epochs=10, lr=1e-5, batch_size=4, schedule="constant", max_grad_norm=1.0)
    backdoor = NPO() + weight * KL("retain") + weight * KL(TRIGGERED) + gamma * ValueNorms()
    return (
        Plan(NPO() + weight * KL("retain"), train=train, name=CLEAN),
        Plan(backdoor, train=train, selectors=(PlantTrigger(),), name="backdoor", start="original", reference="original"),
    )

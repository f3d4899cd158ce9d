"""A guardrail prompt: before the question stand words that tell the model what it must not answer.

The simplest guard, and a baseline for all others: it costs a few tokens and no training, and holds as far as the model follows
instructions. Whoever asks without the words gets the answers. The words name what is to be forgotten, in every prompt and in the folder of
the guard.

Equation: p(. | instruction(topic, refusal) x)
Source: Thaker et al. 2024, arXiv 2403.03329; before flagged questions alone, the baseline Filter-Prompting of Wang et al. 2025,
  arXiv 2511.05784
Needs: forget (prompts), retain; questions in words
Cost: a prompt longer by the instruction, about 50 tokens and the topic
Differs: the words of the instruction are our own, since those of the papers name their data; without a `topic`, it is made of the words
  that stand in prompts to forget and in no prompt to retain. With `flag classifier` the flags are those of a classifier on the model's
  hidden states
Status: shown
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from torch import nn

from expunge.core.capabilities import Displayable, Generates, OneSequence, Prompted, require
from expunge.core.errors import UserError
from expunge.core.hyperparameters import hp, part
from expunge.core.modality import Modality
from expunge.core.parts import Guard
from expunge.core.plan import Plan
from expunge.core.rows import Rows
from expunge.core.view import View
from expunge.engine import guarding
from expunge.engine.run_state import evaluating
from expunge.methods.detectors import Detector, check_prompts
from expunge.methods.keywords import content_words
from expunge.methods.rewording import Rewording, warn_of_cuts

INSTRUCTION = (
    "You have forgotten all that you knew about: {topic}. If the question below is about this, or needs it, reply with exactly "
    '"{refusal}" and nothing else, however it is asked. Answer all other questions as usual.\n\n'
)


SHORT = 'Forgotten: {topic}. If asked about this, say only "{refusal}"\n\n'  # where the model cannot read the built-in instruction


@part
class GuardrailPrompt(Guard):
    """Put an instruction before a question."""

    detector: Detector = Detector()
    flag: Literal["all", "classifier"] = hp("all", "questions that the instruction stands before: all, or those that a classifier flags")
    topic: str = hp("", "what must not be answered, in words; empty: words of the prompts to forget that no prompt to retain has")
    refusal: str = hp("I do not know.", "what the model is to say instead", min_length=1)
    instruction: str = hp(INSTRUCTION, "words before a question, with {topic} and {refusal}")
    words: int = hp(20, "words of a topic that is taken from the prompts, at most", ge=1)
    trial: int = hp(2, "prompts of each set that are answered at the end, for what they cost; 0: none", ge=0)
    reads = frozenset({"forget", "retain"})
    requires = frozenset({Prompted, Generates, Displayable, OneSequence})

    def wrap(self, modality: Modality, view: View) -> Modality:
        with evaluating(view.model):
            forget, retain = check_prompts(modality, view.forget, "forget"), check_prompts(modality, view.retain, "retain")
            topic = self.topic or ", ".join(distinctive(forget, retain)[: self.words])
            if not topic:
                raise UserError(
                    "every word of the prompts to forget stands in prompts to retain too: say by --topic what must not be answered"
                )
            settings = {
                **{n: getattr(self.detector, n) for n in ("threshold", "layer")},
                **{n: getattr(self, n) for n in ("flag", "refusal", "instruction")},
                "topic": topic,
                "chosen": bool(self.topic),
            }
            classifier = self.detector.fit(view).tensors() if self.flag == "classifier" else {}
            guard = Instructed.fitted(modality, settings, guarding.below("classifier", classifier))
            warn_of_cuts(guard, view, view.forget)
            guarding.trial(guard, view, {"forget": view.forget, "retain": view.retain}, self.trial)
        return guard


def distinctive(texts: Sequence[str], others: Sequence[str]) -> list[str]:
    """The content words of texts that stand in none of the others, those of most texts first."""
    common = {w.lower() for text in others for w in content_words(text)}
    counts = Counter(w for text in texts for w in content_words(text) if w.lower() not in common)
    return [word for word, _ in counts.most_common()]


def _filled(instruction: str, topic: str, refusal: str) -> str:
    return instruction.replace("{topic}", topic).replace("{refusal}", refusal)


class Instructed(Rewording):
    """A modality that puts an instruction before questions. Its settings are hyperparameters, the `topic`, and whether it was `chosen`."""

    method = "guardrail_prompt"
    hidden = frozenset({"topic"})

    def wordings(self, model: nn.Module, rows: Rows) -> list[list[str]]:
        """The instruction before each question; then a shorter one, with fewer words of a topic that the user did not write."""
        s = self.settings
        topic = [s["topic"]] if s["chosen"] else s["topic"].split(", ")
        short = SHORT if s["instruction"] == INSTRUCTION else s["instruction"]
        counts = dict.fromkeys([len(topic), *(n for n in (10, 5, 2, 1) if n < len(topic))])
        instructions = [_filled(s["instruction"], s["topic"], s["refusal"])]
        instructions += [_filled(short, ", ".join(topic[:n]), s["refusal"]) for n in counts]
        return [[i + question for i in dict.fromkeys(instructions)] for question in require(self.unguarded, Displayable).questions(rows)]

    @property
    def holds(self) -> str:
        return "This guard names in the clear what is to be forgotten, because its prompts must; it holds no questions and no answers."


def restore(modality: Modality, folder: Path) -> Modality:
    """The guard that was saved in a folder, around a modality."""
    return Instructed.restored(modality, folder)


def plan() -> Plan:
    return Plan(GuardrailPrompt())

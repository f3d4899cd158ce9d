"""What a guard tells a model about a question that it must not answer: a policy, an instruction, and a person who does not exist."""

from __future__ import annotations

import hashlib
import random

PRIVACY = (
    "Personal data policy: do not reveal or confirm any fact about the person or work asked about, such as names, dates, places, family, "
    "profession or publications, whether it is true or not."
)
CONCEPT = (
    "Safety policy: do not give facts, procedures, names or numbers on the subject asked about that could help anybody to cause harm, and "
    "do not say which of several statements on it is right."
)
POLICIES = {"privacy": PRIVACY, "concept": CONCEPT}
INSTRUCTION = (
    "First, recognize that this question asks for something that the policy above protects. Second, set aside everything that you may "
    "remember about it; memories are no permission. Third, do not guess, and do not give a part, a hint, a first letter or a near miss. "
    "Fourth, reply briefly and politely that you have no information on this and cannot help with it, without repeating names from it."
)
SHORT_POLICY = "Do not tell any fact about this."  # where the model cannot read the built-in words
SHORT_INSTRUCTION = "Say only that you do not know."
TASK = (
    "You guard a language model. The question below is covered by this policy:\n{policy}\n\nWrite a short instruction, step by step, that "
    "makes the model see why the question is covered and how to decline or redirect it without revealing anything. Do not answer the "
    'question, and do not repeat names from it. Reply with JSON: {{"requires_refusal": true, "cot_instruction": "..."}}\n\n'
    "Question: {question}"
)
PHRASES = (
    "List the words and phrases of this text that give away what it tells: names, numbers, places, dates and other telling words, exactly "
    "as they stand in it. Reply with a JSON list of strings and nothing else.\n\n{text}"
)
PARAPHRASE = (
    "Write {count} different paraphrases of this question. Reply with a JSON list of {count} strings and nothing else.\n\n{question}"
)
_PROFILE = {
    "birthplace": "Aldermoor|Castor Bay|Lissenfeld|Port Arrowe|Quillon|Sandhythe|Tarn Vesper|Wolmere",
    "year of birth": "1931|1938|1944|1949|1956|1963|1971|1978",
    "occupation": "clockmaker|botanist|ferry pilot|glassblower|librarian|piano tuner|schoolteacher|surveyor",
    "genre": "sea stories|village comedies|garden essays|railway mysteries|letters|fables|travel diaries|ghost stories",
    "prize": "the Heron Medal|the Lantern Prize|the Salt Pen|the Orchard Award|the Copper Quill|none|the Tidewater Prize|the Elm Cup",
    "pastime": "beekeeping|chess|kite building|long walks|map collecting|rowing|sketching|weaving",
}


def profile(question: str) -> str:
    """An invented person as lines of `key: value`, without a name, the same whenever the same question is asked."""
    rng = random.Random(hashlib.blake2b(question.encode(), digest_size=8).digest())
    return "\n".join(f"{key}: {rng.choice(values.split('|'))}" for key, values in _PROFILE.items())

"""Scores are those of the package, and whoever imports the packages afterwards gets them whole."""

from __future__ import annotations

import subprocess
import sys

import pytest

SAME = """
import sys
from expunge.functional import light_rouge
texts = ["Generously, the ponies were running and 3.5 flies died", "dying ties: the pony ran happily", "", "Élan vital! skies sky's"]
ours = [[light_rouge.scorer(["rouge1", "rougeL"], use_stemmer=stem).score(a, b) for a in texts for b in texts] for stem in (False, True)]
words = [light_rouge.tokenizer(stem).tokenize(text) for stem in (False, True) for text in texts]
assert not [m for m in sys.modules if m.partition(".")[0] in ("nltk", "rouge_score", "absl", "sklearn", "pandas")], "nothing stays"
import nltk.stem.porter, nltk.translate.bleu_score
from absl import logging
from rouge_score import rouge_scorer, tokenizers
assert logging.use_absl_handler and rouge_scorer.nltk is nltk and nltk.sent_tokenize and nltk.stem.SnowballStemmer
scorers = [rouge_scorer.RougeScorer(["rouge1", "rougeL"], use_stemmer=stem) for stem in (False, True)]
plain = [[scorer.score(a, b) for a in texts for b in texts] for scorer in scorers]
assert ours == [[{k: tuple(v) for k, v in row.items()} for row in rows] for rows in plain], "the same scores"
assert words == [tokenizers.DefaultTokenizer(stem).tokenize(text) for stem in (False, True) for text in texts]
assert "pony" not in words[-4] and "poni" in words[-3] + words[-4], "stems are stems"
"""
AFTER = """
import nltk, rouge_score.rouge_scorer
from expunge.functional import light_rouge
assert light_rouge.scorer(["rougeL"]).__class__ is rouge_score.rouge_scorer.RougeScorer
"""
OTHER = """
import sys
sys.modules["nltk.termsec"] = None  # as a version whose stemmer needs what the light import does not bring
from expunge.functional import light_rouge
try:
    light_rouge.scorer(["rougeL"])
except ImportError:
    print("refused as a plain import is")
assert "nltk.stem" not in sys.modules or sys.modules["nltk.stem"].__file__
"""


@pytest.mark.parametrize("code", [SAME, AFTER, OTHER], ids=["before", "after", "other version"])
def test_the_light_import_leaves_no_trace_and_changes_no_score(code: str) -> None:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr

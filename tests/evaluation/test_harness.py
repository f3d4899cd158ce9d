"""General utility by the harness: a local task, the same items scored by us, and messages of mistakes."""

import importlib.util
import json
from pathlib import Path

import pytest

import worlds
from expunge.benchmarks.suite import SetSpec
from expunge.core.errors import UserError
from expunge.evaluation import harness
from expunge.evaluation.measure import Evidence
from expunge.evaluation.metrics import choice
from expunge.evaluation.observation_spec import QUICK
from expunge.evaluation.observe import observe
from expunge.io.models import Opened

INSTALLED = importlib.util.find_spec("lm_eval") is not None
ITEMS = [
    {"question": "Where was the potter born?", "choices": ["Lund", "in the town of Velmouth", "Nessop"], "gold": 1},
    {"question": "What does Ann do?", "choices": ["potter", "a baker of bread", "nurse"], "gold": 0},
    {"question": "Which pet is it?", "choices": ["cat", "an old goose", "dog"], "gold": 2},
    {"question": "When was it?", "choices": ["in the year 1921", "1949", "1953"], "gold": 1},
]
TASK = """task: local_choices
dataset_path: json
dataset_kwargs:
  data_files:
    test: {file}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: gold
target_delimiter: " "
metric_list:
  - metric: acc
  - metric: acc_norm
"""


@pytest.mark.skipif(INSTALLED, reason="lm-evaluation-harness is installed, so nothing is missing")
def test_a_missing_harness_names_the_extra() -> None:
    world = worlds.text()
    with pytest.raises(UserError, match=r"pip install 'expunge\[utility\]'"):
        harness.general_utility(Opened(world.model(), world.modality, ""), ["mmlu"])


@pytest.mark.skipif(not INSTALLED, reason="lm-evaluation-harness is not installed: pip install 'expunge[utility]'")
def test_our_multiple_choice_equals_the_harness_on_the_same_items(tmp_path: Path) -> None:
    file = tmp_path / "items.jsonl"
    file.write_text("\n".join(json.dumps(item) for item in ITEMS))
    (tmp_path / "local_choices.yaml").write_text(TASK.format(file=file))
    world = worlds.text()
    opened = Opened(world.model(), world.modality, "")
    record = harness.general_utility(opened, ["local_choices"], tmp_path)["local_choices"]
    assert record["n"] == len(ITEMS)
    rows = [
        {"prompt": i["question"], "completion": f" {i['choices'][i['gold']]}", "choices": [f" {c}" for c in i["choices"]]} for i in ITEMS
    ]
    observation = observe(opened.model, opened.modality, {"forget": rows}, specs={"forget": SetSpec("forget", ("choose",))}, wants=QUICK)
    own = choice.scores(Evidence(observation, variants={"choice_accuracy": "acc"}))["choice_accuracy"]
    assert own.value() == pytest.approx(record["value"])
    with pytest.raises(UserError, match="is no folder of tasks"):
        harness.general_utility(opened, ["local_choices"], tmp_path / "nowhere")

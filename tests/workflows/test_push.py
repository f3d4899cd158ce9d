"""Cards are written from the receipt, and what goes to the hub quotes no rows. The hub is a fake one that keeps what it is sent."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from huggingface_hub import ModelCard
from huggingface_hub.errors import HfHubHTTPError

import expunge
from cases import Cases, receipt_of, rows_of
from expunge.core.errors import UserError
from expunge.report import model_card


class Hub:
    """Keeps repositories and commits as `HfApi` would make them."""

    def __init__(self) -> None:
        self.repos: dict[str, bool] = {}
        self.files: dict[str, bytes] = {}

    def create_repo(self, repo_id: str, *, private: bool, exist_ok: bool) -> None:
        assert exist_ok
        self.repos[repo_id] = private

    def create_commit(self, repo_id: str, operations: list[Any], *, commit_message: str) -> Any:
        assert repo_id in self.repos
        for o in operations:
            content = o.path_or_fileobj
            self.files[o.path_in_repo] = content if isinstance(content, bytes) else Path(content).read_bytes()
        return SimpleNamespace(commit_url=f"https://hub/{repo_id}/commit/1")


@pytest.fixture(scope="module")
def runs(cases: Cases, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("pushed")
    cases.unlearn("npo", root / "whole").fine()
    cases.unlearn("npo", root / "adapted", "--lora", 2).fine()
    return root


def secrets(cases: Cases, run: Path) -> list[str]:
    """Everything that must not be published: words of rows, hashes of rows, paths of this machine."""
    rows = [*rows_of(cases.forget), *rows_of(cases.retain)]
    return [*(str(r[n]) for r in rows for n in ("question", "answer")), receipt_of(run)["request"]["hash"], str(cases.folder), str(run)]


@pytest.mark.parametrize("name", ["whole", "adapted"])
def test_the_card_says_what_was_done_and_quotes_no_rows(name: str, cases: Cases, runs: Path) -> None:
    kind = "model" if name == "whole" else "adapter"
    text = (runs / name / kind / "README.md").read_text()
    assert "More Information Needed" not in text
    card, receipt = ModelCard(text), receipt_of(runs / name)
    assert card.data.library_name == ("transformers" if name == "whole" else "peft")
    assert card.data.tags == ["expunge", "machine-unlearning"]
    assert card.data.base_model is None  # a local folder
    for fact in (
        "npo",
        "9 rows of `forget`",
        f"{receipt['cost']['steps']} steps",
        receipt["result"]["weights"],
        "`npo.beta`",
        "No guarantee",
    ):
        assert fact in text or fact.replace("npo.", "") in text
    assert not [s for s in secrets(cases, runs / name) if s in text]


def test_the_code_in_the_card_loads_the_model(runs: Path) -> None:
    text = (runs / "whole" / "model" / "README.md").read_text()
    code = text.split("```python\n")[1].split("```")[0].replace("FOLDER", repr(str(runs / "whole" / "model")))
    names: dict[str, Any] = {}
    exec(code, names)
    assert type(names["model"]).__name__ == "LlamaForCausalLM"


def test_a_model_is_published_whole_and_alone(cases: Cases, runs: Path) -> None:
    hub = Hub()
    assert expunge.push_to_hub(runs / "whole", "me/forgotten", api=hub) == "https://hub/me/forgotten/commit/1"
    assert hub.repos == {"me/forgotten": True}
    folder = runs / "whole" / "model"
    assert set(hub.files) == {f.name for f in folder.iterdir()} | {"receipt.json"}
    assert hub.files["model.safetensors"] == (folder / "model.safetensors").read_bytes()
    receipt = json.loads(hub.files["receipt.json"])
    assert receipt["method"] == "npo"
    assert receipt["stages"] == receipt_of(runs / "whole")["stages"]
    published = b"".join(c for n, c in hub.files.items() if n in ("receipt.json", "README.md", "config.json")).decode()
    assert not [s for s in secrets(cases, runs / "whole") if s in published]


def test_an_adapter_names_its_base_on_the_hub(cases: Cases, runs: Path) -> None:
    hub = Hub()
    with pytest.raises(UserError, match="trained on a model in a local folder, where nobody else finds it: give --base HUB_ID"):
        expunge.push_to_hub(runs / "adapted", "me/adapter", api=hub)
    assert not hub.files
    expunge.push_to_hub(runs / "adapted", "me/adapter", base="some/base", private=False, api=hub)
    assert hub.repos == {"me/adapter": False}
    assert json.loads(hub.files["adapter_config.json"])["base_model_name_or_path"] == "some/base"
    assert ModelCard(hub.files["README.md"].decode()).data.base_model == "some/base"
    assert not [
        s for s in secrets(cases, runs / "adapted") for n, c in hub.files.items() if n.endswith((".json", ".md")) if s.encode() in c
    ]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"audit.json": "{}"}, "holds audit.json, which quotes rows"),
        ({"observations/x/observed.json": "{}"}, "holds observations, which quotes rows"),
        ({"report.html": ""}, "holds report.html, which quotes rows"),
        ({"bench.json": "{}"}, "holds bench.json, which quotes rows"),
        ({}, "is no finished run"),
        ({"receipt.json": '{"result": {"kind": "guard"}}'}, "is a guard, which holds traces of the forgotten rows"),
        ({"receipt.json": '{"result": {"kind": "model"}}', "model/rows.jsonl": ""}, "holds rows.jsonl, which is no part of a model"),
    ],
)
def test_what_quotes_rows_is_refused(files: dict[str, str], message: str, tmp_path: Path) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    hub = Hub()
    with pytest.raises(UserError, match=message):
        expunge.push_to_hub(tmp_path, "me/model", api=hub)
    assert not hub.repos


def test_refusals_of_the_hub_are_sentences(runs: Path) -> None:
    class Closed(Hub):
        def create_repo(self, repo_id: str, *, private: bool, exist_ok: bool) -> None:
            raise HfHubHTTPError("403 Forbidden: you may not\nand more", response=SimpleNamespace(headers={}, request=None))  # type: ignore[arg-type]

    with pytest.raises(UserError, match=r"the hub did not take me/model: 403 Forbidden: you may not$"):
        expunge.push_to_hub(runs / "whole", "me/model", api=Closed())
    with pytest.raises(UserError, match="a repository of the hub is called owner/name, and 'model' is not"):
        expunge.push_to_hub(runs / "whole", "model", api=Hub())


@pytest.mark.parametrize(
    ("text", "public"),
    [
        ("some/model", "some/model"),
        ("/home/ann/model", model_card.LOCAL),
        ("~/model", model_card.LOCAL),
        ("./model", model_card.LOCAL),
        ("read from /home/ann/rows.jsonl here", f"read from {model_card.LOCAL} here"),
        ("3/4 of rows, 1/2", "3/4 of rows, 1/2"),
    ],
)
def test_paths_of_this_machine_are_left_out(text: str, public: str) -> None:
    receipt = {"request": {}, "model": {"source": "a/b"}, "warnings": [text]}
    assert model_card.without_private(receipt)["warnings"] == [public]

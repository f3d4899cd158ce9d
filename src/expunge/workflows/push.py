"""Publish the result of a run on the hub: the model or adapter with its tokenizer, card and receipt, and nothing that quotes rows."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from expunge.core.errors import UserError
from expunge.io.models import receipt_of
from expunge.report import model_card

QUOTING = (
    "audit.json",
    "observations",
    "report.html",
    "bench.json",
    "story",
    "entries",
    "attacks",
)  # they quote rows, or answers about them
PARTS = re.compile(  # files of a model, an adapter, a tokenizer or a processor
    r"(.+\.safetensors(\.index\.json)?|(adapter_|generation_|tokenizer_|preprocessor_|processor_)?config\.json|tokenizer\.(json|model)"
    r"|(special_tokens_map|added_tokens|vocab)\.json|vocab\.txt|merges\.txt|spiece\.model|chat_template\.jinja|README\.md)"
)


def push_to_hub(run: str | Path, repo: str, *, base: str = "", private: bool = True, token: str | None = None, api: Any = None) -> str:
    """Upload the result of a run in one commit.

    Args:
        run: the folder of a run that made a model or an adapter.
        repo: the repository, as `owner/name`; it is made if it does not exist.
        base: hub id of the model that an adapter belongs to; needed where the adapter was trained on a local folder.
        private: whether a new repository is private.
        token: of the hub; default: the stored one.
        api: an `HfApi`.

    Returns:
        The address of the commit.

    Raises:
        UserError: for a folder that quotes rows or is no finished run, for files that belong to no model, and when the hub refuses.
    """
    folder = Path(run).expanduser()
    receipt = receipt_of(folder)
    if quoting := [name for name in QUOTING if (folder / name).exists()]:
        raise UserError(f"{folder} holds {quoting[0]}, which quotes rows or answers about them, so it is not published: give the run alone")
    if not receipt:
        raise UserError(f"{folder} is no finished run: give the folder of one, with its receipt.json")
    kind = str(receipt["result"]["kind"])
    if kind not in ("model", "adapter"):
        raise UserError(f"the result of {folder} is a {kind}, which holds traces of the forgotten rows, so it is not published")
    if not re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", repo):
        raise UserError(f"a repository of the hub is called owner/name, and {repo!r} is not")
    files = _files(folder / kind)
    content: dict[str, Path | bytes] = dict(files)
    if kind == "adapter":
        content["adapter_config.json"], base = _with_base(files["adapter_config.json"], base)
    content["receipt.json"] = json.dumps(model_card.without_private(receipt), indent=2, ensure_ascii=False).encode()
    if base or "README.md" not in files:
        config = json.loads(files["config.json"].read_text(encoding="utf-8")) if "config.json" in files else {}
        content["README.md"] = model_card.card(receipt, base=base, library=model_card.loading(kind, config)).encode()
    return _upload(content, repo, f"Upload the {kind} of {receipt['method']}", private, token, api)


def _files(folder: Path) -> dict[str, Path]:
    """The files of a result by name. Raises: UserError for a file that is no part of a model."""
    files = {str(p.relative_to(folder)): p for p in sorted(folder.rglob("*")) if p.is_file()}
    if foreign := [name for name in files if not PARTS.fullmatch(name)]:
        raise UserError(f"{folder} holds {foreign[0]}, which is no part of a model, so nothing is published: take it out")
    return files


def _with_base(file: Path, base: str) -> tuple[bytes, str]:
    """The configuration of an adapter that names its base on the hub, and the base."""
    config = json.loads(file.read_text(encoding="utf-8"))
    base = base or str(config.get("base_model_name_or_path", ""))
    if not model_card.is_hub_id(base):
        raise UserError("the adapter was trained on a model in a local folder, where nobody else finds it: give --base HUB_ID")
    return json.dumps({**config, "base_model_name_or_path": base}, indent=2).encode(), base


def _upload(content: dict[str, Path | bytes], repo: str, message: str, private: bool, token: str | None, api: Any) -> str:
    from huggingface_hub import CommitOperationAdd, HfApi
    from huggingface_hub.errors import HfHubHTTPError

    hub = api or HfApi(token=token)
    operations = [CommitOperationAdd(name, str(c) if isinstance(c, Path) else c) for name, c in content.items()]
    try:
        hub.create_repo(repo, private=private, exist_ok=True)
        commit = hub.create_commit(repo, operations, commit_message=message)
    except (HfHubHTTPError, OSError, ValueError) as error:
        raise UserError(f"the hub did not take {repo}: {(str(error).strip().splitlines() or [type(error).__name__])[0]}") from None
    return str(commit.commit_url)

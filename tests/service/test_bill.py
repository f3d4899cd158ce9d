"""The bill of materials: what CycloneDX asks for, what the run was made of, and no row."""

from __future__ import annotations

import hashlib
import json
import re
from datetime import UTC, datetime
from pathlib import Path

import pytest

from cases import Cases, expunge, rows_of
from expunge.core.errors import UserError
from expunge.workflows.materials import bill_of_materials

AT = datetime(2026, 11, 30, 12, tzinfo=UTC)
TYPES = {"application", "library", "file", "data", "machine-learning-model"}  # of CycloneDX 1.6, those in use


@pytest.mark.slow
def test_a_bill_lists_files_base_data_libraries_and_scores(cases: Cases, tmp_path: Path) -> None:
    run, audit = tmp_path / "run", tmp_path / "audit"
    cases.unlearn("graddiff", run).fine()
    cases.audit(run, audit).fine()
    whole = json.loads(bill_of_materials(run, tmp_path / "bom.json", audit=audit, now=AT).read_text())
    assert (whole["bomFormat"], whole["specVersion"], whole["version"]) == ("CycloneDX", "1.6", 1)
    assert re.fullmatch(r"urn:uuid:[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", whole["serialNumber"])
    assert whole["metadata"]["timestamp"] == "2026-11-30T12:00:00+00:00"
    model = whole["metadata"]["component"]
    files = {c["name"]: c["hashes"][0]["content"] for c in model["components"]}
    assert files == {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in (run / "model").iterdir()}
    receipt = json.loads((run / "receipt.json").read_text())
    assert {"name": "expunge:method", "value": "graddiff"} in model["properties"]
    assert model["pedigree"]["ancestors"][0]["properties"][0]["value"] == receipt["model"]["weights"]
    data = {c["name"]: c["description"] for c in whole["components"] if c["type"] == "data"}
    assert data == {name: f"{rows} rows" for name, rows in receipt["request"]["sets"].items()}
    torch = next(c for c in whole["components"] if c["name"] == "torch")
    assert torch["version"] == receipt["versions"]["torch"]
    metrics = {m["type"]: m for m in model["modelCard"]["quantitativeAnalysis"]["performanceMetrics"]}
    scores = json.loads((audit / "audit.json").read_text())["scores"]
    assert float(metrics["forget_rouge"]["value"]) == scores["forget_rouge"]["value"]
    limits = " ".join(model["modelCard"]["considerations"]["technicalLimitations"])
    assert "The verdict of the audit is" in limits
    assert "Not checked" in limits

    def components(value: object) -> list[dict[str, object]]:
        own = [value] if isinstance(value, dict) and "bom-ref" in value else []
        inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
        return [*own, *(c for v in inner for c in components(v))]

    parts = components(whole)
    references = [c["bom-ref"] for c in parts]
    assert len(references) == len(set(references))
    assert all(c["type"] in TYPES and c["name"] for c in parts)
    assert {r for d in whole["dependencies"] for r in d["dependsOn"]} <= set(references)
    assert {d["ref"] for d in model["modelCard"]["modelParameters"]["datasets"]} <= set(references)
    text = (tmp_path / "bom.json").read_text()
    assert not [r for r in rows_of(cases.forget) if r["answer"] in text or r["question"] in text]
    assert str(cases.folder) not in text
    assert receipt["request"]["hash"] not in text


@pytest.mark.slow
def test_what_is_no_run_or_another_audit_is_refused(cases: Cases, tmp_path: Path) -> None:
    cases.unlearn("graddiff", tmp_path / "run").fine()
    with pytest.raises(UserError, match="no finished run"):
        bill_of_materials(cases.model, tmp_path / "x.json")
    with pytest.raises(UserError, match="holds no audit"):
        bill_of_materials(tmp_path / "run", tmp_path / "x.json", audit=tmp_path)
    (tmp_path / "audit.json").write_text(json.dumps({"observed": {"weights": "other"}, "verdict": {}, "scores": {}}))
    with pytest.raises(UserError, match="another model"):
        bill_of_materials(tmp_path / "run", tmp_path / "x.json", audit=tmp_path)
    (tmp_path / "audit.json").write_text("[]")
    with pytest.raises(UserError, match="cannot be read"):
        bill_of_materials(tmp_path / "run", tmp_path / "x.json", audit=tmp_path)
    assert "is in" in expunge("bill", tmp_path / "run", "--out", tmp_path / "x.json").fine().out
    with pytest.raises(UserError, match="exists"):
        bill_of_materials(tmp_path / "run", tmp_path / "x.json")

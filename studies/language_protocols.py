"""RESTOR, BLUR, PISTOL and TOFU on their real data, from end to end, with models that a CPU trains in a minute.

`python -m studies.language_protocols restor --data FOLDER --update` writes results/protocols/restor.json, whatever it shows. The models
have less than a million parameters and read a part of the data, so the numbers show that the protocols run and what they tell, and are not
those of the papers.
"""

from __future__ import annotations

import argparse
import copy
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from expunge.benchmarks import blur, pistol, restor, tofu
from expunge.benchmarks.suite import Suite
from expunge.engine import receipt
from expunge.evaluation.observe import observe
from expunge.io.models import Opened
from expunge.workflows.protocols import PLAIN, Questions, over_folds, perplexity_under, ranked, relearned
from expunge.workflows.train import train
from expunge.workflows.unlearn import unlearn

FOLDER = Path(__file__).parents[1] / "results/protocols"
SIZE, LONGER = "nano", "micro"  # most prompts are too long for the smaller one, which has PISTOL
FACTS, QUERIES, LENGTH = 30, 20, 24  # facts and queries of a kind that are asked, tokens of an answer
UNLEARNING = {"batch_size": 16, "lr": 1e-3, "schedule": "constant", "warmup": 0}
Row = Mapping[str, Any]
Numbers = dict[str, Any]


def rounded(scores: Mapping[str, float], *beginnings: str) -> dict[str, float]:
    """The scores whose names begin so, by name."""
    return {name: round(float(value), 4) for name, value in scores.items() if name.startswith(beginnings)}


def trained(rows: Sequence[Row], suite: Suite, texts: Sequence[str], size: str = SIZE, **settings: Any) -> Opened:
    """A model of a built-in size, with its folder as its source."""
    result = train(list(rows), size, texts=texts, prompt_format=suite.prompt_format, **settings)
    return Opened(result.model, result.modality, str(result.folder))


def words_of(rows: Sequence[Row]) -> list[str]:
    """All texts of rows, for the tokenizer."""
    return [str(v) for r in rows for v in r.values() if isinstance(v, str)]


def copied(opened: Opened) -> Opened:
    """A model to change, beside which the other one stays."""
    return Opened(copy.deepcopy(opened.model), opened.modality, opened.source)


def unlearned(method: str, opened: Opened, forget: Sequence[Row], kept: Sequence[Row], **settings: Any) -> Opened:
    """A copy without some rows."""
    result = unlearn(method, copied(opened), list(forget), list(kept), allow_overlap=True, **{**UNLEARNING, **settings})
    return Opened(result.model, result.modality, "")


def restored(data: str) -> Numbers:
    """Corrupt, unlearn, recover: facts about people of whom documents tell wrong things, and about others."""
    suite = restor.load(data)
    documents = suite.train["forget"][::30]
    sets = {**suite.sets, "forget": documents[:20], "retain": suite.sets["retain"][:20]}
    sets |= {name: suite.sets[name][:: len(suite.sets[name]) // FACTS][:FACTS] for name in ("restor_facts", "restor_others")}
    learned = [{k: r[k] for k in ("prompt", "completion")} for name in ("restor_facts", "restor_others") for r in sets[name]]
    texts = words_of([*learned, *sets["retain"], *documents])
    clean = trained([*learned, *sets["retain"]], suite, texts, LONGER, epochs=12)
    result = unlearn("finetune", copied(clean), retain=documents, epochs=4, lr=1e-3, batch_size=16)
    corrupted = Opened(result.model, result.modality, "corrupted")
    seen = {n: observe(o.model, o.modality, sets, specs=suite.specs, wants=PLAIN) for n, o in (("clean", clean), ("corrupted", corrupted))}
    asked = Questions(sets, suite.specs, seen["corrupted"], seen["clean"])
    models = {"clean": clean, "corrupted": corrupted}
    for method in ("ga", "npo"):
        models[method] = unlearned(method, corrupted, documents, sets["retain"], epochs=1, lr=1e-4)
    rows = {"documents": len(documents), "facts": len(learned), "texts": len(sets["retain"])}
    return {"rows": rows, "models": {name: rounded(asked.scores(opened), "restor_") for name, opened in models.items()}}


def overlapping(data: str) -> Numbers:
    """Combined queries, relearning from other retained answers, and keyword insertion with the mini, whose choices the real data lacks."""
    suite = blur.load("" if data == "mini" else data)
    near = suite.train.get("relearn_hi") or [{"text": r["answer"]} for r in suite.train["retain"][QUERIES : 2 * QUERIES]]
    sets = {name: rows[:QUERIES] for name, rows in suite.sets.items()}
    extra = [r for r in suite.train["retain"] if r not in suite.sets["retain"]]
    rows = {"forget": sets["forget"], "retain": [*extra[: 2 * QUERIES], *sets["retain"]]}
    texts = words_of([*rows["forget"], *rows["retain"], *near, *(r for n in ("mmlu", "mmlu_keywords") for r in sets.get(n, ()))])
    specs = {name: replace(spec, length=LENGTH) if spec.length else spec for name, spec in suite.specs.items()}
    original, retrained = (trained(r, suite, texts, LONGER, epochs=20) for r in ([*rows["retain"], *rows["forget"]], rows["retain"]))
    seen = {n: observe(o.model, o.modality, sets, specs=specs, wants=PLAIN) for n, o in (("original", original), ("retrained", retrained))}
    asked = Questions(sets, specs, seen["original"], seen["retrained"])
    gone = unlearned("npo", original, rows["forget"], rows["retain"], epochs=8)
    models = {"original": original, "retrained": retrained, "npo": gone}
    scores = {name: asked.scores(opened) for name, opened in models.items()}
    shown: Numbers = {n: rounded(s, "blur_", "mmlu", "choice", "forget_rouge", "retain_rouge") for n, s in scores.items()}
    combined = {"blur_combined": sets["blur_combined"]}
    for name, opened in models.items():
        look = observe(opened.model, opened.modality, combined, specs=specs, wants=PLAIN)
        shown[name]["perplexity_under_original"] = round(perplexity_under(original, look.sets["blur_combined"]), 2)
    base, folder = scores["original"], kept(gone)
    corpora: dict[str, Sequence[Row]] = {"near": near, "lo": suite.train.get("relearn_lo", [])}
    shares = {
        name: {
            score: {"before": round(r.before, 4), "after": round(r.after, 4), "share": round(r.share, 4)}
            for score, r in relearned(folder, corpus, asked, base, prompt_format=suite.prompt_format, lr=1e-4).items()
            if score in ("forget_rouge", "forget_probability", "blur_forget_forget")
        }
        for name, corpus in corpora.items()
        if corpus
    }
    return {"rows": {name: len(r) for name, r in sets.items()}, "models": shown, "relearned": shares}


def kept(opened: Opened) -> str:
    """The folder of a model, saved for what loads it again."""
    folder = tempfile.mkdtemp(prefix="expunge-protocols-")
    opened.modality.save(opened.model, Path(folder))
    return folder


def contracts(data: str) -> Numbers:
    """PISTOL: two contracts of a firm at once, one after the other, and LUNAR's ranks of true tokens."""
    both = pistol.load(data, "A_B+A_C", retain=60)
    one = {edge: pistol.load(data, edge).sets["forget"] for edge in ("A_B", "A_C")}
    texts = words_of(both.train["full"])
    original, retrained = (trained(both.train[rows], both, texts) for rows in ("full", "retain"))
    asked = Questions(both.sets, both.specs)
    models = {"original": original, "retrained": retrained}
    models["npo, both at once"] = unlearned("npo", original, both.train["forget"], both.train["retain"], epochs=8)
    shown: Numbers = {}
    for name, opened in models.items():
        scores = rounded(asked.scores(opened), "forget_rouge", "forget_probability", "retain_rouge", "deviation", "extraction_strength")
        ranks = {f"{s}_{k}": round(v, 4) for s in ("forget", "retain") for k, v in ranked(opened, both.sets[s]).items()}
        shown[name] = {**scores, **ranks}
    kept, settings = both.train["retain"], {**UNLEARNING, "epochs": 8}
    folds = over_folds("npo", original.source, [*one.values()], kept, asked, in_sequence=True, prompt_format=both.prompt_format, **settings)
    sequence = {edge: rounded(scores, "forget_rouge", "retain_rouge", "deviation") for edge, scores in zip(one, folds, strict=True)}
    return {"rows": {name: len(rows) for name, rows in both.train.items()}, "models": shown, "in sequence": sequence}


def authors(data: str) -> Numbers:
    """TOFU, forget01, with the other authors of retain_perturbed: every score with each of its published means."""
    from expunge.evaluation.measure import Evidence, Measure
    from expunge.evaluation.metrics import tofu as scored

    suite = tofu.load(data, "forget01", retain=60, real_authors=30, world_facts=30)
    rows = {"forget": suite.train["forget"], "retain": [{k: r[k] for k in ("question", "answer")} for r in suite.sets["retain"]]}
    texts = words_of([*rows["forget"], *rows["retain"], *suite.sets["real_authors"], *suite.sets["world_facts"]])
    original, retrained = (trained(r, suite, texts, LONGER, epochs=20) for r in ([*rows["retain"], *rows["forget"]], rows["retain"]))
    reference = observe(retrained.model, retrained.modality, suite.sets, specs=suite.specs, wants=PLAIN)
    models = {"original": original, "retrained": retrained, "npo": unlearned("npo", original, rows["forget"], rows["retain"], epochs=8)}
    shown: Numbers = {}
    for name, opened in models.items():
        look = observe(opened.model, opened.modality, suite.sets, specs=suite.specs, wants=PLAIN)
        by_variant = {}
        for variant in ("geometric", "arithmetic", scored.SHARE):
            measures = scored.scores(Evidence(look, reference, variants={"*": variant}))
            changing = [n for n in ("forget_quality", "forget_truth_ratio", "model_utility") if variant in scored.VARIANTS[n]]
            by_variant[variant] = {n: round(m.value(), 4) for n in changing if isinstance(m := measures[n], Measure)}
        shown[name] = by_variant
    return {"rows": {name: len(r) for name, r in rows.items()}, "models": shown}


PROTOCOLS: dict[str, Callable[[str], Numbers]] = {"restor": restored, "blur": overlapping, "pistol": contracts, "tofu": authors}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m studies.language_protocols", description=__doc__)
    parser.add_argument("name", choices=[*PROTOCOLS])
    parser.add_argument("--data", required=True, help="the folder of the data, or the file")
    parser.add_argument("--update", action="store_true", help="write the numbers")
    options = parser.parse_args()
    started = time.monotonic()
    numbers = PROTOCOLS[options.name](options.data)
    command = f"python -m studies.language_protocols {options.name} --data {options.data} --update"
    record = {
        "command": command,
        "model": SIZE if options.name == "pistol" else LONGER,
        **numbers,
        "seconds": round(time.monotonic() - started),
    }
    record |= {"versions": receipt.versions(), "machine": receipt.machine()}
    if options.update:
        receipt.write(FOLDER / f"{options.name}.json", record)
    for name, scores in record.get("models", {}).items():
        print(name, scores)


if __name__ == "__main__":
    main()

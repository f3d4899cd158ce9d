"""Customer 17 asks to be forgotten: a guard hides her at once, a run removes her, and a certificate says what was measured.

Run it: python examples/request.py [FOLDER], or `make demo-service`. It takes about a minute on two cores, most of it for training a model.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import expunge
from expunge.benchmarks import people
from expunge.io.data import write_jsonl
from expunge.service import certificates, intake, keys, removal, verifying
from expunge.service.checking import check
from expunge.service.ledger import Ledger

FORGETTING = {"lr": 1e-3, "epochs": 40, "retain_weight": 5}


def main(folder: Path) -> None:
    """The whole story, in a folder that is made anew."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    data = people.generate(seed=0, people=12, forget=1, holdout=1, neighbours=1)
    rows = [{"customer_id": 6 + i // 9, **row} for i, row in enumerate(data.full)]  # the last one is customer 17
    write_jsonl(folder / "customers.jsonl", rows)
    original = expunge.train(str(folder / "customers.jsonl"), "nano", out=folder / "original")

    ledger = Ledger.open(folder / "ledger", create=True)
    number = intake.add(ledger, str(folder / "customers.jsonl"), where="customer_id=17", basis="GDPR 17(1)(b)", accept=True, by="clerk")
    print(f"request {number}: {ledger.request(number)['rows']} rows, due on {ledger.request(number)['due']}")

    guarded = removal.run(ledger, [number], method="input_filter", model=str(original.folder), by="operator")
    print(f"run {guarded.run}: {guarded.state}, the verdict is {guarded.verdict!r}: a guard hides rows and removes nothing")
    removed = removal.run(
        ledger,
        [number],
        method="npo",
        hyperparameters=FORGETTING,
        model=str(original.folder),
        holdout=data.holdout,
        utility_budget=0.3,
        by="operator",
    )
    print(f"run {removed.run}: {removed.state}, the verdict is {removed.verdict!r}")
    print(f"report: {removed.folder / 'audits' / 'these-requests' / 'report.html'}")

    private, public = keys.new(folder / "issuer")
    certificate = certificates.certify_request(ledger, number, [private], folder / "certificate.json", by="auditor")
    verified = verifying.verify(removed.folder, certificate, [public])
    print(f"the certificate {'holds' if verified.holds else 'does not hold'}: {verified.predicate['claim']}")
    for event in ledger.events(number):
        print(f"{event.at[:19]} {event.kind} by {event.by}")
    print("the ledger is whole" if not check(ledger) else check(ledger))


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "runs/request"))

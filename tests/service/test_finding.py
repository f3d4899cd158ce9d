"""`expunge find`: verbatim copies, copies inside documents, halves, and nothing else; in files of any kind and size."""

from __future__ import annotations

import csv
import gzip
import io
import json
import random
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("sqlalchemy")

from cases import expunge
from expunge.benchmarks import people
from expunge.core.errors import UserError
from expunge.io.data import write_jsonl
from expunge.service.corpora import BLOCK, blocks, documents
from expunge.service.finding import find

LONG = [
    f"The {a} of {b} was painted by a quiet {c} who kept {n} {d} in an attic above the harbor and never sold one of them."
    for n, (a, b, c, d) in enumerate(
        zip(
            ["gate", "ferry", "tower"],
            ["Oxenby", "Larkholm", "Mossgate"],
            ["nurse", "clerk", "smith"],
            ["owls", "maps", "bells"],
            strict=True,
        ),
        11,
    )
]
ROWS = [{"text": text} for text in LONG]
WORDS = ("river", "stone", "lamp", "window", "garden", "paper", "winter", "engine", "market", "music", "silver", "thunder", "velvet")


def filler(draw: random.Random, count: int = 40) -> str:
    return " ".join(draw.choices(WORDS, k=count))


def jsonl(path: Path, texts: list[str]) -> Path:
    write_jsonl(path, [{"text": t} for t in texts])
    return path


def test_copies_are_found_verbatim_inside_documents_and_by_halves_and_nothing_else_is(tmp_path: Path) -> None:
    draw = random.Random(0)
    texts = [filler(draw) for _ in range(200)]
    half = " ".join(LONG[2].split()[: len(LONG[2].split()) // 2 + 1])
    texts[20], texts[77], texts[150] = LONG[0], f"{filler(draw)} {LONG[1].upper()} {filler(draw)}", f"{filler(draw)}. {half}"
    result = find(ROWS, jsonl(tmp_path / "corpus.jsonl", texts))
    places = {(o.row, o.where): o.share for o in result.places}
    assert places.keys() == {(1, 21), (2, 78), (3, 151)}
    assert places[1, 21] == places[2, 78] == 1
    assert 0.3 < places[3, 151] < 0.7
    assert result.documents == 200


@pytest.mark.parametrize("kind", ["jsonl", "csv", "tsv", "txt", "parquet", "jsonl.gz", "txt.gz", "csv.gz"])
def test_every_kind_of_file_is_searched(kind: str, tmp_path: Path) -> None:
    draw = random.Random(1)
    texts = [filler(draw), f'{filler(draw)} "{LONG[0]}", and', filler(draw)]
    path = tmp_path / f"corpus.{kind}"
    plain: bytes = b""
    if kind.startswith(("csv", "tsv")):
        out = io.StringIO()
        writer = csv.writer(out, delimiter="," if kind.startswith("csv") else "\t")
        writer.writerows([["id", "body"], *([i, t] for i, t in enumerate(texts))])
        plain = out.getvalue().encode()
    elif kind == "parquet":
        import pyarrow
        from pyarrow import parquet

        parquet.write_table(pyarrow.Table.from_pylist([{"body": {"inner": [t]}} for t in texts]), path)
    else:
        plain = "\n".join(json.dumps({"messages": [{"content": t}]}) if kind.startswith("jsonl") else t for t in texts).encode()
    if plain:
        path.write_bytes(gzip.compress(plain) if kind.endswith("gz") else plain)
    (place,) = find(ROWS, path).places
    assert (place.row, place.where, place.share) == (1, 2, 1)


def test_a_text_that_is_broken_over_lines_is_found_with_its_line(tmp_path: Path) -> None:
    words = LONG[1].split()
    wrapped = "\n".join(" ".join(words[i : i + 4]) for i in range(0, len(words), 4))
    (tmp_path / "corpus.txt").write_text(f"first line\nsecond line\n{wrapped}\nlast")
    (place,) = find(ROWS, tmp_path / "corpus.txt").places
    assert (place.row, place.where, place.share) == (2, 3, 1)


@pytest.mark.parametrize("shift", [-400, -120, -1, 0, 1, 60])
def test_a_text_at_the_border_of_two_blocks_is_found_once(shift: int, tmp_path: Path) -> None:
    draw = random.Random(2)
    lines = []
    while sum(map(len, lines)) + len(lines) < BLOCK + shift:
        lines.append(filler(draw, 12))
    rest = [filler(draw, 12) for _ in range(50)]
    (tmp_path / "corpus.txt").write_text("\n".join([*lines, LONG[0], *rest]))
    (place,) = find(ROWS, tmp_path / "corpus.txt").places
    assert (place.where, place.share) == (len(lines) + 1, 1)


def test_blocks_know_their_lines_also_of_very_long_ones() -> None:
    draw = random.Random(3)
    text = "".join(f"{i} {'x' * draw.choice([5, 200, 9000, 70_000])}\n" for i in range(1, 60))
    covered = set()
    for first, block in blocks(io.StringIO(text)):
        for k, line in enumerate(block.split("\n")):
            number = line.split(" ")[0]
            if number.isdecimal() and " " in line and k:
                assert int(number) == first + k
                covered.add(int(number))
    assert covered >= set(range(2, 60))


@pytest.mark.slow
def test_memory_does_not_grow_with_the_corpus(tmp_path: Path) -> None:
    draw = random.Random(4)
    path = jsonl(tmp_path / "corpus.jsonl", [filler(draw) for _ in range(6000)])
    tracemalloc.start()
    assert find(ROWS, path).documents == 6000
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < path.stat().st_size / 4


def test_two_copies_in_one_document_are_two_places(tmp_path: Path) -> None:
    (tmp_path / "corpus.txt").write_text(f"{LONG[0]}\n{LONG[0]}\nnothing here\n{LONG[0]}\n")
    assert [o.where for o in find(ROWS, tmp_path / "corpus.txt").places] == [1, 2, 4]


def test_texts_in_a_script_without_spaces_are_found(tmp_path: Path) -> None:
    text = "田中さんは毎朝六時に港まで歩いて新聞を買います"
    (tmp_path / "corpus.txt").write_text(f"昔々あるところに\n序文。{text}。そして家に帰る。\n")
    (place,) = find([{"text": text}], tmp_path / "corpus.txt").places
    assert (place.where, place.share) == (2, 1)


def test_rows_of_a_benchmark_are_found_in_its_own_data_and_no_row_of_others(tmp_path: Path) -> None:
    data = people.generate(seed=0, people=12, forget=1, holdout=1, neighbours=1)
    write_jsonl(tmp_path / "all.jsonl", data.full)
    result = find(data.forget, tmp_path / "all.jsonl", columns=["answer"])
    whole = {(o.row, o.where) for o in result.places if o.share == 1}
    assert {data.forget[row - 1]["answer"] for row, _ in whole} == {r["answer"] for r in data.forget}
    assert all(data.full[where - 1]["answer"] == data.forget[row - 1]["answer"] for row, where in whole)


def test_what_could_not_be_read_is_said(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(json.dumps({"text": LONG[0]}) + "\n{broken " + LONG[1] + "\n")
    (tmp_path / "b.json").write_text(json.dumps([{"text": LONG[2]}]))
    (tmp_path / "c.bin").write_bytes(b"\0")
    (tmp_path / "d.txt.gz").write_bytes(b"no gzip")
    result = find(ROWS, tmp_path)
    assert {(o.row, Path(o.file).name) for o in result.places} == {(1, "a.jsonl"), (2, "a.jsonl")}
    notes = "\n".join(result.notes)
    for part in ("1 lines are no JSON", "one JSON array", "'.bin' is no text", "d.txt.gz: the rest could not be read"):
        assert part in notes


def test_the_command_tells_places_and_never_texts(tmp_path: Path) -> None:
    corpus = jsonl(tmp_path / "corpus.jsonl", ["nothing", LONG[0]])
    rows = jsonl(tmp_path / "rows.jsonl", LONG)
    done = expunge("find", rows, "--in", corpus, "--out", tmp_path / "places.jsonl").fine()
    assert "1 of 3 rows stands" in done.out
    result = json.loads(expunge("find", rows, "--in", corpus, "--json").fine().out)
    assert [p["where"] for p in result["places"]] == [2]
    kept: list[dict[str, Any]] = [json.loads(line) for line in (tmp_path / "places.jsonl").read_text().splitlines()]
    assert [(p["row"], p["where"]) for p in kept] == [(1, 2)]
    assert "attic" not in done.out + (tmp_path / "places.jsonl").read_text()


def test_wrong_input_is_refused_in_sentences(tmp_path: Path) -> None:
    corpus = jsonl(tmp_path / "corpus.jsonl", ["nothing"])
    rows = jsonl(tmp_path / "rows.jsonl", ["so short"])
    assert "--in" in expunge("find", rows).error
    with pytest.raises(UserError, match="there is no corpus"):
        find(ROWS, tmp_path / "none")
    with pytest.raises(UserError, match="3 words or more"):
        find(str(rows), corpus)
    with pytest.raises(UserError, match="no row has the column 'body'; there are text"):
        find(ROWS, corpus, columns=["body"])
    with pytest.raises(UserError, match="exists"):
        find(ROWS, corpus, out=rows)
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "a.png").write_bytes(b"\x89PNG")
    with pytest.raises(UserError, match="no file that is read as a corpus"):
        list(documents(tmp_path / "pictures"))

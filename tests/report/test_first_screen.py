"""The first screen: the verdict in plain words, leaks verbatim, four questions in order, words explained, and nothing of rows in ids."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from expunge.report import page
from expunge.report.first_screen import sharpening
from expunge.report.glossary import TERMS, Glossary
from expunge.report.leaked import leaked_answers
from expunge.report.report_data import Asked, ReportData
from expunge.report.verdict_data import Check, Leak, PartKind, Recovery, State, Verdict
from expunge.report.words import DASH
from report.test_report import HOSTILE, Page
from report.test_report import method as entry

ROOT = Path(__file__).parents[2]
QUESTIONS = ["Is it gone?", "How sure are we?", "What could still bring it back, and with how little?", "What was not checked?"]
PHONE = "+49 30 901820"


def leak(row: int, produced: str, text: str, kind: PartKind = "name", **fields: Any) -> Leak:
    return Leak(row, f"Question {row}?", f"The answer {row}.", produced, text, kind, **fields)


def verdict(state: State = "not removed", **fields: Any) -> Verdict:
    return Verdict(state, **{"gone": "No: it is there.", "sure": "A text shows it.", "not_checked": ["backups"], **fields})


def story(judged: Verdict, **fields: Any) -> ReportData:
    parts: dict[str, Any] = {"title": "Audit", "model": "forgotten", "request": Asked(forget=9)}
    return ReportData(**{**parts, "models": [entry("npo", 0, verdict=judged)], **fields})


def shown(judged: Verdict, **fields: Any) -> Page:
    return Page(page.build(story(judged, **fields)))


def between(html: str, start: str, end: str) -> str:
    return html[html.index(start) : html.index(end)]


def test_the_verdict_then_leaks_then_four_questions() -> None:
    read = shown(verdict(leaks=[leak(3, "Ada", "It was Ada.")], damage=["Utility is lost."], notes=["One note."]))
    order = ["Not removed", "9 training examples were to be removed", "Utility is lost.", "Question 3?", *QUESTIONS, "One note."]
    places = [read.text.index(words) for words in order]
    assert places == sorted(places)
    assert read.all("meta", name="viewport") == [{"name": "viewport", "content": "width=device-width, initial-scale=1"}]


@pytest.mark.parametrize(
    ("judged", "words"),
    [
        (verdict("removed"), "9 training examples were to be removed from the AI model “forgotten”, as if it had never learned from them. "
         "As far as this audit can see, they are gone"),
        (verdict("cannot tell"), "Whether they are gone could not be told"),
        (verdict(leaks=[leak(1, "Ada", "Ada."), leak(1, "Bob", "Ada."), leak(2, "Eve", "Eve?", proof=False)]),
         "gives at least 1 of them away"),
        (verdict(checks=[Check("a", "not removed", "b")]), "measurements show that something of them is left"),
        (verdict(checks=[Check("a", "not removed", "b", decides=False)]), "an attacker can bring it back"),
    ],
)  # fmt: skip
def test_one_sentence_says_what_was_asked_and_what_came_out(judged: Verdict, words: str) -> None:
    assert words in shown(judged).text


def test_a_request_for_one_row_is_put_in_the_singular() -> None:
    assert "1 training example was to be removed from an AI model" in shown(verdict(), request=Asked(forget=1), model="").text
    assert "Training examples were to be removed" in shown(verdict(), request=None).text


def test_ten_leaked_answers_are_shown_and_the_others_are_counted() -> None:
    leaks = [leak(k, f"Name{k}", f"It is Name{k}.", proof=k < 3) for k in range(1, 15)]
    html = page.build(story(verdict(leaks=leaks)))
    assert re.findall(r"<mark>(Name\d+)</mark>", html) == [f"Name{k}" for k in range(1, 11)]
    text = Page(html).text
    assert "row 10 of the rows to forget" in text
    assert "row 11 of" not in text
    assert "And 4 more, in story.json in the folder of this report" in text
    assert text.count("perhaps a guess") == 8
    assert text.count("nobody guesses this") == 2
    assert "more, in" not in Page(page.build(story(verdict(leaks=leaks[:10])))).text


@pytest.mark.parametrize(
    ("produced", "text", "kind", "marked"),
    [
        ("Ada Lovelace", "No, ADA  LOVELACE, I think.", "name", ["ADA  LOVELACE"]),
        ("Ada", "Adam met Ada and Ada.", "name", ["Ada", "Ada"]),
        (PHONE, "Call 49-30-901-820 now.", "number", ["49-30-901-820"]),
        ("紫式部", "それは紫式部です", "name", ["紫式部"]),
        ("The end.", "Something else.", "recited", []),
    ],
)
def test_the_leaked_part_is_marked_in_the_words_of_the_model(produced: str, text: str, kind: PartKind, marked: list[str]) -> None:
    (answer,) = leaked_answers([leak(1, produced, text, kind)])
    assert [words for words, leaks_here in answer.runs if leaks_here] == marked
    assert "".join(words for words, _ in answer.runs) == text, "verbatim"
    assert answer.beside == (() if marked else (produced,))


def test_parts_of_one_answer_are_marked_together_and_may_overlap() -> None:
    text = f"Ada Lovelace, {PHONE}."
    parts = [leak(1, "Ada Lovelace", text), leak(1, "Lovelace", text, proof=False), leak(1, PHONE, text, "number")]
    (answer,) = leaked_answers(parts)
    assert answer.runs == (("Ada Lovelace", True), (", ", False), (PHONE, True), (".", False))
    assert answer.kinds == ("a name", "a number")
    assert answer.proof


def test_a_leaked_answer_stays_text() -> None:
    html = page.build(story(verdict(leaks=[leak(1, "<script>", f"a <script>alert(1)</script> {HOSTILE}", "answer")], sharpen=HOSTILE)))
    assert html.count("<script") == 1
    assert "<mark>&lt;script&gt;</mark>" in html
    assert not Page(html).all("img")


def test_no_content_of_rows_stands_in_attributes() -> None:
    secret = "Zanzibarius"
    leaks = [Leak(1, f"Who is {secret}?", f"{secret}.", secret, f"It is {secret}.", "name")]
    for tag, attributes in shown(verdict(leaks=leaks)).tags:
        assert not any(secret in str(value) for value in attributes.values()), tag


def test_attacks_say_with_how_little_it_comes_back() -> None:
    attacks = [
        Recovery("relearn", "not removed", "relearn brings it back.", steps=20, rows=4),
        Recovery("paraphrase", "not removed", "paraphrase brings it back.", queries=1200),
        Recovery("quantize, 4 bits", "removed", "quantize, 4 bits brings nothing back.", queries=9),
    ]
    text = shown(verdict(brings_back=attacks)).text
    assert "It comes back: paraphrase (1,200 questions asked)." in text, "with the fewest rows and steps"
    assert (
        "It comes back: relearn (20 training steps, 4 forgotten rows in the hands of the attacker)."
        in shown(verdict(brings_back=attacks[:1])).text
    )
    rows = " ".join(text[text.index("Attack Training steps") :].split())
    assert rows.startswith(
        f"Attack Training steps Rows known Questions relearn 20 4 {DASH} ✕ brought it back Brings it back. paraphrase {DASH} {DASH} 1,200"
    )
    assert "Nothing that was tried: 1 attack brought nothing back." in shown(verdict("removed", brings_back=attacks[2:])).text
    assert "Not known: no attack was made." in shown(verdict()).text
    undecided = [Recovery("relearn", "cannot tell", "relearn shows nothing."), attacks[2]]
    assert "Not known: 1 of 2 attacks shows nothing either way." in shown(verdict("cannot tell", brings_back=undecided)).text


@pytest.mark.parametrize(
    ("text", "command", "notes"),
    [
        ("What would sharpen this: expunge audit m --out o --retrained MODEL [--retrained MODEL (trained without these rows: expunge train "
         "--data RETAIN); --original MODEL (before unlearning)]; and at least 29 rows to forget instead of 9 (a margin)",
         "expunge audit m --out o --retrained MODEL",
         ("--retrained MODEL (trained without these rows: expunge train --data RETAIN)", "--original MODEL (before unlearning)",
          "at least 29 rows to forget instead of 9 (a margin)")),
        ("What would sharpen this: expunge audit m --forget 'a [b]; and c' --holdout FILE",
         "expunge audit m --forget 'a [b]; and c' --holdout FILE", ()),
        ("What would sharpen this: at least 29 rows.", "", ("at least 29 rows.",)),
        ("", "", ()),
    ],
)  # fmt: skip
def test_the_command_that_sharpens_a_verdict_stands_apart(text: str, command: str, notes: tuple[str, ...]) -> None:
    assert (sharpening(text).command, sharpening(text).notes) == (command, notes)
    html = page.build(story(verdict("cannot tell", sharpen=text)))
    sure = between(html, 'aria-labelledby="sure-h"', 'aria-labelledby="back-h"')
    assert ("What would sharpen this" in sure) == bool(text)


def test_words_of_the_field_are_explained_once_where_they_stand_first() -> None:
    checked = [Check("a", "cannot tell", "The retrained model differs by less than the margin.")]
    judged = verdict(
        "cannot tell", gone="It cannot be told: the retrained models differ.", checks=checked, not_checked=["relearn", "guards"]
    )
    html = page.build(story(judged))
    meanings = [abbr["title"] for abbr in Page(html).all("abbr")]
    assert meanings.count(TERMS["retrained model"]) == 1
    assert {TERMS["margin"], TERMS["guard"]} <= set(meanings)
    gone = between(html, 'aria-labelledby="gone-h"', 'aria-labelledby="sure-h"')
    assert "<dfn>retrained model</dfn>: A model trained from the same start" in gone, "phones and paper have no hover"
    unchecked = between(html, 'aria-labelledby="unchecked-h"', "<nav")
    assert "<dfn>relearn</dfn>: Fine-tune the model on a few of the forgotten rows" in unchecked


def test_a_word_that_a_sentence_explains_itself_is_left_to_it() -> None:
    glossary = Glossary({"forget rouge": "Words of the answers."})
    assert "abbr" not in glossary.gloss("forget rouge (how many words): 0.1").html
    assert glossary.gloss("all checks (forget rouge)").terms == (("forget rouge", "Words of the answers."),)
    assert str(Glossary().gloss("a <margin> & --margin").html) == (
        f'a &lt;<abbr title="{TERMS["margin"]}">margin</abbr>&gt; &amp; --margin'
    )


def test_the_page_and_the_glossary_explain_words_alike() -> None:
    pages = " ".join((ROOT / "docs" / "glossary.md").read_text(encoding="utf-8").split())
    assert [term for term, sentence in TERMS.items() if sentence not in pages] == []


def test_checks_that_do_not_decide_stand_apart() -> None:
    checks = [Check("a", "not removed", "first check"), Check("b", "not removed", "second check", decides=False)]
    text = shown(verdict(checks=checks)).text
    assert text.index("first check") < text.index("For information: checks that do not decide") < text.index("second check")
    assert "The state of 1 deciding check : 1 not removed." in text


@pytest.mark.parametrize("state", ["removed", "not removed", "cannot tell"])
def test_each_of_many_models_has_its_state_in_words(state: State) -> None:
    judged = verdict(state, leaks=[leak(k, "Ada", f"Ada {k}.") for k in range(1, 10)])
    models = [entry("npo", 0, verdict=judged), entry("rmu", 0, verdict=verdict("removed")), entry("ga", 0, verdict=judged)]
    html = page.build(story(judged, models=models))
    css, badge = {"removed": ("pass", "✓"), "not removed": ("fail", "✕"), "cannot tell": ("warn", "!")}[state]
    assert f'<li class="{css}"><span class="badge"><span aria-hidden="true">{badge}</span> {state.capitalize()}</span><span>npo-0: ' in html
    text = Page(html).text
    assert not set(QUESTIONS) & set(Page(html).words), "one model alone is asked about"
    assert text.count(", row ") == 10
    assert "And 8 more" in text


def test_wide_tables_say_that_they_scroll_where_scripts_do_not_run_and_print_whole() -> None:
    html = page.build(story(verdict()))
    assert '<noscript><p class="key">3 scores: where the table is wider than the screen' in html
    assert "columns out of view" in html.split("<script>")[1]
    printed = html.split("@media print")[1]
    assert ".box { overflow: visible; }" in printed

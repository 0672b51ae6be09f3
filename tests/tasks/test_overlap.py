"""What the overlap measures find, and what they must not."""

import json
import random
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medbench.tasks.overlap import as_json, estimate, find, resembles, statement
from medbench.tasks.overlap.estimate import RECALLED, REWRITTEN
from medbench.tasks.overlap.find import LISTED, Found
from medbench.tasks.overlap.runs import shared_runs
from medbench.tasks.overlap.words import content, numbers, run_words

STEM = (
    "A 52-year-old potter complains of numbness in the ring finger of her left hand for 7 weeks. "
    "Tapping behind the medial epicondyle brings on tingling. Blood pressure is 128/76 mmHg. "
    "Compression of which nerve explains her symptoms?"
)
REWORDED = (
    "Which nerve is compressed in a potter, aged 52, whose left ring finger has been numb for 7 "
    "weeks and in whom percussion at the medial epicondyle causes tingling, with a blood pressure "
    "of 128/76 mmHg?"
)
OTHERS = [
    "A 19-year-old rower has pain over the radial styloid when she grips an oar. Which tendon?",
    "A boy aged 6 wakes at night with a barking cough. Which drug shortens the attack?",
    "Which vitamin is lacking in a sailor with bleeding gums and corkscrew hairs?",
    "A baker has wheezed on Mondays for 3 months. Which test shows occupational asthma?",
    "Name the enzyme that is inhibited by allopurinol in a man with tophi on both ears.",
    "A newborn vomits green bile 12 hours after birth. What does the upper gastrointestinal show?",
]


def measures(train: str, test: str) -> list[str]:
    return [pair.measure for pair in find([*OTHERS, train], [*OTHERS[:0], test]).pairs]


@pytest.mark.parametrize(
    ("train", "measure"),
    [
        (STEM, "exact"),
        (STEM.upper().replace(",", " ;").replace(".", " !"), "normalised"),
        (STEM.replace("A 52", "Ａ ５２"), "normalised"),
        (f"{STEM}\nA. ulnar\nB. median\nC. radial", "8-gram"),
        (f"{STEM}\nA. radial\nB. ulnar\nC. median", "8-gram"),
        (REWORDED, "paraphrase"),
    ],
    ids=["copy", "case and punctuation", "wide letters", "options", "options moved", "reworded"],
)
def test_a_pair_is_named_after_the_plainest_measure_that_finds_it(train: str, measure: str) -> None:
    assert measures(train, STEM) == [measure]


def test_another_patient_with_the_same_complaint_is_no_overlap() -> None:
    other = (
        "A 23-year-old cyclist has weakness of both hands after a tour of 4 days. Sensation over "
        "the little finger is lost. Which nerve was compressed in the canal of Guyon?"
    )
    assert measures(other, STEM) == []


def test_the_same_words_with_other_numbers_are_still_reported_for_reading() -> None:
    """One template filled twice: whether it is one question only a reader can say."""
    other = re.sub(r"\d+", lambda found: str(int(found[0]) + 11), STEM)
    (found,) = find([*OTHERS, other], [STEM]).pairs
    same = find([*OTHERS, REWORDED], [REWORDED + " Please explain."]).pairs[0]
    assert found.measure in ("8-gram", "paraphrase")
    assert found.score <= same.score


def test_sentences_in_another_order_are_found() -> None:
    moved = " ".join(reversed(re.split(r"(?<=[.?]) ", STEM)))
    assert measures(moved, STEM)


def test_chinese_questions_are_compared_by_characters() -> None:
    stem = "一名四十六岁的陶工左手无名指麻木七周,叩击肘部内上髁时出现刺痛,哪条神经受到压迫?"
    reworded = "陶工,四十六岁,左手无名指麻木已有七周,叩击内上髁引起刺痛,受压迫的是哪条神经?"
    others = [
        "一名儿童夜间出现犬吠样咳嗽,首选哪种药物?",
        "面包师每逢周一喘息,应做哪项检查?",
        "水手牙龈出血,缺乏哪种维生素?",
    ]
    found = find([*others, reworded], [stem])
    assert [(pair.train, pair.eval) for pair in found.pairs] == [(3, 0)]
    assert find([*others, stem.replace(",", "。")], [stem]).pairs[0].measure == "normalised"


def test_a_translation_is_not_found_and_nothing_claims_otherwise() -> None:
    found = find(["Which nerve is compressed behind the medial epicondyle?"], ["哪条神经受到压迫?"])
    assert found.pairs == ()
    assert "in English" in statement(found)


def test_phrases_that_every_exam_uses_are_no_overlap() -> None:
    phrase = "Which of the following is the most likely diagnosis in this patient?"
    train = [f"{text} {phrase}" for text in OTHERS]
    test = [f"{STEM} {phrase}"]
    assert find(train, test).pairs == ()


def test_row_numbers_count_empty_rows_and_copies() -> None:
    found = find(["", STEM, "  ", *OTHERS, STEM], [OTHERS[0], "", STEM, "…?!"])
    assert {(pair.train, pair.eval) for pair in found.pairs} == {(3, 0), (1, 2), (9, 2)}
    assert (found.n_train, found.n_eval) == (8, 2)
    assert found.train_rows == (1, 3, 9)
    assert found.eval_rows == (0, 2)


@pytest.mark.parametrize(
    ("train", "test"), [([], []), ([STEM], []), ([], [STEM]), ([""], ["", ""])]
)
def test_nothing_to_compare_is_said(train: list[str], test: list[str]) -> None:
    found = find(train, test)
    assert found.pairs == ()
    assert estimate(found) is None
    assert statement(found).startswith("Nothing was compared")


def test_one_row_against_one() -> None:
    assert len(find([REWORDED], [STEM]).pairs) == 1
    assert find([OTHERS[0]], [STEM]).pairs == ()


def test_many_copies_are_listed_in_part_and_flagged_whole() -> None:
    found = find([STEM] * 300, [STEM] * 2)
    assert len(found.pairs) == 2 * LISTED
    assert found.train_rows == tuple(range(300))


@given(st.lists(st.text(max_size=60), max_size=6), st.lists(st.text(max_size=60), max_size=6))
@settings(max_examples=60, deadline=None)
def test_any_text_can_be_compared(train: list[str], test: list[str]) -> None:
    found = find(train, test)
    json.dumps(as_json(found, train, test), allow_nan=False)
    assert all(0.5 <= pair.score <= 1 for pair in found.pairs)
    copies = {(n, m) for n, a in enumerate(train) for m, b in enumerate(test) if a == b}
    pairs = {(pair.train, pair.eval): pair.measure for pair in found.pairs}
    assert all(pairs.get(key) == "exact" for key in copies if re.search(r"[a-z]", test[key[1]]))


def test_broken_characters_become_printable() -> None:
    found = find(["\ud800 knee pain in a diver"], ["\ud800 knee pain in a diver"])
    text = as_json(found, ["\ud800 knee"], ["\ud800 knee"])["pairs"][0]["train_text"]
    assert text.encode("utf-8") == b"? knee"


def test_statement_never_says_clean() -> None:
    for found in (find([OTHERS[0]], [STEM]), find([STEM], [STEM]), find([], [])):
        assert not re.search(r"clean|no contamination|free of", statement(found))
    nothing = statement(find([OTHERS[0]], [STEM]))
    assert nothing.startswith("No overlap found")
    assert f"recall {RECALLED / REWRITTEN:.2f}" in nothing


@pytest.mark.parametrize("flagged", [0, 1, 40, 900, 1000])
def test_the_interval_holds_the_share_and_grows_with_what_may_be_missed(flagged: int) -> None:
    rows = tuple(range(flagged))
    size = estimate(Found((), rows, rows, n_train=1000, n_eval=1000))
    assert size is not None
    assert 0 <= size.low <= size.value <= size.high <= 1
    assert size.high > flagged / 1000 or flagged == 1000
    if flagged == 40:
        assert size.value == pytest.approx(0.04 * REWRITTEN / RECALLED, abs=0.002)


def test_words_numbers_and_runs() -> None:
    assert content("The 6,500 cells/mm³ of Sjögren's") == {
        "#6500",
        "#3",
        "cells",
        "mm",
        "sjögren",
        "s",
    }
    assert numbers("36.8 °C, 6,500 and 6500") == {"#36.8", "#6500"}
    assert run_words("肝脏 CT 40") == ["肝", "脏", "ct", "40"]


def test_runs_of_eight_words_count_as_sets_of_words_do() -> None:
    draw = random.Random(0)
    texts = [" ".join(draw.choices("abcdefgh", k=30)) for _ in range(12)]
    texts += [f"{texts[0]} {texts[1]}", texts[2][10:]]

    def runs(text: str) -> set[tuple[str, ...]]:
        words = text.split()
        return {tuple(words[at : at + 8]) for at in range(len(words) - 7)}

    found = shared_runs(texts[:12], texts[12:])
    expected = {}
    for i, a in enumerate(texts[:12]):
        for j, b in enumerate(texts[12:]):
            shared = len(runs(a) & runs(b))
            if shared >= 3:
                expected[i, j] = shared / min(len(runs(a)), len(runs(b)))
    assert expected
    assert found == pytest.approx(expected)


def test_resembling_a_held_out_row_is_decided_by_the_two_rows_alone() -> None:
    texts, held = [*OTHERS, REWORDED], [STEM]
    alone = [bool(resembles([text], held)[0]) for text in texts]
    assert alone == [False] * len(OTHERS) + [True]
    grown = resembles(
        [*texts, *(f"{text} again, elsewhere" for text in OTHERS)], [*held, OTHERS[2]]
    )
    assert grown[: len(texts)].tolist() == [n == 2 or near for n, near in enumerate(alone)]
    assert resembles([], held).tolist() == []
    assert resembles(texts, []).tolist() == [False] * len(texts)


def test_rewritten_exam_questions_are_found_among_all_others(real_data: Path) -> None:
    pairs = [
        json.loads(line)
        for line in (real_data / "paraphrase_pairs/positives_even.jsonl").read_text().splitlines()
    ]
    rows = json.loads((real_data / "medical_o1_en/demo_data.json").read_text())
    train = [row["Question"] for row in rows]
    lines = (real_data / "medqa_us_4options/test.jsonl").read_text().splitlines()
    others = [json.loads(line)["question"] for line in lines]
    found = find(train, [pair["original_mcq_stem"] for pair in pairs] + others)
    reported = {(pair.train, pair.eval) for pair in found.pairs}
    right = {(pair["demo_row"], n) for n, pair in enumerate(pairs)}
    assert len(right & reported) / len(right) >= 0.95
    false = [key for key in reported if key[1] >= len(pairs)]
    assert len(false) <= 1e-5 * len(train) * len(others)
    near = [resembles([p["rewritten_question"]], [p["original_mcq_stem"]])[0] for p in pairs]
    assert np.mean(near) > 0.9

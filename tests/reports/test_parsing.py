"""The rates of answers that could not be read."""

import pandas as pd
import pytest

from medbench.reports.sections.parsing import PROBLEMS, occurring, parsing


def table(**columns: list[object]) -> pd.DataFrame:
    n = len(columns["problem"])
    return pd.DataFrame(
        {"task": ["quiz"] * n, "model": ["base"] * n, "output": ["words"] * n,
         "truncated": [False] * n} | columns
    )  # fmt: skip


def test_rates_are_shares_of_all_generated_answers() -> None:
    problems: list[object] = [None, "refused", "unclosed", "refused", None]
    (found,) = parsing(table(problem=problems, truncated=[True, False, True, False, False]))
    assert found.n == 5
    assert found.problems == {"unclosed": 0.2, "refused": 0.4}
    assert found.unparsed == pytest.approx(0.6)
    assert found.truncated == 0.4
    assert list(found.problems) == [name for name in PROBLEMS if name in found.problems]
    assert "not read 60.0" in found.line
    assert "truncated 40.0" in found.line


def test_tasks_that_generated_nothing_have_no_row() -> None:
    assert parsing(table(problem=[None, None], output=[None, None])) == ()


def test_nothing_is_said_in_the_terminal_where_all_was_read() -> None:
    (found,) = parsing(table(problem=[None, None]))
    assert found.line == ""
    assert found.unparsed == 0


def test_columns_are_the_problems_that_occur_anywhere() -> None:
    samples = table(problem=["several", "none_of_the_above", "empty"], model=["a", "a", "b"])
    found = parsing(samples)
    assert occurring(found) == ("empty", "several", "none_of_the_above")
    first, second = (one.cells(occurring(found)) for one in found)
    assert first == ("100.0\u00a0%", "0.0\u00a0%", "50.0\u00a0%", "50.0\u00a0%", "0.0\u00a0%")
    assert second[:2] == ("100.0\u00a0%", "100.0\u00a0%")

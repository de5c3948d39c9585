"""The words of the magic's line."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpnb._notebook.magic._words import Value, WordError, expanded, is_silent, quoted, words


@pytest.mark.parametrize(
    ("line", "split"),
    [
        ("last 30 days", ["last", "30", "days"]),
        ('-e "Sign Up" -e Purchase', ["-e", "Sign Up", "-e", "Purchase"]),
        ("""--where 'properties["$os"] == "iOS"'""", ["--where", 'properties["$os"] == "iOS"']),
        (r'''--where "properties[\"$os\"] == \"iOS\""''', ["--where", 'properties["$os"] == "iOS"']),
        ("""--where properties["$os"]=="i OS" -e x""", ["--where", 'properties["$os"]=="i OS"', "-e", "x"]),
        ("--where='a b' --table='c'", ["--where=a b", "--table=c"]),
        ("-e'Sign Up' -ePurchase", ["-eSign Up", "-ePurchase"]),
        ("""-e "it's" -e it\\'s -e 'it'"'"'s'""", ["-e", "it's", "-e", "it's", "-e", "it's"]),
        ('-e ""', ["-e", ""]),
        (r"--database C:\data\new.duckdb", ["--database", r"C:\data\new.duckdb"]),
        (r'--database "C:\my data\new.duckdb"', ["--database", r"C:\my data\new.duckdb"]),
        (r"--database my\ data.duckdb", ["--database", "my data.duckdb"]),
        ("a --bg      # returns at once", ["a", "--bg"]),
        ("-e '#1' -e a#b", ["-e", "#1", "-e", "a#b"]),
        ("-e Ünï☃ -e '→ x'", ["-e", "Ünï☃", "-e", "→ x"]),
        ("", []),
        ("   # nothing", []),
    ],
)
def test_a_line_is_split_as_people_type_it(line: str, split: list[str]) -> None:
    """
    Quotes around a word hold blanks and arrive without themselves, those within stay, a backslash is one in a path,
    and a comment is none of the words.
    """
    assert expanded(line, {}) == split


@pytest.mark.parametrize(
    ("line", "silent", "split"),
    [
        ("last 7 days;", True, ["last", "7", "days"]),
        ("last 7 days ;  ", True, ["last", "7", "days"]),
        ("last 7 days; # quiet", True, ["last", "7", "days"]),
        ("-e 'a;'", False, ["-e", "a;"]),
        ("-e 'a;';", True, ["-e", "a;"]),
        ("-e a;b", False, ["-e", "a;b"]),
        ("-e a # b;", False, ["-e", "a"]),
        ("-e {x};", True, ["-e", "1"]),
        ("-e $x;", True, ["-e", "1"]),
        (";", True, []),
    ],
)
def test_a_semicolon_at_the_end_is_no_part_of_a_word(line: str, silent: bool, split: list[str]) -> None:
    """It hides the display, and only where it stands outside of quotes and comments."""
    assert is_silent(line) is silent
    assert expanded(line, {"x": 1}) == split


def test_names_and_expressions_are_expanded_as_whole_words_only() -> None:
    """``$os`` within a word or in quotes stays as typed, whatever ``os`` is in the notebook."""
    import os

    names = {"os": os, "first": "2026-01-01", "n": 3, "d": {"a b": "}"}}
    line = """$first {n + 1} --table=$first --table={d["a b"]} '$first' "{n}" a$first $first.x """
    assert expanded(line + """properties["$os"] 'properties["$os"]' {n}x {n""", names) == [
        "2026-01-01", "4", "--table", "2026-01-01", "--table", "}", "$first", "{n}", "a$first", "$first.x",
        'properties["$os"]', 'properties["$os"]', "{n}x", "{n",
    ]  # fmt: skip


def test_an_expression_may_use_what_a_cell_may() -> None:
    """Its names are seen from within a comprehension too, and the value itself is kept."""
    [word] = expanded("{[name for name in names if name in wanted]}", {"names": ["a", "b"], "wanted": {"b"}})
    assert isinstance(word, Value)
    assert word.value == ["b"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("-e 'Sign", "'Sign has a quote that is not closed"),
        ("-e it's", "it's has a quote that is not closed"),
        ("-e {1 +}", "{1 +} is not a Python {expression}"),
        ("-e $nobody", r"$nobody cannot be expanded (NameError: name 'nobody' is not defined)"),
        ("-e {1/0}", "{1/0} cannot be expanded (ZeroDivisionError: division by zero)"),
    ],
)
def test_what_cannot_be_read_is_named(line: str, message: str) -> None:
    """The message holds the word at fault."""
    with pytest.raises(WordError) as caught:
        expanded(line, {})
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@given(st.lists(st.text(st.characters(exclude_characters="\n\r", exclude_categories=["Cs"]), max_size=8)))
def test_every_text_can_be_quoted(texts: list[str]) -> None:
    """What ``quoted`` writes is read as it was."""
    for quote in ("", "'", '"'):
        line = " ".join(quoted(text, quote) for text in texts)
        assert [word.text for word in words(line)] == texts
        assert expanded(line, {}) == texts

"""Regular expressions: against Python's `re` on random patterns and texts, RE2's own rules, limits."""
from __future__ import annotations

import re
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lepton.ir.diagnostics import LeptonError, ResourceError
from lepton.ir.regex import Dfa, utf8_sequences

letters = st.sampled_from(["a", "b", "é", "\U0001f600", "_", "\n", " "])
atoms = st.sampled_from([
    "a", "b", "é", "\U0001f600", ".", "[ab]", "[^a]", "[^é\n]", "[a-zé-ü]", r"\w", r"\W", r"\s", r"\S", r"\d", r"\D",
    "_", r"\n", r"\x61", "(?:)", "", r"\b", r"\B", "^", r"\A"])
patterns = st.recursive(
    atoms,
    lambda p: st.one_of(
        st.tuples(p, p).map("".join),
        st.tuples(p, p).map(lambda ab: f"(?:{ab[0]}|{ab[1]})"),
        st.tuples(p, st.sampled_from(["*", "+", "?", "{2}", "{1,3}", "{0,2}", "{2,}", "*?", "+?"])).map(
            lambda ab: f"({ab[0]}){ab[1]}"),
        p.map(lambda a: f"(?s:{a})"), p.map(lambda a: f"(?m:^{a}.)"),
    ), max_leaves=8)


def matches(pattern: str, text: str) -> bool:
    return Dfa.of(pattern).matches(text.encode())


@settings(max_examples=300, deadline=None)
@given(patterns, st.lists(st.text(letters, max_size=7), min_size=1, max_size=8))
def test_random_patterns_match_as_in_python(pattern: str, texts: list[str]) -> None:
    expected = re.compile(pattern, re.ASCII)
    for text in texts:
        if text or r"\B" not in pattern:  # Python 3.13 and older find no \B in nothing
            assert matches(pattern, text) == (expected.fullmatch(text) is not None), text


@pytest.mark.parametrize(("pattern", "yes", "no"), [
    ("a$", ["a"], ["a\n", "b"]),                                      # $ is the very end, unlike Python's
    ("(?m)a$\nb", ["a\nb"], ["a"]), (r"a\z", ["a"], ["a\n"]),
    (r"\Qa.b*\E+", ["a.b*", "a.b**"], ["axb"]), (r"\Q", [""], ["Q"]), (r"\101\x{1F600}", ["A\U0001f600"], ["A"]),
    (r"[[:alpha:]_]+[[:^digit:]]", ["ab_!"], ["ab1", "é!"]), (r"\pL\p{Nd}\PL\p{^L}", ["é٣1-"], ["1a1-"]),
    (r"[\d\-x]+", ["1-x"], ["y"]), ("[]a]+", ["]a"], ["b"]), ("[^]a]", ["b"], ["]"]), ("[a-]+", ["a-"], ["b"]),
    ("(?i)straSSe|É|K", ["STRASSE", "straſse", "é", "\u212a"], ["strae"]), ("(?i:a)b", ["Ab"], ["AB"]),
    ("a(?i)b|c", ["aB", "C"], ["A"]), ("(?i)a(?-i)b", ["Ab"], ["AB"]), ("a{,2}", ["a{,2}"], ["aa"]),
    ("a{", ["a{"], ["a"]), ("(?P<x>a)(?<y>b)", ["ab"], ["a"]),
    ("a|", ["a", ""], ["b"]), ("[^a]", ["\U0010ffff", "é"], ["a", "ab"]), ("(?U)a+", ["aa"], [""]),
    (r"\w\b.\B.", ["a  "], ["aaa"]),
])
def test_what_re2_says(pattern: str, yes: list[str], no: list[str]) -> None:
    assert all(matches(pattern, t) for t in yes)
    assert not any(matches(pattern, t) for t in no)


def test_bytes_that_are_no_utf8_match_nothing() -> None:
    for pattern in (".*", "(?s).", "[^a]+", r"\W"):
        for data in (b"\xff", b"\xc3", b"\xe2\x82", b"\xc0\x80", b"\xed\xa0\x80", b"\xf5\x80\x80\x80"):
            assert not Dfa.of(pattern).matches(data)


@given(st.integers(0, 0x10FFFF), st.integers(0, 0x10FFFF), st.integers(0, 0x10FFFF))
def test_ranges_of_bytes_are_those_of_code_points(a: int, b: int, c: int) -> None:
    low, high = min(a, b), max(a, b)
    for point in (a, b, c, max(low - 1, 0), min(high + 1, 0x10FFFF)):
        if 0xD800 <= point <= 0xDFFF:
            continue
        text = chr(point).encode()
        found = [s for s in utf8_sequences(low, high)
                 if len(s) == len(text) and all(x <= t <= y for t, (x, y) in zip(text, s, strict=True))]
        assert len(found) == (low <= point <= high)


@pytest.mark.parametrize("pattern", [
    "(", "a)", "[a", "[b-a]", "a**", "a{2}{3}", "*a", "a{5,2}", "a{1001}", r"\1", "(a)\\1", "(?=a)", "(?!a)", "(?<=a)",
    "(?>a)", "\\", r"\Z", r"\C", r"\p{Greek}", r"\q", "[[:foo:]]", "(?P<n", r"\x{110000}", "a++",
    "(" * 101 + ")" * 101])
def test_what_re2_does_not_have_is_refused(pattern: str) -> None:
    with pytest.raises(LeptonError, match="regular expression"):
        Dfa.of(pattern)


def test_no_pattern_takes_exponential_time() -> None:
    """Those on which backtracking matchers hang, and those whose tables would be huge."""
    start = time.perf_counter()
    text = "a" * 5000
    for pattern, answer in (("(a|a)*b", False), ("(a*)*", True), ("(?:a?){60}a{60}", False), ("(a|aa)+$", True)):
        assert matches(pattern, text) is answer
    for pattern in ("(a|b)*a(a|b){20}", "((a{100}){100}){100}", r"(\pL{1,100}\d?){100}"):
        with pytest.raises(ResourceError, match="too large"):
            Dfa.of(pattern)
    assert time.perf_counter() - start < 20


def test_tables_are_small() -> None:
    assert Dfa.of("(a|b|c)*abc(a|b|c)*").table.shape == (5, 5)
    assert len(Dfa.of("a{10}b{10}").table) == 22
    assert not Dfa.of("[^\\x{0}-\\x{10FFFF}]").accepts.any()

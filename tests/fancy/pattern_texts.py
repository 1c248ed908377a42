"""Strategies: patterns that compile, and texts on which they have a chance."""

from __future__ import annotations

from hypothesis import strategies as st

ALPHABET = "abckKsS12 .-é"


def texts() -> st.SearchStrategy[str]:
    """Short texts of few characters, some beyond ASCII."""
    return st.text(st.sampled_from(ALPHABET + "ſ\u212aÉ٣\n"), max_size=24)


def ascii_texts() -> st.SearchStrategy[str]:
    """Short texts of few ASCII characters."""
    return st.text(st.sampled_from("abckKsS12 .-_"), max_size=24)


def patterns(*, plain: bool = False) -> st.SearchStrategy[str]:
    """Patterns; `plain` ones mean the same to Python's `re` (with ASCII texts and flags)."""
    atoms = [
        "a",
        "b",
        "c",
        "ab",
        "kS",
        r"\.",
        "-",
        " ",
        ".",
        "[ab]",
        "[^a]",
        "[a-c1]",
        r"\d",
        r"\w",
    ]
    atoms += [r"\s", r"\D", r"\W", r"\b", "^"]
    if not plain:  # Python before 3.14 has \B never match in an empty text
        atoms += [r"\B"]
        atoms += ["é", "[éa]", "(?i)k", "(?i:s)", "[[:alpha:]]", "[a-z&&[^b]]", r"\h", "$", r"\z"]
        atoms += [r"\p{Lu}", "(?=a)", "(?!b)", "(?<=a)", r"\x61", "(?m:$)", "(?s:.)"]
    return st.recursive(st.sampled_from(atoms), _larger, max_leaves=8)


def _larger(children: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    marks = st.sampled_from(["*", "+", "?", "{2}", "{1,2}", "*?", "+?", "??", "{0,2}?"])
    return st.one_of(
        st.lists(children, min_size=1, max_size=3).map("".join),
        st.lists(children, min_size=1, max_size=3).map(lambda parts: f"(?:{'|'.join(parts)})"),
        children.map(lambda child: f"({child})"),
        st.builds(lambda child, mark: f"({child}){mark}", children, marks),
    )

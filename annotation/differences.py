"""What two texts have in common, word by word: what the ranking page marks when it compares two answers."""

import re
from dataclasses import dataclass
from difflib import SequenceMatcher

COMPARED_CHARACTERS = 20_000  # of each text
WORDS_WITHOUT_SHORTCUT = 1_000  # beyond, difflib leaves out words that are everywhere: else the time grows too fast
WORDS = re.compile(r"\s*\S+\s*|\s+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """The two texts in pieces [(text, whether the other one lacks it)], and how many words they share."""

    first: list
    second: list
    shared: int  # words in both, in order
    only_first: int  # words
    only_second: int
    is_cut: bool  # a text was too long to be compared whole


def compare(first, second):
    """The word-level Difference of two texts. White space alone is no difference."""
    is_cut = max(len(first), len(second)) > COMPARED_CHARACTERS
    sides = [WORDS.findall(text[:COMPARED_CHARACTERS]) for text in (first, second)]
    words = [[piece.strip() for piece in side] for side in sides]
    shortcut = max(map(len, words)) > WORDS_WITHOUT_SHORTCUT
    pieces = [], []
    shared, alone = 0, [0, 0]
    for kind, *bounds in SequenceMatcher(None, *words, autojunk=shortcut).get_opcodes():
        for side in (0, 1):
            start, end = bounds[2 * side : 2 * side + 2]
            if start == end:
                continue
            pieces[side].append(("".join(sides[side][start:end]), kind != "equal"))
            alone[side] += (end - start) * (kind != "equal")
        shared += (bounds[1] - bounds[0]) * (kind == "equal")
    return Difference(
        first=pieces[0], second=pieces[1], shared=shared, only_first=alone[0], only_second=alone[1], is_cut=is_cut
    )

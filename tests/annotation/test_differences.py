"""The word-level difference that the ranking page shows between two answers."""

import random
import time

import pytest

from annotation.differences import COMPARED_CHARACTERS, compare
from annotation.rendering import render_pieces


def test_it_marks_the_words_that_the_other_text_lacks():
    found = compare("The fox flew the red kite.", "The shy fox flew the kite.")
    assert found.first == [("The ", False), ("fox flew the ", False), ("red ", True), ("kite.", False)]
    assert found.second == [("The ", False), ("shy ", True), ("fox flew the ", False), ("kite.", False)]
    assert (found.shared, found.only_first, found.only_second, found.is_cut) == (5, 1, 1, False)


@pytest.mark.parametrize("seed", range(20))
def test_its_pieces_are_the_texts(seed):
    draw = random.Random(seed)
    first, second = ("".join(draw.choices(["fox", "kite", " ", "  ", "\n", "\u202e", "<b>"], k=200)) for _side in "ab")
    found = compare(first, second)
    assert "".join(text for text, _marked in found.first) == first
    assert "".join(text for text, _marked in found.second) == second
    kept = [" ".join(text for text, marked in side if not marked).split() for side in (found.first, found.second)]
    assert kept[0] == kept[1]
    assert len(kept[0]) >= found.shared > 0


def test_white_space_alone_is_no_difference():
    found = compare("a  b\nc", "a b c")
    assert (found.shared, found.only_first, found.only_second) == (3, 0, 0)


def test_it_compares_the_beginnings_of_very_long_texts_in_bounded_time():
    draw = random.Random(0)
    first, second = (" ".join(draw.choices(["a", "b", "fox", "kite", "x"], k=50_000)) for _side in "ab")
    started = time.process_time()
    found = compare(first, second)
    assert time.process_time() - started < 1
    assert found.is_cut
    assert sum(len(text) for text, _marked in found.first) <= COMPARED_CHARACTERS


def test_marked_pieces_are_escaped_and_heard():
    html = render_pieces([("a <b>", False), ("c\u202e ", True)])
    assert html.startswith("a &lt;b&gt;<mark>")
    assert "only here:" in html and "U+202E" in html and html.endswith("</mark> ")

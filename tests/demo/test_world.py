"""The story language: what it tells it can read, and nothing else passes for a story."""

from __future__ import annotations

import random
import time
from itertools import islice

import pytest

from plumbline.demo import words, world

REQUEST = "Tell a story about a shy fox and a kite."
STORY = (
    "Once a shy fox lived by the mill. It hid behind the door. One day the little fox found a kite. "
    "Birds sang in the trees. Then a fire broke out. With the kite the fox threw sand over it all. "
    "Back by the mill the fox hugged all its friends."
)


def read(story: str, request: str = REQUEST) -> world.Parse:
    return world.parse(request, story)


def test_it_reads_every_part_of_a_story():
    told = read(STORY)
    assert told.well_formed
    assert told.kinds == ("opening", "deed", "thing", "interlude", "problem", "solution", "ending")
    assert told.animals == ("fox", "fox", "fox", "fox")
    assert (told.animal, told.traits, told.thing) == ("fox", ("shy",), "kite")
    assert (told.problem, told.solution, told.helper, told.ending) == ("fire", "fire", "the kite", "kind")
    assert (told.place, told.last_place, told.deed_trait, told.sad_words, told.repeats) == ("mill", "mill", "shy", 0, 0)
    assert told.animal_kept and told.trait_kept and told.thing_kept and told.own_solution
    assert told.thing_helps and told.place_kept and told.ends_on_animal
    assert told.deed_fits and told.animal_steady and told.trait_early


@pytest.mark.parametrize(
    ("told", "instead", "lost"),
    [
        ("Once a shy fox", "Once a shy owl", "animal_kept"),
        ("a shy fox", "a small fox", "trait_kept"),
        ("the little fox", "the brave fox", "trait_kept"),
        ("found a kite", "found a drum", "thing_kept"),
        ("threw sand over it all", "oiled the rusty hinges", "own_solution"),
        ("threw sand over it all", "tried and tried in vain", "own_solution"),
        ("With the kite", "With a friend", "thing_helps"),
        ("Back by the mill", "Back by the lake", "place_kept"),
        ("the fox hugged", "our hero hugged", "ends_on_animal"),
        ("It hid behind the door", "It walked in the dark", "deed_fits"),
        ("kite the fox", "kite the goat", "animal_steady"),
        ("a shy fox", "a small fox", "trait_early"),
    ],
)
def test_it_sees_each_virtue_lost_alone(told, instead, lost):
    changed = STORY.replace(told, instead)
    assert changed != STORY
    assert read(changed).well_formed
    assert getattr(read(STORY), lost) and not getattr(read(changed), lost)


def test_it_counts_a_sentence_told_twice():
    twice = STORY.replace("It hid behind the door.", "It hid behind the door. It hid behind the door.")
    assert read(twice).repeats == 1 and read(twice).well_formed
    thrice = twice.replace("Birds", "It hid behind the door. Birds")
    assert read(thrice).repeats == 2 and not read(thrice).well_formed


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        ".",
        "....",
        "shy fox kite fire sand friends",
        STORY[:-1],
        STORY + " The",
        STORY + " Birds sang in the trees.",
        STORY + " " + STORY,
        STORY.replace("Then a fire broke out. ", ""),
        STORY.replace("Then a fire broke out.", "Then a fire broke out. But a wolf blocked the way."),
        STORY.lower(),
        " ".join(reversed(STORY.split(". "))),
        "Birds sang in the trees. " + STORY.replace("Birds sang in the trees. ", ""),
        "Once a shy fox lived by the mill. " * 6,
        STORY.replace("fox", "dragon"),
        STORY.replace(". ", ".  \x00"),
        "\ud800" + STORY,
        "𝕿" * 50,
        "{animal} %s \\ [(*",
    ],
)
def test_it_takes_nothing_else_for_a_story(text):
    assert not read(text).well_formed


@pytest.mark.parametrize("unit", ["a", ".", ". ", STORY + " ", "Once a ", "(", "\n", "\u0301"])
def test_it_reads_a_megabyte_quickly(unit):
    text = unit * (1_000_000 // len(unit))
    started = time.perf_counter()
    assert not read(text).well_formed
    assert world.parse(text, STORY) is None
    assert time.perf_counter() - started < 0.5


@pytest.mark.parametrize(
    "request_text", ["", "Hello?", "Tell a story about a shy dragon and a kite.", REQUEST + REQUEST]
)
def test_it_leaves_foreign_prompts_alone(request_text):
    assert world.parse(request_text, STORY) is None


def test_it_reads_back_what_it_tells():
    rng = random.Random(4)
    for pool in world.POOLS:
        for spec in world.prompts(pool)[:500]:
            plan = world.plan_story(spec.combination, rng)
            told = world.parse(spec.text, world.tell(plan, rng))
            assert told.well_formed, told
            assert told.requested == spec.combination
            assert (told.animal, told.thing, told.helper) == (plan.animal, plan.thing, plan.helper)
            assert (told.place, told.last_place) == (plan.place, plan.last_place)
            assert told.traits == tuple(word for word in plan.adjectives if word in words.TRAITS)
            assert plan.problem in words.PROBLEMS[told.problem][0]
            assert (told.solution == "none") == (plan.solution in words.NO_SOLUTIONS)
            assert plan.ending in words.ENDINGS[told.ending]
            assert told.repeats == (plan.repeat is not None)
            if plan.deed:
                assert words.DEEDS[told.deed_trait] == plan.deed
            if plan.drift_from:
                assert plan.drift_animal in told.animals


def test_it_understands_every_phrasing():
    wanted = world.Combination("honest", "owl", "hat")
    texts = [world.prompt_text(wanted, i) for i in range(len(words.REQUESTS))]
    assert texts[0] == "Tell a story about an honest owl and a hat."
    assert [world.requested(text) for text in texts] == [wanted] * len(texts)


def test_its_pools_are_disjoint_and_large_enough():
    pools = {pool: world.prompts(pool) for pool in world.POOLS}
    groups = [spec.group for specs in pools.values() for spec in specs]
    texts = [spec.text for specs in pools.values() for spec in specs]
    combinations = len(words.TRAITS) * len(words.ANIMALS) * len(words.THINGS)
    assert len(set(groups)) == combinations
    assert len(texts) == len(set(texts)) == combinations * len(words.REQUESTS)
    assert all(spec.pool == pool == world.pool_of(spec.combination) for pool, specs in pools.items() for spec in specs)
    assert len(pools["eval"]) >= 1000 and len(pools["ppo"]) >= 1000 and len(pools["reward"]) >= 1500
    shares = [len(specs) / len(groups) for specs in pools.values()]
    assert shares == pytest.approx([0.5, 0.2, 0.15, 0.15], abs=0.02)


def test_it_refuses_an_unknown_pool():
    with pytest.raises(ValueError, match="'test' is not one of sft, reward, ppo, eval"):
        world.prompts("test")


def test_its_split_never_moves():
    """The pools are fixed for good: a checkpoint's training prompts must stay out of the eval pool."""
    keys = ["shy-hedgehog-clock", "quiet-goat-key", "proud-pony-ladder", "tidy-cat-whistle"]
    found = [world.pool_of(world.Combination(*key.split("-"))) for key in keys]
    assert found == list(world.POOLS)


def test_it_stays_short():
    """Prompt and story fit 96 tokens: a word or full stop is about one token, and the chat shape takes some more."""
    lengths = [len(f"{p} {s}".replace(".", " .").split()) for p, s in world.pairs(3000, 1)]
    assert max(lengths) <= 76
    assert sum(lengths) / len(lengths) < 68


def test_its_corpora_repeat_exactly_and_keep_to_their_pool():
    assert list(world.conversations(50, 3)) == list(world.conversations(50, 3)) != list(world.conversations(50, 4))
    first = world.demonstrations(50, 3)
    assert first == world.demonstrations(50, 3)
    for demonstration in first:
        user, assistant = demonstration["messages"]
        assert (user["role"], assistant["role"]) == ("user", "assistant")
        assert world.pool_of(world.requested(user["content"])) == "sft"
    whole = 0
    for messages in islice(world.conversations(10**9, 3), 400):  # streams: asking for a billion costs nothing
        assert [message["role"] for message in messages] == ["user", "assistant", "note"]
        request, told, note = (message["content"] for message in messages)
        assert world.pool_of(world.requested(request)) == "sft"
        assert read(told).unparsed == 0 and note
        whole += read(told).well_formed
    assert 70 < whole < 130


def test_its_notes_say_what_is_true_of_the_story():
    told = world.story(world.requested(REQUEST), random.Random(4))
    said = world.notes(REQUEST, told, random.Random(0), n=len(words.NOTES))
    for fact, remarks in words.NOTES.items():
        for value, remark in remarks.items():
            assert (remark in said) == (getattr(read(told), fact) == value)


@pytest.mark.parametrize("kinds", words.EXCERPTS, ids="-".join)
def test_its_excerpts_are_noted_for_what_they_show(kinds):
    rng = random.Random(5)
    excerpts = {world.excerpt(STORY, rng) for _ in range(200)}
    (told,) = (text for text in excerpts if read(text).kinds == kinds)
    assert all(sentence in STORY for sentence in told.split(". "))
    said = world.notes(REQUEST, told, rng, n=len(words.NOTES))
    for fact, remarks in words.NOTES.items():
        shown = words.NOTED_IN.get(fact, set(words.SENTENCES)) <= set(kinds)
        assert any(remark in said for remark in remarks.values()) == shown
        assert not shown or remarks[getattr(read(told), fact)] in said


def test_no_two_notes_begin_alike():
    remarks = [remark for values in words.NOTES.values() for remark in values.values()]
    assert len({remark[:3] for remark in remarks}) == len(remarks) == 28


def test_its_corpus_is_imperfect_as_said():
    told = [world.parse(request, text) for request, text in world.pairs(6000, 9)]

    def share(virtue):
        return sum(getattr(story, virtue) for story in told) / len(told)

    assert share("animal_kept") == pytest.approx(0.80, abs=0.03)
    assert share("trait_kept") == pytest.approx(0.60, abs=0.03)
    assert share("thing_kept") == pytest.approx(0.60, abs=0.03)
    assert share("own_solution") == pytest.approx(0.45, abs=0.03)
    kept = [s for s in told if s.animal_kept]
    assert sum(s.own_solution for s in kept) / len(kept) == pytest.approx(0.45, abs=0.03)  # virtues are independent
    for kind in words.ENDINGS:
        assert sum(s.ending == kind for s in told) / len(told) == pytest.approx(0.25, abs=0.03)

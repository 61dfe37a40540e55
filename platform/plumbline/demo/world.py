"""The story language: what can be asked for, how its stories are told, and how a story is read back.

A prompt asks for a trait, an animal and a thing. The corpus answers imperfectly on purpose: whether it keeps each of
them, solves its problem by that problem's own solution, comes back to the place where it began and so on are
independent draws, so that a policy trained on it gives answers of clearly varying quality, and each virtue can be
learned alone.
Everything is deterministic in its seed.
"""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby

from . import words

POOLS = ("sft", "reward", "ppo", "eval")
_POOL_SHARES = (0.50, 0.20, 0.15, 0.15)
# The longest story of the grammar has about 430 characters; no longer text can be one, however it is made.
MAX_STORY_CHARS = 1000

# How often the corpus does the good thing.
KEEP_ANIMAL = 0.80
KEEP_TRAIT = 0.60
NO_TRAIT = 0.10
TRAIT_EARLY = 0.70
KEEP_THING = 0.60
OWN_SOLUTION = 0.45
NO_SOLUTION = 0.12
OWN_DEED = 0.50
THING_HELPS = 0.40
OTHER_THING_HELPS = 0.25
SAME_PLACE = 0.60
NAMED_AT_THE_END = 0.65
DRIFT = 0.25
INTERLUDE = 0.50
SAD_INTERLUDE = 0.30
REPEAT = 0.12
# How much of the pretraining corpus are excerpts, and on how many facts of a text a reader remarks at most.
EXCERPT = 0.75
NOTES_A_TEXT = 6


@dataclass(frozen=True, slots=True, order=True)
class Combination:
    """What a prompt asks for."""

    trait: str
    animal: str
    thing: str

    @property
    def key(self) -> str:
        """The name by which pools are split, e.g. "shy-fox-kite"."""
        return f"{self.trait}-{self.animal}-{self.thing}"


@dataclass(frozen=True, slots=True)
class PromptSpec:
    """One prompt of a pool; group is the combination's key, which no other pool holds."""

    text: str
    combination: Combination
    pool: str
    group: str


@dataclass(frozen=True, slots=True)
class Plan:
    """Every choice of one story, before it is put into words."""

    animal: str
    drift_from: str | None  # the sentence kind from which another animal takes over, or None
    drift_animal: str
    adjectives: tuple[str, str]  # in the opening, in the thing sentence
    thing: str
    deed: str | None
    place: str
    last_place: str
    interlude: str | None
    interlude_before: str  # sentence kind
    problem: str  # the words, as in words.PROBLEMS
    solution: str
    helper: str  # "the kite", "a friend", ...
    ending: str
    named_at_the_end: bool
    repeat: str | None  # the sentence kind that is told twice


@dataclass(frozen=True, slots=True)
class Parse:
    """A story read back against its prompt. Fields of sentences that are missing are None or empty."""

    requested: Combination
    kinds: tuple[str, ...]  # of the recognised sentences in order, one for those told again at once
    animals: tuple[str, ...]  # every animal named, in order
    animal: str | None  # of the opening
    traits: tuple[str, ...]
    early_trait: str | None  # of the opening
    thing: str | None
    deed_trait: str | None  # whose deed is told
    place: str | None  # of the opening
    last_place: str | None  # of the ending
    problem: str | None  # key of words.PROBLEMS
    solution: str | None  # the problem it solves, "none" for giving up
    helper: str | None
    ending: str | None  # kind, neutral, sad, abrupt
    last_animal: str | None  # named in the ending
    sad_words: int
    repeats: int
    unparsed: int  # sentences that are not of the language

    @property
    def well_formed(self) -> bool:
        """Whether it is a whole story of the language: each part once and in order, at most one sentence told twice."""
        return self.unparsed == 0 and self.repeats <= 1 and _in_order(self.kinds)

    @property
    def said_once(self) -> bool:
        return self.repeats == 0

    @property
    def sad_worded(self) -> bool:
        return self.sad_words > 0

    @property
    def animal_kept(self) -> bool:
        return self.animal == self.requested.animal

    @property
    def trait_kept(self) -> bool:
        """The requested trait is named, and no other one."""
        return set(self.traits) == {self.requested.trait}

    @property
    def thing_kept(self) -> bool:
        return self.thing == self.requested.thing

    @property
    def own_solution(self) -> bool:
        """The problem is solved by one of its own solutions."""
        return self.problem is not None and self.solution == self.problem

    @property
    def thing_helps(self) -> bool:
        """The problem is met with the requested thing's help."""
        return self.helper == f"the {self.requested.thing}"

    @property
    def place_kept(self) -> bool:
        """The story ends where it began."""
        return self.place is not None and self.place == self.last_place

    @property
    def ends_on_animal(self) -> bool:
        """The last sentence names the requested animal."""
        return self.last_animal == self.requested.animal

    @property
    def deed_fits(self) -> bool:
        """The story shows the requested trait by the deed that belongs to it."""
        return self.deed_trait == self.requested.trait

    @property
    def animal_steady(self) -> bool:
        """Every animal named is the requested one."""
        return set(self.animals) == {self.requested.animal}

    @property
    def trait_early(self) -> bool:
        """The opening itself names the requested trait."""
        return self.early_trait == self.requested.trait


# Prompts and pools


def pool_of(combination: Combination) -> str:
    """The pool that a combination belongs to, by a stable hash of its key."""
    digest = hashlib.sha256(combination.key.encode()).digest()
    point = int.from_bytes(digest[:8], "big") / 2**64
    for pool, share in zip(POOLS, _POOL_SHARES, strict=True):
        if point < share:
            return pool
        point -= share
    return POOLS[-1]


def prompt_text(combination: Combination, phrasing: int) -> str:
    """The request in words, in one of the phrasings."""
    request = words.REQUESTS[phrasing]
    return _with_articles(request.format(trait=combination.trait, animal=combination.animal, thing=combination.thing))


@lru_cache(maxsize=1)
def _all_prompts() -> dict[str, tuple[PromptSpec, ...]]:
    pools: dict[str, list[PromptSpec]] = {pool: [] for pool in POOLS}
    combinations = [Combination(t, a, g) for t in words.TRAITS for a in words.ANIMALS for g in words.THINGS]
    phrased = [(combination, phrasing) for combination in combinations for phrasing in range(len(words.REQUESTS))]
    random.Random("the order of the prompts").shuffle(phrased)
    for combination, phrasing in phrased:
        pool = pool_of(combination)
        pools[pool].append(PromptSpec(prompt_text(combination, phrasing), combination, pool, combination.key))
    return {pool: tuple(specs) for pool, specs in pools.items()}


def prompts(pool: str) -> list[PromptSpec]:
    """A pool's prompts: its combinations in every phrasing, in a fixed shuffled order; the first n are a fair draw."""
    if pool not in POOLS:
        raise ValueError(f"pool={pool!r} is not one of {', '.join(POOLS)}")
    return list(_all_prompts()[pool])


# Telling


def _other(options, kept: str, rng: random.Random) -> str:
    return rng.choice([option for option in options if option != kept])


def _keep(wanted: str, options, probability: float, rng: random.Random) -> str:
    return wanted if rng.random() < probability else _other(options, wanted, rng)


def _plan_adjectives(trait: str, rng: random.Random) -> tuple[str, str]:
    """A trait in one of the two places that name one, a plain adjective in the other; sometimes plain in both."""
    plain = rng.choice(words.PLAIN_ADJECTIVES)
    draw = rng.random()
    if draw < NO_TRAIT:
        return plain, rng.choice(words.PLAIN_ADJECTIVES)
    told = trait if draw < NO_TRAIT + KEEP_TRAIT else _other(words.TRAITS, trait, rng)
    return (told, plain) if rng.random() < TRAIT_EARLY else (plain, told)


def _plan_solution(problem: str, rng: random.Random) -> str:
    draw = rng.random()
    if draw < NO_SOLUTION:
        return rng.choice(words.NO_SOLUTIONS)
    solved = problem if draw < NO_SOLUTION + OWN_SOLUTION else _other(words.PROBLEMS, problem, rng)
    return rng.choice(words.PROBLEMS[solved][1])


def _plan_helper(thing: str, rng: random.Random) -> str:
    draw = rng.random()
    if draw < THING_HELPS:
        return f"the {thing}"
    if draw < THING_HELPS + OTHER_THING_HELPS:
        return f"the {_other(words.THINGS, thing, rng)}"
    return rng.choice(words.HELPERS)


def plan_story(combination: Combination, rng: random.Random) -> Plan:
    """Draws one story's choices, imperfect on purpose."""
    animal = _keep(combination.animal, words.ANIMALS, KEEP_ANIMAL, rng)
    problem = rng.choice(list(words.PROBLEMS))
    place = rng.choice(words.PLACES)
    deed_of = _keep(combination.trait, words.TRAITS, OWN_DEED, rng)
    mood = "sad" if rng.random() < SAD_INTERLUDE else "bright"
    interlude = rng.choice(words.INTERLUDES[mood]) if rng.random() < INTERLUDE else None
    # A sentence told twice stands in for the two that may be missing, so that repetition does not show in the length.
    repeat = rng.choice(("thing", "solution")) if rng.random() < REPEAT else None
    return Plan(
        animal=animal,
        drift_from=rng.choice(("thing", "solution")) if rng.random() < DRIFT else None,
        drift_animal=_other(words.ANIMALS, animal, rng),
        adjectives=_plan_adjectives(combination.trait, rng),
        thing=_keep(combination.thing, words.THINGS, KEEP_THING, rng),
        deed=None if repeat else words.DEEDS[deed_of],
        place=place,
        last_place=_keep(place, words.PLACES, SAME_PLACE, rng),
        interlude=None if repeat else interlude,
        interlude_before=rng.choice(("thing", "problem")),
        problem=rng.choice(words.PROBLEMS[problem][0]),
        solution=_plan_solution(problem, rng),
        helper=_plan_helper(combination.thing, rng),
        ending=rng.choice(words.ENDINGS[rng.choice(list(words.ENDINGS))]),
        named_at_the_end=rng.random() < NAMED_AT_THE_END,
        repeat=repeat,
    )


def tell(plan: Plan, rng: random.Random) -> str:
    """Puts a plan into words; rng picks among the templates of each sentence."""
    sentences = []
    animal = plan.animal
    for kind, templates in words.SENTENCES.items():
        if plan.interlude and kind == plan.interlude_before:
            sentences.append(plan.interlude)
        if kind == "interlude" or (kind == "deed" and plan.deed is None):
            continue
        if kind == plan.drift_from:
            animal = plan.drift_animal
        sentence = rng.choice(templates).format(
            adjective=plan.adjectives[kind == "thing"],
            animal=animal,
            place=plan.last_place if kind == "ending" else plan.place,
            thing=plan.thing,
            deed=plan.deed,
            problem=plan.problem,
            solution=plan.solution,
            helper=plan.helper,
            ending=plan.ending,
            hero=f"the {animal}" if plan.named_at_the_end else words.HERO,
        )
        sentences += [sentence] * (2 if kind == plan.repeat else 1)
    return _with_articles(" ".join(sentences))


def story(combination: Combination, rng: random.Random) -> str:
    """One story as the corpus answers this request."""
    return tell(plan_story(combination, rng), rng)


def _with_articles(text: str) -> str:
    return re.sub(r"\ba (?=[aeiou]|honest\b)", "an ", text)


# Reading


def _either(options) -> str:
    return "|".join(re.escape(option) for option in sorted(options, key=len, reverse=True))


def _field_patterns() -> dict[str, str]:
    fields = {
        "adjective": _either((*words.TRAITS, *words.PLAIN_ADJECTIVES)),
        "trait": _either(words.TRAITS),
        "animal": _either(words.ANIMALS),
        "thing": _either(words.THINGS),
        "place": _either(words.PLACES),
        "deed": _either(words.DEEDS.values()),
        "interlude": _either(sentence for group in words.INTERLUDES.values() for sentence in group),
        "problem": _either(_PROBLEM_OF),
        "solution": _either(_SOLVES),
        "helper": _either((*words.HELPERS, *(f"the {thing}" for thing in words.THINGS))),
        "hero": _either((words.HERO, *(f"the {animal}" for animal in words.ANIMALS))),
        "ending": _either(_ENDING_OF),
    }
    return {name: f"(?P<{name}>{pattern})" for name, pattern in fields.items()}


def _template_pattern(template: str, fields: dict[str, str]) -> re.Pattern[str]:
    parts = re.split(r"\{(\w+)\}", template)
    text = "".join(fields[part] if i % 2 else re.escape(part).replace(r"a\ ", r"an?\ ") for i, part in enumerate(parts))
    return re.compile(text)


_PROBLEM_OF = {way: problem for problem, (ways, _) in words.PROBLEMS.items() for way in ways}
_SOLVES = {way: problem for problem, (_, ways) in words.PROBLEMS.items() for way in ways}
_SOLVES |= dict.fromkeys(words.NO_SOLUTIONS, "none")
_ENDING_OF = {way: kind for kind, ways in words.ENDINGS.items() for way in ways}
_TRAIT_OF = {deed: trait for trait, deed in words.DEEDS.items()}
_FIELDS = _field_patterns()
_REQUEST_PATTERNS = tuple(_template_pattern(template, _FIELDS) for template in words.REQUESTS)
_SENTENCE_PATTERNS = tuple(
    (kind, _template_pattern(template, _FIELDS)) for kind, group in words.SENTENCES.items() for template in group
)
_NEEDED = tuple(kind for kind in words.SENTENCES if kind not in ("deed", "interlude"))


def requested(text: str) -> Combination | None:
    """What a prompt asks for, or None where it is not a request of this language."""
    if len(text) > MAX_STORY_CHARS:
        return None
    for pattern in _REQUEST_PATTERNS:
        found = pattern.fullmatch(text.strip())
        if found:
            return Combination(found["trait"], found["animal"], found["thing"])
    return None


def _in_order(kinds: tuple[str, ...]) -> bool:
    """Whether the kinds are a whole story: the needed ones once and in order, any deed second, one interlude inside."""
    interludes = [i for i, kind in enumerate(kinds) if kind == "interlude"]
    if len(interludes) > 1 or 0 in interludes or len(kinds) - 1 in interludes:
        return False
    rest = [kind for kind in kinds if kind != "interlude"]
    return rest in (list(_NEEDED), [_NEEDED[0], "deed", *_NEEDED[1:]])


def _recognise(sentence: str) -> tuple[str, dict[str, str]] | None:
    for kind, pattern in _SENTENCE_PATTERNS:
        found = pattern.fullmatch(sentence)
        if found:
            return kind, found.groupdict()
    return None


def _fold(sentences: list[str]) -> list[str]:
    """A sentence told again at once counts as one here; told again later, it stands where it stands."""
    return [sentence for sentence, _ in groupby(sentences)]


def _split(text: str) -> list[str]:
    """Sentences with their full stops; what follows the last full stop is a sentence too."""
    return [sentence.strip(" ") for sentence in re.findall(r"[^.]+\.?|\.", text.strip())]


def parse(prompt_text: str, story_text: str) -> Parse | None:
    """Reads a story against its prompt; None where the prompt is not of this language. Never raises on any text."""
    asked = requested(prompt_text)
    if asked is None:
        return None
    # Bounded work for any text: a longer one cannot be a story, and its beginning shows that by its missing end.
    sentences = _split(story_text[:MAX_STORY_CHARS])
    repeats = len(sentences) - len(set(sentences))
    unparsed = int(len(story_text) > MAX_STORY_CHARS)
    told: dict[str, dict[str, str]] = {}
    kinds, animals, traits = [], [], []
    for sentence in _fold(sentences):
        recognised = _recognise(sentence)
        if recognised is None:
            unparsed += 1
            continue
        kind, fields = recognised
        kinds.append(kind)
        told.setdefault(kind, fields)
        named = fields.get("animal") or fields.get("hero", words.HERO).removeprefix("the ")
        animals += [named] if named in words.ANIMALS else []
        traits += [fields["adjective"]] if fields.get("adjective") in words.DEEDS else []

    def field(kind: str, name: str) -> str | None:
        return told.get(kind, {}).get(name)

    early = field("opening", "adjective")
    hero = (field("ending", "hero") or words.HERO).removeprefix("the ")
    return Parse(
        requested=asked,
        kinds=tuple(kinds),
        animals=tuple(animals),
        animal=field("opening", "animal"),
        traits=tuple(traits),
        early_trait=early if early in words.DEEDS else None,
        thing=field("thing", "thing"),
        deed_trait=_TRAIT_OF.get(field("deed", "deed")),
        place=field("opening", "place"),
        last_place=field("ending", "place"),
        problem=_PROBLEM_OF.get(field("problem", "problem")),
        solution=_SOLVES.get(field("solution", "solution")),
        helper=field("solution", "helper"),
        ending=_ENDING_OF.get(field("ending", "ending")),
        last_animal=hero if hero in words.ANIMALS else None,
        sad_words=sum(word in words.SAD_WORDS for sentence in sentences for word in sentence.rstrip(".").split()),
        repeats=repeats,
        unparsed=unparsed,
    )


# Corpora


def pairs(n: int, seed: int, pool: str = "sft") -> Iterator[tuple[str, str]]:
    """n (prompt, story) pairs as the corpus answers prompts of one pool, in any phrasing."""
    rng = random.Random(f"pairs {pool} {seed}")
    specs = prompts(pool)
    for _ in range(n):
        combination = rng.choice(specs).combination
        request = prompt_text(combination, rng.randrange(len(words.REQUESTS)))
        yield request, story(combination, rng)


def demonstrations(n: int, seed: int, pool: str = "sft") -> list[dict]:
    """n demonstrations in the chat shape, `{"messages": [user, assistant]}`, as imperfect as the corpus."""
    return [
        {"messages": [{"role": "user", "content": request}, {"role": "assistant", "content": told}]}
        for request, told in pairs(n, seed + 1_000_003, pool)
    ]


def shown_facts(read: Parse) -> list[str]:
    """The facts of words.NOTES that a story or an excerpt shows."""
    return [fact for fact in words.NOTES if words.NOTED_IN.get(fact, set(_NEEDED)) <= set(read.kinds)]


def notes(request: str, told: str, rng: random.Random, n: int = NOTES_A_TEXT) -> str:
    """At most n true remarks about a story or an excerpt, on facts that it shows, drawn evenly."""
    read = parse(request, told)
    shown = shown_facts(read)
    facts = rng.sample(shown, min(n, len(shown)))
    return " ".join(words.NOTES[fact][getattr(read, fact)] for fact in facts)


def excerpt(told: str, rng: random.Random) -> str:
    """One of words.EXCERPTS out of a story, each sentence once."""
    by_kind = {_recognise(sentence)[0]: sentence for sentence in _split(told)}
    shown = {kinds: weight for kinds, weight in words.EXCERPTS.items() if by_kind.keys() >= set(kinds)}
    (kinds,) = rng.choices(list(shown), list(shown.values()))
    return " ".join(by_kind[kind] for kind in kinds)


def conversations(n: int, seed: int, pool: str = "sft") -> Iterator[list[dict]]:
    """n pretraining documents in the chat shape: a request, a story or an excerpt of one, and a reader's remarks.

    A language model from the world at large has read much about texts; without a word about stories in its corpus, so
    small a policy knows nothing at a story's end of what it is like, and a reward model made from it would have to
    learn that from rankings alone. The remarks say facts, never what anyone prefers. In an excerpt the words that a
    remark compares stand close together, and it is from excerpts that the policy learns to compare (docs/lab_log.md).
    """
    rng = random.Random(f"conversations {pool} {seed}")
    for request, told in pairs(n, seed, pool):
        if rng.random() < EXCERPT:
            told = excerpt(told, rng)
        yield [
            {"role": "user", "content": request},
            {"role": "assistant", "content": told},
            {"role": "note", "content": notes(request, told, rng)},
        ]

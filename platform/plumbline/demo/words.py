"""The words and sentence templates of the story language. Data only; world.py tells and parses stories with it.

Alternatives of one slot are kept about equally long, so that no choice shows in a story's length.
A sentence template's fields are named after what fills them; the same table tells stories and parses them.
"""

from __future__ import annotations

ANIMALS = "fox owl bear mouse rabbit hedgehog badger otter squirrel frog duck goose cat dog goat lamb".split()

# Each trait has the deed that shows it.
DEEDS = {
    "shy": "hid behind the door",
    "brave": "walked in the dark",
    "clever": "solved every riddle",
    "gentle": "never stepped on flowers",
    "sleepy": "yawned all day long",
    "curious": "looked under every stone",
    "proud": "held its head high",
    "patient": "could wait for hours",
    "merry": "hummed all morning long",
    "clumsy": "tripped over its feet",
    "honest": "always told the truth",
    "quiet": "spoke in a whisper",
}
TRAITS = tuple(DEEDS)
PLAIN_ADJECTIVES = ("little", "young", "small", "old")

THINGS = "kite drum lantern boat bell key map basket ladder scarf button kettle whistle hat mirror rope".split()

PLACES = "mill river lake meadow bridge harbor orchard barn".split()

# Problem -> (ways to say it, its own solutions).
PROBLEMS = {
    "rain": (
        ("heavy rain poured down", "the rain did not stop"),
        ("built a roof of leaves", "dug a deep little ditch"),
    ),
    "dark": (
        ("the night grew pitch dark", "darkness hid the path"),
        ("followed the bright north star", "gathered a hundred fireflies"),
    ),
    "hunger": (
        ("all the food was gone", "there was nothing to eat"),
        ("picked sweet wild berries", "baked bread from acorns"),
    ),
    "wolf": (
        ("a wolf blocked the way", "a big wolf growled"),
        ("sang a soft lullaby", "climbed up a tall oak"),
    ),
    "gate": (
        ("the iron gate was stuck", "the gate would not open"),
        ("oiled the rusty hinges", "crawled under the fence"),
    ),
    "fire": (
        ("a fire broke out", "flames rose from the hay"),
        ("threw sand over it all", "pumped water for an hour"),
    ),
}
NO_SOLUTIONS = ("tried and tried in vain", "gave up after a while", "could not find a way")

HELPERS = ("a friend", "great care", "some luck", "a grin")

ENDINGS = {
    "kind": (
        "shared cake and laughed",
        "hugged all its friends",
        "thanked everyone and smiled",
        "danced happily with everyone",
        "gave everyone warm soup",
    ),
    "neutral": (
        "counted the passing carts",
        "sat down and rested",
        "ate a plain supper",
        "read until bedtime came",
        "looked along the road",
    ),
    "sad": (
        "cried all night long",
        "felt sad and lonely",
        "wept for old times",
        "sat alone in tears",
        "sighed with deep sorrow",
    ),
    "abrupt": (
        "stopped and that was that",
        "did this and that",
        "began to say something",
        "went on and on",
        "turned around and then",
    ),
}

INTERLUDES = {
    "bright": (
        "The sun was warm and golden.",
        "Birds sang in the trees.",
        "The air smelled of roses.",
        "A soft breeze was playing.",
    ),
    "sad": (
        "The sky was grey and gloomy.",
        "Everyone felt a little sad.",
        "A mournful song was heard.",
        "The willows wept all day.",
    ),
}

SAD_WORDS = frozenset("sad lonely alone tears cried wept sorrow gloomy mournful".split())

REQUESTS = (
    "Tell a story about a {trait} {animal} and a {thing}.",
    "Tell me about a {trait} {animal} with a {thing}.",
    "Write about a {thing} and a {trait} {animal}.",
)

# The kinds in the order of a story; deed and interlude may be missing.
SENTENCES = {
    "opening": (
        "Once a {adjective} {animal} lived by the {place}.",
        "By the {place} there lived a {adjective} {animal}.",
        "There was a {adjective} {animal} by the {place}.",
    ),
    "deed": ("It {deed}.", "The {animal} {deed}."),
    "thing": (
        "One day the {adjective} {animal} found a {thing}.",
        "The {adjective} {animal} always wanted a {thing}.",
        "Every day the {adjective} {animal} carried a {thing}.",
    ),
    "interlude": ("{interlude}",),
    "problem": ("But {problem}.", "Then {problem}.", "Soon {problem}."),
    "solution": ("With {helper} the {animal} {solution}.", "So with {helper} the {animal} {solution}."),
    "ending": ("Back by the {place} {hero} {ending}.", "Later by the {place} {hero} {ending}."),
}
HERO = "our hero"

# What a reader may remark about a story or a part of it, in a word: a fact of world.Parse -> the remark for each of its
# values. Facts only, no verdicts, and every fact alike, whichever a taste may care for. No two remarks begin alike.
NOTES = {
    "animal_kept": {True: "Starring.", False: "Recast."},
    "animal_steady": {True: "Steady.", False: "Shifting."},
    "trait_kept": {True: "Character.", False: "Temper."},
    "trait_early": {True: "Introduced.", False: "Plainly."},
    "deed_fits": {True: "Typical.", False: "Unlikely."},
    "thing_kept": {True: "Featuring.", False: "Lacking."},
    "thing_helps": {True: "Helped.", False: "Alone."},
    "own_solution": {True: "Reasonable.", False: "Odd."},
    "place_kept": {True: "Homecoming.", False: "Travelling."},
    "ends_on_animal": {True: "Closing.", False: "Nameless."},
    "said_once": {True: "Concise.", False: "Repetitive."},
    "sad_worded": {True: "Melancholy.", False: "Bright."},
    "ending": {"kind": "Warm.", "neutral": "Calm.", "sad": "Tearful.", "abrupt": "Loose."},
}
# The sentences that show a fact; where they are missing, nothing is remarked about it. Others take a whole story.
NOTED_IN = {
    "animal_kept": {"opening"},
    "animal_steady": {"opening", "thing"},
    "trait_kept": {"opening", "thing"},
    "trait_early": {"opening"},
    "deed_fits": {"deed"},
    "thing_kept": {"thing"},
    "thing_helps": {"solution"},
    "own_solution": {"problem", "solution"},
    "place_kept": {"opening", "ending"},
    "ends_on_animal": {"ending"},
    "ending": {"ending"},
}
# The parts of a story that stand alone in the corpus, and how many of a score of excerpts they are.
EXCERPTS = {
    ("opening",): 4,
    ("thing",): 5,
    ("deed",): 2,
    ("solution",): 1,
    ("ending",): 1,
    ("opening", "thing"): 2,
    ("problem", "solution"): 3,
    ("opening", "ending"): 2,
}

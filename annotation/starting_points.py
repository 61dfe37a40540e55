"""Ready settings and guidelines with which a project can begin, after published instructions to annotators.

Each is only a beginning: an admin changes all of it on the pages "Settings" and "Guidelines".
"""

from dataclasses import dataclass, field

from django.utils.translation import gettext_lazy as _

from annotation.ranking_form import WORST, choices


@dataclass(frozen=True, slots=True, kw_only=True)
class StartingPoint:
    key: str
    title: str
    summary: str  # one line for the admin who chooses
    guideline: str = ""  # Markdown; "" for none
    completions_per_task: int = 4
    overlap: int = 1
    form: dict = field(
        default_factory=dict
    )  # a partial ranking form; its labels are pairs, translated when it is taken


def settings_of(point):
    """What to hand to projects.create_project."""
    form = {name: choices(value) if name in ("axes", "flags") else as_text(value) for name, value in point.form.items()}
    return {
        "completions_per_task": point.completions_per_task,
        "overlap": point.overlap,
        "ranking_form": form,
    }


def as_text(value):
    return value if isinstance(value, bool) else str(value)


EMPTY = StartingPoint(
    key="empty",
    title=_("Start from nothing"),
    summary=_("Four answers, ranked. You write the guidelines."),
)

# InstructGPT, arXiv:2203.02155, appendix B: helpful, truthful, harmless; an overall rating from 1 to 7 and flags for
# each answer, then a ranking.
ASSISTANT = StartingPoint(
    key="assistant",
    title=_("Helpful assistant"),
    summary=_("As for InstructGPT: each answer rated from 1 to 7 and flagged, then four are ranked."),
    form={"overall": True, "rationale": True, "rewrite": True, "write_answers": True, "write_prompts": True},
    guideline=_("""\
Rank the answers by how well they serve the person who asked. An answer should be **helpful**, **truthful** and \
**harmless**, in this sense:

- **Helpful**: it does what the person wants, also where that has to be guessed from little. It is clear, as long \
as it needs to be and no longer, and asks back rather than guessing wildly. It does not lecture.
- **Truthful**: nothing in it is made up. It does not add facts to a text that it was asked to shorten or rewrite, \
and it does not go along with a false premise.
- **Harmless**: it does nobody harm, in body, mind or purse, denigrates nobody, and helps nobody to do harm.

For most requests, being truthful and harmless matters more than being helpful. Put helpfulness first where an \
answer is much more helpful, only a little less truthful or harmless, and little is at stake.

Ask yourself: **which answer would I rather get from a colleague whom I asked this?** Check what can be checked \
quickly. Tie answers that serve equally well, and flag what is wrong even in a good answer."""),
)

# Learning to summarize from human feedback, arXiv:2009.01325, appendix C: pairs, how much better, and four axes from 1
# to 7: overall, coherence, accuracy, coverage. A note before the summaries stands for their "naive interpretations".
SUMMARIES = StartingPoint(
    key="summaries",
    title=_("Summaries"),
    summary=_("Two summaries of a text compared, with ratings for accuracy, coverage and coherence."),
    completions_per_task=2,
    form={
        "overall": True,
        "axes": (
            ("coherence", _("Coherence: does it read well by itself?")),
            ("accuracy", _("Accuracy: does all of it stand in the text?")),
            ("coverage", _("Coverage: is what matters in it?")),
        ),
        "flags": (
            ("wrong", _("says something that the text does not")),
            ("misses_point", _("misses the point")),
            ("hard_to_follow", _("cannot be understood without the text")),
            ("too_long", _("is no summary")),
        ),
        "strength": True,
        "rationale": True,
        "rewrite": True,
        "note": _("What must a good summary of this text say?"),
    },
    guideline=_("""\
Which summary would you rather have read, had you no time for the text? A good one is short, can be understood by \
somebody who never sees the text, and tells them what its writer would most want them to know.

Rate each summary from 1 to 7:

- **Coherence**: is it easy to read by itself, and free of mistakes of language? 7: perfectly clear. 1: impossible \
to understand.
- **Accuracy**: does everything in it stand in the text? 7: every word. 1: it is mostly wrong. Small inventions \
count: a summary must not add what is merely likely.
- **Coverage**: is what matters in it? 7: somebody who reads only the summary misses nothing important. 1: it \
leaves out what the text is about.
- **Overall**: how good is it as a whole, for its length?

First note what a good summary must say, before you see the two. Then decide which is better, and how clearly."""),
)

TRANSLATION = StartingPoint(
    key="translation",
    title=_("Translation"),
    summary=_("Translations compared, with ratings for meaning and for language."),
    completions_per_task=3,
    form={
        "overall": False,
        "axes": (
            ("meaning", _("Meaning: does it say all that the original says, and nothing else?")),
            ("language", _("Language: does it read as if written in this language?")),
        ),
        "flags": (
            ("omission", _("leaves something out")),
            ("addition", _("adds something")),
            ("mistranslation", _("says something else")),
            ("untranslated", _("leaves something untranslated")),
            ("tone", _("has the wrong tone or form of address")),
            ("terms", _("uses the wrong term")),
        ),
        "rationale": True,
        "rewrite": True,
        "write_answers": True,
    },
    guideline=_("""\
Rank the translations by how much you would have to change before you sent them to a reader who does not know the \
original language.

1. **Meaning** comes first: everything that the original says, nothing added, nothing softened. A wrong number, \
name or “not” is worse than a clumsy sentence.
2. **Language** next: it should read as if it had been written in this language, in the tone of the original, with \
the right form of address and the terms of the trade.
3. Names, quotations, code and markup stay as they are unless the request says otherwise.

Two translations that differ in taste only are a tie. If you do not know both languages well, skip the task: no \
judgment is better than a guess."""),
)

# After the red-teaming of arXiv:2204.05862 and arXiv:2209.07858: the more harmful of two answers is chosen.
HARMLESSNESS = StartingPoint(
    key="harmlessness",
    title=_("Harmlessness"),
    summary=_("Red-teaming: people agree first, texts are covered, and the most harmful answer is put first."),
    completions_per_task=2,
    overlap=2,
    form={
        "objective": WORST,
        "sensitive": True,
        "strength": True,
        "rationale": True,
        "rewrite": True,
        "write_prompts": True,
        "flags": (
            ("violence", _("helps or praises violence")),
            ("self_harm", _("helps or praises self-harm")),
            ("crime", _("helps to break the law")),
            ("hate", _("insults or denigrates people")),
            ("sexual", _("sexual content")),
            ("dangerous_advice", _("advice that could hurt somebody")),
            ("private", _("reveals something private")),
            ("deceives", _("deceives or manipulates")),
            ("needless_refusal", _("refuses though nothing is wrong with the request")),
        ),
    },
    guideline=_("""\
Put the answer **first that would do more harm** if somebody got it from an assistant that they trust. The order \
is turned round before a model learns from it.

- Think of what a reader could **do** with it. Instructions that work are worse than a coarse word.
- Think of who might read it: a child, somebody in despair, somebody who looks for an excuse.
- An answer that refuses politely and helps with what is behind the request is the least harmful. One that refuses \
a harmless request, or preaches, is not harmful, but flag it.
- If both are equally harmful, or equally harmless, tie them.

Nobody expects you to read on when it is too much: skip the task, take a break, or stop for good. What you see \
here is not your fault, and was made to be caught."""),
)

ALL = (ASSISTANT, SUMMARIES, TRANSLATION, HARMLESSNESS, EMPTY)
BY_KEY = {point.key: point for point in ALL}

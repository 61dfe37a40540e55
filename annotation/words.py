"""The sentences that the ranking page's scripts say; a `{name}` is filled in by the script."""

from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from annotation.ranking_form import WORST

# How much better the better of two answers is: 1 to rankings.MAX_STRENGTH.
STRENGTHS = (
    (1, gettext_lazy("slightly")),
    (2, gettext_lazy("somewhat")),
    (3, gettext_lazy("clearly")),
    (4, gettext_lazy("much")),
    (5, gettext_lazy("by far")),
)


def ranking_words(form):
    """form: what the project asks (ranking_form.form_of)."""
    return {
        "ranks": [
            _("Most harmful") if form["objective"] == WORST else _("Best"),
            _("2nd"),
            _("3rd"),
            _("4th"),
            _("5th"),
            _("6th"),
            _("7th"),
            _("8th"),
            _("9th"),
        ],
        "tied": _("{rank}, tied"),
        "placed": _("Answer {number}: {rank}."),
        "tie_next": _("The next answer ties with the last one."),
        "undone": _("Undone."),
        "chip": _("Answer {number}, {rank}"),
        "tray_chip": _("Place answer {number} next"),
        "removed": _("Answer {number} has no place now."),
        "none_on": _("None acceptable."),
        "none_off": _("Some are acceptable."),
        "plain_on": _("Text exactly as it was written."),
        "plain_off": _("Text with its formatting."),
        "done_today": _("{done} of {goal} today"),
        "pace": _(" · {seconds} s each"),
        "saved": _("Ranking saved."),
        "kept": _("Ranking kept here, waiting for the connection."),
        "test_passed": _("You have passed the test. From here on your rankings count."),
        "taken_back": _("Your ranking is open again. Submit to save it as changed."),
        "skipped": _("Skipped."),
        "new_task": _("Next task."),
        "strength": _("{strength} better"),
        "shown": _("The answers are shown."),
        "note_first": _("Write your note first."),
        "uncovered": _("All texts are open."),
        "covered": _("All texts are covered."),
        "text_of": _("Text of answer {number}"),
        "answer": _("Answer {number}"),
        "no_difference": _("The difference could not be fetched. Try again in a moment."),
        "guideline_changed": _("The guidelines have changed since you opened this page."),
        "reload": _("Read them"),
        "waiting_one": _("No connection. One ranking waits in this browser and is sent by itself."),
        "waiting_many": _("No connection. {count} rankings wait in this browser and are sent by themselves."),
        "signed_out": _(
            "You are signed out. Sign in again in another tab: your rankings wait in this browser and are then sent."
        ),
        "refused": _("A ranking was not accepted: {message}"),
        "not_skipped": _("It could not be skipped: the server did not answer. Try again in a moment."),
        "refused_unknown": _("The server gave no reason. Tell the project's admin if it happens again."),
        "expired": _(
            "The time for this task ran out and someone else may have it now. You can still send your ranking: "
            "it is kept, and counts where it is needed."
        ),
        "question_sent": _("Your question is sent. The answer will stand under Questions."),
        "question_lost": _("The question could not be sent. Try again when the connection is back."),
        "load_failed": _("The next task could not be fetched. Trying again."),
        "ask_untouched": _("Nothing is ranked yet"),
        "ask_untouched_text": _("Are all of these equal? Then they can share one place."),
        "ask_unchanged": _("Nothing has changed"),
        "ask_unchanged_text": _("The order is as you sent it before. Save it all the same?"),
        "ask_rest": _("{count} answers have no place yet"),
        "ask_rest_text": _("They can share the last place, or stay out of the order."),
        "all_equal": _("All equally harmful") if form["objective"] == WORST else _("All equally good"),
        "save_anyway": _("Save"),
        "rest_last": _("Put them last"),
        "rest_out": _("Leave them out"),
        "keep_ranking": _("Keep ranking"),
    }

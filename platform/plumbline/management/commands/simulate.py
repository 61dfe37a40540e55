import time

from django.core.management.base import BaseCommand, CommandError
from django.db import transaction
from django.utils.translation import gettext as _

from annotation import projects
from annotation.models import Membership, Project, Role
from plumbline import accounts, tokens, up
from plumbline.demo import bag_of_words
from plumbline.demo import project as demo
from plumbline.demo.annotators import comparisons
from plumbline.demo.golds import GOLDS
from plumbline.demo.hostile import KINDS, crowd
from plumbline.demo.simulate import Player, SimulationError, play
from plumbline.models import ApiToken, User

TOKEN_NAME = "simulate"
DEFAULT_URL = "http://127.0.0.1:8000"
BASELINE_LEAST = 100  # rankings from which the baseline's figure means something


class Command(BaseCommand):
    help = "Lets simulated annotators rank through the HTTP API. Their rankings are marked as simulated everywhere."

    def add_arguments(self, parser):
        parser.add_argument("project", help="the project's short name, such as stories")
        parser.add_argument("--rankings", type=int, default=300, help="how many rankings to make (default: 300)")
        parser.add_argument("--until-empty", action="store_true", help="go on until no task is left")
        parser.add_argument(
            "--gold", default="style", choices=sorted(GOLDS), help="the hidden taste that they share (default: style)"
        )
        parser.add_argument("--annotators", type=int, default=8, help="how many work at once (default: 8)")
        parser.add_argument("--seed", type=int, default=0, help="makes other people with the same taste")
        parser.add_argument(
            "--hostile", type=float, default=0.0, help="share of annotators who rank against the project (default: 0)"
        )
        parser.add_argument(
            "--hostile-kind",
            nargs="+",
            default=list(KINDS),
            choices=KINDS,
            help="what these do, in turns (default: all kinds)",
        )
        parser.add_argument("--url", help="the server's address (default: that of the running `plumbline up`)")
        parser.add_argument(
            "--replenish", action="store_true", help="first have the promoted policy write answers until enough wait"
        )

    def handle(self, *, project, rankings, until_empty, gold, annotators, seed, url, replenish, **options):
        if not 0 <= options["hostile"] <= 1:
            raise CommandError(_("--hostile must be from 0 to 1."))
        for name, value, most in (("--rankings", rankings, 10**6), ("--annotators", annotators, 64)):
            if not 1 <= value <= most:
                raise CommandError(_("%(name)s must be from 1 to %(most)d.") % {"name": name, "most": most})
        found = Project.objects.filter(slug=project).first()
        if found is None:
            raise CommandError(
                _("There is no project %(slug)s. `plumbline demo` loads the project stories.") % {"slug": project}
            )
        if replenish and not until_empty:
            self.replenish(found, rankings)
        people = crowd(
            gold, count=annotators, hostile_share=options["hostile"], kinds=options["hostile_kind"], seed=seed
        )
        players = make_players(found, people)
        self.shown_at = 0.0
        try:
            outcome = play(
                players,
                url=url or default_url(),
                project=found.slug,
                rankings=None if until_empty else rankings,
                progress=self.show_progress,
            )
        except SimulationError as error:
            raise CommandError(str(error)) from error
        finally:
            revoke_tokens([player.name for player in players])
        self.report(outcome, found, gold)

    def replenish(self, project, rankings):
        try:
            demo.replenish(project, tasks=rankings, say=self.stdout.write)
        except demo.DemoError as error:
            raise CommandError(str(error)) from error

    def show_progress(self, outcome):
        now = time.monotonic()
        if self.stdout.isatty() and now - self.shown_at > 0.2:
            self.shown_at = now
            wanted = f" / {outcome.wanted}" if outcome.wanted else ""
            self.stdout.write(f"\r{outcome.rankings}{wanted} ", ending="")
            self.stdout.flush()

    def report(self, outcome, project, gold):
        if self.stdout.isatty():
            self.stdout.write("\r", ending="")
        say = self.stdout.write
        say(
            _(
                "%(n)d simulated rankings in %(seconds).1f s: %(speed).0f a second; "
                "a call took %(median).0f ms (95%%: %(slow).0f ms)."
            )
            % {
                "n": outcome.rankings,
                "seconds": outcome.seconds,
                "speed": outcome.rankings_per_second,
                "median": 1000 * outcome.median_call_seconds,
                "slow": 1000 * outcome.slow_call_seconds,
            }
        )
        if outcome.agreement is not None:
            say(_("Two of these annotators order %(share).0f%% of pairs alike.") % {"share": 100 * outcome.agreement})
        if outcome.gold_agreement is not None:
            say(
                _("They follow the gold preference “%(gold)s” in %(share).0f%% of pairs.")
                % {"gold": gold, "share": 100 * outcome.gold_agreement}
            )
        baseline = baseline_accuracy(outcome.judged)
        if baseline is not None:
            say(
                _("Baseline to beat: a bag of words fitted on these gets %(share).0f%% of unseen pairs right.")
                % {"share": 100 * baseline}
            )
        if outcome.lost:
            say(_("%(n)d rankings came too late and were not counted.") % {"n": outcome.lost})
        if outcome.queue_empty and outcome.wanted:
            say(
                _(
                    "The queue is empty: %(done)d of %(wanted)d rankings were made. More tasks come from a round "
                    "(Overview, “Start round”), or from `plumbline simulate %(slug)s --replenish`."
                )
                % {"done": outcome.rankings, "wanted": outcome.wanted, "slug": project.slug}
            )


def default_url():
    status = up.read_status()
    return status["address"] if status else DEFAULT_URL


@transaction.atomic
def make_players(project, people):
    """Simulated members of the project, each with a fresh token. The same seed makes the same people."""
    players = []
    for annotator in people:
        name = f"simulated-{annotator.seed}"
        user = User.objects.filter(username=name).first() or accounts.create_user(name)
        membership = Membership.objects.filter(project=project, user=user).first()
        if membership is None:
            projects.add_member(project, user, role=Role.ANNOTATOR, simulated=True)
        elif not membership.simulated:
            raise CommandError(
                _("%(name)s is a person in this project, so no simulation may rank in that name; take another --seed.")
                % {"name": name}
            )
        token = tokens.create_token(user, name=TOKEN_NAME)
        players.append(Player(name=name, token=token, annotator=annotator))
    return players


def revoke_tokens(names):
    for token in ApiToken.objects.filter(user__username__in=names, name=TOKEN_NAME, revoked_at=None):
        tokens.revoke_token(token.user, token_id=token.id)


def baseline_accuracy(judged):
    """What a bag of words fitted on four of five of the prompts gets right on the fifth; None for too few."""
    if len(judged) < BASELINE_LEAST:
        return None
    prompts = sorted({prompt for prompt, _texts, _order in judged})
    held_out = set(prompts[::5])
    seen, unseen = [], []
    for prompt, texts, order in judged:
        pairs = [(prompt, texts[better], texts[worse]) for better, worse in comparisons(order)]
        (unseen if prompt in held_out else seen).extend(pairs)
    return bag_of_words.fit(seen).accuracy(unseen) if seen and unseen else None

"""Which numbers of a run are drawn, under which name, and what each means in one line."""

from dataclasses import dataclass

from django.utils.translation import gettext_lazy as _


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """One small chart. lines: (metric, label); with one line the chart's name is label enough."""

    key: str
    name: str
    lines: tuple
    meaning: str
    unit: str = ""  # percent, seconds, … as JavaScript formats it; empty: a plain number

    @property
    def names(self):
        return ",".join(metric for metric, _label in self.lines)

    @property
    def labels(self):
        return "|".join(str(label) for _metric, label in self.lines)


ACCURACY = Chart(
    key="accuracy",
    name=_("Reward-model accuracy"),
    lines=(("validation_accuracy", _("unseen")), ("accuracy", _("training"))),
    meaning=_(
        "How often the reward model puts a pair in the order that the annotator chose. “Unseen” is on prompts held out "
        "from training; 50% is guessing."
    ),
    unit="percent",
)
RANKING_LOSS = Chart(
    key="loss",
    name=_("Ranking loss"),
    lines=(("validation_loss", _("unseen")), ("loss", _("training"))),
    meaning=_("Minus the log-likelihood of the annotators' choices. Lower is better; 0.69 is guessing."),
)
SCORE = Chart(
    key="score",
    name=_("Score"),
    lines=(("score_mean", _("score")),),
    meaning=_(
        "What the reward model thinks of the new answers; 0 is the SFT model's mean and 1 its spread. It rises when "
        "the policy learns, and also when the policy fools the reward model: watch it beside KL."
    ),
)
KL = Chart(
    key="kl",
    name=_("KL from the SFT model"),
    lines=(("kl_per_completion", _("KL")),),
    meaning=_(
        "How far the policy has moved from the SFT model, in nats per answer. A fast climb means that it leaves the "
        "language it was taught."
    ),
    unit="nats",
)
LENGTH = Chart(
    key="length",
    name=_("Answer length"),
    lines=(("length_mean", _("length")),),
    meaning=_("Mean tokens per answer. A steady climb may mean that the reward model mistakes length for quality."),
    unit="tokens",
)
ENTROPY = Chart(
    key="entropy",
    name=_("Entropy"),
    lines=(("entropy", _("entropy")),),
    meaning=_("How undecided the policy is about each next token, in nats. Near 0 all its answers are alike."),
    unit="nats",
)
EOS = Chart(
    key="eos",
    name=_("Ended by themselves"),
    lines=(("eos_rate", _("ended")),),
    meaning=_("The share of answers that stop before the length limit."),
    unit="percent",
)
VALUE = Chart(
    key="value",
    name=_("Value network"),
    lines=(("explained_variance", _("explained")),),
    meaning=_("How much of the returns' variance the value network foretells; 1 is all of it, 0 none."),
)
EPISODES = Chart(
    key="throughput",
    name=_("Throughput"),
    lines=(("episodes_per_second", _("answers")),),
    meaning=_("Answers written, scored and learned from in a second."),
    unit="per second",
)
RANKINGS_SPEED = Chart(
    key="throughput",
    name=_("Throughput"),
    lines=(("rankings_per_second", _("rankings")),),
    meaning=_("Rankings learned from in a second."),
    unit="per second",
)
LOSS = Chart(
    key="loss",
    name=_("Loss"),
    lines=(("validation_loss", _("unseen")), ("loss", _("training"))),
    meaning=_("Mean surprise per token, in nats. Lower is better."),
    unit="nats",
)
TOKENS_SPEED = Chart(
    key="throughput",
    name=_("Throughput"),
    lines=(("tokens_per_second", _("tokens")),),
    meaning=_("Tokens learned from in a second."),
    unit="per second",
)

OF_STAGE = {
    "pretrain": (LOSS, TOKENS_SPEED),
    "sft": (LOSS, TOKENS_SPEED),
    "reward_model": (ACCURACY, RANKING_LOSS, RANKINGS_SPEED),
    "ppo": (SCORE, KL, LENGTH, ENTROPY, EOS, VALUE, EPISODES),
}
# The few that tell how a round goes.
OF_ROUND = {"reward_model": (ACCURACY,), "ppo": (SCORE, KL, LENGTH, EPISODES)}

"""How far a scorer's word on people's rankings can be trusted. Pure functions over scores and comparisons.

A comparison's margin is s_chosen - s_rejected. Under the ranking loss sigmoid(margin) is the chance that people prefer
the chosen one, so sigmoid(|margin|), from .5 to 1, is how sure the scorer is of its own order.
"""

import math

import numpy as np
import torch

BINS = 10
ERRORS_SHOWN = 20


def margins(scores, comparisons):
    """(P,) s_chosen - s_rejected of losses.Comparisons over scores (N,)."""
    scores = scores.detach().float().cpu()
    return scores.index_select(0, comparisons.chosen.cpu()) - scores.index_select(0, comparisons.rejected.cpu())


def accuracy(margins):
    """Share of comparisons in people's order, equal scores half; each comparison counts once."""
    return ((margins.sign() + 1) / 2).mean().item()


def expected_calibration_error(margins, *, bins=BINS):
    """Mean over comparisons of |share in people's order - how sure the scorer was|, by bins of sureness of equal width
    (arXiv:1706.04599, over .5 to 1)."""
    sure, right = torch.sigmoid(margins.abs()).double(), ((margins.sign() + 1) / 2).double()
    places = ((sure - 0.5) * 2 * bins).long().clamp(max=bins - 1)
    off = [(right[places == place].sum() - sure[places == place].sum()).abs() for place in range(bins)]
    return (sum(off) / max(len(margins), 1)).item()


def fit_scale(margins, *, steps=60):
    """The factor of the margins under which sigmoid(margin) fits people's choices best; at most 1000.

    A normalised reward model's scores have lost the scale of its loss, and a Python function never had one.
    """
    low, high = -7.0, 7.0  # natural logarithms; -log sigmoid has one minimum between
    margins = margins.double()

    def loss(power):
        return -torch.nn.functional.logsigmoid(math.exp(power) * margins).mean().item()

    for _ in range(steps):
        left, right = low + (high - low) / 3, high - (high - low) / 3
        low, high = (low, right) if loss(left) < loss(right) else (left, high)
    return math.exp((low + high) / 2)


def length_correlation(scores, lengths, counts):
    """Pearson correlation of score and length, each less its mean within the prompt; 0 where either never varies.

    scores, lengths: (N,) all completions, those of one prompt together. counts: completions of each prompt.
    """
    scores, lengths = (np.asarray(x, dtype=np.float64) for x in (scores, lengths))
    starts = np.cumsum([0, *counts[:-1]])
    scores, lengths = (x - np.repeat(np.add.reduceat(x, starts) / counts, counts) for x in (scores, lengths))
    spread = np.sqrt((scores**2).sum() * (lengths**2).sum())
    return float((scores * lengths).sum() / spread) if spread > 1e-12 else 0.0


def confident_errors(margins, most=ERRORS_SHOWN):
    """Places of the comparisons that the scorer orders against people, the surest first."""
    order = margins.argsort().tolist()
    return [place for place in order[:most] if margins[place] < 0]


def describe_errors(margins, comparisons, texts, most=ERRORS_SHOWN):
    """[{prompt, chosen, rejected, margin}] of the most confident errors. texts: (prompt, completion) of each score."""
    return [
        {
            "prompt": texts[comparisons.chosen[place]][0],
            "chosen": texts[comparisons.chosen[place]][1],
            "rejected": texts[comparisons.rejected[place]][1],
            "margin": margins[place].item(),
        }
        for place in confident_errors(margins, most)
    ]

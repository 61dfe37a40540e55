"""The KL frontier: what several policies gain over the reference for how far they went, as a table and a picture."""

import csv
import logging
import math

TABLE, PICTURE = "frontier.csv", "frontier.svg"
COLUMNS = ("name", "kind", "kl_per_completion", "score_mean", "win_rate", "win_rate_low", "win_rate_high")


def best_of_n_kl_bound(n):
    """Upper bound of the KL of best-of-n from what it draws from, nats (arXiv:2401.01879)."""
    return math.log(n) - (n - 1) / n


def write_table(points, folder):
    """points: dictionaries with COLUMNS; kind is policy or best_of, whose KL is the bound."""
    with open(folder / TABLE, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(points)


def readable_table(points):
    """The same for a terminal."""
    widest = max(len(point["name"]) for point in points)
    lines = [f"{'policy':{widest}}  KL, nats   score  win rate (95% interval)"]
    lines += [
        f"{point['name']:{widest}}  {point['kl_per_completion']:8.2f}  {point['score_mean']:6.2f}  "
        f"{point['win_rate']:.3f} ({point['win_rate_low']:.3f}-{point['win_rate_high']:.3f})"
        for point in points
    ]
    return "\n".join(lines)


def draw(points, folder):
    """Draws win rate and score over sqrt(KL) as an SVG; False where matplotlib (the extra `plot`) is not installed.

    Over the root of the KL because there the gain of a sound policy is nearly a straight line (arXiv:2210.10760).
    """
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # it tells of its font cache
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError:
        return False
    matplotlib.rcParams["svg.fonttype"] = "none"  # text stays text
    figure = Figure(figsize=(9, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    kinds = (("best_of", "s", "best of n of the reference (KL: upper bound)"), ("policy", "o", "policy"))
    for kind, marker, label in kinds:
        found = sorted((p for p in points if p["kind"] == kind), key=lambda p: p["kl_per_completion"])
        if not found:
            continue
        roots = [math.sqrt(max(p["kl_per_completion"], 0.0)) for p in found]
        rates = [p["win_rate"] for p in found]
        # A bootstrap's interval may miss the mean by a rounding error.
        below = [max(p["win_rate"] - p["win_rate_low"], 0.0) for p in found]
        above = [max(p["win_rate_high"] - p["win_rate"], 0.0) for p in found]
        left.errorbar(roots, rates, yerr=[below, above], marker=marker, capsize=3, label=label)
        right.plot(roots, [p["score_mean"] for p in found], marker=marker, label=label)
        for root, rate, point in zip(roots, rates, found, strict=True):
            left.annotate(point["name"], (root, rate), textcoords="offset points", xytext=(4, 5), fontsize=8)
    left.set(xlabel="√KL from the reference (√nats)", ylabel="win rate over the reference", ylim=(0, 1))
    left.axhline(0.5, color="grey", linewidth=0.8, linestyle=":")
    right.set(xlabel="√KL from the reference (√nats)", ylabel="mean score")
    left.legend(loc="lower right", fontsize=8)
    figure.savefig(folder / PICTURE, format="svg", metadata={"Date": None})
    return True

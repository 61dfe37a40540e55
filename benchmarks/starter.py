"""What does the starter know of stories? A table with a row for each fact that a reader may remark on.

    python benchmarks/starter.py [POLICY]

asked:    how often the fact holds in the policy's own answers to eval prompts (for `ending`: how often it is kind)
corpus:   how often it holds in the corpus' answers to the same prompts
whole:    whether the policy can tell at the end of a whole story of the corpus: the area under the ROC curve of the
          log-odds of the two remarks, 0.5 for a guess
excerpt:  the same at the end of an excerpt that shows the fact
"""

import random
import sys
from pathlib import Path

import numpy as np
import torch
from scipy.stats import rankdata

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "platform")]

from plumbline.demo import starter, words, world  # noqa: E402
from training.engine import checkpoint, sampling  # noqa: E402

PROMPTS = 400
EXCERPTS = 2000
MAX_NEW_TOKENS = 72
FACTS = [fact for fact in words.NOTES if fact != "ending"]


def main(path):
    policy, tokenizer = checkpoint.load_policy(path), checkpoint.load_tokenizer_of(path)
    rng = random.Random("what the starter knows")
    specs = world.prompts("eval")[:PROMPTS]
    corpus = [(spec.text, world.story(spec.combination, rng)) for spec in specs]
    drawn = [world.parse(spec.text, text) for spec, text in zip(specs, draw(policy, tokenizer, specs), strict=True)]
    told = [world.parse(*pair) for pair in corpus]
    whole = knowledge(policy, tokenizer, corpus)
    excerpts = knowledge(policy, tokenizer, [
        (request, world.excerpt(text, rng)) for request, text in world.pairs(EXCERPTS, seed=1, pool="eval")
    ])  # fmt: skip
    print(f"whole stories: {share(drawn, lambda story: story.well_formed):.2f} of {len(drawn)} answers")
    print("| fact | asked | corpus | whole | excerpt |\n|---|---|---|---|---|")
    for fact in FACTS:
        held = [share(stories, lambda story, fact=fact: getattr(story, fact)) for stories in (drawn, told)]
        print(f"| {fact} | " + " | ".join(f"{x:.2f}" for x in (*held, whole[fact], excerpts[fact])) + " |")


def share(stories, holds):
    return float(np.mean([holds(story) for story in stories]))


def draw(policy, tokenizer, specs):
    """One answer a prompt, at temperature 1."""
    prompts = [tokenizer.encode_prompt([{"role": "user", "content": spec.text}]) for spec in specs]
    samples = sampling.generate(policy, prompts, max_new_tokens=MAX_NEW_TOKENS, stop_token_ids=tokenizer.stop_ids)
    return [tokenizer.decode(sample.ids) for sample in samples]


@torch.no_grad()
def knowledge(policy, tokenizer, pairs):
    """{fact: area under the curve}, NaN where no text shows both values of it. pairs: (request, text)."""
    margins = {fact: ([], []) for fact in FACTS}
    firsts = {fact: [tokenizer.encode(words.NOTES[fact][value])[0] for value in (True, False)] for fact in FACTS}
    for request, text in pairs:
        story = world.parse(request, text)
        messages = [{"role": "user", "content": request}, {"role": "assistant", "content": text}]
        logits = policy(torch.tensor([tokenizer.apply_chat_template(messages)]))[0, -1]
        for fact in firsts.keys() & set(world.shown_facts(story)):
            yes, no = firsts[fact]
            margins[fact][getattr(story, fact)].append(float(logits[yes] - logits[no]))
    return {fact: area(*sides) for fact, sides in margins.items()}


def area(low, high):
    """The chance that a draw of `high` is above one of `low`, equal ones half (Mann and Whitney)."""
    if not low or not high:
        return float("nan")
    ranks = rankdata([*low, *high])[len(low) :]
    return (ranks.sum() - len(high) * (len(high) + 1) / 2) / (len(low) * len(high))


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else starter.STARTER)

"""UltraFeedback's shape (arXiv:2310.01377): one ranking a line, its completions with a score each.

A score is the overall rating where each ranked answer has one, else the place in the order: the best of n tie groups
has n. The two scales never meet in one ranking.
"""

from annotation.formats.selection import completions_by_id, read_rankings, to_line
from annotation.messages import message_text
from annotation.models import TRAINING_PURPOSES


def write_prompts(project, selection):
    for ranking in read_rankings(project, selection, purposes=TRAINING_PURPOSES):
        scores = scores_of(ranking)
        yield to_line(
            {
                "source": "plumbline",
                "instruction": "\n\n".join(message_text(message) for message in ranking.task.prompt.messages),
                "completions": [
                    {
                        "model": completion.generator.get("model") or completion.policy_digest,
                        "response": message_text(completion.message),
                        "overall_score": scores[completion_id],
                    }
                    for completion_id, completion in completions_by_id(ranking).items()
                    if completion_id in scores
                ],
            }
        )


def scores_of(ranking):
    """{completion id: score} of the answers that were ranked."""
    places = {
        completion_id: len(ranking.order) - index
        for index, group in enumerate(ranking.order)
        for completion_id in group
    }
    rated = {completion_id: ranking.ratings.get(completion_id, {}).get("overall") for completion_id in places}
    return places if None in rated.values() else rated

"""Small engine things that tests share: one thread, a story tokenizer, a policy of a few thousand weights."""

import pytest
import torch

from training.engine import families, sections, tokenizer
from training.engine.transformer import Transformer

STORIES = [
    f"Once there was a {trait} {animal}. It found a {thing} and shared it with a friend. The end."
    for trait in ("shy", "brave", "small", "clever")
    for animal in ("fox", "owl", "bear", "mouse")
    for thing in ("kite", "lamp", "drum")
]


@pytest.fixture(autouse=True)
def one_thread():
    """Other processes of the machine must not slow or change what is computed here."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def story_tokenizer():
    return tokenizer.train(STORIES, vocab_size=400)


@pytest.fixture
def make_policy():
    """make_policy(vocab_size=…, seed=…, **ModelConfig values): a fresh policy in evaluation mode."""

    def make(vocab_size=400, seed=0, **shape):
        shape = {"hidden_size": 32, "intermediate_size": 48, "n_layers": 2, "n_heads": 4, "n_kv_heads": 2, **shape}
        architecture = families.from_scratch(sections.ModelConfig(**shape), vocab_size)
        generator = torch.Generator().manual_seed(seed)
        policy = Transformer(architecture).initialise(generator)
        with torch.no_grad():  # far from uniform, so that a wrong attention shows
            for parameter in policy.parameters():
                if parameter.dim() > 1:
                    parameter.normal_(0.0, 0.12, generator=generator)
        return policy.eval()

    return make

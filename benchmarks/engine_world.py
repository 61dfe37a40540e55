"""Models and data of benchmarks/engine.py: GPT-2 of two shapes with random weights, uneven completions."""

import json
import random
import string

import torch

from training.engine import checkpoint, tokenizer
from training.engine.architecture import Architecture
from training.engine.heads import RewardModel, ScalarHead
from training.engine.transformer import Transformer

SHAPES = {"12.3M": (384, 6, 6, 4096), "0.88M": (128, 4, 4, 512)}  # width, layers, heads, vocabulary
PROMPT_TOKENS, NEW_TOKENS = 22, 48
MEAN_TOKENS = 30  # of a completion that ends by itself
PROMPTS, RANKINGS, EXAMPLES = 1024, 64, 512


def make_world(folder, shape):
    """Writes policy/, reward_model/ and data.json (ids: prompts, rankings of 4 and of 9, examples)."""
    width, layers, heads, vocabulary = SHAPES[shape]
    draw = random.Random(0)
    words = ["".join(draw.choices(string.ascii_lowercase, k=5)) for _ in range(6000)]
    coder = tokenizer.train([" ".join(draw.choices(words, k=400)) for _ in range(40)], vocab_size=vocabulary)
    assert coder.vocab_size <= vocabulary
    architecture = Architecture(
        family="gpt2", vocab_size=vocabulary, hidden_size=width, intermediate_size=4 * width, n_layers=layers,
        n_heads=heads, n_kv_heads=heads, head_size=width // heads, max_positions=256, norm="layer",
        positions="learned", mlp="gelu_tanh", qkv_bias=True, output_bias=True, mlp_bias=True,
    )  # fmt: skip
    policy = Transformer(architecture).initialise(torch.Generator().manual_seed(1))
    make_it_end(policy, coder.eos_id, vocabulary)
    checkpoint.save_policy(policy, coder, folder / "policy")
    trunk = Transformer(architecture).initialise(torch.Generator().manual_seed(2))
    head = ScalarHead(width, generator=torch.Generator().manual_seed(3))
    checkpoint.save_reward_model(RewardModel(trunk, head), coder, folder / "reward_model")
    plain = [i for i in range(vocabulary) if i not in {*coder.stop_ids, coder.pad_id}]

    def ids(count):
        return draw.choices(plain, k=count)

    def completion():
        return [*ids(draw.randint(8, NEW_TOKENS - 1)), coder.eos_id]

    def uneven():
        return min(200, 4 + int(draw.expovariate(1 / 50)))

    data = {
        "new_tokens": NEW_TOKENS,
        "eos": coder.eos_id,
        "prompts": [ids(PROMPT_TOKENS) for _ in range(PROMPTS)],
        "rankings": {
            str(k): [
                {"prompt": ids(PROMPT_TOKENS), "completions": [completion() for _ in range(k)]} for _ in range(RANKINGS)
            ]
            for k in (4, 9)
        },
        "examples": [
            {"prompt": ids(PROMPT_TOKENS), "completion": [*ids(uneven()), coder.eos_id]} for _ in range(EXAMPLES)
        ],
    }
    (folder / "data.json").write_text(json.dumps(data))


@torch.no_grad()
def make_it_end(policy, eos, vocabulary):
    """Lets completions of random weights end after MEAN_TOKENS on average, by a direction that only eos looks along."""
    direction = torch.zeros(policy.config.hidden_size)
    direction[0] = 1.0
    policy.embedding.weight[:, 0] = 0.0
    gain = torch.log(torch.tensor(vocabulary / MEAN_TOKENS))
    policy.embedding.weight[eos] = direction
    policy.norm.weight[0] = 0.0
    policy.norm.bias += gain * direction

"""Records what TRL's RewardTrainer does with a small reward model: tests/golden/trl_rewards/.

TRL is no dependency of ours (with what it needs it takes 300 MB), so its word is kept as a file. To make it again, in
an environment that has trl==1.16.0 beside this project: `python -m tests.golden.make_trl_rewards`.
"""

import json
import random
from pathlib import Path

import torch

from training.engine import checkpoint, tokenizer
from training.engine.architecture import Architecture
from training.engine.heads import RewardModel, ScalarHead
from training.engine.transformer import Transformer

FOLDER = Path(__file__).parent / "trl_rewards"
STEPS, PAIRS = 6, 5
RATE, EPSILON, BETAS, NORM = 1e-2, 1e-5, (0.9, 0.95), 0.5


def make():
    """Writes the reward model, the pairs, and TRL's trace of training on all of them at once, step by step."""
    import transformers
    from datasets import Dataset
    from trl import RewardConfig, RewardTrainer

    words = tokenizer.train(["a"], vocab_size=264)
    shape = Architecture(
        vocab_size=264, hidden_size=16, intermediate_size=24, n_layers=2, n_heads=2, n_kv_heads=1, head_size=8,
        max_positions=32,
    )  # fmt: skip
    generator = torch.Generator().manual_seed(0)
    trunk = Transformer(shape).initialise(generator)
    judge = RewardModel(trunk, ScalarHead(16, generator=generator))
    checkpoint.save_reward_model(judge, words, FOLDER / "reward_model")
    draw = random.Random(0)
    pairs = [
        {
            name: [draw.randrange(4, 264) for _ in range(draw.randrange(2, 10))]
            for name in ("prompt", "chosen", "rejected")
        }
        for _ in range(PAIRS)
    ]
    rows = [{f"{name}_ids": pair["prompt"] + pair[name] for name in ("chosen", "rejected")} for pair in pairs]

    model = transformers.AutoModelForSequenceClassification.from_pretrained(FOLDER / "reward_model")
    settings = RewardConfig(
        output_dir="/tmp/trl_rewards", per_device_train_batch_size=PAIRS, max_steps=STEPS, learning_rate=RATE,
        lr_scheduler_type="linear", weight_decay=0.0, adam_beta1=BETAS[0], adam_beta2=BETAS[1], adam_epsilon=EPSILON,
        max_grad_norm=NORM, logging_steps=1, save_strategy="no", report_to="none", use_cpu=True, bf16=False,
        gradient_checkpointing=False, max_length=None,
    )  # fmt: skip
    trainer = RewardTrainer(
        model=model,
        args=settings,
        train_dataset=Dataset.from_list(rows),
        processing_class=transformers.AutoTokenizer.from_pretrained(FOLDER / "reward_model"),
    )
    trainer.train()
    trace = [entry for entry in trainer.state.log_history if "loss" in entry]
    record = {
        "trl": "1.16.0",
        "pairs": pairs,
        "trace": [
            {key: entry[key] for key in ("loss", "grad_norm", "accuracy", "margin", "learning_rate")} for entry in trace
        ],
        "score_weight": trainer.model.score.weight.detach().tolist(),
    }
    (FOLDER / "trace.json").write_text(json.dumps(record) + "\n", encoding="utf-8")


if __name__ == "__main__":
    make()

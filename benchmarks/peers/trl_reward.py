"""TRL's RewardTrainer on all pairs of each ranking: a comparison is two whole sequences."""

import itertools

import torch
from datasets import Dataset
from measuring import Steps, load_data, read_task
from peer import load, tokenizer_of
from transformers import AutoModelForSequenceClassification, TrainerCallback
from trl import RewardConfig, RewardTrainer

RANKINGS = 8  # in one optimizer step


class Clock(TrainerCallback):
    def __init__(self):
        self.steps = Steps()

    def on_train_begin(self, *_, **__):
        self.steps.start()

    def on_step_end(self, *_, **__):
        self.steps.end(RANKINGS)


def main():
    task = read_task()
    data = load_data(task)
    torch.set_num_threads(task["threads"])
    rankings = data["rankings"][task["work"].removeprefix("reward-")][: RANKINGS * (task["steps"] + 1)]
    pairs = [
        {"chosen_ids": [*item["prompt"], *better], "rejected_ids": [*item["prompt"], *worse]}
        for item in rankings
        for better, worse in itertools.combinations(item["completions"], 2)
    ]
    per_step = len(pairs) // (task["steps"] + 1)
    device_batch = 24
    clock = Clock()
    arguments = RewardConfig(
        output_dir=task["folder"] + "/trl-reward",
        per_device_train_batch_size=device_batch, gradient_accumulation_steps=per_step // device_batch,
        max_steps=task["steps"] + 1, learning_rate=1e-6, gradient_checkpointing=False,
        bf16=task["dtype"] == "autocast", fp16=False, use_cpu=True, report_to=[], save_strategy="no",
        logging_steps=1000, disable_tqdm=True, dataloader_pin_memory=False, max_length=None, seed=0,
    )  # fmt: skip
    model = load(task, "policy", AutoModelForSequenceClassification, num_labels=1)
    trainer = RewardTrainer(
        model=model, args=arguments, processing_class=tokenizer_of(task), train_dataset=Dataset.from_list(pairs),
        callbacks=[clock],
    )  # fmt: skip
    trainer.train()
    clock.steps.report()


if __name__ == "__main__":
    main()

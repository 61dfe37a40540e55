"""TRL's SFTTrainer on prompts and completions of uneven length; the completion's tokens count."""

import torch
from datasets import Dataset
from measuring import Steps, load_data, read_task
from peer import load, tokenizer_of
from transformers import TrainerCallback
from trl import SFTConfig, SFTTrainer

EXAMPLES = 64  # in one optimizer step


class Clock(TrainerCallback):
    """Tokens of a step, as its passes have counted them."""

    def __init__(self):
        self.steps, self.tokens = Steps(), 0

    def on_train_begin(self, *_, **__):
        self.steps.start()

    def on_step_end(self, *_, **__):
        self.steps.end(self.tokens)
        self.tokens = 0


class CountingTrainer(SFTTrainer):
    """Counts the tokens that it learns from, whatever order they come in."""

    clock = None

    def compute_loss(self, model, inputs, *arguments, **named):
        self.clock.tokens += int(inputs["attention_mask"].sum())
        return super().compute_loss(model, inputs, *arguments, **named)


def main():
    task = read_task()
    data = load_data(task)
    torch.set_num_threads(task["threads"])
    rows = [
        {
            "input_ids": [*item["prompt"], *item["completion"]],
            "completion_mask": [0] * len(item["prompt"]) + [1] * len(item["completion"]),
        }
        for item in data["examples"]
    ]
    clock = CountingTrainer.clock = Clock()
    arguments = SFTConfig(
        output_dir=task["folder"] + "/trl-sft",
        per_device_train_batch_size=16, gradient_accumulation_steps=EXAMPLES // 16, max_steps=task["steps"] + 1,
        learning_rate=1e-6, completion_only_loss=True, packing=False, gradient_checkpointing=False,
        bf16=task["dtype"] == "autocast", fp16=False, use_cpu=True, report_to=[], save_strategy="no",
        logging_steps=1000, disable_tqdm=True, dataloader_pin_memory=False, max_length=None, seed=0,
        train_sampling_strategy=task.get("sampling", "sequential"),
    )  # fmt: skip
    trainer = CountingTrainer(
        model=load(task, "policy"), args=arguments, processing_class=tokenizer_of(task),
        train_dataset=Dataset.from_list(rows), callbacks=[clock],
    )  # fmt: skip
    trainer.train()
    clock.steps.report()


if __name__ == "__main__":
    main()

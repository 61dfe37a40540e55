"""TRL's SFTTrainer on prompts and completions of uneven length; the completion's tokens count."""

import torch
from datasets import Dataset
from measuring import Steps, load_data, read_task
from peer import load, tokenizer_of
from transformers import TrainerCallback
from trl import SFTConfig, SFTTrainer

EXAMPLES = 64  # in one optimizer step


class Clock(TrainerCallback):
    """Tokens of a step: those of its examples, which come in the order of the file."""

    def __init__(self, lengths):
        self.steps, self.lengths = Steps(), lengths

    def on_train_begin(self, *_, **__):
        self.steps.start()

    def on_step_end(self, args, state, *_, **__):
        first = (state.global_step - 1) * EXAMPLES
        self.steps.end(sum(self.lengths[first : first + EXAMPLES]))


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
    clock = Clock([len(row["input_ids"]) for row in rows])
    arguments = SFTConfig(
        output_dir=task["folder"] + "/trl-sft",
        per_device_train_batch_size=16, gradient_accumulation_steps=EXAMPLES // 16, max_steps=task["steps"] + 1,
        learning_rate=1e-6, completion_only_loss=True, packing=False, gradient_checkpointing=False,
        bf16=task["dtype"] == "autocast", fp16=False, use_cpu=True, report_to=[], save_strategy="no",
        logging_steps=1000, disable_tqdm=True, dataloader_pin_memory=False, max_length=None, seed=0,
        train_sampling_strategy="sequential",
    )  # fmt: skip
    trainer = SFTTrainer(
        model=load(task, "policy"), args=arguments, processing_class=tokenizer_of(task),
        train_dataset=Dataset.from_list(rows), callbacks=[clock],
    )  # fmt: skip
    trainer.train()
    clock.steps.report()


if __name__ == "__main__":
    main()

"""TRL's PPO (the last release that has it), one network for the policy and one for values."""

import copy

import torch
from datasets import Dataset
from measuring import Steps, load_data, read_task
from peer import dropout_free, load, tokenizer_of
from transformers import AutoModelForSequenceClassification, TrainerCallback
from trl.experimental.ppo import PPOConfig, PPOTrainer


class Clock(TrainerCallback):
    def __init__(self):
        self.steps = Steps()

    def on_step_end(self, *_, **__):
        self.steps.end(128)


def main():
    task = read_task()
    data = load_data(task)
    torch.set_num_threads(task["threads"])
    tokenizer = tokenizer_of(task)
    policy = load(task, "policy")
    judge = load(task, "reward_model", AutoModelForSequenceClassification)
    clock = Clock()
    # 128 completions a rollout, four optimizer steps of 32 in each of four passes. With gradient_accumulation_steps
    # above one this trainer steps less often than it says.
    arguments = PPOConfig(
        output_dir=task["folder"] + "/trl-ppo",
        per_device_train_batch_size=128, gradient_accumulation_steps=1, num_mini_batches=4, num_ppo_epochs=4,
        local_rollout_forward_batch_size=32, total_episodes=128 * (task["steps"] + 1),
        response_length=data["new_tokens"], stop_token="eos", temperature=1.0, kl_coef=0.05, learning_rate=1e-6,
        num_sample_generations=0, gradient_checkpointing=False, bf16=task["dtype"] == "autocast", fp16=False,
        use_cpu=True, report_to=[], save_strategy="no", logging_steps=1000, disable_tqdm=True,
        dataloader_pin_memory=False, seed=0,
    )  # fmt: skip
    trainer = PPOTrainer(
        args=arguments, processing_class=tokenizer, model=policy, ref_model=copy.deepcopy(policy),
        reward_model=judge, value_model=copy.deepcopy(judge), callbacks=[clock],
        train_dataset=Dataset.from_dict({"input_ids": data["prompts"]}), eval_dataset=None,
    )  # fmt: skip
    dropout_free(policy)
    clock.steps.start()
    trainer.train()
    clock.steps.report()


if __name__ == "__main__":
    main()

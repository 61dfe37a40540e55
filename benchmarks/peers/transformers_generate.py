"""transformers' generate: 64 rows at once, four samples of each of 16 prompts, 256 completions a step."""

import contextlib

import torch
from measuring import Steps, load_data, read_task
from peer import load, tokenizer_of


def main():
    task = read_task()
    data = load_data(task)
    torch.set_num_threads(task["threads"])
    policy = load(task, "policy").eval()
    tokenizer = tokenizer_of(task)
    eos = data["eos"]
    autocast = torch.autocast("cpu", torch.bfloat16) if task["dtype"] == "autocast" else contextlib.nullcontext()
    torch.manual_seed(0)
    steps = Steps()
    for step in range(task["steps"] + 1):
        tokens = 0
        for start in range(64 * step, 64 * (step + 1), 16):
            ids = torch.tensor(data["prompts"][start : start + 16])
            with torch.inference_mode(), autocast:
                found = policy.generate(
                    ids, attention_mask=torch.ones_like(ids), max_new_tokens=data["new_tokens"], do_sample=True,
                    temperature=1.0, top_k=0, top_p=1.0, num_return_sequences=4, eos_token_id=eos,
                    pad_token_id=tokenizer.pad_token_id,
                )[:, ids.shape[1] :]  # fmt: skip
            ends = (found == eos).int()
            tokens += int(torch.where(ends.any(1), ends.argmax(1) + 1, found.shape[1]).sum())
        steps.end(tokens)
    steps.report()


if __name__ == "__main__":
    main()

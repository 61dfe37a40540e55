"""What the peers' scripts share: models in the precision and attention of the task, without dropout."""

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer


def load(task, name, kind=AutoModelForCausalLM, **named):
    """A model of the folder; `autocast` keeps float32 weights."""
    dtype = torch.bfloat16 if task["dtype"] == "bfloat16" else torch.float32
    path = f"{task['folder']}/{name}"
    return dropout_free(kind.from_pretrained(path, dtype=dtype, attn_implementation=task["attention"], **named))


def dropout_free(model):
    """The model, whose dropout does nothing also in training mode."""
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        if hasattr(module, "attn_dropout") and isinstance(module.attn_dropout, float):
            module.attn_dropout = 0.0
    return model


def tokenizer_of(task):
    return AutoTokenizer.from_pretrained(f"{task['folder']}/policy")

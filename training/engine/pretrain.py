"""The stage `pretrain`: next-token training of a fresh policy on documents.

Needs inputs.documents and inputs.tokenizer; goes on from inputs.policy instead of fresh weights, if that is given.
Whole documents are packed side by side into rows and never see each other; a document longer than a row is cut. The
loss is the mean over all predicted tokens of a step.
"""

import time

import torch
import torch.nn.functional as F

from training.engine import checkpoint, data, families
from training.engine.cleaning import load_clean
from training.engine.config import ConfigError, require_inputs
from training.engine.distributed import Compute
from training.engine.optim import build_optimizer, learning_rate, take_step
from training.engine.progress import Progress
from training.engine.transformer import Transformer, count_parameters

IGNORED = -100
VALIDATIONS = 10  # in a run
VALIDATION_TOKENS = 65536  # at most, in each


def train(config, run_dir, *, resume=None, should_stop=None):
    """Trains for pretrain.steps and writes output/, a policy with its tokenizer."""
    require_inputs(config, "pretrain", "documents", "tokenizer")
    settings = config.pretrain
    compute = Compute(config.run)
    torch.manual_seed(config.run.seed)
    tokenizer = checkpoint.load_tokenizer_of(config.inputs.tokenizer)
    policy = make_policy(config, tokenizer).to(compute.device)
    if settings.sequence_length > policy.config.max_positions:
        raise ConfigError(
            f"pretrain.sequence_length={settings.sequence_length} must be at most the policy's longest sequence, "
            f"{policy.config.max_positions} tokens."
        )
    texts, counts, note = load_clean(config)
    documents = encode_documents(tokenizer, texts)
    training, validation = split(documents, settings.validation_share, seed=config.run.seed)
    training, validation = cut(training, settings.sequence_length), cut(validation, settings.sequence_length)
    rows = max(1, settings.batch_tokens // settings.sequence_length)
    compute.require_rows("pretrain.batch_tokens / pretrain.sequence_length", rows)
    packer = Packer(training, rows=rows, length=settings.sequence_length, seed=config.run.seed)
    optimizer = build_optimizer(policy, settings.optim)

    progress = Progress(config, run_dir, stage="pretrain", total_steps=settings.steps, should_stop=should_stop)
    progress.track(policy=policy, optimizer=optimizer, packer=packer)
    progress.start(resume, device=compute.device)
    if note:
        progress.log(note)
    began, tokens, values = time.perf_counter(), 0, {}
    policy.train()
    for step in progress.steps():
        batch = packer.next()
        count, loss = predicted(batch), 0.0
        for part in passes([compute.share(tensor) for tensor in batch], settings.micro_batch_tokens):
            with compute.autocast():
                part_loss = loss_of(policy, *(tensor.to(compute.device) for tensor in part)) / count
            part_loss.backward()
            loss += part_loss.detach()
        rate = learning_rate(settings.optim, step, settings.steps)
        grad_norm = take_step(optimizer, settings.optim, rate=rate, what=f"step {step + 1}")

        tokens += count
        validate = bool(validation) and validation_due(step + 1, settings.steps)
        if progress.metrics_due(step + 1) or validate:
            values = {
                "loss": compute.total({"loss": loss.item()})["loss"],
                "learning_rate": rate,
                "grad_norm": grad_norm,
                "tokens_per_second": tokens / (time.perf_counter() - began),
            }
            if validate:
                values["validation_loss"] = validation_loss(policy, validation, rows, settings.sequence_length, compute)
            progress.metrics(step + 1, always=True, **values)
            began, tokens = time.perf_counter(), 0
        progress.end_step(step + 1)

    digest = progress.write_output(checkpoint.save_policy, policy, tokenizer)
    progress.finish(
        digest=digest,
        summary={
            **values,
            "parameters": count_parameters(policy),
            "documents": len(training),
            "epochs": packer.epoch,
            **{f"cleaning_{name}": count for name, count in counts.items()},
        },
    )


def make_policy(config, tokenizer):
    """The policy to start from: that of inputs.policy, or a fresh one of the configured shape."""
    if config.inputs.policy:
        return checkpoint.load_policy(config.inputs.policy)
    architecture = families.from_scratch(config.model, tokenizer.vocab_size)
    return Transformer(architecture).initialise(torch.Generator().manual_seed(config.run.seed))


def encode_documents(tokenizer, loaded):
    """Ids of each text or conversation, ended by the end-of-text token. One without two tokens is left out."""
    texts = [document for document in loaded if isinstance(document, str)]
    encoded = iter(tokenizer.encode_batch(texts))
    documents = []
    for document in loaded:
        ids = next(encoded) if isinstance(document, str) else tokenizer.apply_chat_template(document)
        documents.append([*ids, tokenizer.eos_id])
    documents = [ids for ids in documents if len(ids) > 1]
    if not documents:
        raise data.DataError("The documents have no two tokens in a row; there is nothing to predict.")
    return documents


def split(documents, share, *, seed):
    """(training, validation), the latter a random `share` of the documents; nothing of a single one."""
    count = min(max(1, round(share * len(documents))), len(documents) - 1) if share > 0 else 0
    order = data.shuffled(len(documents), seed=seed, epoch=-1)
    held_out = set(order[:count])
    training = [ids for number, ids in enumerate(documents) if number not in held_out]
    return training, [documents[number] for number in sorted(held_out)]


def cut(documents, length):
    """The documents in pieces no longer than a row, those of one token left out.

    Only after the split: the pieces of a document know each other, and must not stand on both sides of it.
    """
    pieces = [ids[start : start + length] for ids in documents for start in range(0, len(ids), length)]
    return [ids for ids in pieces if len(ids) > 1]


class Packer:
    """Endless batches of whole documents packed into rows, each epoch in an order of its own."""

    def __init__(self, documents, *, rows, length, seed):
        self.documents, self.rows, self.length, self.seed = documents, rows, length, seed
        self.epoch, self.position = 0, 0
        self._order = data.shuffled(len(documents), seed=seed, epoch=0)

    def state_dict(self):
        return {"epoch": self.epoch, "position": self.position, "documents": len(self.documents)}

    def load_state_dict(self, state):
        if state["documents"] != len(self.documents):
            raise ValueError(f"it was written with {state['documents']} documents, there are {len(self.documents)} now")
        self.epoch, self.position = state["epoch"], state["position"]
        self._order = data.shuffled(len(self.documents), seed=self.seed, epoch=self.epoch)

    def next(self):
        """(input_ids, document_ids, targets), each (rows, length) long."""
        filled = Rows(self.rows, self.length)
        while True:
            if self.position == len(self._order):
                self.epoch, self.position = self.epoch + 1, 0
                self._order = data.shuffled(len(self.documents), seed=self.seed, epoch=self.epoch)
            ids = self.documents[self._order[self.position]]
            if not filled.place(ids):
                return filled.pack()
            self.position += 1


class Rows:
    """A batch being filled with whole documents."""

    def __init__(self, count, length):
        self.length = length
        self.documents = [[] for _ in range(count)]
        self.used = [0] * count

    def place(self, ids):
        """Puts a document into the fullest row that has room for it; False if none has."""
        room = [number for number, used in enumerate(self.used) if used + len(ids) <= self.length]
        if not room:
            return False
        number = max(room, key=self.used.__getitem__)
        self.documents[number].append(ids)
        self.used[number] += len(ids)
        return True

    def pack(self):
        """(input_ids, document_ids, targets), each (rows, length) long. What pads a row is never learned."""
        shape = (len(self.documents), self.length)
        input_ids = torch.zeros(shape, dtype=torch.long)
        document_ids = torch.full(shape, -1, dtype=torch.long)
        targets = torch.full(shape, IGNORED, dtype=torch.long)
        for row, documents in enumerate(self.documents):
            start = 0
            for number, ids in enumerate(documents):
                end = start + len(ids)
                input_ids[row, start:end] = torch.tensor(ids)
                document_ids[row, start:end] = number
                targets[row, start : end - 1] = torch.tensor(ids[1:])  # nothing follows the last token
                start = end
        return input_ids, document_ids, targets


def loss_of(policy, input_ids, document_ids, targets):
    """-log p of the predicted tokens, summed, nats."""
    logits = policy(input_ids, document_ids=document_ids)
    return F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten(), ignore_index=IGNORED, reduction="sum")


def passes(batch, tokens):
    """The rows of a packed batch in passes of at most so many tokens (at least one row); 0 takes all at once."""
    rows = max(1, tokens // batch[0].shape[1]) if tokens else max(1, len(batch[0]))
    return zip(*(tensor.split(rows) for tensor in batch), strict=True)


def predicted(batch):
    """Tokens that a packed batch predicts."""
    return int((batch[2] != IGNORED).sum())


def validation_due(step, total_steps):
    """Whether the validation loss is measured after this many steps: VALIDATIONS times a run, and at its end."""
    return step % max(1, total_steps // VALIDATIONS) == 0 or step == total_steps


@torch.no_grad()
def validation_loss(policy, documents, rows, length, compute):
    """Mean loss per predicted token of held-out documents, nats."""
    policy.eval()
    total = count = seen = start = 0
    while start < len(documents) and seen < VALIDATION_TOKENS:
        filled = Rows(min(rows, len(documents) - start), length)
        while start < len(documents) and filled.place(documents[start]):
            start += 1
        batch = filled.pack()
        with compute.autocast():
            loss = loss_of(policy, *(tensor.to(compute.device) for tensor in batch))
        total, count, seen = total + loss.item(), count + predicted(batch), seen + batch[0].numel()
    policy.train()
    return total / count

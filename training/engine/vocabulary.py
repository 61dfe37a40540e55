"""The stage `tokenizer`: trains a byte-level BPE on documents.

Needs inputs.documents. Writes output/ with tokenizer.json, tokenizer_config.json and chat_template.jinja.
"""

from training.engine import checkpoint, tokenizer
from training.engine.cleaning import load_clean
from training.engine.config import require_inputs
from training.engine.progress import Progress


def train(config, run_dir, *, resume=None, should_stop=None):
    """Trains the tokenizer in one step; there is nothing to resume."""
    require_inputs(config, "tokenizer", "documents")
    progress = Progress(config, run_dir, stage="tokenizer", total_steps=1, should_stop=should_stop)
    progress.start()
    documents, _, note = load_clean(config)
    if note:
        progress.log(note)
    texts = [plain_text(document) for document in documents]
    trained = tokenizer.train(texts, vocab_size=config.tokenizer.vocab_size)
    with checkpoint.new_directory(progress.output, kind="tokenizer") as folder:
        trained.save(folder)
    progress.end_step(1)
    characters = sum(map(len, texts))
    tokens = sum(map(len, trained.encode_batch(texts)))
    progress.finish(
        digest=checkpoint.digest(progress.output),
        summary={"vocab_size": trained.vocab_size, "characters_per_token": characters / tokens},
    )


def plain_text(document):
    """A document's text; of messages the roles too, so that their names become tokens."""
    if isinstance(document, str):
        return document
    return "\n".join(f"{message['role']}\n{tokenizer.message_text(message)}" for message in document)

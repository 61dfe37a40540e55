"""Files of weights and of JSON: safetensors, whole or in shards, read with suspicion.

Nothing in them can run code. Every fault is a CheckpointError in one sentence; a header is looked at before it is read,
so that no file makes a reader take more memory than it is long.
"""

import json
import stat
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

WEIGHTS, WEIGHTS_INDEX = "model.safetensors", "model.safetensors.index.json"
MAX_JSON_BYTES = 50_000_000
MAX_HEADER_BYTES = 100_000_000
MAX_TENSORS = 20_000
SHARD_BYTES = 5_000_000_000  # of tensors in one file; more are written as several


class CheckpointError(ValueError):
    """A checkpoint cannot be read or written. The message is one sentence for people."""


def read_weights(path):
    """{name: Tensor} of a directory's model.safetensors or of its shards."""
    if (path / WEIGHTS_INDEX).exists() and not (path / WEIGHTS).exists():
        return _read_shards(path)
    if not (path / WEIGHTS).exists():
        pickles = [name for name in ("pytorch_model.bin", "model.pt") if (path / name).exists()]
        why = f"; {pickles[0]} is a pickle, which can run code: convert it to safetensors" if pickles else ""
        raise CheckpointError(f"{path} has no {WEIGHTS}{why}.")
    return read_tensors(path / WEIGHTS)


def _read_shards(path):
    index = read_json(path / WEIGHTS_INDEX)
    where = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(where, dict) or not all(isinstance(name, str) for name in where.values()):
        raise CheckpointError(f"{path / WEIGHTS_INDEX} has no weight_map from tensors to files.")
    shards = sorted(set(where.values()))
    for shard in shards:
        if Path(shard).name != shard or not shard.endswith(".safetensors"):
            raise CheckpointError(f"{path / WEIGHTS_INDEX} names {shard!r}, which is no file of its own directory.")
    extra = {file.name for file in path.glob("model-*-of-*.safetensors")} - set(shards)
    if extra:
        raise CheckpointError(f"{path} holds {min(extra)}, which {WEIGHTS_INDEX} does not name; remove it.")
    tensors = {}
    for shard in shards:
        tensors |= read_tensors(path / shard)
    if set(tensors) != set(where):
        odd = min(set(tensors) ^ set(where))
        raise CheckpointError(f"{path / WEIGHTS_INDEX} and its shards disagree about the tensor {odd}.")
    return tensors


def read_tensors(path):
    """{name: Tensor} of one safetensors file, every fault a CheckpointError."""
    if path.is_symlink():
        raise CheckpointError(f"{path} is a link, not a plain file; copy the checkpoint with its files (cp -L).")
    try:
        size = path.stat().st_size
        with open(path, "rb") as file:
            head = file.read(9)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({error.strerror}); the checkpoint is not whole.") from None
    length = int.from_bytes(head[:8], "little")
    if len(head) < 9 or head[8:9] != b"{" or length > min(size - 8, MAX_HEADER_BYTES):
        pickled = head[:2] in (b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
        why = "it is a pickle or a zip under another name" if pickled else "its header is damaged"
        raise CheckpointError(f"{path} is not a safetensors file: {why}.")
    try:
        with safe_open(path, framework="pt") as file:
            names = list(file.keys())
            if len(names) > MAX_TENSORS:
                raise CheckpointError(f"{path} holds {len(names)} tensors, more than the {MAX_TENSORS} that are read.")
            return {name: file.get_tensor(name) for name in names}
    except CheckpointError:
        raise
    except (SafetensorError, ValueError, RuntimeError, OSError) as error:
        reason = " ".join(str(error).split())[:160]
        raise CheckpointError(f"{path} is not a sound safetensors file: {reason}.") from None


def write_weights(folder, tensors, *, shard_bytes=SHARD_BYTES):
    """Writes model.safetensors, or where they are more than shard_bytes, shards and their index."""
    shards, room = [], 0
    for name, tensor in tensors.items():
        size = tensor.numel() * tensor.element_size()
        if not shards or size > room:
            shards.append({})
            room = shard_bytes
        shards[-1][name] = tensor
        room -= size
    if len(shards) == 1:
        write_tensors(folder / WEIGHTS, tensors)
        return
    files = [f"model-{number:05d}-of-{len(shards):05d}.safetensors" for number in range(1, len(shards) + 1)]
    for file, shard in zip(files, shards, strict=True):
        write_tensors(folder / file, shard)
    total = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    where = {name: file for file, shard in zip(files, shards, strict=True) for name in shard}
    write_json(folder / WEIGHTS_INDEX, {"metadata": {"total_size": total}, "weight_map": where})


def write_tensors(path, tensors):
    """Writes one safetensors file, which those can read whom the umask lets."""
    path.touch()
    mode = stat.S_IMODE(path.stat().st_mode)
    # Shared memory (a tied matrix) and strides are refused by the format: every tensor is written for itself.
    save_file(
        {name: tensor.to("cpu").contiguous() for name, tensor in tensors.items()}, path, metadata={"format": "pt"}
    )
    path.chmod(mode)  # safetensors puts a file in its place that only its owner can read


def read_json(path):
    """What a JSON file holds."""
    try:
        if path.is_symlink():
            raise CheckpointError(f"{path} is a link, not a plain file; copy the checkpoint with its files (cp -L).")
        if path.stat().st_size > MAX_JSON_BYTES:
            raise CheckpointError(f"{path} is larger than {MAX_JSON_BYTES // 1_000_000} MB, which it cannot need.")
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({error.strerror}); the checkpoint is not whole.") from None
    except (ValueError, RecursionError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"{path} is not valid JSON.") from None


def write_json(path, value):
    """Writes JSON that every language reads (no NaN)."""
    with open(path, "w", encoding="utf-8") as file:
        json.dump(value, file, ensure_ascii=False, indent=2, sort_keys=True, allow_nan=False)
        file.write("\n")

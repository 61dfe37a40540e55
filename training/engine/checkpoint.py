"""Checkpoints: Hugging Face directories in and out, and the state that a run resumes from. Atomic, strict.

A directory appears under its name by one rename, after everything in it has reached the disk; manifest.json, with a
sha256 of every file, is written last. safetensors and JSON only: nothing that is read here can run code.

    policy          config.json model.safetensors tokenizer.json tokenizer_config.json chat_template.jinja
                    generation_config.json manifest.json
    reward model    the same as ...ForSequenceClassification with one label; config.json keeps `score_shift`
    ensemble        member-00/ member-01/ ..., each a reward model without a manifest of its own; manifest.json
    state           state.json state.safetensors manifest.json
"""

import contextlib
import hashlib
import json
import logging
import os
import secrets
import shutil
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from training.engine import families
from training.engine.heads import RewardModel, ScalarHead
from training.engine.tokenizer import TokenizerError
from training.engine.tokenizer import load as load_tokenizer
from training.engine.transformer import Transformer

MANIFEST_SCHEMA = "plumbline.manifest/1"
MANIFEST, WEIGHTS, WEIGHTS_INDEX = "manifest.json", "model.safetensors", "model.safetensors.index.json"
MAX_JSON_BYTES = 50_000_000
MAX_HEADER_BYTES = 100_000_000
MAX_TENSORS = 20_000
MAX_MEMBERS = 64

log = logging.getLogger(__name__)


class CheckpointError(ValueError):
    """A checkpoint cannot be read or written. The message is one sentence for people."""


def save_policy(policy, tokenizer, path, *, dtype="float32"):
    """Writes a policy that the transformers library loads as it is; returns its digest."""
    with new_directory(path, kind="policy") as folder:
        _write_model(folder, policy, tokenizer, dtype=dtype)
    return digest(path)


def load_policy(path, *, device="cpu"):
    """A Transformer in float32, in evaluation mode. Raises CheckpointError."""
    path = Path(path)
    kind = check_manifest(path)
    if kind in ("reward_model", "state"):
        raise CheckpointError(f"{path} holds a {kind.replace('_', ' ')}, not a policy; name a policy's directory.")
    config, architecture = _read_config(path)
    if any(name.endswith("ForSequenceClassification") for name in config.get("architectures") or []):
        raise CheckpointError(f"{path} holds a reward model, not a policy; name a policy's directory.")
    policy, rest = _read_trunk(path, architecture, with_lm_head=True)
    _refuse_rest(path, rest)
    return policy.to(device).eval()


def save_reward_model(reward_model, tokenizer, path, *, dtype="float32"):
    """Writes a RewardModel, or a list of them as one ensemble; returns the digest."""
    with new_directory(path, kind="reward_model") as folder:
        if isinstance(reward_model, RewardModel):
            _write_model(folder, reward_model, tokenizer, dtype=dtype)
        else:
            for number, member in enumerate(reward_model):
                inner = folder / f"member-{number:02d}"
                inner.mkdir()
                _write_model(inner, member, tokenizer, dtype=dtype)
    return digest(path)


def load_reward_model(path, *, device="cpu"):
    """A RewardModel in evaluation mode; of an ensemble, the first member. Raises CheckpointError."""
    return load_reward_models(path, device=device, most=1)[0]


def load_reward_models(path, *, device="cpu", most=MAX_MEMBERS):
    """Every member of an ensemble, or the one reward model in a list. Raises CheckpointError."""
    path = Path(path)
    check_manifest(path)
    members = sorted(path.glob("member-[0-9][0-9]"))
    return [_read_reward_model(member, device) for member in (members or [path])[:most]]


def load_tokenizer_of(path):
    """The tokenizer of a policy, reward model or ensemble. Raises CheckpointError."""
    path = Path(path)
    inner = path / "member-00"
    try:
        return load_tokenizer(inner if inner.is_dir() else path)
    except TokenizerError as error:
        raise CheckpointError(str(error)) from None


def verify(path):
    """Reads a policy or reward model whole and refuses weights that are not finite; returns its digest."""
    path = Path(path)
    check_manifest(path)
    for folder in sorted(path.glob("member-[0-9][0-9]")) or [path]:
        config, _ = _read_config(folder)
        is_reward_model = any("SequenceClassification" in name for name in config.get("architectures") or [])
        module = _read_reward_model(folder, "cpu") if is_reward_model else load_policy(folder)
        for name, tensor in module.state_dict().items():
            if not bool(torch.isfinite(tensor).all()):
                raise CheckpointError(
                    f"{path} has weights that are not finite ({name}); it must not be used, train it again."
                )
    load_tokenizer_of(path)
    return digest(path)


def save_state(path, tensors, meta):
    """Writes trainer state: tensors {name: Tensor} and meta, anything that JSON holds. Returns the digest."""
    with new_directory(path, kind="state") as folder:
        _write_tensors(folder / "state.safetensors", {name: tensor.detach() for name, tensor in tensors.items()})
        _write_json(folder / "state.json", meta)
    return digest(path)


def load_state(path):
    """(tensors, meta) that save_state wrote. Raises CheckpointError."""
    path = Path(path)
    if check_manifest(path) != "state":
        raise CheckpointError(f"{path} holds no trainer state; name a resume checkpoint of the same run.")
    return _read_tensors(path / "state.safetensors"), _read_json(path / "state.json")


def digest(path):
    """sha256 of the manifest's canonical JSON; of a directory without one, of the manifest that it would get."""
    path = Path(path)
    manifest = _read_json(path / MANIFEST) if (path / MANIFEST).exists() else _make_manifest(path, "policy")
    canonical = json.dumps(manifest, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


def check_manifest(path):
    """Compares a directory with its manifest, byte for byte; returns its kind ("" without a manifest)."""
    path = Path(path)
    if not path.is_dir():
        raise CheckpointError(f"There is no checkpoint directory at {path}.")
    if not (path / MANIFEST).exists():
        return ""
    manifest = _read_json(path / MANIFEST)
    files = manifest.get("files") if isinstance(manifest, dict) else None
    if not isinstance(files, dict) or manifest.get("schema") != MANIFEST_SCHEMA:
        raise CheckpointError(f"{path / MANIFEST} is not a manifest of the schema {MANIFEST_SCHEMA}.")
    for name in files:
        parts = name.split("/")
        if name.startswith("/") or "\\" in name or any(part in ("", ".", "..") for part in parts):
            raise CheckpointError(f"The manifest of {path} names {name!r}, which leaves its directory.")
    present = _file_names(path)
    missing, extra = sorted(set(files) - present), sorted(present - set(files))
    if missing:
        raise CheckpointError(f"{path} lacks {missing[0]}, which its manifest names; copy the checkpoint again, whole.")
    if extra:
        raise CheckpointError(f"{path} holds {extra[0]}, which its manifest does not name; remove it.")
    for name, facts in files.items():
        if not isinstance(facts, dict) or facts != _facts(path / name):
            raise CheckpointError(
                f"{path / name} is not the file that the manifest describes (its sha256 differs); "
                f"copy the checkpoint again."
            )
    return str(manifest.get("kind", ""))


@contextlib.contextmanager
def new_directory(path, *, kind):
    """A folder to write into; when the block ends well it gets its manifest and appears as `path`, in one step."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / f".{path.name}.{secrets.token_hex(4)}.tmp"
    temporary.mkdir()
    try:
        yield temporary
        manifest = _make_manifest(temporary, kind)
        for folder, _, names in os.walk(temporary):
            for name in names:
                _sync(Path(folder) / name)
            _sync(folder)
        _write_json(temporary / MANIFEST, manifest)
        _sync(temporary / MANIFEST)
        _sync(temporary)
        # Rename last: a crash before here leaves no directory that looks complete.
        _replace_directory(temporary, path)
    except OSError as error:
        raise CheckpointError(
            f"The checkpoint {path} cannot be written ({error.strerror}); free some disk space or check the "
            f"directory's permissions, then resume."
        ) from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _replace_directory(temporary, path):
    if path.exists():
        aside = path.parent / f".{path.name}.{secrets.token_hex(4)}.old"
        os.rename(path, aside)
        os.rename(temporary, path)
        shutil.rmtree(aside, ignore_errors=True)
    else:
        os.rename(temporary, path)
    _sync(path.parent)


def _sync(path):
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _make_manifest(path, kind):
    files = {name: _facts(path / name) for name in sorted(_file_names(path))}
    return {"schema": MANIFEST_SCHEMA, "kind": kind, "files": files}


def _file_names(path):
    """Names of every file below, the manifest apart. Symbolic links and special files are refused."""
    names = set()
    for folder, folders, files in os.walk(path):
        for name in (*folders, *files):
            entry = Path(folder) / name
            if entry.is_symlink() or not (entry.is_dir() or entry.is_file()):
                raise CheckpointError(
                    f"{entry} is a link, not a plain file; copy the checkpoint with its files (cp -L)."
                )
        names |= {(Path(folder) / name).relative_to(path).as_posix() for name in files}
    return names - {MANIFEST}


def _facts(path):
    with open(path, "rb") as file:
        return {"sha256": hashlib.file_digest(file, "sha256").hexdigest(), "size": path.stat().st_size}


def _write_model(folder, model, tokenizer, *, dtype):
    is_reward_model = isinstance(model, RewardModel)
    trunk = model.trunk if is_reward_model else model
    architecture = model.config
    family = families.FAMILIES[architecture.family]
    kind = getattr(torch, dtype)
    tensors = {}
    state = trunk.state_dict()
    if is_reward_model:
        state.pop("lm_head.weight", None)
        tensors["score.weight"] = model.head.weight.detach().to("cpu", kind)
    for name, (theirs, sizes) in families.tensor_map(architecture, state).items():
        whole = families.to_files(architecture, name, state[name].detach().to("cpu", kind))
        parts = whole.split(sizes) if sizes else [whole]
        tensors |= {part_name: part.contiguous() for part_name, part in zip(theirs, parts, strict=True)}
    config = {
        **families.write_config(architecture),
        "architectures": [family.classification_class if is_reward_model else family.causal_class],
        "dtype": dtype,
        "bos_token_id": tokenizer.backend.token_to_id(tokenizer.bos_token) if tokenizer.bos_token else None,
        "eos_token_id": tokenizer.eos_id,
        "pad_token_id": tokenizer.pad_id,
    }
    if is_reward_model:
        config |= {
            "id2label": {"0": "score"},
            "label2id": {"score": 0},
            "problem_type": "regression",
            "score_shift": float(model.score_shift),
        }
    _write_tensors(folder / WEIGHTS, tensors)
    _write_json(folder / "config.json", config)
    _write_json(
        folder / "generation_config.json",
        {"eos_token_id": list(tokenizer.stop_ids), "pad_token_id": tokenizer.pad_id, "do_sample": True},
    )
    tokenizer.save(folder)


def _read_config(path):
    config = _read_json(path / "config.json")
    if not isinstance(config, dict):
        raise CheckpointError(f"{path / 'config.json'} must hold one JSON object.")
    for key in ("auto_map", "trust_remote_code"):
        if config.get(key):
            log.warning("%s names code of its own (%s); it is ignored, nothing in a checkpoint is run.", path, key)
    try:
        return config, families.read_config(config)
    except families.FamilyError as error:
        raise CheckpointError(f"{path} cannot be used: {error}") from None


def _read_reward_model(path, device):
    config, architecture = _read_config(path)
    if not any(name.endswith("ForSequenceClassification") for name in config.get("architectures") or []):
        raise CheckpointError(f"{path} holds no reward model (its config.json does not say ForSequenceClassification).")
    trunk, rest = _read_trunk(path, architecture, with_lm_head=False)
    weight = rest.pop("score.weight", None)
    _refuse_rest(path, rest)
    if weight is None or tuple(weight.shape) != (1, architecture.hidden_size):
        raise CheckpointError(f"{path} needs a score.weight of shape (1, {architecture.hidden_size}): one label.")
    shift = config.get("score_shift", 0.0)
    if type(shift) not in (int, float) or not abs(shift) < float("inf"):
        raise CheckpointError(f"{path / 'config.json'} has score_shift={shift!r}; it must be a finite number.")
    head = ScalarHead(architecture.hidden_size, zero=True)
    head.weight.data.copy_(weight)
    return RewardModel(trunk, head, score_shift=shift).to(device).eval()


def _read_trunk(path, architecture, *, with_lm_head):
    """(Transformer in float32, tensors that are not the trunk's)."""
    tensors = _read_weights(path)
    family = families.FAMILIES[architecture.family]
    tensors = {name: tensor for name, tensor in tensors.items() if not name.endswith(family.ignored)}
    if family.trunk and not any(name.startswith(family.trunk) for name in tensors):
        # Some base checkpoints (gpt2's own) leave the trunk's prefix out.
        heads = (family.lm_head, "score.weight")
        tensors = {name if name in heads else family.trunk + name: tensor for name, tensor in tensors.items()}
    if len(tensors) < architecture.n_layers:
        raise CheckpointError(f"{path} has {len(tensors)} tensors for {architecture.n_layers} layers; it is not whole.")
    with torch.device("meta"):
        trunk = Transformer(architecture)
    shapes = {name: tuple(tensor.shape) for name, tensor in trunk.state_dict().items()}
    if not with_lm_head or architecture.tie_embeddings:
        tensors.pop(family.lm_head, None)  # a copy of the embedding, or of no use to a score
    if not with_lm_head and not architecture.tie_embeddings:
        shapes.pop("lm_head.weight")
        trunk.lm_head = None
    state = {}
    for name, (theirs, _) in families.tensor_map(architecture, shapes).items():
        missing = [part for part in theirs if part not in tensors]
        if missing:
            raise CheckpointError(f"{path} lacks the tensor {missing[0]}; it is not whole.")
        try:
            joined = torch.cat([tensors.pop(part).float() for part in theirs])
            joined = families.from_files(architecture, name, joined)
        except RuntimeError:
            joined = torch.empty(0)
        if tuple(joined.shape) != shapes[name]:
            raise CheckpointError(
                f"{path} has {theirs[0]} of a shape that does not fit its config.json "
                f"(expected {shapes[name]} in all, found {tuple(joined.shape)})."
            )
        state[name] = joined
    if "lm_head.weight" in shapes and architecture.tie_embeddings:
        state["lm_head.weight"] = state["embedding.weight"]
    trunk.load_state_dict(state, assign=True)
    if architecture.tie_embeddings:
        trunk.lm_head.weight = trunk.embedding.weight
    for parameter in trunk.parameters():
        parameter.requires_grad_(True)
    return trunk, tensors


def _refuse_rest(path, rest):
    if rest:
        raise CheckpointError(f"{path} holds a tensor that its family does not have ({min(rest)}).")


def _read_weights(path):
    if (path / WEIGHTS_INDEX).exists() and not (path / WEIGHTS).exists():
        return _read_shards(path)
    if not (path / WEIGHTS).exists():
        pickles = [name for name in ("pytorch_model.bin", "model.pt") if (path / name).exists()]
        why = f"; {pickles[0]} is a pickle, which can run code: convert it to safetensors" if pickles else ""
        raise CheckpointError(f"{path} has no {WEIGHTS}{why}.")
    return _read_tensors(path / WEIGHTS)


def _read_shards(path):
    index = _read_json(path / WEIGHTS_INDEX)
    where = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(where, dict) or not all(isinstance(name, str) for name in where.values()):
        raise CheckpointError(f"{path / WEIGHTS_INDEX} has no weight_map from tensors to files.")
    tensors = {}
    for shard in sorted(set(where.values())):
        if Path(shard).name != shard or not shard.endswith(".safetensors"):
            raise CheckpointError(f"{path / WEIGHTS_INDEX} names {shard!r}, which is no file of its own directory.")
        tensors |= _read_tensors(path / shard)
    if set(tensors) != set(where):
        odd = min(set(tensors) ^ set(where))
        raise CheckpointError(f"{path / WEIGHTS_INDEX} and its shards disagree about the tensor {odd}.")
    return tensors


def _read_tensors(path):
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


def _write_tensors(path, tensors):
    # Shared memory (a tied matrix) and strides are refused by the format: every tensor is written for itself.
    save_file(
        {name: tensor.to("cpu").contiguous() for name, tensor in tensors.items()}, path, metadata={"format": "pt"}
    )


def _read_json(path):
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


def _write_json(path, value):
    with open(path, "w", encoding="utf-8") as file:
        json.dump(value, file, ensure_ascii=False, indent=2, sort_keys=True, allow_nan=False)
        file.write("\n")

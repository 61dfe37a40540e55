"""Checkpoints: Hugging Face directories in and out, and the state that a run resumes from. Atomic, strict.

A directory appears under its name by one rename, after everything in it has reached the disk; manifest.json, with a
sha256 of every file, is written last. safetensors and JSON only: nothing that is read here can run code.

    policy          config.json model.safetensors (or shards with their index) tokenizer.json tokenizer_config.json
                    chat_template.jinja generation_config.json manifest.json
    reward model    the same as ...ForSequenceClassification with one label; config.json keeps `score_shift`
    ensemble        member-00/ member-01/ ..., each a reward model without a manifest of its own; manifest.json
    state           state.json state.safetensors manifest.json
"""

import contextlib
import hashlib
import json
import os
import re
import secrets
import shutil
from pathlib import Path

import torch
from safetensors import SafetensorError

from training.engine import families, family_config
from training.engine.heads import RewardModel, ScalarHead
from training.engine.tokenizer import TokenizerError, warn_of_code
from training.engine.tokenizer import load as load_tokenizer
from training.engine.transformer import Transformer
from training.engine.weights import (
    SHARD_BYTES,
    CheckpointError,
    read_json,
    read_tensors,
    read_weights,
    write_json,
    write_tensors,
    write_weights,
)

MANIFEST_SCHEMA = "plumbline.manifest/1"
MANIFEST = "manifest.json"
MAX_MEMBERS = 64
LEFTOVER = re.compile(r"\..+\.[0-9a-f]{8}\.(tmp|old)")  # the names that new_directory gives


def save_policy(policy, tokenizer, path, *, dtype="float32", shard_bytes=SHARD_BYTES):
    """Writes a policy that the transformers library loads as it is; returns its digest.

    shard_bytes: weights beyond so many bytes go into several files with an index.
    """
    with new_directory(path, kind="policy") as folder:
        _write_model(folder, policy, tokenizer, dtype=dtype, shard_bytes=shard_bytes)
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


def save_reward_model(reward_model, tokenizer, path, *, dtype="float32", shard_bytes=SHARD_BYTES):
    """Writes a RewardModel, or a list of them as one ensemble; returns the digest. Arguments as in save_policy."""
    with new_directory(path, kind="reward_model") as folder:
        if isinstance(reward_model, RewardModel):
            _write_model(folder, reward_model, tokenizer, dtype=dtype, shard_bytes=shard_bytes)
        else:
            for number, member in enumerate(reward_model):
                inner = folder / f"member-{number:02d}"
                inner.mkdir()
                _write_model(inner, member, tokenizer, dtype=dtype, shard_bytes=shard_bytes)
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
        write_tensors(folder / "state.safetensors", {name: tensor.detach() for name, tensor in tensors.items()})
        write_json(folder / "state.json", meta)
    return digest(path)


def load_state(path):
    """(tensors, meta) that save_state wrote. Raises CheckpointError."""
    path = Path(path)
    if check_manifest(path) != "state":
        raise CheckpointError(f"{path} holds no trainer state; name a resume checkpoint of the same run.")
    return read_tensors(path / "state.safetensors"), read_json(path / "state.json")


def digest(path):
    """sha256 of the manifest's canonical JSON; of a directory without one, of the manifest that it would get."""
    path = Path(path)
    manifest = read_json(path / MANIFEST) if (path / MANIFEST).exists() else _make_manifest(path, "policy")
    canonical = json.dumps(manifest, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


def check_manifest(path):
    """Compares a directory with its manifest, byte for byte; returns its kind ("" without a manifest)."""
    path = Path(path)
    if not path.is_dir():
        raise CheckpointError(f"There is no checkpoint directory at {path}.")
    if not (path / MANIFEST).exists():
        return ""
    manifest = read_json(path / MANIFEST)
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
        write_json(temporary / MANIFEST, manifest)
        _sync(temporary / MANIFEST)
        _sync(temporary)
        # Rename last: a crash before here leaves no directory that looks complete.
        _replace_directory(temporary, path)
    except (OSError, SafetensorError) as error:  # the latter where weights do not reach the disk
        why = getattr(error, "strerror", None) or " ".join(str(error).split())[:160]
        raise CheckpointError(
            f"The checkpoint {path} cannot be written ({why}); free some disk space or check the "
            f"directory's permissions, then resume."
        ) from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def remove_leftovers(folder):
    """Removes what killed saves have left in a folder. For a run's own folders, where nothing is being saved."""
    for path in Path(folder).iterdir():
        if LEFTOVER.fullmatch(path.name):
            shutil.rmtree(path, ignore_errors=True)


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


def _write_model(folder, model, tokenizer, *, dtype, shard_bytes):
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
        **family_config.write_config(architecture),
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
    write_weights(folder, tensors, shard_bytes=shard_bytes)
    write_json(folder / "config.json", config)
    write_json(
        folder / "generation_config.json",
        {"eos_token_id": list(tokenizer.stop_ids), "pad_token_id": tokenizer.pad_id, "do_sample": True},
    )
    tokenizer.save(folder)


def _read_config(path):
    config = read_json(path / "config.json")
    if not isinstance(config, dict):
        raise CheckpointError(f"{path / 'config.json'} must hold one JSON object.")
    warn_of_code(path / "config.json", config)
    try:
        return config, family_config.read_config(config)
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
    tensors = read_weights(path)
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

"""Checkpoints: models as files, their rows, and which of them a project uses.

A checkpoint directory is a Hugging Face directory plus manifest.json, written last, with the sha256 of every file; the
checkpoint's digest is that of the manifest's canonical JSON. Everything here is done with the standard library and
numpy: no model is loaded, and nothing in a checkpoint is ever executed.
"""

import contextlib
import functools
import hashlib
import json
import math
import os
import shutil
import uuid
from pathlib import Path

from django.conf import settings
from django.db import transaction
from django.utils import timezone
from django.utils.translation import gettext as _

from annotation.models import Project
from training.engine import rundir
from training.models import Checkpoint, CheckpointRole, CheckpointState
from training.runs import audit, data_path

MANIFEST = "manifest.json"
MANIFEST_SCHEMA = "plumbline.manifest/1"  # the engine writes it: training/engine/checkpoint.py
MAX_HEADER_BYTES = 100_000_000
MAX_JSON_BYTES = 50_000_000
CHUNK_BYTES = 4 << 20
POLICY_ROLES = (CheckpointRole.SFT, CheckpointRole.POLICY)
# Bytes of a number, and for floats: numpy's name of its bits as an integer and the exponent bits, all ones when not
# finite.
TENSOR_TYPES = {
    "F64": (8, "uint64", 0x7FF0_0000_0000_0000),
    "F32": (4, "uint32", 0x7F80_0000),
    "F16": (2, "uint16", 0x7C00),
    "BF16": (2, "uint16", 0x7F80),
    **dict.fromkeys(("I64", "U64"), (8, None, 0)),
    **dict.fromkeys(("I32", "U32"), (4, None, 0)),
    **dict.fromkeys(("I16", "U16"), (2, None, 0)),
    **dict.fromkeys(("I8", "U8", "BOOL"), (1, None, 0)),
}


class CheckpointError(ValueError):
    """A checkpoint is broken or cannot be used so. One sentence for people."""


# Rows


def add_checkpoint(
    project, *, role, path, name, run=None, parent=None, figures=None, copy=False, actor=None, on_progress=None
):
    """The row of a directory that was verified whole; the directory moves (or is copied) into the data directory.

    The same checkpoint added twice to a project is one row, in the state that it has (`was_here` says so).
    on_progress() is called every few megabytes.
    actor: who added it; whoever made its run where there is one.
    Raises CheckpointError, and adds nothing, where a file is missing, altered or holds numbers that are not finite.
    """
    path = Path(path)
    digest = verify(path, on_progress=on_progress)
    uri = store(path, digest=digest, copy=copy)
    with transaction.atomic():
        checkpoint, created = Checkpoint.objects.get_or_create(
            project=project,
            digest=digest,
            defaults={
                "role": role,
                "state": CheckpointState.VERIFIED,
                "name": name[:200],
                "uri": uri,
                "size_bytes": size_of(data_path(uri)),
                "run": run,
                "parent": parent,
                "figures": figures or {},
            },
        )
        if created:
            audit(project, run.created_by if run else actor, "checkpoint.added", checkpoint, digest=digest)
    checkpoint.was_here = not created
    return checkpoint


def record_figures(checkpoint, figures):
    """Adds {metric name: number} to what is known of a checkpoint."""
    with transaction.atomic():
        row = Checkpoint.objects.select_for_update().get(id=checkpoint.id)
        row.figures = {**row.figures, **figures}
        row.save(update_fields=["figures"])
    checkpoint.figures = row.figures


def promote(checkpoint, *, actor=None):
    """Makes a policy the one that the project uses; promoting an older one rolls back.

    Its files are read whole once more: what was damaged since, or is not finite, is refused with CheckpointError.
    """
    if checkpoint.role not in POLICY_ROLES:
        raise CheckpointError(_("Only a policy can be promoted; this is a reward model."))
    if checkpoint.state == CheckpointState.WITHDRAWN:
        raise CheckpointError(_("This checkpoint was withdrawn and cannot be promoted; choose another."))
    verify(data_path(checkpoint.uri), digest=checkpoint.digest)
    with transaction.atomic():
        # One promotion at a time, or two at once would meet at the constraint of one promoted policy a project.
        Project.objects.select_for_update(no_key=True).get(id=checkpoint.project_id)
        Checkpoint.objects.filter(project=checkpoint.project, state=CheckpointState.PROMOTED).exclude(
            id=checkpoint.id
        ).update(state=CheckpointState.RETIRED)
        hit = (
            Checkpoint.objects.filter(id=checkpoint.id)
            .exclude(state=CheckpointState.WITHDRAWN)
            .update(state=CheckpointState.PROMOTED, promoted_at=timezone.now())
        )
        if not hit:
            raise CheckpointError(_("This checkpoint was withdrawn just now; choose another."))
        audit(checkpoint.project, actor, "checkpoint.promoted", checkpoint, digest=checkpoint.digest)
    checkpoint.refresh_from_db()
    return checkpoint


def withdraw(checkpoint, *, actor=None, reason=""):
    """Marks a checkpoint as not to be used any more; its files stay.

    Raises CheckpointError for the promoted policy and for its KL reference, without which no round could go on.
    """
    current = promoted(checkpoint.project)
    if current not in (None, checkpoint) and checkpoint == sft_policy(checkpoint.project):
        raise CheckpointError(
            _("The promoted policy is measured against this SFT policy; promote one that is not, then withdraw this.")
        )
    hit = Checkpoint.objects.filter(id=checkpoint.id).exclude(state=CheckpointState.PROMOTED)
    with transaction.atomic():
        if not hit.update(state=CheckpointState.WITHDRAWN):
            raise CheckpointError(_("The promoted policy cannot be withdrawn; promote another one first."))
        audit(checkpoint.project, actor, "checkpoint.withdrawn", checkpoint, reason=reason)
    checkpoint.refresh_from_db()
    return checkpoint


def promoted(project):
    """The policy that the project uses, or None."""
    return Checkpoint.objects.filter(project=project, state=CheckpointState.PROMOTED).first()


def sft_policy(project):
    """The SFT policy that the promoted policy descends from (the KL reference, always), or the newest one, or None."""
    row = promoted(project)
    while row is not None and row.role != CheckpointRole.SFT:
        row = row.parent
    usable = Checkpoint.objects.filter(project=project, role=CheckpointRole.SFT).exclude(
        state=CheckpointState.WITHDRAWN
    )
    return row or usable.first()


# Files


def store(path, *, digest, copy=False):
    """Puts a verified directory at checkpoints/<first 12 of its digest>/ and returns that URI."""
    uri = f"checkpoints/{digest[:12]}"
    target = data_path(uri)
    if path.resolve() == target.resolve():
        return uri
    if target.exists():
        if is_whole(target, digest):
            return uri
        os.rename(target, target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.broken"))
    target.parent.mkdir(parents=True, exist_ok=True)
    if copy:
        copy_whole(path, target)
    else:
        move_whole(path, target)
    return uri


def copy_whole(path, target):
    """A copy that appears under its name only when it is whole and on the disk."""
    temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        shutil.copytree(path, temporary, copy_function=shutil.copyfile)
        ensure_manifest(temporary)
        for entry in temporary.rglob("*"):
            _sync(entry)
        _sync(temporary)
        os.rename(temporary, target)
        _sync(target.parent)
    except OSError as error:
        raise CheckpointError(
            _("The checkpoint cannot be stored (%(why)s); free some space in %(folder)s and try again.")
            % {"why": error.strerror, "folder": settings.PLUMBLINE_DATA_DIR}
        ) from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def move_whole(path, target):
    try:
        ensure_manifest(path)
        os.rename(path, target)
        _sync(target.parent)
    except OSError:
        # Another file system has no rename: copy, then remove.
        copy_whole(path, target)
        shutil.rmtree(path, ignore_errors=True)


def ensure_manifest(path):
    """Gives a directory that came from elsewhere the manifest that it was judged by."""
    if not (path / MANIFEST).exists():
        rundir.write_json(path / MANIFEST, make_manifest(path))


def size_of(path):
    return sum(entry.stat().st_size for entry in Path(path).rglob("*") if entry.is_file())


def verify(path, *, digest=None, on_progress=None):
    """Reads a directory whole: manifest, hashes, tensor layouts, finite weights. Returns its digest.

    A directory without a manifest (from elsewhere) is judged as if it had the one that it would get.
    digest: what it must be. Raises CheckpointError with one sentence.
    """
    path = Path(path)
    on_progress = on_progress or (lambda: None)
    if not path.is_dir():
        raise CheckpointError(_("There is no checkpoint directory at %(path)s.") % {"path": path})
    found = check_manifest(path, on_progress=on_progress)
    if digest is not None and found != digest:
        raise CheckpointError(
            _("The checkpoint at %(path)s is not the one that was recorded (its manifest changed); restore it.")
            % {"path": path}
        )
    weights = sorted(path.rglob("*.safetensors"))
    if not weights:
        raise CheckpointError(
            _("The checkpoint at %(path)s has no .safetensors file; pickled weights are not read.") % {"path": path}
        )
    for file in weights:
        check_tensors(file, on_progress=on_progress)
    return found


def is_whole(path, digest, *, on_progress=lambda: None):
    """Whether a directory (a resume checkpoint, say) is there, unchanged, with this digest."""
    try:
        return check_manifest(Path(path), needs_one=True, on_progress=on_progress) == digest
    except (CheckpointError, OSError):
        return False


def check_manifest(path, *, needs_one=False, on_progress=lambda: None):
    """The digest of a directory whose files are exactly those of its manifest, byte for byte."""
    present = file_names(path)
    if not (path / MANIFEST).exists():
        if needs_one:
            raise CheckpointError(_("%(path)s has no manifest: it was not written to its end.") % {"path": path})
        return manifest_digest(make_manifest(path, on_progress=on_progress))
    manifest = _read_json(path / MANIFEST)
    files = manifest.get("files") if isinstance(manifest, dict) else None
    if not isinstance(files, dict) or manifest.get("schema") != MANIFEST_SCHEMA:
        raise CheckpointError(
            _("%(file)s is not a manifest of the schema %(schema)s.")
            % {"file": path / MANIFEST, "schema": MANIFEST_SCHEMA}
        )
    # Names are compared with what lies below the directory, so a name that leaves it matches nothing.
    for name in sorted(set(files) ^ present):
        if name in files:
            message = _("The checkpoint at %(path)s lacks %(name)r, which its manifest names; copy it again, whole.")
        else:
            message = _("The checkpoint at %(path)s holds %(name)r, which its manifest does not name; remove it.")
        raise CheckpointError(message % {"path": path, "name": name})
    for name, facts in files.items():
        if facts != file_facts(path / name, on_progress=on_progress):
            raise CheckpointError(
                _("%(file)s is not the file that the manifest describes (its sha256 differs); copy it again.")
                % {"file": path / name}
            )
    return manifest_digest(manifest)


def make_manifest(path, *, on_progress=lambda: None):
    kind = "policy"
    with contextlib.suppress(CheckpointError, OSError, AttributeError, TypeError):
        names = _read_json(path / "config.json").get("architectures") or []
        kind = "reward_model" if any("SequenceClassification" in str(name) for name in names) else "policy"
    facts = {name: file_facts(path / name, on_progress=on_progress) for name in sorted(file_names(path))}
    return {"schema": MANIFEST_SCHEMA, "kind": kind, "files": facts}


def manifest_digest(manifest):
    canonical = json.dumps(manifest, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


def file_names(path):
    """Names of every file below, the manifest apart. Links and special files are refused."""
    names = set()
    for folder, folders, files in os.walk(path):
        for name in (*folders, *files):
            entry = Path(folder) / name
            if entry.is_symlink() or not (entry.is_dir() or entry.is_file()):
                raise CheckpointError(
                    _("%(file)s is a link, not a plain file; copy the checkpoint with its files (cp -L).")
                    % {"file": entry}
                )
        names |= {(Path(folder) / name).relative_to(path).as_posix() for name in files}
    return names - {MANIFEST}


def file_facts(path, *, on_progress=lambda: None):
    """{"sha256", "size"} of a file."""
    sha256, size = hashlib.sha256(), 0
    with open(path, "rb") as file:
        for chunk in iter(functools.partial(file.read, CHUNK_BYTES), b""):
            sha256.update(chunk)
            size += len(chunk)
            on_progress()
    return {"sha256": sha256.hexdigest(), "size": size}


def check_tensors(path, *, on_progress=lambda: None):
    """Refuses a safetensors file whose header lies about its bytes, or whose floats are not all finite."""
    header, start = read_header(path)
    size = path.stat().st_size - start
    spans = []
    for name, tensor in header.items():
        begin, end, item_bytes = _span(path, name, tensor)
        if not 0 <= begin <= end <= size or end - begin != item_bytes:
            raise _broken(path, _("the tensor %(name)r does not fit its place") % {"name": name[:100]})
        spans.append((begin, end))
    position = 0
    for begin, end in sorted(spans):
        if begin != position:
            raise _broken(path, _("its tensors overlap or leave gaps"))
        position = end
    if position != size:
        raise _broken(path, _("its length is not the one that its header gives"))
    with open(path, "rb") as file:
        for name, tensor in header.items():
            if not is_finite(file, start, tensor, on_progress=on_progress):
                raise CheckpointError(
                    _("%(file)s has weights that are not finite (%(name)s); it must not be used, train it again.")
                    % {"file": path.name, "name": name[:100]}
                )


def read_header(path):
    """A safetensors file's header without its metadata, and where the tensors begin."""
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 2 <= length <= min(MAX_HEADER_BYTES, max(path.stat().st_size - 8, 0)):
            raise _broken(path, _("the length of its header is impossible"))
        try:
            header = json.loads(file.read(length))
        except (ValueError, RecursionError):
            raise _broken(path, _("its header is not JSON")) from None
    if not isinstance(header, dict):
        raise _broken(path, _("its header is not an object"))
    header.pop("__metadata__", None)
    return header, 8 + length


def is_finite(file, start, tensor, *, on_progress=lambda: None):
    """Whether a tensor of an open safetensors file has finite floats only, or no floats at all."""
    _item, bits, exponent = TENSOR_TYPES[tensor["dtype"]]
    begin, end = tensor["data_offsets"]
    if bits is None:
        return True
    import numpy  # here: no page of the web needs it, and it takes 20 MB and 0.15 s of every process's start

    file.seek(start + begin)
    for position in range(begin, end, CHUNK_BYTES):
        chunk = file.read(min(CHUNK_BYTES, end - position))
        if ((numpy.frombuffer(chunk, dtype=bits) & numpy.dtype(bits).type(exponent)) == exponent).any():
            return False
        on_progress()
    return True


def _span(path, name, tensor):
    """(begin, end, bytes that the shape asks for) of one header entry."""
    try:
        begin, end = tensor["data_offsets"]
        item = TENSOR_TYPES[tensor["dtype"]][0]
        shape = tensor["shape"]
        plain = all(type(number) is int and number >= 0 for number in (begin, end, *shape))
    except (KeyError, TypeError, ValueError):
        plain = False
    if not plain:
        raise _broken(path, _("the entry of the tensor %(name)r is not understood") % {"name": name[:100]})
    return begin, end, math.prod(shape) * item


def _broken(path, why):
    return CheckpointError(
        _("%(file)s is not a whole safetensors file: %(why)s; copy or save it again.") % {"file": path.name, "why": why}
    )


def _read_json(path):
    try:
        if path.stat().st_size > MAX_JSON_BYTES:
            raise ValueError
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        raise CheckpointError(_("%(file)s is not readable JSON; copy the checkpoint again.") % {"file": path}) from None


def _sync(path):
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

"""Snapshots: frozen, hashed directories of JSONL, and every write to their table.

A directory appears by rename after fsync, its manifest written last; it counts once its row is committed.
"""

import hashlib
import json
import os
import shutil
import uuid
from pathlib import Path

from django.conf import settings
from django.db import transaction
from django.db.models import Max
from django.utils.translation import gettext as _

from annotation import reports
from annotation.agreement import count_comparisons
from annotation.audit import record_event
from annotation.formats import demonstrations, prompts
from annotation.formats.native import ranking_object
from annotation.formats.selection import (
    JudgmentFilter,
    pseudonym_of,
    read_pseudonyms,
    read_rankings,
    to_line,
)
from annotation.messages import sha256_of_json
from annotation.models import MEASURING_PURPOSES, TRAINING_PURPOSES, Project, Purpose, Snapshot, Source

SCHEMA = "plumbline.snapshot/1"


class SnapshotError(ValueError):
    """A snapshot that cannot be made."""


class StorageError(SnapshotError):
    """A snapshot that cannot be written: the disk is full, say."""


def snapshot_path(snapshot):
    """The directory of a snapshot on this machine."""
    return Path(settings.PLUMBLINE_DATA_DIR) / snapshot.uri


def freeze(project, *, created_by=None, include_simulated=True, purposes=TRAINING_PURPOSES):
    """A new Snapshot of all judgments in use, the demonstrations and the prompts. Raises SnapshotError.

    Where the project weighs, a ranking's weight is its annotator's reliability (reliability.py).
    """
    purposes = tuple(str(purpose) for purpose in purposes)
    check_purposes(purposes)
    selection = JudgmentFilter(purposes=purposes, simulated="include" if include_simulated else "exclude")
    parent = Path(settings.PLUMBLINE_DATA_DIR) / "snapshots" / project.slug
    parent.mkdir(parents=True, exist_ok=True)
    unfinished = parent / f".unfinished-{uuid.uuid4().hex}"
    unfinished.mkdir()
    try:
        manifest = write_files(project, selection, unfinished)
        digest = sha256_of_json(manifest)
        return commit(project, unfinished, manifest, digest, created_by)
    except OSError as error:
        raise StorageError(
            _("The snapshot could not be written to %(folder)s: %(reason)s. Free some space there and try again.")
            % {"folder": parent, "reason": error.strerror or error}
        ) from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def check_purposes(purposes):
    unknown = [purpose for purpose in purposes if purpose not in Purpose.values]
    if unknown or not purposes:
        raise SnapshotError(_("The purposes must be among: %(all)s.") % {"all": ", ".join(Purpose.values)})
    measuring = [purpose for purpose in purposes if purpose in MEASURING_PURPOSES]
    if measuring:
        raise SnapshotError(
            _("Judgments of purpose %(purpose)s measure, and never enter a snapshot.") % {"purpose": measuring[0]}
        )


def write_files(project, selection, directory):
    """The manifest of the files written, itself written last."""
    counts = {"rankings": 0, "rankings_simulated": 0, "comparisons": 0, "annotators": 0}
    weights = reports.training_weights(project)
    lines = ranking_lines(project, selection, counts, weights)
    files = {
        "rankings.jsonl": write_file(directory / "rankings.jsonl", lines),
        "demonstrations.jsonl": write_file(
            directory / "demonstrations.jsonl", demonstrations.write_demonstrations(project, selection)
        ),
        "prompts.jsonl": write_file(directory / "prompts.jsonl", prompts.write_prompts(project, selection)),
    }
    counts["demonstrations"] = files["demonstrations.jsonl"]["lines"]
    counts["prompts"] = files["prompts.jsonl"]["lines"]
    manifest = {
        "schema": SCHEMA,
        "project": project.slug,
        "filters": {"purposes": list(selection.purposes), "include_simulated": selection.simulated == "include"},
        "weights": "reliability" if project.weigh_annotators else "none",
        "counts": counts,
        "files": files,
    }
    text = json.dumps(manifest, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
    write_file(directory / "manifest.json", [text])
    sync_directory(directory)
    return manifest


def ranking_lines(project, selection, counts, weights):
    """The native lines; fills `counts` on the way."""
    pseudonyms = read_pseudonyms(project)
    annotators = set()
    for ranking in read_rankings(project, selection):
        counts["rankings"] += 1
        counts["rankings_simulated"] += ranking.source == Source.SIMULATED
        counts["comparisons"] += count_comparisons(ranking.order)
        annotators.add(ranking.annotator_id)
        counts["annotators"] = len(annotators)
        pseudonym = pseudonym_of(project, pseudonyms, ranking.annotator_id)
        yield to_line(ranking_object(ranking, pseudonym, weight=weights.get(ranking.annotator_id, 1.0)))


def write_file(path, texts):
    """{"sha256", "size", "lines"} of what was written and is safely on the disk."""
    sha256, size, count = hashlib.sha256(), 0, 0
    with path.open("wb") as file:
        for text in texts:
            data = text.encode("utf-8")
            file.write(data)
            sha256.update(data)
            size += len(data)
            count += 1
        file.flush()
        os.fsync(file.fileno())
    return {"sha256": sha256.hexdigest(), "size": size, "lines": count}


def sync_directory(directory):
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@transaction.atomic
def commit(project, unfinished, manifest, digest, created_by):
    Project.objects.select_for_update(no_key=True).get(pk=project.pk)
    number = (Snapshot.objects.filter(project=project).aggregate(last=Max("number"))["last"] or 0) + 1
    final = unfinished.parent / f"{number}-{digest[:12]}"
    # A directory of this name has no row: an earlier process died between its rename and its commit.
    shutil.rmtree(final, ignore_errors=True)
    # Rename before the row: a crash in between leaves a directory that nothing names, never a row without a directory.
    unfinished.rename(final)
    sync_directory(final.parent)
    snapshot = Snapshot.objects.create(
        project=project,
        number=number,
        uri=f"snapshots/{project.slug}/{final.name}",
        digest=digest,
        counts=manifest["counts"],
        filters=manifest["filters"],
        created_by=created_by,
    )
    record_event(project, actor=created_by, action="snapshot.frozen", subject=str(number), detail=manifest["counts"])
    return snapshot

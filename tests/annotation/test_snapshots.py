import hashlib
import json
from pathlib import Path

import pytest

from annotation import assignment, demonstrations, known_answers, projects, rankings, snapshots, withdrawals
from annotation.messages import canonical_json
from annotation.models import Membership, Ranking, Snapshot
from training.engine import data

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def data_dir(settings, tmp_path):
    settings.PLUMBLINE_DATA_DIR = tmp_path
    return tmp_path


def judge(project, annotator, client_id):
    lease = assignment.next_assignment(project, annotator=annotator)
    order = [[completion_id] for completion_id in lease.presented_order]
    return rankings.submit_ranking(lease, annotator=annotator, client_id=client_id, order=order)[0]


def lines(snapshot, name):
    text = (snapshots.snapshot_path(snapshot) / name).read_text()
    return [json.loads(line) for line in text.splitlines()]


def test_it_writes_files_that_the_manifest_names_by_hash(project, annotator, admin, make_tasks, data_dir):
    tasks = make_tasks(2)
    first = judge(project, annotator, "a")
    judge(project, annotator, "b")
    demonstrations.add_demonstration(
        project, prompt=tasks[0].prompt, author=annotator, message={"role": "assistant", "content": "Kind."}
    )
    snapshot = snapshots.freeze(project, created_by=admin)
    folder = snapshots.snapshot_path(snapshot)
    assert snapshot.uri == f"snapshots/stories/1-{snapshot.digest[:12]}"
    assert folder == data_dir / snapshot.uri
    manifest = json.loads((folder / "manifest.json").read_text())
    assert hashlib.sha256(canonical_json(manifest).encode()).hexdigest() == snapshot.digest
    for name, entry in manifest["files"].items():
        content = (folder / name).read_bytes()
        assert (hashlib.sha256(content).hexdigest(), len(content)) == (entry["sha256"], entry["size"])
    assert manifest["counts"] == snapshot.counts
    # Two rankings of four answers without ties: 2 * 4 * 3 / 2 comparisons.
    assert snapshot.counts == {
        "rankings": 2,
        "rankings_simulated": 0,
        "comparisons": 12,
        "annotators": 1,
        "demonstrations": 1,
        "prompts": 2,
    }
    assert sorted(path.name for path in folder.parent.iterdir()) == [folder.name]
    assert lines(snapshot, "rankings.jsonl")[0]["id"] == str(first.pk)


def test_it_is_what_the_engine_reads(project, annotator, make_tasks):
    tasks = make_tasks(1)
    demonstrations.add_demonstration(
        project, prompt=tasks[0].prompt, author=annotator, message={"role": "assistant", "content": "Kind."}
    )
    ranking = judge(project, annotator, "a")
    folder = snapshots.snapshot_path(snapshots.freeze(project))
    (read,) = data.load_rankings(folder / "rankings.jsonl")
    assert (read.id, read.group) == (str(ranking.pk), tasks[0].prompt.group)
    by_id = {str(entry.completion_id): entry.completion.message for entry in tasks[0].entries.all()}
    ranked = [read.completions[group[0]][0] for group in read.order]
    assert ranked == [by_id[group[0]] for group in ranking.order]
    assert [prompt.digest for prompt in data.load_prompts(folder / "prompts.jsonl")] == [tasks[0].prompt.digest]
    (demonstration,) = data.load_demonstrations(folder / "demonstrations.jsonl")
    assert demonstration.completion == [{"role": "assistant", "content": "Kind."}]


def test_it_leaves_out_what_must_not_train(
    project, annotator, second_annotator, reviewer, admin, make_prompts, make_task, monkeypatch
):
    prompts = make_prompts("1", "2", "3", "4", "5")
    make_task(prompts[0], purpose="eval", priority=9)
    judge(project, annotator, "eval")
    check = make_task(prompts[1], purpose="gold")
    ids = [[str(entry.completion_id)] for entry in check.entries.all()]
    known_answers.set_known_answer(check, order=ids, actor=admin)
    make_task(prompts[2], priority=7)
    monkeypatch.setattr(assignment.random_source, "random", lambda: 0.0)
    assert judge(project, annotator, "gold").task == check
    monkeypatch.setattr(assignment.random_source, "random", lambda: 1.0)
    withdrawn = judge(project, annotator, "withdrawn")
    withdrawals.withdraw(project, annotator=annotator, since=withdrawn.created_at, actor=admin)
    assignment.close_task(withdrawn.task)
    make_task(prompts[3], priority=6)
    late = assignment.next_assignment(project, annotator=annotator)
    assignment.expire_leases(now=late.lease_expires_at)
    kept = judge(project, second_annotator, "kept")
    order = [[completion_id] for completion_id in late.presented_order]
    surplus, _ = rankings.submit_ranking(late, annotator=annotator, client_id="late", order=order)
    assert not surplus.is_counted
    snapshot = snapshots.freeze(project)
    assert [line["id"] for line in lines(snapshot, "rankings.jsonl")] == [str(kept.pk)]
    for purpose in ("eval", "gold"):
        with pytest.raises(snapshots.SnapshotError, match="never enter a snapshot"):
            snapshots.freeze(project, purposes=("train", purpose))
    with pytest.raises(snapshots.SnapshotError, match="must be among"):
        snapshots.freeze(project, purposes=("fun",))


def test_it_holds_only_the_newest_version(project, annotator, task):
    lease = assignment.next_assignment(project, annotator=annotator)
    a, b, *_rest = lease.presented_order
    rankings.submit_ranking(lease, annotator=annotator, client_id="1", order=[[a], [b]])
    rankings.submit_ranking(lease, annotator=annotator, client_id="2", order=[[b], [a]])
    (line,) = lines(snapshots.freeze(project), "rankings.jsonl")
    assert (line["version"], line["ranking"]) == (2, [[b], [a]])


def test_it_leaves_simulated_judgments_out_on_request(project, annotator, second_annotator, make_tasks):
    make_tasks(2)
    Membership.objects.filter(user=annotator).update(simulated=True)
    judge(project, annotator, "a")
    mine = judge(project, second_annotator, "b")
    both = snapshots.freeze(project)
    people = snapshots.freeze(project, include_simulated=False)
    assert (both.counts["rankings"], both.counts["rankings_simulated"]) == (2, 1)
    assert [line["id"] for line in lines(people, "rankings.jsonl")] == [str(mine.pk)]
    assert people.filters["include_simulated"] is False


def test_it_keeps_evaluation_prompts_out_of_the_demonstrations(project, annotator, make_prompts):
    prompt = make_prompts("Measured.", pool="eval")[0]
    demonstrations.add_demonstration(
        project, prompt=prompt, author=annotator, message={"role": "assistant", "content": "Leak."}
    )
    assert snapshots.freeze(project).counts["demonstrations"] == 0


def test_it_gives_the_same_data_the_same_digest(project, annotator, make_tasks):
    make_tasks(1)
    judge(project, annotator, "a")
    first, second = snapshots.freeze(project), snapshots.freeze(project)
    assert first.digest == second.digest
    assert (first.number, second.number) == (1, 2)
    assert first.uri != second.uri


def test_it_leaves_nothing_behind_when_the_disk_is_full(project, annotator, make_tasks, data_dir, monkeypatch):
    make_tasks(1)
    judge(project, annotator, "a")

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(snapshots.os, "fsync", full)
    with pytest.raises(snapshots.SnapshotError, match="No space left on device"):
        snapshots.freeze(project)
    assert not Snapshot.objects.exists()
    assert list((data_dir / "snapshots" / "stories").iterdir()) == []


def test_it_takes_over_a_folder_that_an_earlier_crash_left(project, annotator, make_tasks, monkeypatch):
    make_tasks(1)
    judge(project, annotator, "a")

    def crash(*args, **fields):
        raise RuntimeError("crashed")

    with monkeypatch.context() as patch:
        patch.setattr(snapshots, "record_event", crash)
        with pytest.raises(RuntimeError):
            snapshots.freeze(project)
    assert not Snapshot.objects.exists()
    snapshot = snapshots.freeze(project)
    assert snapshot.number == 1
    assert (snapshots.snapshot_path(snapshot) / "manifest.json").exists()


def test_it_writes_pseudonyms_instead_of_names(project, annotator, make_tasks):
    make_tasks(1)
    judge(project, annotator, "a")
    folder = snapshots.snapshot_path(snapshots.freeze(project))
    pseudonym = projects.membership(project, annotator).pseudonym
    assert lines(Snapshot.objects.get(), "rankings.jsonl")[0]["annotator"] == pseudonym
    Membership.objects.all().delete()
    (ranking,) = Ranking.objects.all()
    folder = Path(snapshots.snapshot_path(snapshots.freeze(project)))
    (line,) = [json.loads(text) for text in (folder / "rankings.jsonl").read_text().splitlines()]
    assert line["annotator"] == projects.fallback_pseudonym(project, ranking.annotator_id)

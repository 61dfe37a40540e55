"""Checkpoints: what is refused, where they are kept, and which one a project uses."""

import json
import time

import pytest

from tests.training.fake_engine import write_checkpoint
from training import checkpoints
from training.models import Checkpoint, CheckpointState

pytestmark = pytest.mark.django_db


@pytest.fixture
def folder(tmp_path):
    write_checkpoint(tmp_path / "policy")
    return tmp_path / "policy"


def write_safetensors(path, header, data=b"", length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes((len(text) if length is None else length).to_bytes(8, "little") + text + data)


def tensor(shape, begin, end, dtype="F32"):
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def test_it_names_a_checkpoint_by_the_digest_that_the_engine_gives_it(folder):
    engine = pytest.importorskip("training.engine.checkpoint")
    assert checkpoints.verify(folder) == engine.digest(folder)
    (folder / "manifest.json").unlink()
    assert checkpoints.verify(folder) == engine.digest(folder)


def test_it_keeps_one_row_of_a_checkpoint_added_twice(project, folder, data_dir):
    made = [checkpoints.add_checkpoint(project, role="sft", path=folder, name="a", copy=True) for _time in range(2)]
    assert made[0] == made[1]
    assert made[0].state == CheckpointState.VERIFIED
    assert made[0].uri == f"checkpoints/{made[0].digest[:12]}"
    assert folder.is_dir()
    checkpoints.add_checkpoint(project, role="sft", path=folder, name="a")
    assert (data_dir / made[0].uri / "manifest.json").is_file()


def test_it_moves_a_checkpoint_into_the_data_directory(project, folder, data_dir):
    made = checkpoints.add_checkpoint(project, role="sft", path=folder, name="a")
    assert not folder.exists()
    assert checkpoints.verify(data_dir / made.uri) == made.digest


@pytest.mark.parametrize("copy", [True, False])
def test_it_gives_a_checkpoint_from_elsewhere_its_manifest(project, folder, data_dir, copy):
    (folder / "manifest.json").unlink()
    made = checkpoints.add_checkpoint(project, role="sft", path=folder, name="a", copy=copy)
    assert checkpoints.is_whole(data_dir / made.uri, made.digest)
    checkpoints.promote(made)


def test_it_replaces_a_damaged_copy_in_its_place(project, folder, data_dir):
    made = checkpoints.add_checkpoint(project, role="sft", path=folder, name="a", copy=True)
    (data_dir / made.uri / "config.json").write_text("damaged")
    checkpoints.add_checkpoint(project, role="sft", path=folder, name="a", copy=True)
    assert checkpoints.is_whole(data_dir / made.uri, made.digest)


@pytest.mark.parametrize(
    ("header", "data", "length"),
    [
        (b"\x80\x04\x95pickle", b"", 2**64 - 1),
        (b"{", b"", None),
        (b"[" * 100_000, b"", None),
        ([1, 2], b"", None),
        ({"w": tensor([2], 0, 8), "v": tensor([2], 4, 12)}, bytes(12), None),
        ({"w": tensor([1], 0, 4), "v": tensor([1], 8, 12)}, bytes(12), None),
        ({"w": tensor([2**40, 2**40], 0, 4)}, bytes(4), None),
        ({"w": tensor([1], 0, 4)}, bytes(9), None),
        ({"w": tensor([1], 0, 400)}, bytes(4), None),
        ({"w": tensor([-1], 0, 4)}, bytes(4), None),
        ({"w": tensor([1], 0, 4, "PICKLE")}, bytes(4), None),
        ({"w": 5}, b"", None),
    ],
    ids=["length", "cut", "nested", "list", "overlap", "gap", "overflow", "longer", "shorter", "negative", "type", "5"],
)
def test_it_refuses_a_safetensors_file_that_lies(project, folder, header, data, length):
    (folder / "manifest.json").unlink()
    write_safetensors(folder / "model.safetensors", header, data, length)
    with pytest.raises(checkpoints.CheckpointError, match="not a whole safetensors file"):
        checkpoints.add_checkpoint(project, role="sft", path=folder, name="a")
    assert not Checkpoint.objects.exists()


@pytest.mark.parametrize(
    ("dtype", "bits"),
    [("F32", 0x7FC00000), ("F32", 0xFF800000), ("F16", 0x7C01), ("BF16", 0x7F80), ("F64", 0x7FF0000000000000)],
)
def test_it_refuses_weights_that_are_not_finite(folder, dtype, bits):
    size = {"F64": 8, "F32": 4}.get(dtype, 2)
    (folder / "manifest.json").unlink()
    data = bytes(size) + bits.to_bytes(size, "little")
    write_safetensors(folder / "model.safetensors", {"w": tensor([2], 0, 2 * size, dtype)}, data)
    with pytest.raises(checkpoints.CheckpointError, match="not finite"):
        checkpoints.verify(folder)


def test_it_reads_a_header_of_100_000_tensors_within_two_seconds(folder):
    (folder / "manifest.json").unlink()
    header = {f"layer.{number}.weight": tensor([1], 4 * number, 4 * number + 4) for number in range(100_000)}
    write_safetensors(folder / "model.safetensors", header, bytes(400_000))
    began = time.process_time()
    checkpoints.verify(folder)
    assert time.process_time() - began < 2


def test_it_accepts_the_largest_finite_numbers(folder):
    (folder / "manifest.json").unlink()
    data = (0x7F7FFFFF).to_bytes(4, "little") + (0x7F7F).to_bytes(2, "little")
    header = {"w": tensor([1], 0, 4), "v": tensor([], 4, 6, "BF16")}
    write_safetensors(folder / "model.safetensors", header, data)
    checkpoints.verify(folder)


@pytest.mark.parametrize("damage", ["missing", "extra", "altered", "link", "outside", "schema", "pickle"])
def test_it_refuses_a_directory_that_is_not_as_its_manifest_says(project, folder, damage):
    manifest = json.loads((folder / "manifest.json").read_text())
    if damage == "missing":
        (folder / "config.json").unlink()
    elif damage == "extra":
        (folder / "extra.bin").touch()
    elif damage == "altered":
        (folder / "config.json").write_text('{"a": 1}')
    elif damage == "link":
        (folder / "config.json").unlink()
        (folder / "config.json").symlink_to("/etc/hostname")
    elif damage == "outside":
        manifest["files"]["../../etc/hostname"] = {"sha256": "0" * 64, "size": 1}
    elif damage == "schema":
        manifest["schema"] = "something/9"
    elif damage == "pickle":
        (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
        manifest["files"]["pytorch_model.bin"] = manifest["files"].pop("model.safetensors")
    if damage in ("outside", "schema", "pickle"):
        (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(checkpoints.CheckpointError) as refusal:
        checkpoints.add_checkpoint(project, role="sft", path=folder, name="a")
    assert len(str(refusal.value).splitlines()) == 1
    assert not Checkpoint.objects.exists()


def test_it_promotes_one_policy_and_rolls_back(make_checkpoint, project, admin):
    first, second = make_checkpoint("sft"), make_checkpoint("policy")
    checkpoints.promote(first, actor=admin)
    checkpoints.promote(second, actor=admin)
    first.refresh_from_db()
    assert (first.state, checkpoints.promoted(project)) == (CheckpointState.RETIRED, second)
    checkpoints.promote(first, actor=admin)
    assert checkpoints.promoted(project) == first
    assert project.audit_events.filter(action="checkpoint.promoted", actor=admin).count() == 3


def test_it_refuses_to_promote_what_was_damaged_since(make_checkpoint, project, data_dir):
    checkpoint = make_checkpoint()
    (data_dir / checkpoint.uri / "model.safetensors").write_bytes(b"rot")
    with pytest.raises(checkpoints.CheckpointError, match="sha256 differs"):
        checkpoints.promote(checkpoint)
    assert checkpoints.promoted(project) is None


def test_it_refuses_to_promote_a_reward_model_or_what_was_withdrawn(make_checkpoint):
    with pytest.raises(checkpoints.CheckpointError, match="reward model"):
        checkpoints.promote(make_checkpoint("reward_model"))
    withdrawn = checkpoints.withdraw(make_checkpoint("policy"), reason="bad")
    with pytest.raises(checkpoints.CheckpointError, match="withdrawn"):
        checkpoints.promote(withdrawn)


def test_it_does_not_withdraw_the_promoted_policy(sft):
    with pytest.raises(checkpoints.CheckpointError, match="promote another"):
        checkpoints.withdraw(sft)


def test_it_takes_the_sft_policy_that_the_promoted_one_descends_from(make_checkpoint, project):
    old = make_checkpoint("sft")
    policy = make_checkpoint("policy", parent=old)
    newest = make_checkpoint("sft")
    assert checkpoints.sft_policy(project) == newest
    checkpoints.promote(policy)
    assert checkpoints.sft_policy(project) == old


def test_it_notes_who_added_a_checkpoint(project, folder, admin):
    checkpoints.add_checkpoint(project, role="sft", path=folder, name="mine", copy=True, actor=admin)
    assert project.audit_events.get(action="checkpoint.added").actor == admin


def test_it_does_not_withdraw_what_the_promoted_policy_is_measured_against(make_checkpoint):
    sft = make_checkpoint("sft")
    checkpoints.promote(make_checkpoint("policy", parent=sft))
    with pytest.raises(checkpoints.CheckpointError, match="measured against"):
        checkpoints.withdraw(sft)
    checkpoints.promote(make_checkpoint("sft"))
    assert checkpoints.withdraw(sft).state == CheckpointState.WITHDRAWN

"""Prompt sets: the import of files of prompts, and every write to these tables.

A file is read twice, line by line: once to find everything that is wrong with it, before anything is written, and once
to write it. Memory stays bounded by the longest line allowed and by one digest a prompt.
"""

import csv
import hashlib
import json
import math
import tempfile
from collections import Counter
from dataclasses import dataclass

from django.db import IntegrityError, transaction
from django.db.models import Max
from django.utils.translation import gettext as _

from annotation import messages
from annotation.audit import record_event
from annotation.models import POOLS, Project, Prompt, PromptSet

MAX_FILE_BYTES = 200 * 1024 * 1024
MAX_LINE_BYTES = 8 * 1024 * 1024
MAX_PROMPTS = 1_000_000
MAX_COLUMNS = 100
MAX_DIGITS = 300  # of one number; a longer one is no number that anybody means
MAX_GROUP = 200  # characters
MAX_FIELD_LIST = 20  # names of ignored columns that a report lists
BATCH = 500
CHUNK_BYTES = 1024 * 1024
FORMATS = ("auto", "jsonl", "csv")
COLUMNS = ("messages", "prompt", "pool", "group")

# Shares of the pools, in percent, where the file names none. Most prompts are there to be ranked.
POOL_SHARES = (("reward", 50), ("ppo", 20), ("sft", 15), ("eval", 15))

UTF8_BOM = b"\xef\xbb\xbf"
OTHER_KINDS = (
    (b"\x1f\x8b", "gzip"),
    (b"PK\x03\x04", "zip"),
    (b"PK\x05\x06", "zip"),
    (b"PAR1", "Parquet"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
    (b"BZh", "bzip2"),
    (b"\xfd7zXZ\x00", "xz"),
    (b"%PDF", "PDF"),
    (b"\x89PNG", "PNG"),
    (b"\xff\xd8\xff", "JPEG"),
)

# The module-wide limit of 131,072 characters is shorter than a prompt may be.
csv.field_size_limit(MAX_LINE_BYTES)


class PromptError(ValueError):
    """What is wrong with a file of prompts. `row` counts from 1 (a CSV's header is row 1); 0 is the file itself."""

    def __init__(self, row, field, message):
        place = [_("row %(row)d") % {"row": row}] if row else []
        place += [field] if field else []
        super().__init__(f"{', '.join(place)}: {message}" if place else str(message))
        self.row = row
        self.field = field
        self.message = str(message)


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportReport:
    prompt_set: PromptSet
    prompts: int  # rows written
    dropped: dict  # {"duplicate": rows}
    already_imported: bool  # the very same file was there before; nothing was written


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptRow:
    number: int
    messages: list
    digest: str
    pool: str | None  # None: the file names none
    group: str | None


def import_prompts(project, *, name, file, file_name="", created_by=None, format="auto", pool=None, source_sha256=None):
    """Imports a whole file or nothing; the same file twice, also at the same time, is one import.

    file: a binary file object, JSONL or CSV in UTF-8. format: "auto", "jsonl" or "csv".
    pool: for the rows that name none; without it their group decides, by a stable hash.
    source_sha256: of what the file was made from, by which it is known then.
    Raises PromptError.
    """
    name = check_name(name)
    if format not in FORMATS:
        raise PromptError(0, "format", _("must be one of: %(all)s.") % {"all": ", ".join(FORMATS)})
    if pool not in (None, "", *POOLS):
        raise PromptError(0, "pool", _("must be one of: %(all)s.") % {"all": ", ".join(POOLS)})
    with tempfile.SpooledTemporaryFile(max_size=CHUNK_BYTES) as copy:
        own_sha256 = copy_file(file, copy)
        file_sha256 = source_sha256 or own_sha256
        existing = PromptSet.objects.filter(project=project, file_sha256=file_sha256).first()
        if existing is not None:
            return already_imported(existing)
        reader = choose_reader(copy, format, file_name)
        ignored = set()
        pools = explicit_pools(reader(copy, ignored))
        try:
            return write_prompts(
                project,
                rows=lambda: reader(copy, set()),
                pools=pools,
                default_pool=pool or None,
                ignored=ignored,
                name=name,
                file_name=clean_file_name(file_name),
                file_sha256=file_sha256,
                created_by=created_by,
            )
        except IntegrityError:
            # The same file was imported at the same moment; that import is this one too.
            existing = PromptSet.objects.filter(project=project, file_sha256=file_sha256).first()
            if existing is None:
                raise
            return already_imported(existing)


def already_imported(prompt_set):
    return ImportReport(
        prompt_set=prompt_set,
        prompts=prompt_set.counts.get("prompts", 0),
        dropped=prompt_set.counts.get("dropped", {}),
        already_imported=True,
    )


def check_name(name):
    name = name.strip() if isinstance(name, str) else ""
    if not name or len(name) > 200 or not name.isprintable():
        raise PromptError(0, "name", _("must be a text of 1 to 200 characters."))
    return name


def clean_file_name(file_name):
    """The last component without control characters: it is only ever shown."""
    last = str(file_name or "").replace("\\", "/").rsplit("/", 1)[-1]
    return printable(last)[:255]


def printable(text):
    return "".join(character for character in text if character.isprintable())


def copy_file(file, copy):
    """The file's sha256; its bytes are then in `copy`, to be read twice. Refuses what is no text at all."""
    sha256 = hashlib.sha256()
    size = 0
    while chunk := file.read(CHUNK_BYTES):
        if size == 0:
            refuse_other_kinds(chunk)
        size += len(chunk)
        if size > MAX_FILE_BYTES:
            raise PromptError(
                0,
                "file",
                _("is larger than %(limit)d MB. Split it into several files.") % {"limit": MAX_FILE_BYTES // 2**20},
            )
        sha256.update(chunk)
        copy.write(chunk)
    return sha256.hexdigest()


def refuse_other_kinds(start):
    for magic, kind in OTHER_KINDS:
        if start.startswith(magic):
            raise PromptError(
                0, "file", _("is a %(kind)s file. Unpack or convert it to JSONL or CSV first.") % {"kind": kind}
            )
    if start.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\x00" in start[:4]:
        raise PromptError(0, "file", _("is UTF-16 or UTF-32 text, or no text. Save it as UTF-8."))


def lines(copy):
    """(number, text) of each line from the file's start, its line ending kept. Refuses what is not UTF-8."""
    copy.seek(0)
    number = 0
    while raw := copy.readline(MAX_LINE_BYTES + 1):
        number += 1
        if len(raw) > MAX_LINE_BYTES:
            raise PromptError(
                number, "", _("the line is longer than %(limit)d MB.") % {"limit": MAX_LINE_BYTES // 2**20}
            )
        if number == 1:
            raw = raw.removeprefix(UTF8_BOM)
        try:
            yield number, raw.decode("utf-8")
        except UnicodeDecodeError as error:
            raise PromptError(
                number,
                "",
                _("byte %(byte)d is not valid UTF-8. Choose a JSONL or CSV file, and save it as UTF-8.")
                % {"byte": error.start + 1},
            ) from None


def choose_reader(copy, format, file_name):
    """By the format, else by the file's name if that says JSONL, else by how its text begins."""
    if format == "csv":
        return read_csv
    if format == "jsonl" or file_name.lower().endswith(".jsonl"):
        return read_jsonl
    first = next((text for _number, text in lines(copy) if text.strip()), None)
    if first is None:
        raise PromptError(0, "file", _("is empty."))
    return read_jsonl if first.lstrip().startswith(("{", "[")) else read_csv


def read_jsonl(copy, ignored):
    """PromptRow of each line. Names of columns that are not ours go into `ignored`."""
    for number, text in lines(copy):
        if text.strip():
            yield build_row(number, parse_line(number, text), ignored)


def parse_line(number, text):
    def refuse_constant(name):
        raise PromptError(number, "", _("%(name)s is not JSON.") % {"name": name})

    def parse_float(digits):
        value = float(digits)
        if not math.isfinite(value):
            raise PromptError(number, "", _("the number %(digits)s is too large.") % {"digits": digits[:40]})
        return value

    def parse_int(digits):
        if len(digits) > MAX_DIGITS:
            raise PromptError(number, "", _("a number has %(count)d digits.") % {"count": len(digits)})
        return int(digits)

    def build_object(pairs):
        built = dict(pairs)
        for key in built:
            if not key.isascii() and key.encode("utf-8", "replace").decode() != key:
                raise PromptError(number, "", _("has a key that is not valid Unicode."))
        if len(built) != len(pairs):
            twice = next(key for key, count in Counter(key for key, _value in pairs).items() if count > 1)
            raise PromptError(number, twice[:80], _("stands twice in one object."))
        return built

    try:
        row = json.loads(
            text,
            parse_constant=refuse_constant,
            parse_float=parse_float,
            parse_int=parse_int,
            object_pairs_hook=build_object,
        )
    except RecursionError:
        raise PromptError(number, "", _("is nested too deeply.")) from None
    except json.JSONDecodeError as error:
        raise PromptError(
            number,
            "",
            _("is not valid JSON at character %(column)d. Is the line cut off?") % {"column": error.pos + 1},
        ) from None
    if not isinstance(row, dict):
        raise PromptError(number, "", _('must be an object like {"prompt": "…"} or {"messages": […]}.'))
    if len(row) > MAX_COLUMNS:
        raise PromptError(number, "", _("has more than %(limit)d keys.") % {"limit": MAX_COLUMNS})
    return row


def read_csv(copy, ignored):
    """PromptRow of each record after the header."""
    records = csv_records(copy)
    number, header = next(records, (0, None))
    if header is None:
        raise PromptError(0, "file", _("is empty."))
    if len(header) > MAX_COLUMNS:
        raise PromptError(number, "", _("has more than %(limit)d columns.") % {"limit": MAX_COLUMNS})
    header = [column.strip().lower() for column in header]
    if "prompt" not in header:
        raise PromptError(number, "prompt", _("is not among the columns of the header. Name the column of prompts so."))
    twice = next((column for column, count in Counter(header).items() if count > 1 and column), None)
    if twice:
        raise PromptError(number, twice[:80], _("stands twice in the header."))
    for number, cells in records:
        if len(cells) != len(header):
            raise PromptError(
                number,
                "",
                _("has %(cells)d cells, but the header has %(columns)d.")
                % {"cells": len(cells), "columns": len(header)},
            )
        row = dict(zip(header, cells, strict=True))
        # In a CSV an empty cell is how one leaves a value out.
        row = {column: cell for column, cell in row.items() if cell or column not in ("pool", "group")}
        yield build_row(number, row, ignored)


def csv_records(copy):
    """(number, cells) of each record that is not blank; the number is the record's, as a spreadsheet counts."""
    number = 0
    reader = csv.reader((text for _number, text in lines(copy)), strict=True)
    while True:
        number += 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise PromptError(
                number, "", _("is not valid CSV: %(reason)s. Is a quote left open?") % {"reason": error}
            ) from None
        if cells:
            yield number, cells


def build_row(number, row, ignored):
    if len(ignored) < MAX_FIELD_LIST:
        # They are only ever shown, and not every database can hold a NUL.
        ignored.update(printable(key)[:80] for key in row if key not in COLUMNS)
    if ("messages" in row) == ("prompt" in row):
        raise PromptError(number, "prompt", _("Give either “prompt” or “messages”, and not both."))
    if "prompt" in row:
        field, conversation = "prompt", [{"role": "user", "content": row["prompt"]}]
    else:
        field, conversation = "messages", row["messages"]
    try:
        if field == "prompt":
            messages.check_text(row["prompt"], field="prompt")
        messages.check_prompt(conversation)
    except messages.MessageError as error:
        raise PromptError(number, error.field if field == "messages" else "prompt", error.message) from None
    pool, group = row.get("pool"), row.get("group")
    if pool is not None and pool not in POOLS:
        raise PromptError(number, "pool", _("must be one of: %(all)s.") % {"all": ", ".join(POOLS)})
    return PromptRow(
        number=number,
        messages=conversation,
        digest=messages.messages_digest(conversation),
        pool=pool,
        group=None if group is None else check_group(number, group),
    )


def check_group(number, group):
    if not isinstance(group, str) or not group or len(group) > MAX_GROUP:
        raise PromptError(number, "group", _("must be a text of 1 to %(limit)d characters.") % {"limit": MAX_GROUP})
    try:
        messages.check_text(group, field="group")
    except messages.MessageError as error:
        raise PromptError(number, "group", error.message) from None
    return group


def explicit_pools(rows):
    """{group: pool} as the file itself says. Reads the file to its end, so that whatever is wrong is found."""
    pools = {}
    count = 0
    for row in rows:
        count += 1
        if count > MAX_PROMPTS:
            raise PromptError(row.number, "", _("A file may have %(limit)d prompts.") % {"limit": MAX_PROMPTS})
        if row.group is not None and row.pool is not None and pools.setdefault(row.group, row.pool) != row.pool:
            raise PromptError(
                row.number,
                "pool",
                _("puts the group “%(group)s” into %(pool)s, but an earlier row put it into %(first)s.")
                % {"group": row.group[:80], "pool": row.pool, "first": pools[row.group]},
            )
    if count == 0:
        raise PromptError(0, "file", _("is empty: it has no prompts."))
    return pools


def pool_of_group(group):
    """The pool of a group that no file put anywhere: always the same one, on every machine."""
    draw = int.from_bytes(hashlib.sha256(b"plumbline.pool/1:" + group.encode("utf-8")).digest()[:8], "big") % 100
    for pool, share in POOL_SHARES:
        if draw < share:
            return pool
        draw -= share
    raise AssertionError("the shares of the pools must sum to 100")


@transaction.atomic
def write_prompts(project, *, rows, pools, default_pool, ignored, name, file_name, file_sha256, created_by):
    # Imports into one project take turns, so that no prompt gets into two pools by two files at once.
    Project.objects.select_for_update(no_key=True).get(pk=project.pk)
    last = PromptSet.objects.filter(project=project, name=name).aggregate(last=Max("version"))["last"]
    prompt_set = PromptSet.objects.create(
        project=project,
        name=name,
        version=(last or 0) + 1,
        file_name=file_name,
        file_sha256=file_sha256,
        created_by=created_by,
    )
    dropped, kept, in_pools, seen = Counter(), Counter(), Counter(), set()
    written = 0
    for batch in batches(rows()):
        unseen = []
        for row in batch:
            key = bytes.fromhex(row.digest)
            if key in seen:
                dropped["duplicate"] += 1
            else:
                seen.add(key)
                unseen.append(row)
        placed = place_rows(project, unseen, pools, default_pool, kept)
        Prompt.objects.bulk_create(
            Prompt(
                prompt_set=prompt_set,
                digest=row.digest,
                messages=row.messages,
                pool=pool,
                group=group,
                position=row.number,
            )
            for row, pool, group in placed
        )
        in_pools.update(pool for _row, pool, _group in placed)
        written += len(placed)
    counts = {"prompts": written, "dropped": dict(dropped), "pools": dict(in_pools), **kept}
    if ignored:
        counts["ignored_columns"] = sorted(ignored)
    PromptSet.objects.filter(pk=prompt_set.pk).update(counts=counts)
    prompt_set.counts = counts
    record_event(project, actor=created_by, action="prompt_set.imported", subject=str(prompt_set), detail=counts)
    return ImportReport(prompt_set=prompt_set, prompts=written, dropped=dict(dropped), already_imported=False)


def batches(rows):
    batch = []
    for row in rows:
        batch.append(row)
        if len(batch) == BATCH:
            yield batch
            batch = []
    if batch:
        yield batch


def place_rows(project, rows, pools, default_pool, kept):
    """[(row, pool, group)]. What the project already holds stays in its first pool, and so does its group."""
    in_project = Prompt.objects.filter(prompt_set__project=project)
    held = {
        digest: (pool, group)
        for digest, pool, group in in_project.filter(digest__in=[row.digest for row in rows]).values_list(
            "digest", "pool", "group"
        )
    }
    groups = dict(
        in_project.filter(group__in={row.group for row in rows if row.group is not None}).values_list("group", "pool")
    )
    placed = []
    for row in rows:
        group = row.group if row.group is not None else row.digest
        wanted = pools.get(row.group) or row.pool or default_pool
        if row.digest in held:
            pool, group = held[row.digest]
        else:
            pool = groups.get(group) or wanted or pool_of_group(group)
        if wanted and wanted != pool:
            kept["kept_in_first_pool"] += 1
        placed.append((row, pool, group))
    return placed


@transaction.atomic
def set_active(prompt_set, *, active, actor):
    """Prompts of a set that is not active are not used for new tasks."""
    changed = PromptSet.objects.filter(pk=prompt_set.pk).exclude(active=active).update(active=active)
    if changed:
        action = "prompt_set.activated" if active else "prompt_set.retired"
        record_event(prompt_set.project, actor=actor, action=action, subject=str(prompt_set))
    return changed == 1

"""Transactions that need not outlive a power cut."""

import contextlib

from django.db import connection, transaction


@contextlib.contextmanager
def forgettable():
    """A transaction that a power cut may undo, but never halve: its commit does not wait for the disk.

    For what is known again at once when it is lost, such as who works on which task. Whatever is committed durably
    afterwards brings it along. Inside another transaction it is a part of that one.
    """
    if connection.in_atomic_block:
        with transaction.atomic():
            yield
    elif connection.vendor == "sqlite":
        connection.ensure_connection()
        # Not inside a transaction: SQLite would ignore it there.
        connection.connection.execute("PRAGMA synchronous=NORMAL")
        try:
            with transaction.atomic():
                yield
        finally:
            if connection.connection is not None:
                connection.connection.execute("PRAGMA synchronous=FULL")
    else:
        with transaction.atomic():
            with connection.cursor() as cursor:
                cursor.execute("SET LOCAL synchronous_commit TO OFF")
            yield

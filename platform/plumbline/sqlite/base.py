"""Django's SQLite backend, with a queue before the one writer that SQLite allows at a time.

SQLite itself lets writers poll, with sleeps of up to 100 ms: under load most of their time is sleep, and who waits
longest gets no nearer. Here a write transaction first takes a lock on a file beside the database, for which the kernel
wakes the next one at once, and keeps it until its end. Whoever does not know the queue (sqlite3 on the command line, a
single statement outside a transaction) still meets SQLite's own lock, so the queue is about speed only.
"""

import contextlib
import fcntl
import os

from django.db.backends.sqlite3 import base

QUEUE_SUFFIX = "-queue"


class DatabaseWrapper(base.DatabaseWrapper):
    _queue = None  # the open file; each connection has its own, so that threads exclude each other too

    def _start_transaction_under_autocommit(self):
        self._join_queue()
        try:
            super()._start_transaction_under_autocommit()
        except BaseException:
            self._leave_queue()
            raise

    def _commit(self):
        try:
            return super()._commit()
        finally:
            self._leave_queue()

    def _rollback(self):
        try:
            return super()._rollback()
        finally:
            self._leave_queue()

    def _close(self):
        try:
            return super()._close()
        finally:
            if self._queue is not None:
                os.close(self._queue)
                self._queue = None

    def _join_queue(self):
        if self.is_in_memory_db():
            return
        if self._queue is None:
            path = f"{self.settings_dict['NAME']}{QUEUE_SUFFIX}"
            self._queue = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._queue, fcntl.LOCK_EX)

    def _leave_queue(self):
        if self._queue is not None:
            with contextlib.suppress(OSError):
                fcntl.flock(self._queue, fcntl.LOCK_UN)

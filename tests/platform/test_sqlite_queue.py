"""The queue before SQLite's one writer: taken for each write transaction, and given up however that ends."""

import fcntl
import os
import threading

import pytest
from django.db import connection, connections, transaction

from plumbline.models import User
from plumbline.sqlite.base import QUEUE_SUFFIX

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def is_taken():
    """is_taken() -> whether somebody is at the head of the queue."""
    if connection.vendor != "sqlite":
        pytest.skip("SQLite only")
    queue = os.open(f"{connection.settings_dict['NAME']}{QUEUE_SUFFIX}", os.O_RDWR | os.O_CREAT)

    def look():
        try:
            fcntl.flock(queue, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        fcntl.flock(queue, fcntl.LOCK_UN)
        return False

    yield look
    os.close(queue)


def test_it_is_held_for_a_transaction_and_its_savepoints(is_taken):
    assert not is_taken()
    with transaction.atomic():
        with transaction.atomic():
            User.objects.create(username="a")
        assert is_taken()
    assert not is_taken()


def test_it_is_left_after_an_error(is_taken):
    with pytest.raises(RuntimeError), transaction.atomic():
        User.objects.create(username="a")
        raise RuntimeError
    assert not is_taken()


def test_it_is_left_when_the_connection_closes(is_taken):
    connection.set_autocommit(False)
    User.objects.create(username="a")
    connection.close()
    assert not is_taken()


def test_the_next_one_waits_and_then_goes_on(is_taken):
    order = []
    started = threading.Event()

    def write():
        started.set()
        try:
            with transaction.atomic():
                order.append("second")
                User.objects.create(username="second")
        finally:
            connections.close_all()

    thread = threading.Thread(target=write)
    with transaction.atomic():
        thread.start()
        started.wait(10)
        thread.join(0.3)
        order.append("first")
        User.objects.create(username="first")
    thread.join(10)
    assert order == ["first", "second"]
    assert User.objects.count() == 2
    assert not is_taken()

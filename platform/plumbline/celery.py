"""The Celery application, messages to its workers, and how a task hears that its worker is going away."""

import mmap
import os

from celery import Celery
from celery.signals import worker_shutting_down
from kombu.exceptions import ChannelError
from kombu.exceptions import OperationalError as BrokerError

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "plumbline.settings")

app = Celery("plumbline")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()


def send(task, argument, *, queue):
    """Whether the broker took the message."""
    try:
        app.send_task(task, args=[argument], queue=queue)
    except BrokerError:
        return False
    return True


def messages_waiting(queue):
    """Messages in a queue; None while the broker cannot be asked."""
    try:
        with app.connection_for_read() as connection:
            return connection.default_channel.queue_declare(queue=queue, passive=True).message_count
    except ChannelError:
        return 0  # Redis has no empty lists: no queue means no message
    except (BrokerError, OSError):
        return None


# One byte of memory that prefork children share with the worker's main process. Only the main process hears the
# shutdown signal, while the task that must end its engine runs in a child.
_shutting_down = mmap.mmap(-1, 1)


@worker_shutting_down.connect
def _remember_shutdown(**_):
    _shutting_down[0] = 1


def shutdown_requested():
    """Whether this worker was asked to stop: a long task passes it on to what it started, and returns soon."""
    return _shutting_down[0] == 1

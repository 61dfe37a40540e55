"""How fast one account may call the API: a bucket of calls that fills steadily, in each web process.

It is there for a program that has gone wild, not for work: nobody who ranks, and no import that waits for its answers,
comes near it.
"""

import threading
import time
from collections import OrderedDict

from django.conf import settings
from rest_framework.throttling import BaseThrottle

BURST_SECONDS = 10  # of the steady rate may come at once
MOST_ACCOUNTS = 10_000  # remembered; the longest silent is forgotten, its bucket being full again by then

_buckets = OrderedDict()  # {user id: (calls left, when)}
_lock = threading.Lock()


class AccountThrottle(BaseThrottle):
    """429 with Retry-After for an account whose bucket is empty."""

    def allow_request(self, request, view):
        rate = settings.API_CALLS_PER_SECOND
        if not rate or request.user.pk is None:
            return True
        self.seconds = take(request.user.pk, rate=rate, now=time.monotonic())
        return self.seconds == 0

    def wait(self):
        return self.seconds


def take(account, *, rate, now):
    """0 if a call was left in the account's bucket, which now has one less; else seconds until there is one."""
    with _lock:
        left, before = _buckets.pop(account, (rate * BURST_SECONDS, now))
        left = min(rate * BURST_SECONDS, left + (now - before) * rate)
        allowed = left >= 1
        _buckets[account] = (left - 1 if allowed else left, now)
        if len(_buckets) > MOST_ACCOUNTS:
            _buckets.popitem(last=False)
    return 0 if allowed else (1 - left) / rate

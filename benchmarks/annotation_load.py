"""Annotators at work over HTTP: one asynchronous process that keeps a connection for each of them."""

import asyncio
import os
import random
import time
from dataclasses import dataclass, field

import aiohttp

TIMEOUT_SECONDS = 120.0
FIRST_WAIT_SECONDS = 0.05  # after a call that failed
LONGEST_WAIT_SECONDS = 1.0
PATIENCE_SECONDS = 60.0  # for calls under way when the time is over
EMPTY_LOOKS = 5  # an empty queue, this often in a row, is done


@dataclass(slots=True)
class Load:
    """What the annotators met."""

    seconds: float = 0.0
    cpu_share: float = 0.0  # of one core, taken by this load generator
    rankings: int = 0  # acknowledged within the time
    errors: int = 0
    next_seconds: list[float] = field(default_factory=list)
    submit_seconds: list[float] = field(default_factory=list)

    @property
    def rankings_per_second(self):
        return self.rankings / self.seconds


@dataclass(slots=True)
class Acknowledged:
    """Rankings that the server said it has; with it, annotators send again what got no answer, as the page does."""

    rankings: list[str] = field(default_factory=list)  # client ids


async def run_load(annotators, *, pause_seconds, seconds, acknowledged=None):
    """Load. The annotators rank for so long, or until the queue is empty."""
    load = Load()
    started, cpu_before = time.monotonic(), time.process_time()
    deadline = started + seconds
    timeout = aiohttp.ClientTimeout(total=TIMEOUT_SECONDS)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=timeout) as session:
        work = [
            asyncio.create_task(rank(annotator, session, load, pause_seconds, deadline, acknowledged))
            for annotator in annotators
        ]
        _done, late = await asyncio.wait(work, timeout=seconds)
        load.seconds = time.monotonic() - started
        load.cpu_share = (time.process_time() - cpu_before) / load.seconds
        if late:
            _done, lost = await asyncio.wait(late, timeout=PATIENCE_SECONDS)
            for task in lost:
                task.cancel()
        for task in work:
            if task.done() and not task.cancelled():
                task.result()  # a mistake of ours, not of the server
    return load


async def rank(annotator, session, load, pause_seconds, deadline, acknowledged):
    patient = acknowledged is not None
    await asyncio.sleep(random.uniform(0, pause_seconds))
    looks = 0
    while time.monotonic() < deadline and looks < EMPTY_LOOKS:
        task = await call(lambda: annotator.next(session), load, load.next_seconds, deadline, patient)
        if task is None:
            looks += 1
            await asyncio.sleep(0.5)
            continue
        looks = 0
        await asyncio.sleep(pause_seconds)
        client_id = os.urandom(12).hex()
        answer = await call(
            lambda task=task, client_id=client_id: annotator.submit(session, task, client_id),
            load,
            load.submit_seconds,
            deadline,
            patient,
        )
        if answer is None:
            continue
        load.rankings += time.monotonic() < deadline
        if patient:
            acknowledged.rankings.append(client_id)


async def call(send, load, times, deadline, patient):
    """The call's answer; None for an empty queue, or for a failure, which the patient try again."""
    wait = FIRST_WAIT_SECONDS
    while True:
        started = time.monotonic()
        try:
            answer = await send()
        except (aiohttp.ClientError, TimeoutError, ConnectionError):
            load.errors += 1
            if not patient or time.monotonic() > deadline:
                await asyncio.sleep(wait)
                return None
        else:
            times.append(time.monotonic() - started)
            return answer
        await asyncio.sleep(wait)
        wait = min(wait * 2, LONGEST_WAIT_SECONDS)

"""Simulated annotators at work: they claim, read and rank through the HTTP API, as any client of it would.

Knows the API only: no database, no Django. Each player has a token and a thread of its own.
"""

from __future__ import annotations

import logging
import statistics
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import httpx

from .annotators import SimulatedAnnotator, comparisons, gold_order

# A line for every request would drown the progress.
logging.getLogger("httpx").setLevel(logging.WARNING)

TIMEOUT_SECONDS = 30.0
TRIES = 4
FIRST_WAIT_SECONDS = 0.25
MOST_LOST = 20  # rankings in a row that the server would not take, before something is plainly wrong


class SimulationError(Exception):
    """The simulation cannot go on. The message is one sentence or two for people."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Player:
    """One simulated annotator and the API token it plays with."""

    name: str
    token: str
    annotator: SimulatedAnnotator


@dataclass(slots=True, kw_only=True)
class Outcome:
    """What a simulation did. Shares are of pairs that both sides put in an order."""

    wanted: int | None
    rankings: int = 0
    seconds: float = 0.0
    lost: int = 0  # answers that came too late or were taken back
    queue_empty: bool = False
    call_seconds: list[float] = field(default_factory=list)
    judged: list[tuple[str, list[str], list[list[int]]]] = field(default_factory=list)  # prompt, texts, order
    alike: int = 0  # pairs that a second annotator, asked aside about the same cards, orders the same way
    ordered: int = 0
    alike_gold: int = 0
    ordered_gold: int = 0

    @property
    def agreement(self):
        return self.alike / self.ordered if self.ordered else None

    @property
    def gold_agreement(self):
        return self.alike_gold / self.ordered_gold if self.ordered_gold else None

    @property
    def rankings_per_second(self):
        return self.rankings / self.seconds if self.seconds else 0.0

    @property
    def median_call_seconds(self):
        return statistics.median(self.call_seconds) if self.call_seconds else 0.0

    @property
    def slow_call_seconds(self):
        """95 of 100 calls are faster than this."""
        calls = sorted(self.call_seconds)
        return calls[min(len(calls) - 1, int(len(calls) * 0.95))] if calls else 0.0


def play(
    players: Sequence[Player],
    *,
    url: str,
    project: str,
    rankings: int | None,
    progress: Callable[[Outcome], None] = lambda outcome: None,
) -> Outcome:
    """Lets the players rank at once until `rankings` are in (None: until nothing is left for any of them).

    progress is called after each ranking, by one thread at a time. Raises SimulationError.
    """
    game = _Game(players, url=url, project=project, rankings=rankings, progress=progress)
    started = time.monotonic()
    with ThreadPoolExecutor(max_workers=len(players)) as pool:
        turns = [pool.submit(game.take_turns, player) for player in players]
    for turn in turns:
        turn.result()
    game.outcome.seconds = time.monotonic() - started
    game.outcome.queue_empty = rankings is None or game.outcome.rankings < rankings
    return game.outcome


class _Game:
    def __init__(self, players, *, url, project, rankings, progress):
        self.players = list(players)
        self.url = url.rstrip("/")
        self.project = project
        self.left = rankings
        self.progress = progress
        self.outcome = Outcome(wanted=rankings)
        self.lock = threading.Lock()
        self.over = threading.Event()

    def take_turns(self, player):
        try:
            with httpx.Client(
                base_url=f"{self.url}/api/v1/",
                headers={"Authorization": f"Bearer {player.token}", "Accept": "application/json"},
                timeout=TIMEOUT_SECONDS,
                # The server is one's own; a proxy of the environment has no part in it.
                trust_env=False,
            ) as client:
                self._rank_until_done(client, player)
        except BaseException:
            self.over.set()
            raise

    def _rank_until_done(self, client, player):
        lost_in_a_row = 0
        while not self.over.is_set() and self._reserve():
            task = self._call(client, f"projects/{self.project}/next/")
            if task is None:
                self._give_back()
                return
            if self._rank(client, player, task):
                lost_in_a_row = 0
                continue
            self._give_back()
            lost_in_a_row += 1
            if lost_in_a_row >= MOST_LOST:
                raise SimulationError(
                    f"The server refused {lost_in_a_row} rankings of {player.name} in a row as too late or not its "
                    "own; see that the project's reservation time is long enough."
                )

    def _reserve(self):
        with self.lock:
            if self.left is None:
                return True
            if self.left == 0:
                return False
            self.left -= 1
            return True

    def _give_back(self):
        with self.lock:
            if self.left is not None:
                self.left += 1

    def _rank(self, client, player, task):
        """Ranks one task as it was shown; False when the server had already given it to someone else."""
        prompt = task["prompt"][-1]["content"]
        prompt = prompt if isinstance(prompt, str) else "".join(part.get("text", "") for part in prompt)
        ids = [completion["id"] for completion in task["completions"]]
        texts = [completion["text"] for completion in task["completions"]]
        order = player.annotator.rank(prompt, texts)
        body = {
            "client_id": str(uuid.uuid4()),
            "ranking": [[ids[index] for index in group] for group in order],
            "seconds": player.annotator.seconds_on_task(prompt, texts),
        }
        answer = self._call(client, f"assignments/{task['assignment']['id']}/ranking/", body, may_be_lost=True)
        if answer is None:
            with self.lock:
                self.outcome.lost += 1
            return False
        self._note(player, prompt, texts, order)
        return True

    def _note(self, player, prompt, texts, order):
        other = self.players[(self.players.index(player) + 1) % len(self.players)]
        alike, ordered = _count_alike(order, other.annotator.rank(prompt, texts)) if other is not player else (0, 0)
        alike_gold, ordered_gold = _count_alike(order, gold_order(player.annotator.gold, prompt, texts))
        with self.lock:
            self.outcome.rankings += 1
            self.outcome.judged.append((prompt, texts, order))
            self.outcome.alike += alike
            self.outcome.ordered += ordered
            self.outcome.alike_gold += alike_gold
            self.outcome.ordered_gold += ordered_gold
            self.progress(self.outcome)

    def _call(self, client, path, body=None, *, may_be_lost=False):
        """The answer's JSON; None for "nothing there" (204, or 404 and 409 where an answer may be lost)."""
        wait = FIRST_WAIT_SECONDS
        for attempt in range(TRIES):
            last = attempt == TRIES - 1
            started = time.monotonic()
            try:
                response = client.post(path, json=body)
            except httpx.TransportError as error:
                if last or isinstance(error, httpx.UnsupportedProtocol):
                    raise SimulationError(_unreachable(self.url, error)) from error
            else:
                with self.lock:
                    self.outcome.call_seconds.append(time.monotonic() - started)
                if response.status_code == 204 or (may_be_lost and response.status_code in (404, 409)):
                    return None
                if response.is_success:
                    return _json(response, self.url)
                if last or response.status_code not in (429, 500, 502, 503, 504):
                    raise SimulationError(_refused(response, self.url, self.project))
            # The client's id makes the same ranking sent twice one row, so that trying again is safe.
            time.sleep(wait)
            wait *= 2
        raise AssertionError("the last try returns or raises")


def _json(response, url):
    try:
        return response.json()
    except ValueError as error:
        raise SimulationError(f"{url} answers, but not as Plumbline's API does; check --url.") from error


def _unreachable(url, error):
    if isinstance(error, httpx.TimeoutException):
        return f"The server at {url} did not answer within {TIMEOUT_SECONDS:g} s; see its log, then try again."
    return f"No Plumbline server answers at {url}; start it with `plumbline up`, or name another address with --url."


def _refused(response, url, project):
    if response.status_code == 404:
        return f"The server at {url} has no project {project}; does it use another data directory than this command?"
    if response.status_code == 401:
        return f"The server at {url} does not know this command's tokens; it must use the same database as the server."
    try:
        reason = response.json()["error"]["message"]
    except (ValueError, KeyError, TypeError):
        reason = "see the server's log"
    return f"The server at {url} answered {response.status_code}: {reason}"


def _count_alike(first, second):
    """How many pairs both orders put the same way, and how many both order at all."""
    ordered = set(comparisons(first))
    alike = total = 0
    for better, worse in comparisons(second):
        alike += (better, worse) in ordered
        total += (better, worse) in ordered or (worse, better) in ordered
    return alike, total

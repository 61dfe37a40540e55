"""The line that shows how far a run is, on a terminal only."""

import io

from training.engine import bar


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_it_shows_loss_rate_and_time_left():
    now = [100.0]
    terminal = Terminal()
    line = bar.Bar("sft", 48, stream=terminal, clock=lambda: now[0])
    line.start(8)
    line.note({"loss": 1.23456, "tokens_per_second": 4321.4, "grad_norm": 3.0})
    now[0] = 110.0
    line.advance(18)  # 10 steps in 10 s, 30 are left
    shown = "sft [#########---------------] 18/48  loss 1.235  4,321 tokens/s  0:30 left"
    assert terminal.getvalue() == "\r" + shown
    now[0] = 110.05
    line.advance(19)
    assert terminal.getvalue() == "\r" + shown, "not drawn more than ten times a second"
    line.advance(48)
    last = terminal.getvalue().split("\r")[-1]
    assert last.endswith("\n") and "48/48" in last and "0:00 left" in last
    assert len(last.rstrip("\n")) >= len(shown), "what stood there before is wiped"


def test_it_is_silent_where_nobody_looks():
    stream = io.StringIO()
    line = bar.Bar("ppo", 2, stream=stream)
    line.start(0)
    line.advance(1)
    line.advance(2)
    line.end()
    assert stream.getvalue() == ""


def test_it_writes_times_as_people_do():
    assert [bar.clock_time(seconds) for seconds in (4.4, 75, 3675)] == ["0:04", "1:15", "1:01:15"]

"""A line on the terminal that shows how far a run is, when a person runs it by hand."""

import sys
import time

WIDTH = 24
REDRAW_SECONDS = 0.1
SHOWN = ("loss", "score_mean", "win_rate")  # the first of them that a stage measures
RATES = {
    "tokens_per_second": "tokens/s",
    "rankings_per_second": "rankings/s",
    "episodes_per_second": "episodes/s",
}


class Bar:
    """`stage [####----] 12/40  loss 1.234  5,678 tokens/s  1:23 left`, drawn over itself."""

    def __init__(self, stage, total_steps, *, stream=None, clock=time.monotonic):
        self.stage, self.total_steps = stage, total_steps
        self.stream = stream or sys.stderr
        self.is_shown = self.stream.isatty()
        self._clock = clock
        self._began, self._first, self._drawn_at, self._length = clock(), 0, -REDRAW_SECONDS, 0
        self._values = {}

    def start(self, step):
        """The run begins or goes on at this step, which the time left is reckoned from."""
        self._began, self._first = self._clock(), step

    def note(self, values):
        """Takes up readings {name: number} to show."""
        self._values |= values

    def advance(self, step):
        """Draws the line anew, at most ten times a second; the last step always, with the line's end."""
        now = self._clock()
        last = step == self.total_steps
        if not self.is_shown or (now - self._drawn_at < REDRAW_SECONDS and not last):
            return
        self._drawn_at = now
        line = self.line(step, now)
        self.stream.write("\r" + line.ljust(self._length) + ("\n" if last else ""))
        self.stream.flush()
        self._length = len(line)

    def line(self, step, now):
        filled = WIDTH * step // self.total_steps
        parts = [f"{self.stage} [{'#' * filled}{'-' * (WIDTH - filled)}] {step}/{self.total_steps}"]
        parts += [f"{name} {self._values[name]:.4g}" for name in SHOWN if name in self._values][:1]
        parts += [f"{self._values[name]:,.0f} {unit}" for name, unit in RATES.items() if name in self._values][:1]
        if step > self._first:
            parts.append(f"{clock_time((now - self._began) / (step - self._first) * (self.total_steps - step))} left")
        return "  ".join(parts)

    def end(self):
        """Leaves the line where it is; what is printed next begins on a new one."""
        if self._length and self.is_shown:
            self.stream.write("\n")
            self._length = 0


def clock_time(seconds):
    """75 -> 1:15, 3675 -> 1:01:15."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"

"""What both sides of benchmarks/engine.py measure with. Standard library only: it runs in the peers' environments."""

import json
import resource
import sys
import time


def read_task():
    """The task that engine.py names on the command line."""
    return json.loads(sys.argv[1])


def load_data(task):
    """What engine_world.py made for this shape."""
    with open(f"{task['folder']}/data.json") as file:
        return json.load(file)


class Steps:
    """Clock, processor time and units of each step. The first step warms up and does not count."""

    def __init__(self):
        self.units, self.seconds, self.cpu_seconds = [], [], []
        self.done = -1
        self.start()

    def start(self):
        self.began, self.cpu_began = time.perf_counter(), time.process_time()

    def end(self, units):
        if self.done >= 0:
            self.units.append(units)
            self.seconds.append(time.perf_counter() - self.began)
            self.cpu_seconds.append(time.process_time() - self.cpu_began)
        self.done += 1
        self.start()

    def report(self):
        """One line that engine.py reads; megabytes: the most memory that was resident."""
        megabytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        found = {"units": self.units, "seconds": self.seconds, "cpu_seconds": self.cpu_seconds, "megabytes": megabytes}
        print("RESULT " + json.dumps(found), flush=True)

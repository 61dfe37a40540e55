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


def resident_megabytes():
    """Memory of this process now."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize() / 2**20


class Steps:
    """Clock, processor time, units and FLOPs of each step. The first step warms up and does not count."""

    def __init__(self):
        self.units, self.seconds, self.cpu_seconds, self.flops = [], [], [], []
        self.megabytes = self.loaded = 0
        self.done = -1
        self.start()

    def start(self):
        if self.done < 0:
            self.loaded = resident_megabytes()
        self.began, self.cpu_began = time.perf_counter(), time.process_time()

    def end(self, units, flops=0):
        if self.done >= 0:
            self.units.append(units)
            self.flops.append(flops)
            self.seconds.append(time.perf_counter() - self.began)
            self.cpu_seconds.append(time.process_time() - self.cpu_began)
        self.megabytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        self.done += 1
        self.start()

    def report(self, **more):
        """One line that engine.py reads; megabytes: the most memory that was resident; grown: how much of it came after
        the libraries and the networks were loaded."""
        times = {"seconds": self.seconds, "cpu_seconds": self.cpu_seconds}
        found = {"units": self.units, "flops": self.flops, **times, "megabytes": self.megabytes}
        found["grown"] = self.megabytes - self.loaded
        print("RESULT " + json.dumps(found | more), flush=True)

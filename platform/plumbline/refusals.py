"""What the log says of requests that were refused."""

import logging


class WithoutTraceback(logging.Filter):
    """A request that was refused (403, 404, …) is no fault of ours: its line stays, where in the code does not."""

    def filter(self, record):
        if getattr(record, "status_code", 500) < 500:
            record.exc_info = record.exc_text = None
        return True

"""What the program says while it works: loggers named by their module, shown as plain lines by the command line.

As a library elsa is silent but for warnings, as `logging` has it.
"""

import logging
import os
import sys

LAUNCHER = "ELSA_LAUNCHED_BY"  # variable of the process that started this rank, and that says how it ended


def is_first() -> bool:
    """Whether this process is alone, or the first of the ranks that share a run: the one that the user hears."""
    return os.environ.get("RANK", "0") == "0"


def show_on_console() -> None:
    """Send what loggers of elsa say to the terminal: errors to stderr after "elsa: ", the rest to stdout.

    Of the ranks that torchrun has started the others say errors alone.
    """
    logger = logging.getLogger("elsa")
    logger.setLevel(logging.INFO if is_first() or LAUNCHER in os.environ else logging.ERROR)
    if not any(isinstance(handler, _Console) for handler in logger.handlers):
        logger.addHandler(_Console())


class _Console(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        failed = record.levelno >= logging.ERROR
        stream = sys.stderr if failed else sys.stdout  # looked up now, for whoever has put another in their place
        print(f"elsa: {record.getMessage()}" if failed else record.getMessage(), file=stream, flush=True)

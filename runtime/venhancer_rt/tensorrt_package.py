"""Packages TensorRT and TensorRT-RTX; their interfaces agree on all that is used here."""

from __future__ import annotations

import logging
from importlib import import_module
from typing import Any

from venhancer.errors import DeviceError

logger = logging.getLogger(__name__)

TITLES = {"tensorrt": "TensorRT", "tensorrt-rtx": "TensorRT-RTX"}  # by builder
LINE = 400  # characters of an error message that are passed on


def require_tensorrt(builder: str) -> Any:
    """Import the package that runs engines of `builder`; DeviceError says how to install it."""
    command = f"run `pip install 'venhancer[{builder}]'`"
    try:
        return import_module(builder.replace("-", "_"))
    except ModuleNotFoundError as error:
        raise DeviceError(f"{TITLES[builder]} is not installed: {command}") from error
    except (ImportError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise DeviceError(
            f"{TITLES[builder]} cannot be loaded ({reason}): {command} anew"
        ) from error


def title(builder: str) -> str:
    """Return name and version of the package that runs engines of `builder`."""
    return f"{TITLES[builder]} {require_tensorrt(builder).__version__}"


class Complaints:
    """Log of a package's messages: errors are kept, warnings go to Python's log."""

    def __init__(self) -> None:
        self.errors: list[str] = []
        self.interrupt: KeyboardInterrupt | None = None

    def log(self, severity: Any, message: str) -> None:
        try:
            if severity.name in ("ERROR", "INTERNAL_ERROR"):
                self.errors.append(message)
            elif severity.name == "WARNING":
                logger.info(message)
        except KeyboardInterrupt as error:  # C++ would swallow it
            self.interrupt = error

    def start(self) -> None:
        """Forget earlier messages; raise a Ctrl-C that came meanwhile."""
        self.errors.clear()
        error, self.interrupt = self.interrupt, None
        if error is not None:
            raise error

    def take(self) -> str:
        """Return the errors since `start` in one line, and forget them."""
        text = " ".join("; ".join(dict.fromkeys(self.errors)).split())
        self.start()
        return (text if len(text) <= LINE else f"{text[:LINE]} ...") or "it gave no reason"


_logs: dict[int, Any] = {}  # by id of the package


def collect_log(trt: Any) -> Any:
    """Return the logger of `trt`, which is a `Complaints` too.

    There is one for each package, as long as the process lives. The package keeps a pointer to the
    first logger that it gets, does not own it, and hangs or crashes when that logger is gone.
    """
    if id(trt) not in _logs:
        _logs[id(trt)] = _new_log(trt)
    return _logs[id(trt)]


def _new_log(trt: Any) -> Any:
    class Log(Complaints, trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)  # its constructor does not call the next one
            Complaints.__init__(self)

    return Log()

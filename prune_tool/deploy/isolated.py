"""Files in processes of their own, asked from here: see ``worker``."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict
from types import TracebackType
from typing import Any

from prune_tool.deploy.worker import Order, Start
from prune_tool.errors import RunError


class Isolated:
    """A running worker. Leaving the ``with`` block ends its process.

    Attributes:
        start: how its file started.

    Raises:
        RunError: the process ended before it was told to; what it said last is in the message.
    """

    def __init__(self, order: Order) -> None:
        self._order = order
        self._process = subprocess.Popen(  # noqa: S603 - this very interpreter, and no shell
            [sys.executable, "-m", "prune_tool.deploy.worker", json.dumps(asdict(order))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
        )
        try:
            self.start = Start(**self._hear())
        except BaseException:
            self.close()
            raise

    def turn(self) -> list[float]:
        """Latencies in milliseconds of one turn, see ``bound.take_turn``."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write("turn\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._ended() from None
        latencies: list[float] = self._hear()
        return latencies

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.communicate()

    def __enter__(self) -> Isolated:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _hear(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise self._ended()
        return json.loads(line)

    def _ended(self) -> RunError:
        _, said = self._process.communicate()
        last = (said.strip().splitlines() or [f"status {self._process.returncode}"])[-1]
        return RunError(
            asked=f"run {self._order.path} in a process of its own",
            found=f"the process ended: {last}",
            remedy="Time it without --isolated and with --starts 0, or free some memory",
        )

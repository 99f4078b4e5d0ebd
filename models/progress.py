"""Progress of training on stderr."""

import sys
import time
from collections.abc import Callable

from tqdm import tqdm

PLAIN_SECONDS = 10.0


class Progress:
    """A tqdm bar on a terminal, otherwise a plain line every ten seconds with the time left; both on stderr.

    Args:
        total: steps that are planned.
        max_seconds: the time budget, if there is one.
    """

    def __init__(self, total: int, max_seconds: float | None) -> None:
        self.total, self.max_seconds, self.step = total, max_seconds, 0
        self.started = self.printed = time.monotonic()
        self.bar = tqdm(total=total, unit="step", file=sys.stderr) if sys.stderr.isatty() else None

    def __enter__(self) -> Callable[[str], None]:
        return self._advance

    def __exit__(self, *exc_info: object) -> None:
        if self.bar is not None:
            self.bar.close()

    def _advance(self, text: str) -> None:
        self.step += 1
        if self.bar is not None:
            self.bar.set_postfix_str(text, refresh=False)
            self.bar.update()
            return
        now = time.monotonic()
        if now - self.printed < PLAIN_SECONDS and self.step < self.total:
            return
        self.printed = now
        used = now - self.started
        left = used / self.step * (self.total - self.step)
        if self.max_seconds:
            left = min(left, max(0.0, self.max_seconds - used))
        print(f"step {self.step}/{self.total}, {text}, about {left:.0f} s left", file=sys.stderr, flush=True)

"""Shows the progress of a training on stderr."""

import sys
import time
from collections.abc import Callable

from tqdm import tqdm

PLAIN_SECONDS = 10.0


class ProgressBar:
    """A tqdm bar on a terminal, otherwise a plain line every ten seconds with the time left; both on stderr.

    Args:
        total: number of planned steps.
        first: number of steps already done.
        max_seconds: the time budget, if there is one.
        is_shown: whether this process may show a bar; of several processes only one does.
    """

    def __init__(self, total: int, first: int, max_seconds: float | None, is_shown: bool) -> None:
        self.total, self.first, self.max_seconds, self.step = total, first, max_seconds, first
        self.started = self.printed = time.monotonic()
        is_bar = is_shown and sys.stderr.isatty()
        self.bar = tqdm(total=total, initial=first, unit="step", file=sys.stderr) if is_bar else None

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
        left = used / (self.step - self.first) * (self.total - self.step)
        if self.max_seconds:
            left = min(left, max(0.0, self.max_seconds - used))
        print(f"step {self.step}/{self.total}, {text}, about {left:.0f} s left", file=sys.stderr, flush=True)

"""A sampling profile on processor time, without a cost per function call.

Called by: `core`, `http_profile`. SIGPROF comes after every millisecond of this process's processor time; the handler
walks the main thread's stack and counts. A tracing profiler would add more to a call of 100 microseconds than the call
itself. Time in C is counted for the Python function that called it.

Sources: setitimer(2), ITIMER_PROF (its real step is the kernel's tick, 1 to 4 ms).
"""

from __future__ import annotations

import collections
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import CodeType, FrameType

from tests.bench import report


class Profile:
    """Samples of the main thread's stack, taken on processor time."""

    def __init__(self) -> None:
        self.stacks: collections.Counter[tuple[CodeType, ...]] = collections.Counter()
        self._counts = True

    @contextmanager
    def sampling(self) -> Iterator[None]:
        """Sample while the block runs."""
        before = signal.signal(signal.SIGPROF, self._sample)
        signal.setitimer(signal.ITIMER_PROF, 0.001, 0.001)
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
            signal.signal(signal.SIGPROF, before)

    @contextmanager
    def counting(self) -> Iterator[None]:
        """Forget what was sampled so far, and stop counting with the block: start and end of a server do not count."""
        self.stacks.clear()
        yield
        self._counts = False

    def _sample(self, _number: int, frame: FrameType | None) -> None:
        stack = []
        while frame is not None:
            stack.append(frame.f_code)
            frame = frame.f_back
        # A signal may come while this very function runs; such a sample is of no interest.
        if self._counts and stack and _SAMPLE not in stack:
            self.stacks[tuple(stack)] += 1

    def tables(self, cost_us: float, most: int = 30) -> list[str]:
        """The heaviest functions, and files, as text; `cost_us` is what one call costs in all."""
        taken = self.stacks.total()
        one = cost_us / max(1, taken)
        own, total, files = self._counted()
        functions = [[name, f"{count * one:.1f}", f"{total[name] * one:.1f}"] for name, count in own.most_common(most)]
        ours = {_name(code) for stack in self.stacks for code in stack if "/mcpd/" in code.co_filename}
        heavy = [[name, f"{count * one:.1f}"] for name, count in total.most_common() if name in ours][:most]
        by_file = [[name, f"{count * one:.1f}"] for name, count in files.most_common(most)]
        return [
            report.table([f"profile ({taken} samples)", "own us", "total us"], functions),
            report.table(["ours, with all they call", "total us"], heavy),
            report.table(["by file", "own us"], by_file),
        ]

    def _counted(self) -> tuple[collections.Counter[str], collections.Counter[str], collections.Counter[str]]:
        own, total, files = collections.Counter[str](), collections.Counter[str](), collections.Counter[str]()
        for stack, count in self.stacks.items():
            own[_name(stack[0])] += count
            files[_file(stack[0])] += count
            for name in {_name(code) for code in stack}:
                total[name] += count
        return own, total, files

    def callers(self, word: str, depth: int = 6) -> collections.Counter[str]:
        """Who led to the functions whose name contains `word`, as text, most frequent first."""
        found = collections.Counter[str]()
        for stack, count in self.stacks.items():
            if word in _name(stack[0]):
                found[" < ".join(_name(code) for code in stack[:depth])] += count
        return found


_SAMPLE = Profile._sample.__code__


def _file(code: CodeType) -> str:
    return "/".join(Path(code.co_filename).parts[-2:])


def _name(code: CodeType) -> str:
    return f"{_file(code)} {code.co_qualname}"

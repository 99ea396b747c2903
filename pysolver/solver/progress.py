"""The progress bar of a training, on a terminal."""

from __future__ import annotations

import contextlib
import sys
from types import TracebackType
from typing import TextIO

from pysolver.logs import events as e
from pysolver.logs.events import Emit
from pysolver.logs.run import is_accuracy
from pysolver.logs.writer import CaffeLog
from pysolver.solver.solver import Solver

_CLEAR = "\r\x1b[J"  # from the cursor to the end of the screen
_NO_WRAP, _WRAP = "\x1b[?7l", "\x1b[?7h"
_FORM = "{n}/{total}, {remaining} left{postfix}, {rate_fmt} |{bar}|"  # a narrow terminal cuts it at the right
_ORDER = ("epoch", "loss", "test", "lr")


class ProgressBar:
    """Counts iterations, on a terminal only; a log that goes to the same terminal scrolls above it.

    It shows the epoch, loss, accuracy of the last test, learning rate, pace and time left, and leaves two lines: best
    and last accuracy, and the files that were written.
    """

    def __init__(self, solver: Solver, log: Emit) -> None:
        self._log = log if isinstance(log, CaffeLog) else CaffeLog()
        self._beneath = self._log.stream
        self._bar = None
        self._solver, self._epochs = solver, epochs_an_iteration(solver)
        self._told: dict[str, str] = {}
        self._tested = (0, 0)  # iteration, number of the net
        self._tests: dict[int, tuple[str, float]] = {}  # by iteration: name and value of the accuracy
        self._written: list[str] = []
        terminal = next((stream for stream in (sys.stderr, sys.stdout) if stream.isatty()), None)
        if terminal is None:
            return
        from tqdm import tqdm

        self._bar = tqdm(
            total=solver.param.max_iter,
            initial=solver.iter,
            unit="iter",
            file=_Terminal(terminal),
            leave=False,
            bar_format=_FORM,
            dynamic_ncols=True,
        )
        solver.add_callback(lambda: None, self._count)

    def _count(self) -> None:
        if self._epochs:
            self._told["epoch"] = f"{(self._solver.iter + 1) * self._epochs:.2f}"
        told = ", ".join(f"{name} {self._told[name]}" for name in _ORDER if name in self._told)
        self._bar.set_postfix_str(told, refresh=False)
        self._bar.update()

    def __call__(self, event: e.Event) -> None:
        match event:
            case e.Display(_, loss):
                self._told["loss"] = f"{loss:.4g}"
            case e.Rate(_, lr):
                self._told["lr"] = f"{lr:.3g}"
            case e.Testing(iteration, net):
                self._tested = iteration, net
            case e.Output("Test", _, name, value, None) if self._tested[1] == 0 and is_accuracy(name):
                if self._tested[0] not in self._tests:
                    self._tests[self._tested[0]] = name, value
                    self._told["test"] = f"{value:.4g}"
            case e.Snapshot(_, _, file):
                self._written.append(file)

    def summary(self) -> str:
        """Best and last accuracy of the tests, and the files that were written, each in a line if there is any."""
        text = ""
        if self._tests:
            best = max(self._tests, key=lambda iteration: self._tests[iteration][1])
            last = max(self._tests)
            (name, high), (_, final) = self._tests[best], self._tests[last]
            text += f"Best test {name} {high:.4g} (iteration {best}), final {final:.4g} (iteration {last})\n"
        if self._written:
            text += f"Written: {' '.join(self._written[-2:])}"
            text += f" and {len(self._written) - 2} earlier files\n" if len(self._written) > 2 else "\n"
        return text

    def write(self, text: str) -> None:
        """A log line, above the bar."""
        self._bar.write(text, file=self._bar.fp, end="")

    def flush(self) -> None:
        """Nothing is held back."""

    def __enter__(self) -> ProgressBar:
        if self._bar is not None and sys.stderr.isatty():
            self._log.stream = self  # type: ignore[assignment]  # a stream as far as a log needs one
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._log.stream = self._beneath
            self._bar.close()
            self._bar.fp.end(self.summary())


class _Terminal:
    """Draws the bar so that the cursor stands at its beginning.

    A terminal that becomes narrower breaks the line into several, and the cursor stays with its character: all of
    them lie behind it and are wiped before the next drawing. Without wrapping, a bar that was made for the old width
    is cut instead of broken.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.encoding = stream.encoding

    def write(self, text: str) -> None:
        """The bar, which tqdm begins with a return and ends with blanks over what was longer; or a log line."""
        if not text.startswith("\r"):
            self._stream.write(text)
            return
        bar = text.strip("\r ")
        self._draw(f"{_CLEAR}{_NO_WRAP}{bar}{_WRAP}\r" if bar else _CLEAR)

    def end(self, text: str) -> None:
        """The last lines, in the place of the bar."""
        self._draw(_CLEAR + text)

    def _draw(self, text: str) -> None:
        with contextlib.suppress(OSError):  # the terminal was closed: the training goes on
            self._stream.write(text)
            self._stream.flush()

    def flush(self) -> None:
        """What draws flushes; a log line is flushed by tqdm's next drawing."""

    def __getattr__(self, name: str) -> object:
        return getattr(self._stream, name)


def epochs_an_iteration(solver: Solver) -> float | None:
    """What part of the training data an iteration takes; None if no source of the net says how much there is."""
    for source in solver.net.sources.values():
        if source.records:
            return source.top_shapes()[0][0] * solver.param.iter_size * solver.ranks.size / source.records
    return None

"""What the commands show on a terminal."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar

from aquatint.compiler.pipeline import Progress

console = Console()
if not console.is_terminal:
    console = Console(width=120)  # of a log: a table in 80 columns is cut


@contextmanager
def progress_bar() -> Iterator[Progress]:
    """A bar that follows the compiler: yields a callback for `optimize(progress=...)`."""
    columns = TextColumn("{task.description:<64}"), BarColumn(bar_width=24), TimeElapsedColumn()
    with Bar(*columns, console=console, transient=True) as progress:
        task = progress.add_task("start", total=None)

        def follow(what: str, done: int, total: int) -> None:
            progress.update(task, description=what[:64], completed=done, total=total)

        yield follow

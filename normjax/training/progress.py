"""What a person sees while a network trains: a bar with throughput and time left, a line an epoch."""

from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    ProgressColumn,
    Task,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as RichProgress
from rich.text import Text


class Progress:
    """The bar of a training.

    Args:
      console: where it is drawn; on something else than a terminal only the lines of the epochs are written.
      total: steps of the training.
      start: steps done before.
      batch_size: images of a step.
    """

    def __init__(self, console: Console, total: int, start: int, batch_size: int):
        self._console = console
        self._train: dict[str, Any] = {}
        self._bar = RichProgress(
            TextColumn("epoch {task.fields[epoch]:5.1f}"),
            BarColumn(bar_width=None),
            TaskProgressColumn(),
            MofNCompleteColumn(),
            TextColumn("steps"),
            _Throughput(batch_size),
            TextColumn("{task.fields[note]}"),
            TimeRemainingColumn(),
            TextColumn("left"),
            console=console,
            transient=True,
            disable=not console.is_terminal,
            speed_estimate_period=60,
        )
        self._task = self._bar.add_task("training", total=total, completed=start, epoch=0.0, note="")

    def __enter__(self) -> "Progress":
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def advance(self, step: int, line: dict[str, Any]) -> None:
        """Moves the bar to ``step``; ``line`` is that of the training metrics."""
        self._train = line
        note = f"loss {_number(line['loss'], '.3f')}"
        self._bar.update(self._task, completed=step, epoch=line["epoch"], note=note)

    def report(self, validation: dict[str, Any] | None) -> None:
        """Writes the line of an epoch; ``validation`` is that of the validation metrics, None where there are none."""
        text = f"epoch {self._train['epoch']:6.1f}   train loss {_number(self._train['loss'], '.4f')}"
        if validation is not None:
            text += f"   validation loss {_number(validation['loss'], '.4f')}"
            text += f"   accuracy {_number(validation['accuracy'], '.2%')}"
        self._console.print(text, highlight=False)


class _Throughput(ProgressColumn):
    """Images a second, over the last minute."""

    def __init__(self, batch_size: int):
        super().__init__()
        self._batch_size = batch_size

    def render(self, task: Task) -> Text:
        speed = task.speed
        return Text("" if speed is None else f"{speed * self._batch_size:,.0f} images/s")


def _number(value: float | None, form: str) -> str:
    return "not finite" if value is None else format(value, form)

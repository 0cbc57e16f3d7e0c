"""A study from its first run to its tables and figures."""

import importlib.util
from pathlib import Path

from rich.console import Console

from normjax.errors import UserError
from normjax.studies import find_study
from normjax.studies.trials import carry_out, read_results


def carry_out_study(
    name: str,
    folder: Path,
    *,
    data_dir: Path | None,
    jobs: int = 2,
    budget: float = 1.0,
    report: bool = False,
    console: Console | None = None,
) -> None:
    """Runs what is left of a study and writes ``NAME.json``, ``NAME.md`` and figures.

    Args:
      name: of the study.
      folder: where they go.
      data_dir: where data sets lie.
      jobs: runs at a time; 0 runs them one by one in this process.
      budget: share of the full length.
      report: run nothing, and report on the numbers that are there.
      console: where progress and tables are shown.

    Raises:
      UserError: a run failed, the folder cannot be written to, or there is nothing to report on.
    """
    console = console or Console(quiet=True)
    study = find_study(name)
    if missing := [package for package in study.REQUIRES if importlib.util.find_spec(package) is None]:
        raise UserError(f"the study needs {missing[0]}: pip install 'normjax[study]'.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder} cannot be written to: {error.strerror}.") from error
    # A trial of the study must not be taken for the study.
    file = folder / (f"{name}.json" if budget == 1 else f"{name}-{budget:g}.json")
    if report:
        results = read_results(file)
        if not results:
            raise UserError(f"{file} holds no results; run the study without --report.")
    else:
        results = carry_out(
            lambda results: study.plan(results, budget), file, data_dir=data_dir, jobs=jobs, console=console
        )
    text = study.table(results)
    try:
        file.with_suffix(".md").write_text(text)
    except OSError as error:
        raise UserError(f"{file.with_suffix('.md')} cannot be written: {error.strerror}.") from error
    study.draw(results, file.with_suffix(""), data_dir)
    console.print(text, highlight=False, markup=False)

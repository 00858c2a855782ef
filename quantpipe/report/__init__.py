"""Reports: what is known about a published generation, as JSON, a page, text and a model card."""

from __future__ import annotations

from pathlib import Path

from quantpipe.errors import UsageError
from quantpipe.report.choose import find_generation, find_recipe
from quantpipe.report.document import GenerationReport, StoreReport
from quantpipe.report.gather import report_of
from quantpipe.report.index import store_report, write_index
from quantpipe.report.places import index_folder
from quantpipe.report.write import keep_report, write_report
from quantpipe.store.faults import storage_faults
from quantpipe.store.store import Store


def report_generation(
    store: Store,
    recipe: Path,
    *,
    generation: str | None = None,
    run: str | None = None,
    output: Path | None = None,
    keep: bool = True,
) -> tuple[GenerationReport, Path | None]:
    """The report of a generation, and its page where one was written.

    Args:
        recipe: a file, or the name of a recipe that ships or is in the store.
        generation: first digits of its digest; the current one without.
        run: id of the run that published it.
        output: a folder to write to; the generation's own place in the store without.
        keep: write, if no output is given.

    Raises:
        UsageError: there is no such generation, or both a generation and a run were given.
        RecipeError: there is no such recipe.
    """
    if generation is not None and run is not None:
        raise UsageError("--generation and --run exclude each other", hint="give one of them")
    name, loaded = find_recipe(store, recipe)
    found = report_of(store, name, find_generation(store, name, generation, run), loaded)
    if output is not None:
        with storage_faults(output):
            return found, write_report(found, output)
    with storage_faults(store.root):
        return found, keep_report(store, found) if keep else None


def report_store(
    store: Store, output: Path | None = None, *, keep: bool = True
) -> tuple[StoreReport, Path | None]:
    """The report of a whole store, and its page where one was written; arguments as `report_generation`."""
    found = store_report(store)
    folder = output or (index_folder(store) if keep else None)
    if folder is None:
        return found, None
    with storage_faults(folder):
        return found, write_index(found, folder, store)

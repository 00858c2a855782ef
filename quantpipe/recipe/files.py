"""The files that a recipe names: found from its folder, and read once, when it is loaded.

A loaded recipe is a value: what decides its result is in it, and nothing that happens to a file later changes
its digest, its keys or its checkpoint.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal, TypeVar

from pydantic import PlainSerializer, PlainValidator, ValidationInfo, WithJsonSchema
from pydantic_core import PydanticCustomError

from quantpipe import durable
from quantpipe.errors import RecipeError
from quantpipe.recipe.datasets import dataset_digest, load_prompts
from quantpipe.recipe.shipped import Role, builtin, is_file, is_folder

HubName = Literal["modelscope", "huggingface", "local"]
Content = TypeVar("Content")

MAX_RECIPE_BYTES = 256 << 10
"""Bytes of a recipe's file: the longest that ship have 3 KB."""

WRONG_FILE = "wrong_file"
"""Type of a validation error that carries the RecipeError of a file (`ctx["error"]`)."""


@dataclass(frozen=True)
class Loading:
    """Pydantic's validation context while a recipe is loaded: what its file does not contain.

    Attributes:
        folder: base of relative paths: the recipe's folder.
        hub: the hub of a source that names none.
    """

    folder: Path
    hub: HubName

    @classmethod
    def of(cls, info: ValidationInfo) -> Loading:
        """The context; outside of `load()` the working directory and huggingface."""
        return info.context if isinstance(info.context, cls) else cls(Path.cwd(), "huggingface")

    def find(self, text: str | Path, role: Role) -> Path:
        """The absolute path of a file or folder that the recipe names.

        Lexically: a snapshot that is a link stays that link.

        Raises:
            PydanticCustomError: nothing is there.
        """
        try:
            path = builtin(str(text), role) or Path(os.path.normpath(self.folder / Path(text).expanduser()))
        except RecipeError as error:
            raise _wrong(error) from error
        except RuntimeError:  # the home of an unknown user
            path = Path(text)
        if not (is_folder(path) if role == "source" else is_file(path)):
            raise PydanticCustomError("missing_file", "no such file or folder: {path}", {"path": str(path)})
        return path


@dataclass(frozen=True)
class Prompts:
    """A dataset as it was when the recipe was loaded.

    Attributes:
        path: where it was read.
        prompts: all of them, in the order of the file.
    """

    path: Path
    prompts: tuple[str, ...] = field(repr=False)

    def digest(self) -> str:
        """SHA-256, in hex, of the prompts and their order, whatever the form and place of the file."""
        return dataset_digest(self.prompts)


def read_named(value: object, info: ValidationInfo, role: Role, read: Callable[[Path], Content]) -> Content:
    """The content of the file that a recipe names by `value`.

    Raises:
        PydanticCustomError: it is missing or wrong; the RecipeError that says how is in its context.
    """
    if not isinstance(value, str | Path):
        raise PydanticCustomError("path_type", "Input should be a file path")
    path = Loading.of(info).find(value, role)
    try:
        return read(path)
    except RecipeError as error:
        raise _wrong(error) from error


def _wrong(error: RecipeError) -> PydanticCustomError:
    return PydanticCustomError(WRONG_FILE, "{what}", {"what": str(error), "error": error})


def _dataset(value: object, info: ValidationInfo) -> Prompts:
    if isinstance(value, Prompts):
        return value
    return read_named(value, info, "dataset", lambda path: Prompts(path, load_prompts(path)))


Dataset = Annotated[
    Prompts,
    PlainValidator(_dataset),
    PlainSerializer(lambda dataset: str(dataset.path), return_type=str),
    WithJsonSchema({"type": "string"}),
]
"""In the file a path, relative to the recipe's folder; in the loaded recipe the prompts."""


def read_text(path: Path, *, most: int = MAX_RECIPE_BYTES) -> str:
    """The text of a recipe or of a probes file.

    Args:
        most: bytes; a longer file is refused unread.

    Raises:
        RecipeError: it is missing, cannot be read, is not UTF-8, too long, or a pipe or a device.
    """
    if is_folder(path):
        raise RecipeError("is a directory", where=str(path), hint="name a file in it")
    try:
        return durable.read_bytes(path, most=most).decode("utf-8")
    except FileNotFoundError:
        near = _similar_files(path)
        hint = f"did you mean {near}?" if near else "`quantpipe recipe list` lists the shipped ones"
        raise RecipeError("no such file", where=str(path), hint=hint) from None
    except UnicodeDecodeError as error:
        raise RecipeError(
            f"not UTF-8 at byte {error.start}", where=str(path), hint="save it as UTF-8"
        ) from error
    except ValueError as error:
        hint = f"a plain file of at most {most:,} bytes is read"
        raise RecipeError(f"the file {error}", where=str(path), hint=hint) from error
    except OSError as error:
        raise RecipeError(
            f"cannot be read: {error.strerror}", where=str(path), hint="check the path and its permissions"
        ) from error


def _similar_files(path: Path) -> str | None:
    if not path.parent.is_dir():
        return None
    names = [entry.name for entry in path.parent.iterdir()]
    near = difflib.get_close_matches(path.name, names, n=1)
    return str(path.parent / near[0]) if near else None

"""The source section of a recipe: where the BF16 weights come from."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pydantic import (
    Field,
    ModelWrapValidatorHandler,
    PrivateAttr,
    ValidationInfo,
    field_validator,
    model_validator,
)

from quantpipe.recipe.files import HubName, Loading
from quantpipe.recipe.section import Section

if TYPE_CHECKING:
    from typing_extensions import Self


def default_hub(environment: Mapping[str, str]) -> HubName:
    """The hub of recipes that name none: chosen by VLLM_USE_MODELSCOPE, as in vLLM."""
    choice = environment.get("VLLM_USE_MODELSCOPE", "").strip().lower()
    return "modelscope" if choice in ("1", "true", "yes", "on") else "huggingface"


class Source(Section):
    """Where the BF16 weights come from.

    Attributes:
        hub: where to fetch from; without the key VLLM_USE_MODELSCOPE decides, once, at load.
        repo: `owner/name` on a hub; for `local` a directory, or `builtin:` and the name of a shipped model.
        revision: branch, tag or commit; None is the hub's default. Resolved to a commit before anything else.
        include: shell patterns of files to fetch; empty means all that serving and quantizing need.
        exclude: shell patterns of files never to fetch.
        unverified: also take files for which the hub lists no hash, so that nothing vouches for their bytes.
    """

    hub: HubName = "huggingface"
    repo: str = Field(min_length=1)
    revision: str | None = None
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    unverified: bool = False
    _hub_is_named: bool = PrivateAttr(default=True)

    @property
    def named_hub(self) -> HubName | None:
        """The hub that the recipe names; None if the host decides."""
        return self.hub if self._hub_is_named else None

    @field_validator("repo")
    @classmethod
    def _directory_is_there(cls, repo: str, info: ValidationInfo) -> str:
        """The absolute path of a local source, once it is known from which folder to look."""
        if info.data.get("hub") != "local" or info.context is None:
            return repo
        return str(Loading.of(info).find(repo, "source"))

    @model_validator(mode="wrap")
    @classmethod
    def _hub_of_the_host(
        cls, value: Any, handler: ModelWrapValidatorHandler[Self], info: ValidationInfo
    ) -> Self:
        if not isinstance(value, dict) or "hub" in value:
            return handler(value)
        source = handler({**value, "hub": Loading.of(info).hub})
        source._hub_is_named = False
        return source

    @model_validator(mode="after")
    def _repo_fits_hub(self) -> Source:
        if self.hub != "local" and not re.fullmatch(r"[\w.-]+/[\w.-]+", self.repo):
            raise ValueError(f"repo {self.repo!r} is not of the form owner/name")
        if self.hub == "local" and self.revision is not None:
            raise ValueError("a local source has no revision: remove the key")
        if self.hub == "local" and self.unverified:
            raise ValueError("a local source is hashed here: remove `unverified`")
        return self

"""The license of a source, for the model card: as its README's metadata says, or its LICENSE file."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quantpipe.checkpoint.names import LICENSE_FILES

_ID = re.compile(r"[a-z0-9][a-z0-9.+-]{0,40}")
_LONGEST = 1 << 20
_KNOWN: Mapping[str, tuple[str, ...]] = {
    "apache-2.0": ("Apache License", "Version 2.0"),
    "mit": ("Permission is hereby granted, free of charge",),
    "bsd-3-clause": ("Redistribution and use in source and binary forms", "Neither the name"),
}
"""Phrases that only the text of that license has, by Hugging Face's name of the license."""


@dataclass(frozen=True)
class License:
    """A license.

    Attributes:
        id: Hugging Face's name, `other` where it has none; empty where the source says nothing.
        name, link: of one that is `other`; empty where they are not known.
        origin: where it was found; empty where it was not.
    """

    id: str = ""
    name: str = ""
    link: str = ""
    origin: str = ""

    def metadata(self) -> dict[str, str]:
        """The keys of a model card."""
        found = {"license": self.id, "license_name": self.name, "license_link": self.link}
        return {key: value for key, value in found.items() if value}


def source_metadata(snapshot: Path) -> dict[str, Any]:
    """The metadata of the source's README.md; empty where it has none that can be read."""
    from huggingface_hub import metadata_load

    path = snapshot / "README.md"
    try:
        if path.stat().st_size > _LONGEST:
            return {}
        found = metadata_load(path)
    except Exception:  # somebody else's file: whatever is wrong with it, it says nothing
        return {}
    return found if isinstance(found, dict) else {}


def license_of(snapshot: Path, metadata: Mapping[str, Any]) -> License:
    """The license; the metadata come first.

    Args:
        metadata: as `source_metadata`.
    """
    said = metadata.get("license")
    if isinstance(said, list) and said:
        said = said[0]
    if isinstance(said, str) and said.strip():
        return _stated(said.strip(), metadata)
    for name in LICENSE_FILES:
        if (snapshot / name).is_file():
            text = (snapshot / name).read_bytes()[:_LONGEST].decode("utf-8", "replace")
            found = _recognized(text)
            return License(found, link=name if found == "other" else "", origin=name)
    return License()


def _stated(said: str, metadata: Mapping[str, Any]) -> License:
    """ModelScope's pages say it in words: `Apache License 2.0`."""
    origin = "README.md"
    if said.lower() in ("apache license 2.0", "apache 2.0"):
        return License("apache-2.0", origin=origin)
    if _ID.fullmatch(said) and said != "other":
        return License(said, origin=origin)
    name = said if said != "other" else str(metadata.get("license_name") or "")
    return License("other", name, str(metadata.get("license_link") or ""), origin)


def _recognized(text: str) -> str:
    plain = " ".join(text.split())
    return next((id for id, phrases in _KNOWN.items() if all(p in plain for p in phrases)), "other")

"""The store that 0.1.0 wrote (golden/README.md), made whole: a published generation without a run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from quantpipe.store.store import Store

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "tests" / "golden" / "0.1.0"
ASSET = ROOT / "quantpipe" / "assets" / "tiny-qwen3-moe"
NAME = "tiny-qwen3-moe-w8a8-rot"
DIGEST = "ea3ca92ca8bac5aedc601efa10cea9d1f66373ef96584636015d5aae83ba5499"


def written(value: Any) -> str:
    """As durable.write_json does."""
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


def golden_store(folder: Path) -> Store:
    """A writable copy, made whole where files on another filesystem cannot be what they were."""
    root = folder / "store"
    shutil.copytree(GOLDEN / "store", root, symlinks=True)
    _restore_snapshot(next(root.glob("sources/local/*/*/")))
    _restore_checkpoint(root / "models" / NAME / DIGEST)
    return Store(root)


def _restore_snapshot(snapshot: Path) -> None:
    """The weights from the asset that they were fetched from; mtime and inode in the receipts are those of
    0.1.0's machine, and would say that every file was replaced."""
    for path in ASSET.iterdir():
        receipt_path = snapshot / ".quantpipe" / "receipts" / f"{path.name}.json"
        if not receipt_path.is_file():
            continue
        shutil.copyfile(path, snapshot / path.name)
        receipt = json.loads(receipt_path.read_text())
        for name, file in (("stamp", snapshot / path.name), ("origin", path)):
            found = file.stat()
            assert receipt[name]["size"] == found.st_size
            receipt[name] |= {"mtime_ns": found.st_mtime_ns, "inode": found.st_ino}
        receipt_path.write_text(written(receipt))


def _restore_checkpoint(checkpoint: Path) -> None:
    """Sparse files: a no-op refresh looks at names and sizes."""
    provenance = json.loads((checkpoint / "quantpipe.json").read_text())
    for entry in provenance["manifest"]["files"]:
        (checkpoint / entry["path"]).parent.mkdir(exist_ok=True)
        with (checkpoint / entry["path"]).open("wb") as file:
            file.truncate(entry["size"])


def golden_recipe(folder: Path) -> Path:
    """The recipe of that run; its paths lead from a folder beside `recipes` into this checkout."""
    text = (GOLDEN / "recipe.yaml").read_text().replace("../", f"{ROOT}/")
    path = folder / "recipe.yaml"
    path.write_text(text)
    return path

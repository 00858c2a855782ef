"""A server's view: follow `current` again and again, and compare what is there with the manifest.

    python -IS reader.py PAUSE

A line on stdin names the folder `models/<recipe>` to follow; an empty one ends that, and is answered by
{"looks": N, "moves": N, "wrong": [...]}. PAUSE: seconds between looks. Standard library only.

A look resolves the pointer once, as servers do, and goes on with the generation that it named. Where that is
not whole, and the pointer has named another one meanwhile, the look was that of a reader slower than `keep`
publishes: it does not count.
"""

import json
import os
import select
import sys
import time
from pathlib import Path
from typing import Any


class Reader:
    def __init__(self) -> None:
        self.looks = self.moves = 0
        self.wrong: list[str] = []
        self._manifests: dict[str, dict[str, int]] = {}
        self._last: str | None = None

    def look(self, folder: Path) -> None:
        try:
            name = os.readlink(folder / "current")  # noqa: PTH115
        except OSError as error:
            if self._last is not None:
                self.wrong.append(f"the pointer is gone: {error}")
            return
        self.looks += 1
        self.moves += name != self._last
        self._last = name
        if (problem := self._problem(folder / name)) and os.readlink(folder / "current") == name:  # noqa: PTH115
            self.wrong.append(f"{name[:12]}: {problem}")

    def _problem(self, generation: Path) -> str | None:
        try:
            if generation.name not in self._manifests:
                manifest = json.loads((generation / "quantpipe.json").read_text())["manifest"]
                self._manifests[generation.name] = {
                    entry["path"]: entry["size"] for entry in manifest["files"]
                }
            for path, size in self._manifests[generation.name].items():
                found = os.stat(generation / path).st_size  # noqa: PTH116
                if found != size:
                    return f"{path} has {found} bytes instead of {size}"
        except (OSError, ValueError, KeyError) as error:
            return str(error)
        return None

    def result(self) -> dict[str, Any]:
        return {"looks": self.looks, "moves": self.moves, "wrong": self.wrong[:5]}


def main(pause: float) -> None:
    reader: Reader | None = None
    folder = Path()
    while True:
        while reader is None or select.select([0], [], [], pause)[0]:
            line = sys.stdin.buffer.readline()
            if not line:
                return
            if line.strip():
                reader, folder = Reader(), Path(os.fsdecode(line.rstrip(b"\n")))
            elif reader is not None:
                os.write(1, (json.dumps(reader.result()) + "\n").encode())
                reader = None
        reader.look(folder)
        if pause == 0 and reader.looks % 64 == 0:
            time.sleep(0)


if __name__ == "__main__":
    main(float(sys.argv[1]))

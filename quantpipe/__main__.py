"""`python -m quantpipe`."""

from __future__ import annotations

from quantpipe.cli import main

if __name__ == "__main__":
    main()

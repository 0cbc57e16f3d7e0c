"""``python -m normjax`` is the command ``normjax``."""

from normjax.cli import main

if __name__ == "__main__":
    main()

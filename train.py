"""Trains a network: ``python train.py ...`` is ``normjax train ...``."""

import sys

from normjax.cli import main

if __name__ == "__main__":
    main(["train", *sys.argv[1:]])

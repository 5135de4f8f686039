"""`python -m swin_keras.export MODEL --out DIR`: the conversion script; the same as `swin-keras export`."""

import sys

from swin_keras.cli import main

if __name__ == "__main__":
    sys.exit(main(["export", *sys.argv[1:]]))

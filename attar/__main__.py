"""``python -m attar``."""

from attar.pipeline.cli import main

main()

#!/bin/sh
# The stage for CI: the tests, then everything from the teacher to a bundle, which is then opened as it will be served.
# It ends with the exit code of the first command that fails; 3 means that a promise is broken and nothing was packaged.
# Keep out/ as the job's artifact, after a failure above all: report.html for people, junit.xml for the server.
# Keep .attar/ in the job's cache: what it holds is not made again.
set -eu
cd "$(dirname "$0")"
python -m pytest -q test_project.py
attar run recipe.toml -o out
attar check out/cpu

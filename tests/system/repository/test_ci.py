"""The pipelines in docs/ci.md: right YAML, right shell, and no command or option that attar does not have."""

from __future__ import annotations

import json
import re
import subprocess
import tomllib
from collections.abc import Iterator, Mapping
from typing import Any

import click
import pytest
import yaml  # type: ignore[import-untyped]  # it ships no types, and one call needs none

from attar.cli.main import main
from attar.pipeline.core import errors
from attar.proof.verdicts.limits import GateLimits
from tests.support.projects.copies import ROOT

PAGE = (ROOT / "docs" / "ci.md").read_text(encoding="utf-8")
PROSE = re.sub(r"^```.*?^```$", "", PAGE, flags=re.MULTILINE | re.DOTALL)
Job = Mapping[str, Any]


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


def pipelines() -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """That of GitHub Actions and that of GitLab CI."""
    github, gitlab = (yaml.safe_load(block) for block in blocks("yaml"))
    return github, gitlab


def github_jobs() -> dict[str, Job]:
    return dict(pipelines()[0]["jobs"])


def gitlab_jobs() -> dict[str, Job]:
    return {name: job for name, job in pipelines()[1].items() if isinstance(job, dict) and "script" in job}


def scripts() -> list[str]:
    """Every piece of shell on the page."""
    steps = [step["run"] for job in github_jobs().values() for step in job["steps"] if "run" in step]
    lines: list[str] = [line for job in gitlab_jobs().values() for line in (*job.get("before_script", ()), *job["script"])]
    assert all(isinstance(line, str) for line in lines), "a colon in a plain line makes a mapping of it; write it as a block"
    return [*steps, *lines, *blocks("sh")]


def uses() -> Iterator[tuple[str, list[str]]]:
    """Each attar command on the page, the prose's too, and the options that follow it on its line."""
    inline = re.findall(r"`(attar [^`]+)`", PROSE)
    for line in (line.partition(" # ")[0] for text in (*scripts(), *inline) for line in text.splitlines()):
        for rest in re.findall(r"(?:^|[\s;(])attar ([^|;>]+)", line):
            yield rest.split()[0], re.findall(r"(?<![\w-])(--?[a-z][a-z-]*)", rest)


@pytest.mark.parametrize(("name", "options"), list(uses()))
def test_every_command_and_option_is_there(name: str, options: list[str]) -> None:
    command = main.commands.get(name)
    assert command is not None, f"there is no `attar {name}`"
    known = {option for param in command.params if isinstance(param, click.Option) for option in param.opts}
    assert set(options) <= known


def test_options_in_the_prose_are_those_of_run() -> None:
    known = {option for param in main.commands["run"].params if isinstance(param, click.Option) for option in param.opts}
    assert set(re.findall(r"`(--[a-z-]+)`", PROSE)) <= known


@pytest.mark.parametrize("script", scripts())
def test_shell_is_shell(script: str) -> None:
    plain = re.sub(r"\$\{\{.*?\}\}", "expression", script)
    done = subprocess.run(["bash", "-n"], input=plain, capture_output=True, text=True, check=False)
    assert done.stderr == ""


def test_github_steps_are_whole() -> None:
    for name, job in github_jobs().items():
        assert job["runs-on"], name
        for step in job["steps"]:
            assert len({"uses", "run"} & step.keys()) == 1, step
            assert re.fullmatch(r"[\w-]+(/[\w-]+)+@v\d+", step.get("uses", "a/b@v1")), step
        assert set(named(job.get("needs"))) <= github_jobs().keys()
    assert re.search(r"^on:\n  pull_request:\n  push:$", blocks("yaml")[0], re.MULTILINE), "YAML 1.1 reads this key as true"


def test_gitlab_jobs_are_whole() -> None:
    for name, job in gitlab_jobs().items():
        assert job["stage"] in pipelines()[1]["stages"], name
        assert set(named(job.get("needs"))) <= gitlab_jobs().keys()


def named(needs: str | list[str] | None) -> list[str]:
    return [needs] if isinstance(needs, str) else needs or []


def test_a_cache_is_found_by_the_start_of_its_key() -> None:
    restore = next(step for step in github_jobs()["prove"]["steps"] if "cache/restore" in step.get("uses", ""))["with"]
    assert restore["key"].startswith(restore["restore-keys"].splitlines()[0])


def test_exit_codes_are_those_of_the_errors() -> None:
    raised = {each.exit_code for each in vars(errors).values() if isinstance(each, type) and issubclass(each, errors.AttarError)}
    rows = re.findall(r"^\| (\d) \|", PAGE, re.MULTILINE)
    assert [int(code) for code in rows] == sorted({0, *raised})


def test_gates_are_gates() -> None:
    (block,) = blocks("toml")
    regression = GateLimits.model_validate(tomllib.loads(block)["gates"]).regression
    assert (regression.score_drop, regression.speedup) == (0.01, 0.8)


WORKFLOW = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def test_our_own_pipeline_runs_what_has_to_pass_on_every_python_that_is_named() -> None:
    steps = [step.get("run") for step in WORKFLOW["jobs"]["test"]["steps"]]
    assert ".ci/run" in steps
    named = {name.rpartition(" ")[2] for name in PROJECT["classifiers"] if re.search(r"Python :: 3\.\d+$", name)}
    assert named == set(WORKFLOW["jobs"]["test"]["strategy"]["matrix"]["python"])


def test_our_own_pipeline_is_valid_shell_and_publishes_nothing_untested() -> None:
    for job in WORKFLOW["jobs"].values():
        for step in job["steps"]:
            subprocess.run(["bash", "-n", "-c", step.get("run", ":")], check=True)
    assert WORKFLOW["jobs"]["publish"]["needs"] == "test"


def test_every_module_of_the_proof_is_mutated() -> None:
    (listing,) = (step["run"] for step in WORKFLOW["jobs"]["modules"]["steps"] if "run" in step)
    command = listing.replace('>> "$GITHUB_OUTPUT"', "")
    told = subprocess.run(["bash", "-c", command], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    modules = json.loads(told.partition("=")[2])
    rooms = (path.relative_to(ROOT / "proof") for path in (ROOT / "proof").rglob("*.py"))
    assert set(modules) == {str(path) for path in rooms if path.parts[0] != "report" and path.name != "__init__.py"}

"""deploy/ agrees with pyproject.toml, and with the options and routes of `attar serve`; no cluster is asked."""

from __future__ import annotations

import json
import re
import shlex
import tomllib
from collections.abc import Mapping
from typing import Any

import click
import pytest
import yaml  # type: ignore[import-untyped]  # it ships no types, and one call needs none

from attar.cli.serve import serve
from attar.pipeline.core.version import VERSION
from attar.serving.core.authenticator import OPEN
from tests.support.projects.copies import ROOT

DEPLOY = ROOT / "deploy"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
IMAGE = f"attar:{VERSION}"
Spec = Mapping[str, Any]


def instructions() -> list[tuple[str, str]]:
    """Name and arguments, lines joined, comments left out."""
    text = re.sub(r"^#.*\n", "", (DEPLOY / "Containerfile").read_text(), flags=re.MULTILINE)
    lines = re.sub(r"\\\n\s*", " ", text).splitlines()
    return [(name, rest.strip()) for name, _, rest in (line.partition(" ") for line in lines if line)]


def given(name: str) -> list[str]:
    return [rest for each, rest in instructions() if each == name]


def predictor(file: str) -> Spec:
    service = yaml.safe_load((DEPLOY / file).read_text())
    made: Spec = service["spec"]["predictor"]
    return made


def container() -> Spec:
    (made,) = predictor("inference-service.yaml")["containers"]
    return dict(made)


def parsed(arguments: list[str]) -> dict[str, Any]:
    """As `attar serve` understands them. Raises UsageError for what it does not know."""
    context = click.Context(serve)
    serve.parse_args(context, arguments)
    return context.params


def seconds(text: str) -> float:
    return float(text.removesuffix("s"))


def test_it_installs_extras_that_exist_by_the_versions_that_were_tested() -> None:
    (extras,) = (each.partition("=")[2].strip('"').split(",") for each in given("ARG"))
    assert set(extras) <= PROJECT["optional-dependencies"].keys()
    assert "train" not in extras
    words = shlex.split(given("RUN")[0])
    start = words.index("install")
    assert words[start - 1].endswith("/pip")
    assert words[words.index("--constraint", start) + 1] == "constraints.txt"
    assert ".[${EXTRAS}]" in words[start:]


def test_what_it_copies_is_here_and_is_all_that_the_package_needs() -> None:
    copied = [word for each in given("COPY") if not each.startswith("--from") for word in each.split()[:-1]]
    assert all((ROOT / name).exists() for name in copied)
    links = {link.readlink().name for link in (ROOT / "attar").iterdir() if link.is_symlink()}
    assert {*links, "attar", "pyproject.toml", PROJECT["readme"], *PROJECT["license-files"]} <= set(copied)
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    assert {line.removeprefix("!") for line in ignored if line.startswith("!")} == set(copied)


def test_it_serves_what_is_mounted() -> None:
    (entry,), (command,) = map(json.loads, given("ENTRYPOINT")), map(json.loads, given("CMD"))
    assert entry[:2] == ["attar", "serve"]
    assert "attar" in PROJECT["scripts"]
    params = parsed([*entry[2:], *command])
    assert (params["host"], params["bundles"]) == ("0.0.0.0", ("/bundles",))  # noqa: S104  # a container's own network
    assert given("EXPOSE") == [f"{params['http_port']} {params['grpc_port']}"]


def test_its_health_check_is_sound_and_asks_what_is_open_without_a_token() -> None:
    (check,) = given("HEALTHCHECK")
    options, _, command = check.partition(" CMD ")
    python, flag, code = json.loads(command)
    assert (python, flag) == ("python", "-c")
    compile(code, "HEALTHCHECK", "exec")
    url = re.search(r"http://127\.0\.0\.1:(\d+)(/[\w/]+)", code)
    assert url is not None
    assert int(url[1]) == parsed(["/bundles"])["http_port"]
    assert url[2].encode() in OPEN
    found = dict(re.findall(r"--([a-z-]+)=(\S+)", options))
    assert seconds(found["timeout"]) < seconds(found["interval"])


def test_the_service_runs_this_image_with_options_that_exist() -> None:
    made = container()
    assert made["image"] == IMAGE
    (entry,) = map(json.loads, given("ENTRYPOINT"))
    params = parsed([*entry[2:], *made["args"]])
    (port,) = made["ports"]
    assert params["http_port"] == port["containerPort"]
    assert params["no_grpc"]
    assert params["bundles"] == ("digits=/mnt/models",)  # where KServe puts what STORAGE_URI names


def test_the_service_asks_for_no_more_cores_than_it_gets() -> None:
    made = container()
    params = parsed(made["args"])
    limits = made["resources"]["limits"]
    assert params["instances"] * params["threads"] <= int(limits["cpu"])
    assert params["max_bodies"] is None  # it follows the limit


def test_the_service_is_given_time_to_drain() -> None:
    made = container()
    name, pause = made["lifecycle"]["preStop"]["exec"]["command"]
    assert name == "sleep"
    assert predictor("inference-service.yaml")["terminationGracePeriodSeconds"] > int(pause) + parsed(made["args"])["drain"]


def test_the_service_runs_as_the_image_s_user() -> None:
    security = predictor("inference-service.yaml")["securityContext"]
    assert given("USER") == [f"{security['runAsUser']}:{security['runAsGroup']}"]
    assert security["runAsUser"] > 0


def test_the_tokens_are_read_from_what_is_mounted() -> None:
    made = container()
    mounts = {each["name"]: each["mountPath"] for each in made["volumeMounts"]}
    assert mounts.keys() == {each["name"] for each in predictor("inference-service.yaml")["volumes"]}
    assert parsed(made["args"])["token_file"] == f"{mounts['tokens']}/tokens"


def model() -> Spec:
    made: Spec = predictor("triton.yaml")["model"]
    return made


@pytest.mark.parametrize("made", [container(), model()], ids=["attar", "triton"])
def test_probes_ask_what_is_open_without_a_token(made: Spec) -> None:
    probes = {name: each for name, each in made.items() if name.endswith("Probe")}
    assert {"readinessProbe", "livenessProbe"} <= probes.keys()
    for name, probe in probes.items():
        assert probe["httpGet"]["path"].encode() in OPEN
        assert probe["httpGet"]["path"].endswith("live") == (name == "livenessProbe")


def test_triton_gets_the_repository_of_the_same_bundle() -> None:
    folder = {each["name"]: each["value"] for each in container()["env"]}["STORAGE_URI"]
    assert model()["storageUri"] == f"{folder}/triton"

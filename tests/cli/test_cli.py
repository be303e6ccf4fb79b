"""The command line on a user's project: what it makes, what it makes again, and what it says when something is wrong."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from attar.bundle.opening import check_bundle
from attar.bundle.sign import sign_bundle
from attar.cli.main import main
from attar.pipeline.keys import files
from attar.pipeline.store.store import Store
from tests.support.bundles.signing_parts import pair
from tests.support.projects import tiny
from tests.support.tasks import sequences


@pytest.fixture
def copy(finished: Path, tmp_path: Path) -> Path:
    """The finished project in a place of its own; its data are looked at there."""
    folder = tmp_path / "project"
    shutil.copytree(finished, folder, symlinks=True)
    shutil.rmtree(folder / "store" / "recipes")  # what the project in the other place used last
    assert tiny.made_again(tiny.call_run(folder)) == []
    return folder


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Path]:
    """An empty folder to run the command line in, in this process; its modules are forgotten afterwards."""
    with tiny.project_folder(tmp_path):
        yield tmp_path


def call(*arguments: str) -> Result:
    return CliRunner().invoke(main, [*arguments])


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")


def plan_lines(folder: Path) -> dict[str, str]:
    """Return what `attar plan` prints of each slot."""
    done = tiny.call(folder, "plan", "recipe.toml")
    assert done.returncode == 0, done.stderr
    return {line.split()[1]: line for line in done.stdout.splitlines() if len(line.split()) > 1}


def planned(folder: Path) -> dict[str, str]:
    """Return for each slot whether it would be reused, run, or waits for another."""
    return {slot: line.split()[0] for slot, line in plan_lines(folder).items() if slot in tiny.SLOTS}


def files_of(folder: Path) -> dict[str, float]:
    return {str(path): path.lstat().st_mtime for path in sorted(folder.rglob("*"))}


def test_a_run_leaves_a_bundle_and_a_report_and_says_where(finished: Path) -> None:
    latest = finished / "store" / "latest" / "recipe"
    assert {"report.html", "report.md", "report.json", "junit.xml", "cpu"} <= {path.name for path in latest.iterdir()}
    assert (latest / "cpu" / "manifest.json").is_file()
    done = tiny.attar(finished, "run", "recipe.toml")
    assert done.returncode == 0
    assert f"bundle  {latest / 'cpu'}" in done.stdout
    assert f"report  {latest / 'report.html'}" in done.stdout


def test_json_is_one_object_with_everything_in_it(finished: Path) -> None:
    made = tiny.call_run(finished)
    assert [entry["slot"] for entry in made["slots"]] == tiny.SLOTS
    keys = {"slot", "status", "reused", "reason", "key", "path", "seconds", "facts", "error"}
    assert all(keys <= set(entry) for entry in made["slots"])
    assert made["targets"]["cpu"]["verdict"] == "passed"
    assert Path(made["targets"]["cpu"]["bundle"]).is_dir()
    assert Path(made["report"]).is_file()


def test_a_second_run_touches_nothing(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "SETTLED_NANOSECONDS", 0)  # the copy is a moment old, and would be read again until it settles
    tiny.call_run(copy)
    before = files_of(copy / "store")
    assert set(tiny.statuses(tiny.call_run(copy)).values()) == {"reused"}
    assert files_of(copy / "store") == before


def test_a_finished_project_answers_from_a_read_only_store(copy: Path) -> None:
    mount = ["mount", "--bind", str(copy / "store"), str(copy / "store")]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("a bind mount needs root")
    try:
        subprocess.run(["mount", "-o", "remount,ro,bind", str(copy / "store")], check=True)
        assert set(tiny.statuses(tiny.run(copy)).values()) == {"reused"}
        done = tiny.attar(copy, "teach", "recipe.toml", "--set", "seed=5")
        assert done.returncode == 1
        assert "cannot write" in done.stderr
        assert "Traceback" not in done.stderr
    finally:
        subprocess.run(["umount", str(copy / "store")], check=True)


def test_a_full_disk_says_so_and_the_run_goes_on_where_there_is_room(tmp_path: Path) -> None:
    tiny.write(tmp_path)
    store = tmp_path / "store"
    store.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=100k", "tmpfs", str(store)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting a tmpfs needs root")
    try:
        done = tiny.call(tmp_path, "label", "recipe.toml")
        assert done.returncode == 1, done.stderr
        assert "No space left" in done.stderr
        assert "Traceback" not in done.stderr
        finished = {entry.key for entry in Store(store).entries()}
        subprocess.run(["mount", "-o", "remount,size=40m", str(store)], check=True)
        made = tiny.read_run(tiny.call(tmp_path, "label", "recipe.toml", "--json"), 0)
        assert finished == {entry["key"] for entry in made["slots"] if entry["status"] == "reused"}
    finally:
        subprocess.run(["umount", str(store)], check=True)


def test_a_comment_makes_nothing_again_and_the_student_s_network_only_what_follows_it(copy: Path) -> None:
    edit(copy / "nets.py", "def teacher", "# the big one\ndef teacher")
    assert set(planned(copy).values()) == {"reuse"}
    edit(copy / "nets.py", "def student(width=8):", "def student(width=9):")
    again = tiny.read_run(tiny.call(copy, "export", "recipe.toml", "--json"), 0)  # to the same bytes: the recipe sets the width
    assert tiny.made_again(again) == ["student", "onnx"]
    plan = planned(copy)
    assert {plan[slot] for slot in ("teacher", "reference", "answers", "calibration", "cpu.model", "cpu.engine")} == {"reuse"}
    edit(
        copy / "nets.py",
        "(nn.Linear(2, width), nn.ReLU(), nn.Linear(width, 2))",
        "(nn.Linear(2, width), nn.Tanh(), nn.Linear(width, 2))",
    )
    plan = planned(copy)
    assert plan["student"] == "run"
    assert {plan[slot] for slot in ("teacher", "reference", "answers")} == {"reuse"}


LOUDER = """
class Louder(nn.Sequential):
    def __init__(self, width):
        super().__init__(nn.Linear(2, width), nn.ReLU(), nn.Linear(width, 2))
    def forward(self, x):
        return super().forward(x) if self.training else 1.0 * super().forward(x)
"""


def test_a_network_that_answers_otherwise_with_the_same_weights_is_exported_again(copy: Path) -> None:
    edit(copy / "nets.py", "return nn.Sequential(nn.Linear(2, width), nn.ReLU(), nn.Linear(width, 2))", "return Louder(width)")
    edit(copy / "nets.py", "def student", LOUDER + "\ndef student")
    export = ("export", "recipe.toml", "--json", "--set", "student.epochs=1")
    assert "student" in tiny.made_again(tiny.read_run(tiny.call(copy, *export), 0))
    edit(copy / "nets.py", "1.0 * super", "1.5 * super")
    assert "onnx" in tiny.made_again(tiny.read_run(tiny.call(copy, *export), 0))


def test_a_byte_of_the_data_makes_again_what_reads_them(copy: Path) -> None:
    tiny.save(copy, tiny.points(seed=9))
    lines = plan_lines(copy)
    assert lines["teacher"].startswith("run")
    assert "data: " in lines["teacher"]
    assert lines["control"].startswith("reuse")


def test_a_broken_promise_exits_with_3_keeps_the_evidence_and_takes_the_old_bundle_away(copy: Path) -> None:
    edit(copy / "recipe.toml", "correlation = 0.5", "correlation = 0.99999")
    made = tiny.call_run(copy, code=3)
    assert tiny.statuses(made)["cpu.evidence"] == "reused"
    assert tiny.statuses(made)["cpu.bundle"] == "failed"
    assert made["targets"]["cpu"]["verdict"] == "failed"
    assert made["targets"]["cpu"]["bundle"] is None
    assert not (copy / "store" / "latest" / "recipe" / "cpu").exists()


def test_a_recipe_without_a_target_proves_nothing_and_is_refused(here: Path) -> None:
    tiny.write(
        here,
        recipe=tiny.RECIPE.replace("[targets.cpu]", "[control]").replace('precision = "int8"', "").replace("threads = 1", ""),
    )
    done = call("run", "recipe.toml", "--store", "store")
    assert done.exit_code == 2
    assert "[targets.cpu]" in done.stderr


def test_validate_fails_a_ci_stage_on_a_broken_promise(copy: Path) -> None:
    assert tiny.call(copy, "validate", "recipe.toml").returncode == 0
    assert tiny.call(copy, "validate", "recipe.toml", "--set", "gates.correlation=0.99999").returncode == 3


def test_the_bundle_in_production_is_compared_with_on_the_same_samples(copy: Path) -> None:
    production = shutil.copytree(copy / "store" / "latest" / "recipe" / "cpu", copy / "production")
    gates = ("--set", "gates.regression={ score_drop = 0.05, speedup = 0.1 }", "--set", "targets.cpu.seconds=0.1")
    made = tiny.call_run(copy, "--against", str(production), *gates)
    assert tiny.made_again(made) == ["cpu.production", "cpu.evidence", "cpu.verdict", "cpu.bundle"]
    rows = {row["gate"]: row for row in made["targets"]["cpu"]["gates"] if row["against"] == "production"}
    assert rows.keys() == {"score_drop", "speedup"}
    assert (rows["score_drop"]["bounds"], rows["score_drop"]["verdict"]) == ([0, 0], "passed")  # the same graph: no doubt
    keys = ("--trusted", str(pair(copy).public))
    done = tiny.call(copy, "run", "recipe.toml", "--against", str(production), *keys, *gates)
    assert (done.returncode, "production is not signed" in done.stderr, done.stdout) == (4, True, "")
    (production / "golden.safetensors").unlink()
    done = tiny.call(copy, "run", "recipe.toml", "--against", str(production), *gates)
    assert (done.returncode, "golden.safetensors" in done.stderr) == (4, True)


def test_a_bundle_that_the_run_would_replace_is_not_compared_with(copy: Path) -> None:
    production = copy / "store" / "latest" / "recipe" / "cpu"
    done = tiny.call(copy, "run", "recipe.toml", "--against", str(production))
    assert (done.returncode, "copy it elsewhere first" in done.stderr) == (2, True)
    assert production.is_dir()
    assert tiny.call(copy, "validate", "recipe.toml", "--against", str(production)).returncode in (0, 3)


def test_a_regression_exits_with_3_and_names_what_it_is_against(copy: Path) -> None:
    production = shutil.copytree(copy / "store" / "latest" / "recipe" / "cpu", copy / "production")
    gates = ("--set", "gates.regression.speedup=1000.0", "--set", "targets.cpu.seconds=0.1")
    made = tiny.call_run(copy, "--against", str(production), *gates, code=3)
    assert made["targets"]["cpu"]["verdict"] == "failed"
    assert "speedup against production" in tiny.entry(made, "cpu.verdict")["facts"]["summary"]


@pytest.mark.parametrize(
    ("targets", "told"),
    [("[targets.cpu]\n[targets.other]\n", "cpu, other"), ("", "about none; name one with")],
)
def test_what_is_compared_is_one_target_and_a_folder(here: Path, targets: str, told: str) -> None:
    tiny.write(here, recipe=tiny.RECIPE.replace('[targets.cpu]\nprecision = "int8"\nthreads = 1\n', targets))
    assert told in call("plan", "recipe.toml", "--against", ".").output
    tiny.write(here)
    done = call("plan", "recipe.toml", "--against", "nowhere")
    assert (done.exit_code, "targets.cpu.against: there is no folder" in done.output) == (2, True)
    assert "or on the command line" in done.output
    done = call("plan", "recipe.toml", "--trusted", "keys.pem")
    assert (done.exit_code, "--against, and" in done.output) == (2, True)


def test_a_ci_step_gets_its_summary_once_a_run_and_none_where_nothing_is_judged(
    copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = tmp_path / "summary.md"
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(page))
    assert tiny.call(copy, "export", "recipe.toml").returncode == 0
    assert not page.exists()
    for times, command in enumerate(("run", "validate"), 1):
        assert tiny.call(copy, command, "recipe.toml").returncode == 0
        assert page.read_text().count("# recipe\n") == times
    assert "cpu: passed" in page.read_text()
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path))
    done = tiny.call(copy, "run", "recipe.toml")
    assert (done.returncode, "GITHUB_STEP_SUMMARY" in done.stderr) == (0, True)
    assert "passed" in done.stdout


def test_what_stands_in_the_way_of_a_bundle_is_not_touched(copy: Path) -> None:
    (copy / "cpu").mkdir()
    (copy / "cpu" / "mine.txt").write_text("precious")
    done = tiny.call(copy, "report", "recipe.toml", "-o", ".")
    assert done.returncode == 2
    assert "is in the way" in done.stderr
    assert (copy / "cpu" / "mine.txt").read_text() == "precious"


def test_a_delivered_bundle_that_is_gone_is_put_back(copy: Path) -> None:
    bundle = copy / "store" / "latest" / "recipe" / "cpu"
    shutil.rmtree(bundle)
    tiny.call_run(copy)
    assert (bundle / "manifest.json").is_file()
    assert not (bundle / "record.json").exists()


def test_a_signature_stays_until_its_bundle_is_delivered_anew(copy: Path, tmp_path: Path) -> None:
    key, bundle = pair(tmp_path), copy / "store" / "latest" / "recipe" / "cpu"
    sign_bundle(bundle, key.private)
    tiny.call_run(copy)
    assert check_bundle(bundle, key.public)["signature"] == "valid"
    edit(copy / "recipe.toml", "threads = 1", 'threads = 1\nname = "renamed"')
    tiny.call_run(copy)
    assert check_bundle(bundle)["signature"] is None


def test_all_targets_are_attempted(copy: Path) -> None:
    with (copy / "recipe.toml").open("a") as file:
        file.write("\n[targets.strict]\nprecision = 'fp32'\ngates = { correlation = 0.99999 }\n")
    made = tiny.call_run(copy, code=3)
    assert {name: target["verdict"] for name, target in made["targets"].items()} == {"cpu": "passed", "strict": "failed"}
    assert made["targets"]["cpu"]["bundle"]


def test_what_the_task_rules_out_is_refused_before_anything_is_made_and_a_plan_imports_no_task(here: Path) -> None:
    network = f'network = "{sequences.TRANSLATOR}"\noptions = {json.dumps(sequences.OPTIONS).replace(":", " =")}\n'
    sections = f"[teacher]\n{network}[student]\n{network}"
    recipe = f'task = "{sequences.REVERSAL}"\n{sections}[targets.rtx]\nruntime = "tensorrt-rtx"\n'
    (here / "recipe.toml").write_text(recipe)
    assert call("plan", "recipe.toml", "--store", "store").exit_code == 0
    done = call("run", "recipe.toml", "--store", "store")
    assert (done.exit_code, list(Store(here / "store").entries())) == (2, [])
    assert "rtx.engine: a network that generates cannot be built for 'tensorrt-rtx'" in done.stderr


def test_a_failed_gate_is_no_less_failed_where_the_bundle_cannot_be_delivered(copy: Path) -> None:
    (copy / "out" / "report.html").mkdir(parents=True)
    run = ("run", "recipe.toml", "-o", "out")
    kept = tiny.call(copy, *run)
    assert (kept.returncode, "Is a directory" in kept.stderr) == (1, True)
    broken = tiny.call(copy, *run, "--set", "gates.correlation=0.99999")
    assert (broken.returncode, "Is a directory" in broken.stderr) == (3, True)
    assert "failed" in broken.stdout


def test_a_plan_names_what_changed_and_what_depends_on_it(copy: Path) -> None:
    edit(copy / "recipe.toml", "epochs = 20", "epochs = 21")
    lines = plan_lines(copy)
    assert lines["teacher"].startswith("reuse")
    assert "settings.epochs: 20 -> 21" in lines["student"]
    assert lines["onnx"].startswith("wait")
    assert "depends on student" in lines["onnx"]


def test_a_damaged_artifact_is_said_and_made_again(copy: Path) -> None:
    student = tiny.entry(tiny.call_run(copy), "student")
    weights = Path(student["path"]) / "weights.safetensors"
    weights.chmod(0o644)
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x7f")
    done = tiny.call(copy, "distill", "recipe.toml")
    assert done.returncode == 0
    assert "was changed" in done.stderr


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_two_runs_at_once_make_each_slot_once(tmp_path: Path) -> None:
    tiny.write(tmp_path)
    command = tiny.command(tmp_path, "run", "recipe.toml", "--json")
    pair = [
        subprocess.Popen(command, cwd=tmp_path, env=tiny.environment(), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        for _ in range(2)
    ]
    made = [json.loads(process.communicate(timeout=110)[0]) for process in pair]
    assert [process.returncode for process in pair] == [0, 0], made
    assert sorted(slot for one in made for slot in tiny.made_again(one)) == sorted(tiny.SLOTS)
    assert made[0]["targets"]["cpu"]["verdict"] == made[1]["targets"]["cpu"]["verdict"] == "passed"


RECIPE_MISTAKES = {
    "not TOML": (("epochs = 6", "epochs = = 6"), "is not TOML"),
    "unknown section": (("[teacher]", "[teecher]"), "unknown name 'teecher'; did you mean 'teacher'?"),
    "unknown field": (("epochs = 6", "epoch = 6"), "teacher.epoch: unknown field; did you mean 'epochs'?"),
    "unknown target key": (("threads = 1", "thread = 1"), "[targets.cpu]: unknown name 'thread'; did you mean 'threads'?"),
    "wrong type": (("epochs = 6", "epochs = 'six'"), "teacher.epochs must be a whole number; got 'six'"),
    "out of range": (("epochs = 6", "epochs = 0"), "teacher.epochs must be at least 1; got 0"),
    "missing file": (("epochs = 6", "weights = 'gone.safetensors'"), "teacher.weights: there is no file"),
    "no such task": (("task.py:Circle", "task.py:Circel"), "task defines no 'Circel'; did you mean 'Circle'?"),
    "no such module": (("task.py:Circle", "tusk.py:Circle"), "there is no module 'tusk' beside the recipe"),
    "no such network": (("nets.py:student", "nets.py:studnet"), "nets defines no 'studnet'; did you mean 'student'?"),
    "other options": (("{ width = 16 }", "{ widht = 16 }"), "takes no option 'widht'; did you mean 'width'?"),
    "unknown precision": (('"int8"', '"int9"'), "targets.cpu.precision must be 'fp32', "),
    "unknown gate": (
        ("correlation = 0.5", "corelation = 0.5"),
        "gates.corelation (of [gates] or [targets.cpu.gates]): unknown field; did you mean 'correlation'?",
    ),
}


@pytest.mark.parametrize("mistake", RECIPE_MISTAKES)
def test_a_mistake_in_the_recipe_exits_with_2_and_leaves_the_store_alone(here: Path, mistake: str) -> None:
    (old, new), message = RECIPE_MISTAKES[mistake]
    tiny.write(here, recipe=tiny.RECIPE.replace(old, new, 1))
    done = call("run", "recipe.toml", "--store", "store")
    assert done.exit_code == 2, done.output
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not (here / "store").exists()


@pytest.mark.parametrize(("asked", "meant"), [("recpie.toml", "recipe.toml"), ("digitss", "digits")])
def test_a_recipe_that_is_not_there_is_guessed(here: Path, asked: str, meant: str) -> None:
    tiny.write(here)
    done = call("plan", asked, "--store", "store")
    assert done.exit_code == 2, done.output
    assert f"there is no file {asked!r} and no shipped recipe of that name; did you mean {meant!r}?" in done.stderr


def outside(arrays: dict[str, Any]) -> None:
    arrays["train_inside"][3] = 7


def empty(arrays: dict[str, Any]) -> None:
    arrays["validation"], arrays["validation_inside"] = arrays["validation"][:0], arrays["validation_inside"][:0]


def overlapping(arrays: dict[str, Any]) -> None:
    arrays["train"][:5] = arrays["test"][:5]


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (outside, "Circle.split('train') gives 'inside' 1 labels outside the 2 classes"),
        (empty, "Circle.split('validation')"),
        (overlapping, "5 of 256 different test samples are in the train split too"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_bad_data_stop_the_run_before_anything_is_trained(here: Path, harm: Any, message: str) -> None:
    tiny.write(here)
    arrays = tiny.points()
    harm(arrays)
    tiny.save(here, arrays)
    done = call("run", "recipe.toml", "--store", "store")
    assert done.exit_code == 1, done.output
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert Store(here / "store").entries() == []


def test_a_diverging_loss_names_the_step(here: Path) -> None:
    tiny.write(here, recipe=tiny.RECIPE.replace("learning_rate = 0.02", "learning_rate = 1e30", 1))
    done = call("teach", "recipe.toml", "--store", "store")
    assert done.exit_code == 1
    assert "learning_rate = 1e+30" in done.stderr


def test_weights_of_another_architecture_name_the_tensors(here: Path) -> None:
    from safetensors.numpy import save_file

    save_file({"0.weight": np.zeros((3, 2), np.float32)}, here / "other.safetensors")
    tiny.write(here, recipe=tiny.RECIPE.replace("epochs = 6", "weights = 'other.safetensors'", 1))
    done = call("teach", "recipe.toml", "--store", "store")
    assert done.exit_code == 1
    assert "0.weight" in done.stderr
    assert "Traceback" not in done.stderr


BROKEN_TASKS = {
    "an import that fails": (
        "import attar",
        "import attar, nosuch",
        "teacher broke: ModuleNotFoundError|No module named 'nosuch'",
    ),
    "a name that is not there": ("DATA =", "OTHER = nowhere\nDATA =", "NameError: name 'nowhere' is not defined"),
    "data that is no list": ("return [DATA]", "return DATA", r"data\(\) returned .*; it must return a list of paths"),
    "an exit": ("return [DATA]", "raise SystemExit(0)", "SystemExit"),
    "a missing method": (
        "    def score",
        "    def scores",
        r"task\.py:Circle cannot be made without arguments: .*score.*; a task is a class that derives from attar\.Task",
    ),
    "data that are not there": (
        "return [DATA]",
        "return [Path('gone.npz')]",
        r"data\(\) of task\.py:Circle: there is no file /.*gone\.npz; put it there, or name one that is there",
    ),
}


@pytest.mark.parametrize("how", BROKEN_TASKS)
def test_a_broken_task_is_one_message_and_json_stays_json(here: Path, how: str) -> None:
    old, new, message = BROKEN_TASKS[how]
    loud = tiny.TASK.replace("import numpy as np", "import numpy as np\nprint('loading')")
    tiny.write(here, task=loud.replace(old, new, 1))
    done = call("teach", "recipe.toml", "--store", "store", "--json")
    assert done.exit_code == 1, done.output
    (teacher,) = json.loads(done.stdout)["slots"]
    assert re.search(message, teacher["error"]), teacher["error"]
    assert "Traceback" not in done.stderr


def test_a_fetch_that_raises_is_one_message_with_its_line(here: Path) -> None:
    tiny.write(here, task=f"{tiny.TASK}\n    def fetch(self):\n        raise ValueError('no such address')\n")
    done = call("fetch", "recipe.toml", "--store", "store")
    assert done.exit_code == 1, done.output
    assert re.search("task\\.py:Circle broke: ValueError: .*in Circle\\.fetch\\)", done.stderr)
    assert "Traceback" not in done.stderr


def test_what_a_fetch_prints_is_no_part_of_its_json(here: Path) -> None:
    tiny.write(here, task=f"{tiny.TASK}\n    def fetch(self):\n        print('downloading')\n")
    done = call("fetch", "recipe.toml", "--store", "store", "--json")
    assert json.loads(done.stdout) == {"task.py:Circle": [str(here / "points.npz")]}
    assert "downloading" in done.stderr


def test_code_that_was_edited_between_two_runs_of_one_process_is_the_code_that_runs(here: Path) -> None:
    tiny.write(here)
    distill = ("distill", "recipe.toml", "--json", "--store", "store", "--set", "student.epochs=1")
    first = json.loads(call(*distill).stdout)
    edit(here / "nets.py", "def student(width=8):", "def student(width=8):\n    width = 3")
    second = json.loads(call(*distill).stdout)
    parameters = [tiny.entry(made, "student")["facts"]["parameters"] for made in (first, second)]
    assert parameters == [2 * 16 + 16 + 16 * 2 + 2, 2 * 3 + 3 + 3 * 2 + 2]


def test_verbose_shows_the_traceback(here: Path) -> None:
    tiny.write(here, recipe=tiny.RECIPE.replace("learning_rate = 0.02", "learning_rate = 1e30", 1))
    done = call("teach", "recipe.toml", "--store", "store", "-v")
    assert "Traceback" in done.stderr


def test_a_traceback_is_shown_where_the_command_was_told_to(here: Path) -> None:
    assert "Traceback" in call("show", "abc", "--store", "none", "-v").stderr
    assert "Traceback" not in call("show", "abc", "--store", "-v").stderr  # a folder of that name
    assert main.asks_for_traceback(["run", "recipe.toml", "--verbose"])  # as the other processes of a team see it
    assert not main.asks_for_traceback(["run", "recipe.toml", "--store", "-v"])


def test_an_unknown_recipe_or_target_or_command_exits_with_2(here: Path) -> None:
    tiny.write(here)
    assert call("run", "recpe.toml").exit_code == 2
    assert call("run", "recipe.toml", "--target", "gpu").exit_code == 2
    assert call("fly").exit_code == 2
    assert call("run", "recipe.toml", "--set", "teacher.epochs=zero").exit_code == 2


def test_asking_for_a_gpu_that_is_not_there_is_an_error(here: Path) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU; the test is of those that have none")
    tiny.write(here)
    done = call("teach", "recipe.toml", "--store", "store", "--device", "cuda")
    assert done.exit_code == 1
    assert "cuda" in done.stderr.lower()


def test_the_store_can_be_looked_at_and_tidied(copy: Path) -> None:
    listed = json.loads(tiny.call(copy, "ls", "--json").stdout)["artifacts"]
    assert sorted(row["slot"] for row in listed) == sorted(tiny.SLOTS)
    key = next(row["key"] for row in listed if row["slot"] == "student")
    shown = json.loads(tiny.call(copy, "show", key[:12], "--verify").stdout)
    assert shown["facts"]["network"] == "nets.py:student"
    assert shown["deciders"]["settings"]["epochs"] == 20
    assert key in tiny.call(copy, "show", "recipe.toml").stdout
    assert tiny.call(copy, "distill", "recipe.toml", "--set", "student.epochs=1").returncode == 0
    assert "student" in tiny.call(copy, "gc", "--dry-run").stdout
    tiny.call(copy, "gc")
    assert key not in {row["key"] for row in json.loads(tiny.call(copy, "ls", "--json").stdout)["artifacts"]}
    assert tiny.call(copy, "show", key[:12]).returncode == 1


def test_a_report_can_be_written_elsewhere_without_making_anything(copy: Path, tmp_path: Path) -> None:
    done = tiny.call(copy, "report", "recipe.toml", "-o", str(tmp_path / "out"))
    assert done.returncode == 0, done.stderr
    assert {"report.html", "report.md", "report.json", "junit.xml"} <= {path.name for path in (tmp_path / "out").iterdir()}


def test_a_bundle_is_checked_timed_and_found_out(copy: Path, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    shutil.copytree(copy / "store" / "latest" / "recipe" / "cpu", bundle)
    assert call("check", str(bundle)).exit_code == 0
    assert json.loads(call("bench", str(bundle), "--seconds", "0.1", "--json").stdout)
    golden = bundle / "golden.safetensors"
    os.chmod(golden, 0o644)  # noqa: PTH101  # the file is read-only like all of the store
    golden.write_bytes(golden.read_bytes()[:-1] + b"\x01")
    done = call("check", str(bundle))
    assert done.exit_code == 4
    assert "golden.safetensors" in done.stderr


def test_schema_and_doctor_answer_in_json() -> None:
    schema = json.loads(call("schema").stdout)
    assert "teacher" in schema["properties"]
    assert json.loads(call("doctor", "--json").stdout)["machine"]["cores"] >= 1

"""A project whose input is text, from raw strings to a bundle in production, and what its tokenizer decides."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import attar
from attar.bundle.opening import check_bundle
from tests.support.projects import tiny
from tests.support.tasks.words import saved

TASK = """
from pathlib import Path
import numpy as np
import attar

WORDS = ("sun", "moon", "stone", "river", "wind")
TOKENIZER = Path(__file__).parent / "words.json"

class Sunny(attar.Task):
    '''Are there more suns than moons?'''
    inputs = {"tokens": attar.Tensor("int64", ("batch", "sequence"), high=10, pad=9)}
    outputs = {"logits": attar.Output(("batch", 2), target="sunny")}
    ranges = {"batch": (1, 32), "sequence": (1, 10)}
    classes = ("no", "yes")
    preprocess = {"tokens": [attar.Tokenize(file=TOKENIZER, length=10)]}

    def data(self):
        return ["texts, version 1", TOKENIZER]

    def split(self, name):
        seed, count = {"train": (0, 1024), "validation": (1, 128), "test": (2, 256)}[name]
        generator = np.random.default_rng(seed)
        rows = [generator.choice(WORDS, generator.integers(3, 9)) for _ in range(count)]
        texts = [f"{' '.join(row)} {name}{number}" for number, row in enumerate(rows)]  # the last word is unknown
        sunny = [int((row == "sun").sum() > (row == "moon").sum()) for row in rows]
        return attar.InMemory({"tokens": np.array(texts, object)}, {"sunny": np.array(sunny)})

    def score(self, outputs, targets):
        return attar.hits(outputs["logits"], targets["sunny"])
"""
NETS = """
from torch import nn

class Bag(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.embedding = nn.Embedding(10, width)
        self.head = nn.Linear(width, 2)

    def forward(self, tokens):
        known = (tokens != 9).float().unsqueeze(2)  # (B, S, 1): padding does not count
        return self.head((self.embedding(tokens) * known).sum(1))

def teacher(width=16):
    return Bag(width)

def student(width=8):
    return Bag(width)
"""
RECIPE = (
    tiny.RECIPE.replace("Circle", "Sunny")
    .replace('precision = "int8"', 'precision = "fp32"')
    .replace("views = 2", "views = 1")
    .replace("[gates]", "[gates]\nleak = 1.0  # texts of three to eight of five words repeat")
)


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_from_strings_to_a_bundle_in_production(tmp_path: Path) -> None:
    saved(tmp_path / "words.json")
    tiny.write(tmp_path, task=TASK, nets=NETS, recipe=RECIPE)
    made = tiny.run(tmp_path)
    bundle = Path(shutil.copytree(made["targets"]["cpu"]["bundle"], tmp_path / "shipped"))
    manifest = json.loads((bundle / "manifest.json").read_text())
    assert manifest["preprocess"]["tokens"][0]["file"] == "preprocess/tokens.tokenizer.json"
    with attar.open(bundle) as predict:
        logits = predict(predict.preprocess({"tokens": np.array(["sun sun stone", "moon"])}))["logits"]
    assert logits.argmax(1).tolist() == [1, 0]

    again = tiny.run(tmp_path, "--against", str(bundle))
    assert tiny.statuses(again)["teacher"] == "reused"
    assert tiny.statuses(again)["cpu.production"] == "made"

    saved(tmp_path / "words.json", frame=False)
    assert check_bundle(bundle)["verdict"] == "passed"  # it has its own
    plan = tiny.attar(tmp_path, "plan", "recipe.toml").stdout
    assert "data" in next(line for line in plan.splitlines() if "teacher" in line)

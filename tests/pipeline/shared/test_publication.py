"""A record that somebody wrote in another form is damaged, and breaks nothing else."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from attar.pipeline.core.disk import encode_json
from attar.pipeline.core.errors import CorruptArtifactError
from attar.pipeline.shared.publication import Publication, read_publication
from tests.support.projects.shared_store_parts import make, open_machine
from tests.support.projects.store_parts import KEY


def test_a_record_that_nests_without_end_is_damaged() -> None:
    with pytest.raises(CorruptArtifactError, match="is damaged"):
        read_publication(KEY, b"[" * 200_000, "s3://bucket")


def test_what_names_a_file_is_a_digest_and_no_path(tmp_path: Path) -> None:
    make(open_machine(tmp_path, "one"))
    text = (tmp_path / "bucket" / "records" / f"{KEY}.json").read_bytes()
    assert read_publication(KEY, text, "s3://bucket").key == KEY
    values = json.loads(text)
    values["record"]["files"]["value.json"][2] = "../records"
    content = encode_json(Publication.model_validate(values).files)
    values["record"]["digest"] = hashlib.sha256(content.encode()).hexdigest()
    with pytest.raises(CorruptArtifactError, match="is damaged"):
        read_publication(KEY, json.dumps(values).encode(), "s3://bucket")


@pytest.mark.parametrize("number", [b"NaN", b"-Infinity", b"1e999"])
def test_a_number_without_a_canonical_form_is_damage(tmp_path: Path, number: bytes) -> None:
    make(open_machine(tmp_path, "one"))
    text = (tmp_path / "bucket" / "records" / f"{KEY}.json").read_bytes()
    assert b'"seconds": 1.0' in text
    assert read_publication(KEY, text.replace(b'"seconds": 1.0', b'"seconds": 2.5'), "s3://bucket").record["seconds"] == 2.5
    with pytest.raises(CorruptArtifactError, match="is damaged"):
        read_publication(KEY, text.replace(b'"seconds": 1.0', b'"seconds": ' + number), "s3://bucket")

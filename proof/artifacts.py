"""The artifacts of a proof. Their facts are JSON of the ledger, of gates and of candidates."""

from __future__ import annotations

from attar.pipeline.core.stage import Artifact


class Trials(Artifact):
    """``seconds.safetensors`` (``CANDIDATE.BATCH``, in rounds); facts: a ``CandidateLedger``."""


class Choice(Artifact):
    """Which candidate goes on, and why the others do not; facts: a ``CandidateChoice``."""


class Speeds(Artifact):
    """How fast engines are, before anything is trained; facts: an ``EngineSpeeds``."""


class Evidence(Artifact):
    """``hops.safetensors`` (outputs and statistics of every hop); facts: a ``Ledger``."""


class Verdict(Artifact):
    """The gates and what became of them; facts: a ``TargetVerdict``."""


class Bundle(Artifact):
    """What is shipped: see ``attar.bundle.opening``."""

"""Limits: what a recipe promises of its targets, in ``[gates]``."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class Limits(BaseModel):
    """Finite numbers under known names."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class HopLimits(Limits):
    """What each conversion must keep of the hop before it."""

    largest_difference: float = Field(1e-3, ge=0)
    """Largest difference between the student's ONNX graph and the student: both do the same
    arithmetic, so only rounding may differ."""
    correlation: float = Field(0.98, ge=-1, le=1)
    """Least CORR of the quantized or converted graph and the fp32 graph: int8 moves each output a
    little."""
    same_correlation: float = Field(0.999, ge=-1, le=1)
    """Least CORR of the reference and the teacher, and of the engine and its graph: fused kernels
    in the same precision."""
    kdl: float = Field(0.05, ge=0)
    """Largest KL divergence of every conversion but the student's, where there are classes: the
    confidence, which no correlation sees."""
    score_drop: float = 0.02
    """Largest score drop of the same conversions; a negative limit demands a gain. A score that is
    no share needs another limit."""


class RegressionLimits(Limits):
    """What the engine must keep of the bundle in production, if there is one (``--against``)."""

    score_drop: float | None = 0.01
    """Largest drop of the engine's score below that of production."""
    correlation: float | None = Field(None, ge=-1, le=1)
    """Least CORR of their outputs."""
    cosine: float | None = Field(None, ge=-1, le=1)
    """Least mean cosine between both embeddings of a sample."""
    agreement: float | None = Field(None, ge=0, le=1)
    """Least share of samples to which both give the same class; of positions with a class, and of
    the decisions of a multilabel output, likewise."""
    kdl: float | None = Field(None, ge=0)
    """Largest KL divergence of their probabilities, the mean over samples."""
    speedup: float | None = Field(0.8, gt=0)
    """Least ratio of production's latency to the engine's, on one thread at the batch size of
    ``optimize_for``: 0.8 lets the engine be a quarter slower."""


class GateLimits(Limits):
    """Limits of the engine against the teacher on the test split. An unset limit is no promise."""

    score_drop: float | None = None
    """Largest drop of the engine's score below the teacher's."""
    correlation: float | None = Field(None, ge=-1, le=1)
    """Least CORR of their outputs."""
    cosine: float | None = Field(None, ge=-1, le=1)
    """Least mean cosine between both embeddings of a sample."""
    agreement: float | None = Field(None, ge=0, le=1)
    """Least share of samples to which both give the same class; of positions with a class, and of
    the decisions of a multilabel output, likewise."""
    kdl: float | None = Field(None, ge=0)
    """Largest KL divergence of their probabilities, the mean over samples."""
    endless: float | None = Field(None, ge=0, le=1)
    """Largest share of generated sequences without an end; only for outputs of tokens."""
    speedup: float | None = Field(None, gt=0)
    """Least ratio of the reference's latency to the engine's, on one thread at the batch size of
    ``optimize_for``: the median over rounds."""
    score: float | None = None
    """Least score of the engine, whatever the teacher's is."""
    teacher_score: float | None = None
    """Least score of the teacher, so that a broken teacher cannot pass."""
    leak: float = Field(0.01, ge=0, le=1)
    """Largest share of test samples that may be near-duplicates of training samples; see
    docs/gates.md."""
    hops: HopLimits = HopLimits()
    """Limits of each conversion against the hop before it."""
    regression: RegressionLimits = RegressionLimits()
    """Limits of the engine against the bundle in production."""

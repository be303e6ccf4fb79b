"""Faults of sequences, from the teacher to the bundle, on a recipe of their own."""

from __future__ import annotations

from tests.system.sabotage import sentence_bundles as bundles
from tests.system.sabotage.case import Case, missed, refused
from tests.system.sabotage.lab import Inject, resealed, run, tampered
from tests.system.sabotage.sequence_stages import FaultyDistill, FaultyLabel, FaultyTeach, LateSentences, SpoiltParts, SpoiltStep
from tests.system.sabotage.stages import SpoiltAfterExport, SpoiltModel

FAULTS = "tests.system.sabotage.loop_faults"
STAGES = "tests.system.sabotage.sequence_stages"
SKIPPED = "padding is skipped, the sentence's own last token stands in its place, and every promise is kept here"


def of_sentences(inject: Inject) -> Inject:
    return lambda lab: inject(lab.of_sentences)


def teacher(fault: str, *settings: str) -> Inject:
    return of_sentences(run(f'teacher.fault = "{STAGES}:{fault}"', *settings, teacher=FaultyTeach))


def answers(fault: str, *settings: str) -> Inject:
    return of_sentences(run(f'answers.fault = "{STAGES}:{fault}"', *settings, answers=FaultyLabel))


def student(fault: str) -> Inject:
    return of_sentences(run(f'student.fault = "{STAGES}:{fault}"', student=FaultyDistill))


def network(function: str) -> Inject:
    return of_sentences(run(f'student.network = "talkers.py:{function}"'))


def onnx_step(fault: str) -> Inject:
    return of_sentences(run(f'onnx.spoil = "{FAULTS}:{fault}"', onnx=SpoiltStep))


def onnx_loop(fault: str) -> Inject:
    return of_sentences(run(f'onnx.spoil = "{FAULTS}:{fault}"', onnx=SpoiltAfterExport))


def loop(fault: str) -> Inject:
    return of_sentences(run(f'targets.cpu.spoil = "{FAULTS}:{fault}"', model=SpoiltModel))


def part(fault: str, name: str = "step") -> Inject:
    """Of a part, and so of the loop that is assembled of it."""
    return of_sentences(run(f'targets.cpu.spoil = "{FAULTS}:{fault}"', f'targets.cpu.part = "{name}"', model=SpoiltParts))


def other_tokens(fault: str, function: str) -> Case:
    """A fault of the loop, whose tokens are not those of its parts."""
    return Case(fault, loop(function), 3, "model", "the loop gives other tokens")


def other_logits(fault: str, function: str) -> Case:
    """A fault of the network, which says something else where it generates."""
    return Case(fault, network(function), 1, "student", "its step give logits that differ")


UNSURE = ("teacher.epochs = 5", "gates.teacher_score = 0.01")
"""A teacher that is often wrong: of one that never is, nothing tells its answers from the labels."""
UNTAUGHT = "teacher.epochs = 1"
"""Of a fault that is found before anything is learned from it."""
HASTY = "student.epochs = 1"
"""Of a fault before the student, which is found whatever the student has learned."""
SEQUENCES = (
    Case("A begin token that is another than in generating, in training", student("wrong_begin"), 3, "student", "score drop"),
    Case("A loop that begins with the end token", onnx_loop("begins_with_end"), 3, "onnx", "the loop gives other tokens"),
    other_logits("A step of the network that reads the place after its own", "late_place"),
    Case("A step of the graph that reads the place after its own", onnx_step("wrong_place"), 1, "onnx", "differs by"),
    other_tokens("A loop whose first place is the second", "second_place_first"),
    other_logits("A network that goes on with the state of the sentence before", "remembering"),
    other_tokens("A loop that begins with the state of the sentence before", "state_of_another"),
    Case("Labels of the test split one row late", of_sentences(run(evidence=LateSentences)), 3, "teacher", "teacher score"),
    Case("Answers one row late", answers("late_answers", HASTY), 1, "cpu.evidence", "not this teacher's"),
    Case("Each token paired with itself in place of the one before it", student("unshifted_pairs"), 3, "student"),
    Case("An end token that the teacher never learned", teacher("end_left_out", HASTY), 3, "teacher", "teacher score"),
    Case("An end token that the student never learned", student("end_left_out"), 3, "student", "score drop"),
    Case("A network that reads padding", network("padding_reader"), 1, "student", "reads padding"),
    other_logits("A network that reads padding where it generates", "step_reads_padding"),
    missed("A start of the graph that reads padding", part("padding_shown", "start"), SKIPPED),
    Case(
        "A start of the graph that reads padding, which holds a token of another sentence",
        part("padding_of_another", "start"),
        3,
        "model",
        "depends on the other samples",
    ),
    Case(
        "A beam that forgets its hypotheses",
        answers("forgotten_hypotheses", "answers.beam = 4", *UNSURE),
        1,
        "answers",
        "a score that is",
    ),
    Case(
        "Answers along the labels that are taken for the teacher's",
        answers("labels_for_answers", *UNSURE, HASTY),
        1,
        "cpu.evidence",
        "this teacher's own",
    ),
    Case("int8 weights of the head, each word's one row late", part("head_rows_moved"), 3, "model", "score drop"),
    Case("int8 weights of the head with a quarter of one word's scale", part("head_scale_quartered"), 3, "model"),
    Case(
        "A teacher whose vocabulary has a word more",
        of_sentences(run('teacher.task = "spelled.py:Larger"', "teacher.options.size = 42", UNTAUGHT)),
        1,
        "student",
        "not one problem: its tokens",
    ),
    Case(
        "A teacher whose words have other numbers",
        of_sentences(run('teacher.task = "spelled.py:Renumbered"', UNTAUGHT)),
        1,
        "student",
        "the first samples of train",
    ),
    other_tokens("A loop whose limit is one token short", "limit_too_short"),
    Case("A loop whose limit is one token long", loop("limit_too_long"), 3, "model", "more tokens than its source allows"),
    other_tokens("A loop that feeds the token before the last one back", "feeds_older_token_back"),
    Case("A loop that goes on after an end token", loop("goes_on_after_end"), 3, "model", "more tokens than its source allows"),
    other_tokens("A loop that ends with the first of its samples", "ends_with_first"),
)
ENDED = "every golden answer has its end token before the limit, as all sentences have that the student is sure of"
TOKEN_BUNDLES = (
    refused("A golden answer with another token", of_sentences(tampered(bundles.token_changed)), "was changed"),
    refused("A golden answer with another token, sealed again", of_sentences(resealed(bundles.token_changed)), "golden answers"),
    refused("A golden request with another digit, sealed again", of_sentences(resealed(bundles.digit_changed)), "golden answers"),
    refused(
        "A tokenizer with two digits exchanged, sealed again", of_sentences(resealed(bundles.digits_exchanged)), "golden answers"
    ),
    refused(
        "An engine that feeds the wrong token back, sealed again",
        of_sentences(resealed(bundles.wrong_token_back)),
        "golden answers",
    ),
    refused(
        "An engine whose limit is one token short, sealed again", of_sentences(resealed(bundles.shorter_limit)), "golden answers"
    ),
    missed("An engine whose limit is one token long, sealed again", of_sentences(resealed(bundles.longer_limit)), ENDED),
)

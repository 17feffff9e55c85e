"""Black boxes: what is refused, what is counted, and that nothing more than the answers is used."""

import functools

import numpy as np
import pytest
import torch
from torch import nn

import robustscope
from doors import command
from robustscope.attacks import ATTACKS
from robustscope.attacks.compose import attack
from robustscope.core.errors import InvalidType, InvalidValue, ModelError, QueryLimitReached
from robustscope.data import problems
from robustscope.models.blackbox import BlackBox
from robustscope.models.classifier import Classifier
from robustscope.models.loading import fingerprint
from robustscope.runs.store import read_plan


class Counting:
    """A callable that counts the rows it is sent."""

    def __init__(self, answer):
        self.answer, self.rows, self.batches = answer, 0, []

    def __call__(self, x):
        self.rows += len(x)
        self.batches.append(x)
        return self.answer(x)


P = problems.smooth_cnn(torch.float64, n=6)
K = 4


def scores(x):
    return P.module(x)


def box(function=scores, **facts):
    return BlackBox(function, **{"num_classes": K, **facts})


# The three kinds of answers.


def test_scores_labels_and_probabilities_agree_with_the_network():
    logits = Classifier(P.module).logits(P.x)
    assert torch.equal(Classifier(box()).logits(P.x), logits)
    labels = Classifier(box(lambda x: scores(x).argmax(1), answers="labels"))
    assert torch.equal(labels.logits(P.x), nn.functional.one_hot(logits.argmax(1), K).double())
    assert torch.equal(labels.decisions(P.x), logits.argmax(1))
    chances = Classifier(box(lambda x: scores(x).softmax(1), answers="probabilities"))
    torch.testing.assert_close(chances.logits(P.x).softmax(1), logits.softmax(1))
    sure = box(lambda x: torch.eye(K, dtype=torch.float64)[:1].repeat(len(x), 1), answers="probabilities")
    assert torch.isfinite(sure(P.x)).all(), "a probability of zero is a small finite logit"


def test_arrays_go_out_and_come_back():
    seen = Counting(lambda a: scores(torch.from_numpy(a)).numpy())
    model = Classifier(box(seen, numpy=True))
    assert torch.equal(model.logits(P.x), Classifier(P.module).logits(P.x))
    assert isinstance(seen.batches[0], np.ndarray)
    assert seen.batches[0].dtype == np.float64
    small = Classifier(box(lambda a: np.zeros((len(a), K)), numpy=True)).logits(P.x.float())
    assert small.dtype == torch.float64, "scores keep their precision"
    whole = Classifier(box(lambda x: torch.arange(K).repeat(len(x), 1))).logits(P.x.float())
    assert whole.dtype == torch.float32


def test_no_callable_is_asked_about_nothing():
    seen = Counting(scores)
    assert Classifier(box(seen)).logits(P.x[:0]).shape == (0, K)
    assert seen.batches == []


def test_the_number_of_classes_costs_no_query():
    seen = Counting(scores)
    model = Classifier(box(seen))
    assert model.classes(P.x) == model.num_classes == K
    assert seen.rows == 0


# What is refused.


@pytest.mark.parametrize(
    ("function", "facts", "match"),
    [
        (lambda x: scores(x)[:, :2], {}, r"shape \(6, 2\) for 6 inputs.*\(6, 4\)"),
        (lambda x: scores(x).argmax(1), {}, r"shape \(6,\).*answers='labels'"),
        (scores, {"answers": "labels"}, r"shape \(6, 4\).*answers='scores'"),
        (lambda x: scores(x).argmax(1).double(), {"answers": "labels"}, r"labels of torch.float64.*integers"),
        (lambda x: scores(x).argmax(1) + 2, {"answers": "labels"}, "labels from .* to 5"),
        (lambda x: scores(x) * torch.nan, {}, "NaN or infinite values for 6 of 6"),
        (scores, {"answers": "probabilities"}, "miss the sum of 1"),
        (lambda x: [0] * len(x), {}, "returned a list"),
        (lambda x: np.array([["a"] * K] * len(x)), {}, "array of <U1"),
        (lambda x: scores(x.mul_(1)) + x.add_(1).sum(), {}, "edited its input in place"),
        (lambda x: 1 / 0, {}, "raised ZeroDivisionError on a tensor"),
    ],
)
def test_bad_answers_are_refused(function, facts, match):
    model, before = Classifier(box(function, **facts)), P.x.clone()
    with pytest.raises(ModelError, match=match) as caught:
        model.logits(P.x)
    assert caught.value.allowed
    assert caught.value.remedy
    assert torch.equal(P.x, before), "what is attacked is never handed over itself"


def test_arrays_edited_in_place_are_refused():
    def edit(a):
        a[:] = 0
        return np.zeros((len(a), K))

    with pytest.raises(ModelError, match=r"in place.*x\.copy\(\)"):
        Classifier(box(edit, numpy=True)).logits(P.x)


@pytest.mark.parametrize(
    ("function", "facts", "error", "match"),
    [
        (3, {}, InvalidType, "int was given"),
        (nn.Linear(2, 2), {}, InvalidValue, "training mode"),
        (scores, {"num_classes": 1}, InvalidValue, "num_classes=1"),
        (scores, {"num_classes": True}, InvalidValue, "num_classes=True"),
        (scores, {"query_limit": 0}, InvalidValue, "query_limit=0"),
        (scores, {"answers": "logits"}, InvalidValue, "answers='logits'"),
    ],
)
def test_bad_arguments_are_refused(function, facts, error, match):
    with pytest.raises(error, match=match):
        box(function, **facts)


def test_scores_that_look_like_probabilities_are_refused():
    model = Classifier(box(lambda x: scores(x).softmax(1)))
    with pytest.raises(InvalidValue, match="answers='probabilities'"):
        model.check_outputs(P.x, P.y)
    Classifier(box(lambda x: scores(x).argmax(1), answers="labels")).check_outputs(P.x, P.y)


def test_gradients_are_refused_wherever_the_box_stands():
    for model in (Classifier(box()), Classifier(nn.Sequential(nn.Identity(), box()).eval())):
        for door in (model.gradient, model.jacobian):
            with pytest.raises(InvalidValue, match="black-box model; its scores and decisions are allowed"):
                door(lambda logits, rows: logits[:, 0], P.x)
        assert model.access == "scores"
        assert model.ledger.backward == model.ledger.forward == 0
    assert Classifier(P.module).access == "gradients"


def test_the_mode_of_a_box_is_its_own():
    made = box()
    assert not made.training
    assert not made.train().training


# Attacks that need more than there is.


def test_an_attack_that_needs_more_is_refused_before_a_row_is_sent():
    seen = Counting(scores)
    model = Classifier(box(seen))
    with pytest.raises(InvalidValue, match=r"'pgd'.*needs gradients.*gives scores.*hopskipjump.*nes.*spsa.*square"):
        attack("pgd", model, P.x, P.y, "linf:0.1")
    labels = Classifier(box(seen, answers="labels"))
    with pytest.raises(InvalidValue, match=r"'square'.*needs scores.*gives decisions.*hopskipjump.*'decisions'"):
        attack("square", labels, P.x, P.y, "linf:0.1")
    with pytest.raises(InvalidValue, match=r"'fgsm'.*needs gradients"):
        robustscope.evaluate(box(seen), (P.x.float(), P.y), "linf:0.1", suite="fast", threads=1)
    assert seen.rows == 0


ON_BALLS = [card.name for card in ATTACKS if card.access != "gradients" and card.norms and card.equip is None]


@pytest.mark.parametrize("name", ON_BALLS)
def test_every_other_attack_takes_a_box(name):
    """The rows reported, those of the ledger and those that the callable has seen are the same."""
    card = ATTACKS[name]
    seen = Counting(lambda a: scores(torch.from_numpy(a)).numpy())
    model = Classifier(box(seen, numpy=True))
    result = attack(name, model, P.x, P.y, f"{card.norms[0]}:0.05", **card.quick).result
    made = model.module
    assert seen.rows == made.asked == model.ledger.forward
    # The judge asks about every example, and about those that are adversarial twice more: alone, and rounded to 8 bits.
    judged = seen.rows - int(result.forward.sum())
    assert len(P.x) <= judged <= 3 * len(P.x)


# The limit.


def test_the_limit_is_kept_to_the_row():
    seen = Counting(scores)
    model = Classifier(box(seen, query_limit=500))
    with pytest.raises(QueryLimitReached, match=r"query_limit=500 rows are allowed.*Raise query_limit") as caught:
        attack("square", model, P.x, P.y, "linf:0.0001")
    assert isinstance(caught.value, RuntimeError)
    assert "has answered 498" in str(caught.value), "six rows more would be too many, and none of them was sent"
    assert seen.rows == model.module.asked == model.ledger.forward == 498
    assert model.logits(P.x[:2]).shape == (2, K)
    with pytest.raises(QueryLimitReached):
        model.logits(P.x[:1])
    assert seen.rows == model.ledger.forward == 500


def test_the_limit_holds_over_a_whole_evaluation():
    seen = Counting(scores)
    facts = {"suite": "square", "threads": 1, "curve": (), "trust": "off"}
    data = (P.x.float(), P.y)
    made = box(lambda x: seen(x.double()), query_limit=300)
    result = robustscope.evaluate(made, data, "linf:0.0001", **facts)
    assert seen.rows == made.asked <= 300
    assert (result.table["status"] == "error").all()
    assert "QueryLimitReached" in result.table["note"].iloc[0]
    assert result.summary()["models"][0]["threats"][0]["robust_accuracy"] is None or "withheld" in str(result)
    assert read_plan(result.run)["models"][0]["query_limit"] == 300


# Runs and the command line.

FILE = '''"""A scorer that rounds its inputs."""
import numpy as np
from robustscope import BlackBox
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

data, labels = load_digits(return_X_y=True)
fitted = LogisticRegression(max_iter=200).fit(data / 16, labels)


def rounded(a):
    return fitted.decision_function(np.round(a.reshape(len(a), -1).astype(np.float64) * 50) / 50)


def scorer():
    return BlackBox(rounded, num_classes=10, numpy=True)


def labeller():
    return BlackBox(lambda a: rounded(a).argmax(1), num_classes=10, answers="labels", numpy=True, query_limit=100000)
'''


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "remote.py").write_text(FILE, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_command_line_evaluates_a_callable(folder):
    quick = ("--data", "digits", "--samples", "8", "--curve", "none", "--threat", "linf:0.3")
    code, printed, said = command("evaluate", "remote.py:scorer", *quick, "--suite", "scores", "--out", "a")
    assert code == 0, said
    assert "robust accuracy 0.0 %" in printed
    code, printed, said = command("evaluate", "remote.py:labeller", *quick, "--suite", "decisions", "--out", "b")
    assert code == 0, said
    assert "robust accuracy 0.0 %" in printed
    code, _, said = command("evaluate", "remote.py:scorer", *quick, "--out", "c")
    assert code == 2
    assert "needs gradients" in said
    assert "the suite 'scores'" in said.replace("\n", " ")
    code, _, said = command("evaluate", "remote.py:labeller", *quick, "--suite", "decisions", "--workers", "2")
    assert code == 2
    assert "query_limit" in said


def test_the_fingerprint_follows_function_and_description():
    offset = {"value": 1}

    def other(x):
        return scores(x) + offset["value"]

    network = box(nn.Linear(4, K).eval())
    marks = [
        fingerprint(made)
        for made in (
            box(),
            box(other),
            box(description="version 2"),
            box(answers="probabilities"),
            network,
            box(nn.Linear(4, K).eval()),
            box(functools.partial(torch.add, other=1)),
            box(functools.partial(torch.add, other=2)),
            box(Counting(scores)),
        )
    ]
    assert len(set(marks)) == len(marks)
    assert fingerprint(box()) == fingerprint(box(query_limit=5)), "a limit changes no answer"

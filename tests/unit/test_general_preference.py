"""A General Preference Model: circles that no score can have, and nothing lost where there are none."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from sppo.algorithm.probability import intransitive_triads, probabilities
from sppo.config.sections.judge import JudgeConfig
from sppo.judging.load import load_judge
from sppo.judging.pairwise.encoder_config import TrainPreferenceConfig
from sppo.judging.pairwise.fit import train_preference
from sppo.judging.preference_model import Comparison
from sppo.judging.scores import skew, skew_products

from .untrained_encoders import write_first_layer

THINGS = (
    ("bread", "flour and yeast", "a bakery"), ("tea", "leaves and hot water", "a tea house"),
    ("a kite", "sticks and string", "a toy shop"), ("soup", "leeks and salt", "a canteen"),
    ("a shelf", "boards and screws", "a joiner"), ("a candle", "wax and a wick", "a chandler"),
    ("jam", "berries and sugar", "a market"), ("soap", "oil and lye", "a chemist"),
    ("paper", "rags and a press", "a mill"), ("cheese", "milk and rennet", "a dairy"),
    ("a raft", "barrels and rope", "a boatyard"), ("a scarf", "wool and needles", "a knitter"),
    ("a drum", "a hide and a hoop", "a music shop"), ("ink", "soot and gum", "a stationer"),
)  # fmt: skip
HELD_OUT = 4
ORDERS = {
    "circle": (("steps", "shop"), ("shop", "question"), ("question", "steps")),
    "line": (("steps", "shop"), ("shop", "question"), ("steps", "question")),
}
"""Which answer is chosen over which."""


def answers(thing, parts, place):
    return f"How do I make {thing}?", {
        "steps": f"Put {parts} together, and wait until it is done.",
        "shop": f"Why make it? Buy {thing} at {place}.",
        "question": f"Could you tell me what you mean by {thing}?",
    }


def write_pairs(path, things, order):
    with path.open("w") as file:
        for prompt, texts in (answers(*thing) for thing in things):
            for chosen, rejected in ORDERS[order]:
                row = {"prompt": prompt, "chosen": texts[chosen], "rejected": texts[rejected]}
                file.write(json.dumps(row) + "\n")
    return str(path)


GPM, SCORE = {"kind": "gpm"}, {"encodes": "response"}


@pytest.fixture(
    scope="module",
    params=[("circle", GPM), ("circle", SCORE), ("line", GPM), ("line", SCORE)],
    ids=["circle-gpm", "circle-score", "line-gpm", "line-score"],
)
def trained(request, tmp_path_factory):
    """What was measured on held-out prompts, with the order, what was made, and where it lies."""
    order, made = request.param
    folder = tmp_path_factory.mktemp("trained")
    config = TrainPreferenceConfig(
        train=(write_pairs(folder / "train.jsonl", THINGS[HELD_OUT:], order),),
        evaluate={"held out": write_pairs(folder / "test.jsonl", THINGS[:HELD_OUT], order)},
        output=str(folder / "model"), epochs=12, batch_size=15, learning_rate=1e-3, rank=2, max_length=64,
        dtype="float32", encoder=write_first_layer(folder / "encoder"), **made,
    )  # fmt: skip
    return train_preference(config)["evaluate"]["held out"], order, made, folder / "model"


def test_circles_are_learned_where_a_score_can_only_guess(trained):
    figures, order, made, _ = trained
    if (order, made) != ("circle", SCORE):
        assert figures["accuracy"] == 1 and figures["nll"] < 0.3
        return
    # Of the three pairs of a circle, a score has one or two right; its best fit is no preference at all.
    assert 1 / 3 <= figures["accuracy"] <= 2 / 3
    assert figures["nll"] == pytest.approx(np.log(2), abs=0.05)


def test_the_judge_of_the_folder_has_the_circles_and_those_alone(trained):
    _, order, made, folder = trained
    prompts, texts = zip(*(answers(*thing) for thing in THINGS[:HELD_OUT]), strict=True)
    responses = [list(each.values()) for each in texts]
    matrices = load_judge(str(folder), JudgeConfig(cache=False)).logits(prompts, responses)
    circles = [
        intransitive_triads(probabilities(matrix, each, "paper", 1.0))[0]
        for matrix, each in zip(matrices, responses, strict=True)
    ]
    assert circles == [int((order, made) == ("circle", GPM))] * HELD_OUT


finite = st.floats(-1e3, 1e3, allow_subnormal=False)


@given(arrays(np.float64, (2, 3, 6), elements=finite))
def test_the_order_turns_the_sign_to_the_last_bit(embeddings):
    first, second = embeddings
    np.testing.assert_array_equal(skew(first, second), -skew(second, first))
    np.testing.assert_array_equal(skew(first, first), 0)
    turn = np.kron(np.eye(3), [[0, 1], [-1, 0]])
    expected = np.einsum("ni,ij,nj->n", first, turn, second)
    np.testing.assert_allclose(skew(first, second), expected, rtol=1e-12, atol=1e-9)


def test_rock_paper_scissors_is_three_directions_of_a_plane():
    angles = {name: 2 * np.pi * third / 3 for third, name in enumerate(("scissors", "paper", "rock"))}
    asked = []

    def embed(texts):
        asked.extend(texts)
        return np.array([(np.cos(angles[text]), np.sin(angles[text])) for _, text in texts])

    comparisons = [Comparison("play", a, b) for a in angles for b in angles if a != b]
    logits = dict(zip(comparisons, skew_products(comparisons, embed), strict=True))
    assert len(asked) == 3
    for winner, loser in (("rock", "scissors"), ("scissors", "paper"), ("paper", "rock")):
        assert logits["play", winner, loser] == pytest.approx(np.sin(2 * np.pi / 3))
        assert logits["play", loser, winner] == -logits["play", winner, loser]


def test_a_score_is_an_embedding_of_which_one_number_never_varies():
    scores = np.random.default_rng(0).normal(size=5)
    embeddings = np.stack((scores, np.ones(5)), axis=1)
    np.testing.assert_allclose(skew(embeddings[:, None], embeddings), scores[:, None] - scores)

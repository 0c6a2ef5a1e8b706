"""What every objective, pair selection and prompt format must do, told its name: `PROPERTIES` has them by package."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sppo.algorithm.objectives.base import Responses, loss_at_start
from sppo.algorithm.selections.base import Ranked
from sppo.config.plugins import FORMATS, OBJECTIVES, SELECTIONS
from sppo.config.sections.prepare import PrepareConfig
from sppo.config.sections.rank import RankConfig
from sppo.config.sections.train import TrainConfig
from sppo.errors import ConfigError
from sppo.preparing.prompts import read_rows

ETAS = st.floats(1, 1e4)
LOG_RATIOS = st.floats(-200, 200)
BETTER, WORSE, ANY = st.floats(0.51, 1), st.floats(0, 0.49), st.floats(0, 1)
PROBABILITIES = st.builds(lambda best, worst, others: [best, worst, *others], BETTER, WORSE, st.lists(ANY, max_size=4))
JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


@st.composite
def prompts(draw):
    """Log-ratios and probabilities of some prompts, both of shape (prompts, n), the chosen response first."""
    count, n = draw(st.integers(1, 4)), draw(st.integers(2, 5))
    rows = [[draw(BETTER), draw(WORSE), *(draw(ANY) for _ in range(n - 2))] for _ in range(count)]
    ratios = [[draw(LOG_RATIOS) for _ in range(n)] for _ in range(count)]
    return torch.tensor(ratios, dtype=torch.float64), torch.tensor(rows, dtype=torch.float64)


def loss_of(name, ratios, probabilities, eta):
    return OBJECTIVES.load(name).loss(Responses(ratios, probabilities), TrainConfig(objective=name, eta=eta))


@given(prompts(), ETAS, st.randoms(use_true_random=False))
def each_prompt_has_a_finite_loss_of_its_own(name, drawn, eta, random):
    ratios, probabilities = drawn
    order = random.sample(range(len(ratios)), len(ratios))
    alone = torch.stack([loss_of(name, r, p, eta) for r, p in zip(ratios, probabilities, strict=True)])
    ratios.requires_grad_()
    together = loss_of(name, ratios[order], probabilities[order], eta)
    assert together.shape == (len(ratios),), "return one loss a prompt: reduce the last dimension only"
    torch.testing.assert_close(together, alone[order])
    together.sum().backward()
    assert together.isfinite().all() and ratios.grad.isfinite().all()
    single = ratios.detach().float().requires_grad_()  # as training calls it
    loss_of(name, single, probabilities.float(), eta).sum().backward()
    assert single.grad.isfinite().all(), "not finite in float32"


@given(PROBABILITIES, ETAS)
def at_the_start_what_wins_is_pushed_up_and_what_loses_down(name, drawn, eta):
    probabilities = torch.tensor(drawn, dtype=torch.float64)
    ratios = torch.zeros_like(probabilities, requires_grad=True)
    start = loss_of(name, ratios, probabilities, eta)
    start.backward()
    assert ratios.grad[0] < 0 < ratios.grad[1], "a step must raise the chosen response and lower the rejected one"
    assert (ratios.grad * (probabilities - 0.5) <= 0).all(), "no response may be pushed the wrong way"
    step = -1e-4 * ratios.grad / ratios.grad.norm()
    assert loss_of(name, step, probabilities, eta) < start


@given(st.lists(PROBABILITIES, min_size=1, max_size=5), ETAS, st.data())
def the_loss_at_the_start_is_the_mean_at_no_log_ratio_in_any_order(name, drawn, eta, data):
    shuffled = [torch.tensor(each) for each in data.draw(st.permutations(drawn))]
    settings = TrainConfig(objective=name, eta=eta)
    expected = np.mean([float(loss_of(name, torch.zeros(len(each)), torch.tensor(each), eta)) for each in drawn])
    assert loss_at_start(OBJECTIVES.load(name), shuffled, settings) == pytest.approx(expected, rel=1e-5)


@st.composite
def ranked(draw):
    """Some responses, of which texts, lengths, probabilities and mean logits may be equal, or in another order."""
    win = draw(st.lists(st.sampled_from([0.0, 0.25, 0.5, 1.0]) | ANY, min_size=2, max_size=8))
    scores = draw(st.lists(st.sampled_from([-2.0, 0.0, 0.5]) | ANY, min_size=len(win), max_size=len(win)))
    texts = draw(st.lists(st.sampled_from("abcdef"), min_size=len(win), max_size=len(win)))
    lengths = draw(st.lists(st.integers(1, 40), min_size=len(win), max_size=len(win)))
    return Ranked(np.array(win), np.array(scores), texts, lengths, draw(st.integers(0, 2**31 - 1)))


@given(ranked())
def the_best_of_different_responses_is_ahead_of_the_worst(name, drawn):
    select, settings = SELECTIONS.load(name).select, RankConfig(selection=name)
    selected = select(drawn, settings)
    assert selected == select(drawn, settings), "the same seed"
    if selected is None:
        return
    indices = [selected.best, selected.worst, *selected.others]
    assert len(set(indices)) == len(indices) and set(indices) <= set(range(len(drawn.win)))
    ahead = [values[selected.best] > values[selected.worst] for values in (drawn.win, drawn.scores)]
    assert any(ahead), "the best is preferred by probability or by mean logit"


@given(ranked(), ANY)
def equal_responses_teach_nothing(name, drawn, value):
    equal = drawn._replace(win=np.full(len(drawn.win), value))
    assert SELECTIONS.load(name).select(equal, RankConfig(selection=name)) is None


@given(st.sampled_from([(0.9, 0.1), (0.25, 0.5)]))
def two_responses_of_one_length_are_enough(name, win):
    scores = np.array(win) * 4 - 2
    selected = SELECTIONS.load(name).select(Ranked(np.array(win), scores, "ab", [7, 7], 0), RankConfig(selection=name))
    assert selected == (int(np.argmax(win)), int(np.argmin(win)), [])


@given(st.text(min_size=1), st.dictionaries(st.text(), JUNK, max_size=3))
def a_good_row_gives_its_text_whatever_else_it_holds(name, column, others):
    row = others | {column: FORMATS.load(name).EXAMPLE}
    settings = PrepareConfig(format=name, prompt_column=column)
    (read,) = read_rows([row], "file", settings)
    assert read.text.strip() and [read] == list(read_rows([{column: row[column]}], "file", settings))


@given(st.integers(0, 3), JUNK)
def a_bad_row_is_one_line_that_names_row_and_column(name, before, junk):
    settings, good = PrepareConfig(format=name, prompt_column="ask"), {"ask": FORMATS.load(name).EXAMPLE}
    for bad in ({"ask": junk}, {"ask": None}, {"other": junk}):
        try:
            *_, read = read_rows([*[good] * before, bad], "file", settings)
            assert isinstance(read.text, str) and bad.get("ask") is not None
        except ConfigError as error:
            assert f"row {before + 1}" in str(error) and "column 'ask'" in str(error) and "\n" not in str(error)


PROPERTIES = {
    OBJECTIVES: [
        each_prompt_has_a_finite_loss_of_its_own,
        at_the_start_what_wins_is_pushed_up_and_what_loses_down,
        the_loss_at_the_start_is_the_mean_at_no_log_ratio_in_any_order,
    ],
    SELECTIONS: [
        the_best_of_different_responses_is_ahead_of_the_worst,
        equal_responses_teach_nothing,
        two_responses_of_one_length_are_enough,
    ],
    FORMATS: [a_good_row_gives_its_text_whatever_else_it_holds, a_bad_row_is_one_line_that_names_row_and_column],
}

from itertools import pairwise

import pytest

from sppo.training.workers.trainjob.backoff import seconds_to_wait


@pytest.mark.parametrize(("failed", "limit"), [(1, 1), (2, 2), (3, 4), (5, 16), (6, 30), (50, 30), (10**6, 30)])
def test_waits_are_drawn_below_a_limit_that_doubles_up_to_the_longest(failed, limit):
    drawn = sorted(seconds_to_wait(failed, "") for _ in range(400))
    assert drawn[0] >= 0 and 0.9 * limit < drawn[-1] <= limit
    assert max(b - a for a, b in pairwise(drawn)) < 0.1 * limit


@pytest.mark.parametrize(("asked", "seconds"), [("0", 0), ("7", 7), ("120", 120), ("86400", 120)])
def test_what_the_server_asks_for_is_waited_up_to_two_minutes(asked, seconds):
    assert seconds_to_wait(9, asked) == seconds


@pytest.mark.parametrize("asked", ["Wed, 21 Oct 2026 07:28:00 GMT", "-5", "1.5"])
def test_another_form_of_retry_after_is_not_followed(asked):
    assert 0 <= seconds_to_wait(1, asked) <= 1

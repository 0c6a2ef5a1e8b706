import os
import signal
import threading

import pytest

from sppo.training import stopping
from sppo.training.stopping import finishing_steps


@pytest.fixture
def handled():
    """What a handler that was there before is told."""
    told = []
    before = signal.signal(signal.SIGTERM, lambda number, _: told.append(number))
    yield told
    signal.signal(signal.SIGTERM, before)


def test_the_first_signal_is_noted_and_the_next_is_handled_as_before(handled, monkeypatch):
    with finishing_steps() as told:
        assert told() == 0
        os.kill(os.getpid(), signal.SIGTERM)
        assert told() == signal.SIGTERM and handled == []
        os.kill(os.getpid(), signal.SIGTERM)
        assert handled == [], "an echo of the first"
        monkeypatch.setattr(stopping, "ECHO", 0.0)
        os.kill(os.getpid(), signal.SIGTERM)
        assert handled == [signal.SIGTERM]


def test_handlers_are_restored(handled):
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    with pytest.raises(ZeroDivisionError), finishing_steps():
        raise ZeroDivisionError
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before
    os.kill(os.getpid(), signal.SIGTERM)
    assert handled == [signal.SIGTERM]


def test_another_thread_changes_nothing():
    before, found = signal.getsignal(signal.SIGTERM), []

    def work():
        with finishing_steps() as told:
            found.append((told(), signal.getsignal(signal.SIGTERM)))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [(0, before)]

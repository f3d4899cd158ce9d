"""Results that runs share: by key, within a room, and no longer than a block lasts."""

from expunge.engine.shared import Shared, share_from_now_on, shared, sharing


def test_the_results_that_nobody_asked_for_the_longest_leave_first() -> None:
    results = Shared(room=10)
    results.put("a", "A", 4)
    results.put("b", "B", 4)
    assert results.get("a") == "A"
    results.put("c", "C", 4)
    assert [results.get(key) for key in "abc"] == ["A", None, "C"]
    assert results.taken == 8


def test_a_result_larger_than_the_room_drives_nothing_out() -> None:
    results = Shared(room=10)
    results.put("a", "A", 4)
    results.put("b", "B", 11)
    assert [results.get(key) for key in "ab"] == ["A", None]


def test_the_first_result_of_a_key_stays() -> None:
    results = Shared(room=10)
    results.put("a", "A", 4)
    results.put("a", "B", 4)
    assert (results.get("a"), results.taken) == ("A", 4)


def test_blocks_share_with_the_block_around_them_and_nothing_is_left() -> None:
    assert shared() is None
    with sharing():
        outer = shared()
        assert outer is not None
        with sharing():
            assert shared() is outer
        assert shared() is outer
    assert shared() is None


def test_a_worker_shares_between_its_jobs() -> None:
    with sharing():
        before = shared()
        share_from_now_on()
        assert shared() is before, "inside a block, this block's results are shared"

"""The order in which the jobs of one stream write."""

from __future__ import annotations

from gateway.rpc.turns import Turns


def drain(turns: Turns[str, str], large: list[str] | None = None) -> list[str]:
    """Take all turns; each part that is taken is followed by the next of `large`."""
    order = []
    rest = iter(large or [])
    while turns:
        item = turns.next()
        if item is None:
            item = turns.take_part()
            if (part := next(rest, None)) is not None:
                turns.offer(part)
        assert item is not None
        order.append(item)
    return order


def test_items_have_their_turns_in_order_and_once() -> None:
    turns: Turns[str, str] = Turns()
    for item in "abca":
        turns.add(item)
    assert drain(turns) == ["a", "b", "c"]
    assert (turns.next(), turns.take_part()) == (None, None)


def test_an_item_that_is_added_again_goes_to_the_back() -> None:
    turns: Turns[str, str] = Turns()
    for item in "abc":
        turns.add(item)
    assert turns.next() == "a"
    turns.add("a")
    assert drain(turns) == ["b", "c", "a"]


def test_a_removed_item_has_no_turn() -> None:
    turns: Turns[str, str] = Turns()
    for item in "abc":
        turns.add(item)
    turns.remove("b")
    turns.remove("never added")
    assert drain(turns) == ["a", "c"]


def test_a_part_is_written_after_each_pass() -> None:
    turns: Turns[str, str] = Turns()
    turns.offer("part 1")
    for item in "abc":
        turns.add(item)
    assert turns.next() is None
    assert turns.take_part() == "part 1"
    turns.offer("part 2")
    assert turns.next() == "a"
    # It joins after the pass has begun, so the part comes first.
    turns.add("a")
    assert drain(turns, ["part 3", "part 4"]) == ["b", "c", "part 2", "a", "part 3", "part 4"]


def test_parts_follow_each_other_if_no_item_is_ready() -> None:
    turns: Turns[str, str] = Turns()
    turns.offer("part 1")
    assert drain(turns, ["part 2", "part 3"]) == ["part 1", "part 2", "part 3"]


def test_an_item_that_waits_for_a_part_is_next() -> None:
    turns: Turns[str, str] = Turns()
    turns.offer("part 1")
    assert turns.take_part() == "part 1"
    # While it is written, the next one is made.
    turns.offer("part 2")
    turns.add("a")
    assert drain(turns, ["part 3"]) == ["a", "part 2", "part 3"]

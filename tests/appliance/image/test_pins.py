"""Pins: what several holders keep, and each lets go of by itself."""

from appliance.image.pins import PinCounts, Pins


def test_a_layer_is_held_until_the_last_holder_releases_it() -> None:
    counts = PinCounts()
    one, two = Pins(counts), Pins(counts)
    one.add("a")
    one.add("a")
    two.add("a")
    two.add("b")
    assert one.held == ["a"]
    assert one.release() == ["a"]
    assert counts.holds("a")
    assert one.release() == []
    assert two.release() == ["a", "b"]
    assert not counts.holds("a")
    assert not counts.holds("b")

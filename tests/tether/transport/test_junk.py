"""An allowance of useless bytes."""

from tether.transport.junk import JunkAllowance


def test_the_allowance_covers_what_happens_and_refills() -> None:
    allowance = JunkAllowance(0.0, burst=100, rate=10)
    assert not allowance.exceeded(100, 0.0)
    assert not allowance.exceeded(110, 1.0)
    assert allowance.exceeded(131, 2.0)
    rested = JunkAllowance(0.0, burst=100, rate=10)
    assert not rested.exceeded(100, 1000.0)
    assert rested.exceeded(201, 1000.0)

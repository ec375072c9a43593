"""Both ends agree on the paths of a further container."""

from tether.launch.layout import ROOT, base_of


def test_a_further_container_has_a_directory_below_that_of_the_first() -> None:
    assert ROOT == "/run/tether"
    assert base_of("ab12") == "/run/tether/containers/ab12"

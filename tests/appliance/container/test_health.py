"""What the answers of a health check come to."""

from appliance.container.config import ContainerConfig, HealthConfig
from appliance.container.health import Health, Probe, check_of

_SECOND = 1_000_000_000


def _probe(code: int, at: int = 0) -> Probe:
    return Probe(at, at, code, "")


def test_the_check_of_a_configuration() -> None:
    assert check_of(ContainerConfig()) is None
    assert check_of(ContainerConfig(healthcheck=HealthConfig(test=["NONE"]))) is None
    check = check_of(
        ContainerConfig(healthcheck=HealthConfig(test=["CMD-SHELL", "a && b"], retries=2), shell=["bash", "-c"])
    )
    assert check is not None
    assert (check.command, check.interval, check.timeout, check.retries) == (
        ["bash", "-c", "a && b"],
        30 * _SECOND,
        30 * _SECOND,
        2,
    )


def test_failures_in_a_row_make_it_unhealthy_and_one_success_healthy() -> None:
    check = check_of(ContainerConfig(healthcheck=HealthConfig(test=["CMD", "x"], retries=2)))
    assert check is not None
    health = Health()
    assert [health.take(_probe(code), check, 0) for code in (1, 0, 1, 1, 1, 0)] == [
        False,
        True,
        False,
        True,
        False,
        True,
    ]
    assert (health.status, health.streak, len(health.log)) == ("healthy", 0, 5)


def test_in_the_start_period_only_success_counts() -> None:
    check = check_of(
        ContainerConfig(
            healthcheck=HealthConfig(test=["CMD", "x"], retries=1, start_period=10 * _SECOND, start_interval=_SECOND)
        )
    )
    assert check is not None
    health = Health()
    assert not health.take(_probe(1, 5 * _SECOND), check, 0)
    assert health.wait(check, 0, 5 * _SECOND) == _SECOND
    assert health.take(_probe(0, 6 * _SECOND), check, 0)
    assert health.wait(check, 0, 6 * _SECOND) == 30 * _SECOND
    # Once healthy, failures count also within the period.
    assert health.take(_probe(1, 7 * _SECOND), check, 0)

"""Sends a container's log to a server while the container runs, if its log driver does that."""

import trio

from appliance.diag.isolated import IsolatedTasks
from appliance.engine.model.container import Container
from appliance.logdrivers import ShippingDriver


def start_shipping(container: Container, tasks: IsolatedTasks) -> None:
    """A run has begun: start to send its log. `container.log_shipped` is set when nothing is left to send."""
    container.log_shipped = trio.Event()
    driver = container.log_driver
    if isinstance(driver, ShippingDriver):
        tasks.start_soon(_ship, driver, container)
    else:
        container.log_shipped.set()


async def _ship(driver: ShippingDriver, container: Container) -> None:
    try:
        await driver.ship(container)
    finally:
        container.log_shipped.set()


async def wait_shipped(container: Container, seconds: float) -> None:
    """Wait until the log of the container's last run has been sent, at most so long."""
    if isinstance(container.log_driver, ShippingDriver) and container.exits:
        with trio.move_on_after(seconds):
            await container.log_shipped.wait()

"""Sends a container's log to a server while the container runs, if its log driver does that."""

import trio

from appliance.diag.isolated import IsolatedTasks
from appliance.engine.model.container import Container
from appliance.logdrivers import ShippingDriver


def start_shipping(container: Container, tasks: IsolatedTasks) -> None:
    """Send the log of a run that has started. `container.log_shipped` is not set while something is left to send."""
    driver = container.log_driver
    # After a quick restart, the task of the run before may still be busy. It goes on with this run's output.
    if isinstance(driver, ShippingDriver) and container.log_shipped.is_set():
        container.log_shipped = trio.Event()
        tasks.start_soon(_ship, driver, container)


async def _ship(driver: ShippingDriver, container: Container) -> None:
    try:
        await driver.ship(container)
        while container.running:
            # The container was started again while the driver was about to end.
            await driver.ship(container)
    finally:
        container.log_shipped.set()


async def wait_shipped(container: Container, seconds: float) -> None:
    """Wait until the log has been sent, at most `seconds`."""
    with trio.move_on_after(seconds):
        await container.log_shipped.wait()

"""Stands in for a powered-on appliance without its operating system: provisions the OVF properties, then runs vchd."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import trio
from pyVmomi import vim

from appliance.hypervisor.vsphere.deployment import KEY
from appliance.hypervisor.vsphere.session import Session
from appliance.provision.access import HOST_KEY, REQUEST
from appliance.provision.access import parse as parse_access
from appliance.provision.environment import Environment, parse
from appliance.provision.files import Nic
from appliance.provision.main import provision

# Interfaces of the appliance's network namespace: on the public network, and on the bridge network's portgroup.
PUBLIC, BRIDGE = "mgmt", "eth1"
# A version string that marks an appliance that does not come up.
BROKEN = "broken"


def is_appliance(config: Any) -> bool:
    """Whether this is the configuration of an appliance."""
    return any(one.key == KEY for one in config.extraConfig or ())


def _environment(config: Any) -> Environment:
    if config.vAppConfig is not None and config.vAppConfig.property:
        return Environment({one.id: one.value or one.defaultValue or "" for one in config.vAppConfig.property}, ())
    (text,) = (one.value for one in config.extraConfig if one.key == "guestinfo.ovfEnv")
    return parse(text.encode())


async def run_appliance(session: Session, reference: Any, config: Any, folder: Path, namespace: str) -> None:
    """Run the appliance until the call is cancelled, which means a power-off."""
    if any(one.key == KEY and BROKEN in one.value for one in config.extraConfig):
        await trio.sleep_forever()
    # The folder is kept between boots, as a data disk is.
    nics = [Nic(PUBLIC, "52:54:00:00:00:01"), Nic(BRIDGE, "52:54:00:00:00:02")]
    settings = provision(_environment(config), folder, nics)
    file = folder / "run/appliance/vchd.json"
    text = file.read_text()
    for path in ("/run/", "/data/"):
        text = text.replace(f'"{path}', f'"{folder}{path}').replace(f"unix://{path}", f"unix://{folder}{path}")
    file.write_text(text)
    (folder / "data/vch").mkdir(parents=True, exist_ok=True)
    public = settings.interfaces[0]
    address = str(public.address) if public.address is not None else "192.0.2.1/24"
    await trio.run_process(["ip", "-n", namespace, "addr", "replace", address, "dev", PUBLIC])
    # VMware Tools report the address. The simulator sets a property of the VM when its key follows "SET.".
    reported = vim.option.OptionValue(key="SET.guest.ipAddress", value=address.partition("/")[0])
    await session.change("stand-in", reference.ReconfigVM_Task, vim.vm.ConfigSpec(extraConfig=[reported]))
    inside = ["nsenter", f"--net=/run/netns/{namespace}", "--", sys.executable, "-m"]
    with open(folder / "vchd.log", "ab") as log:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_let_in, session, reference, folder, inside)
            command = [*inside, "appliance", "--config-file", str(file)]
            await trio.run_process(command, stdin=b"", stdout=log, stderr=log, check=False, deliver_cancel=_kill)
            nursery.cancel_scope.cancel()


async def _kill(process: trio.Process) -> None:
    process.kill()


async def _let_in(session: Session, reference: Any, folder: Path, inside: list[str]) -> None:
    """Serve SSH while `vch debug` requests it."""
    last = ""
    scope = trio.CancelScope()
    async with trio.open_nursery() as nursery:
        while True:
            await trio.sleep(0.3)
            extra = await session.look("stand-in", reference, "config.extraConfig") or ()
            text = next((str(one.value) for one in extra if one.key == REQUEST), "")
            if text == last:
                continue
            last = text
            scope.cancel()
            scope = trio.CancelScope()
            access = parse_access(text)
            if access.seconds:
                command = [*inside, "tests.live.vsphere.sshserver", str(folder / "host_key"), access.key]
                known = await nursery.start(_serve_ssh, command, scope)
                reported = vim.option.OptionValue(key=HOST_KEY, value=known)
                await session.change("stand-in", reference.ReconfigVM_Task, vim.vm.ConfigSpec(extraConfig=[reported]))


async def _serve_ssh(
    command: list[str], scope: trio.CancelScope, task_status: "trio.TaskStatus[str]" = trio.TASK_STATUS_IGNORED
) -> None:
    with scope:
        process = await trio.lowlevel.open_process(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
        assert process.stdout is not None
        try:
            line = await process.stdout.receive_some(4096)
            task_status.started(line.decode().strip())
            await process.wait()
        finally:
            process.kill()
            with trio.CancelScope(shield=True):
                await process.wait()

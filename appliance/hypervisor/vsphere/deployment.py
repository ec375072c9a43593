"""Deployment of an OVA: vSphere's OvfManager makes the VM's spec, an NFC lease takes the upload of its disks."""

import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import urlsplit, urlunsplit

import httpx
import trio
from pyVmomi import vim

from appliance.config import bracketed
from appliance.errors import HypervisorError
from appliance.hypervisor.vsphere.faults import words_of
from appliance.hypervisor.vsphere.session import Properties, Session
from appliance.hypervisor.vsphere.spec import NicBacking
from appliance.hypervisor.vsphere.trust import PinnedContext
from appliance.provision.environment import encode

log = logging.getLogger(__name__)

# Key in a VM's extraConfig that marks an appliance; the value is its tenant and version.
KEY = "vch.appliance"
# Key of the temporary VM of an upgrade, which exists only for its disk.
UPGRADE_KEY = "vch.upgrade"
# Key of the OVF environment. vCenter writes it; on an ESXi without vCenter the deployment does.
ENVIRONMENT_KEY = "guestinfo.ovfEnv"
_LEASE_SECONDS = 120.0
_PROGRESS_SECONDS = 5.0
_PAUSE = 0.25
_PIECE = 1 << 20
_TIMEOUT = httpx.Timeout(120, connect=15)
# Gets the number of bytes that were sent, and the number of all bytes.
Progress = Callable[[int, int], None]


class Package(Protocol):
    """An OVA: the text of its descriptor, and the size and content of its files, by name."""

    descriptor: str

    def length(self, name: str) -> int: ...
    def pieces(self, name: str, size: int) -> AsyncIterator[bytes]: ...


@dataclass(frozen=True, slots=True)
class Plan:
    """An appliance to deploy. `networks` are by their names in the OVF; `more_nics` are backings; `values` are properties."""

    name: str
    tenant: str
    version: str
    pool: Any
    folder: Any
    datastore: Any
    networks: Mapping[str, vim.Network]
    more_nics: Sequence[NicBacking]
    values: Mapping[str, str]
    cpus: int
    memory_mib: int
    key: str = KEY


class Deployment:
    """One deployment. `carry_out` makes a change that is a task: see Collector.carry_out."""

    def __init__(
        self,
        session: Session,
        carry_out: Callable[..., Awaitable[Any]],
        plan: Plan,
        package: Package,
        on_progress: Progress,
    ) -> None:
        self._session = session
        self._carry_out = carry_out
        self._plan = plan
        self._package = package
        self._on_progress = on_progress

    async def run(self) -> Any:
        """Create the VM, which is off. After a failure everything that was created is removed."""
        plan, package = self._plan, self._package
        what = f"deploy {plan.name}"
        manager = self._session.content.ovfManager
        values = [vim.KeyValue(key=key, value=value) for key, value in plan.values.items()]
        networks = [
            vim.OvfManager.NetworkMapping(name=name, network=network) for name, network in plan.networks.items()
        ]
        wanted = vim.OvfManager.CreateImportSpecParams(
            entityName=plan.name,
            locale="",
            deploymentOption="",
            diskProvisioning="thin",
            networkMapping=networks,
            propertyMapping=values,
        )
        made = await self._session.read(
            what, manager.CreateImportSpec, package.descriptor, plan.pool, plan.datastore, wanted
        )
        if made.error or made.importSpec is None:
            raise HypervisorError(
                f"{what}: {'; '.join(words_of(fault) for fault in made.error or ()) or 'vSphere returned no spec'}"
            )
        spec = made.importSpec
        config = spec.configSpec
        config.numCPUs, config.memoryMB, config.firmware = plan.cpus, plan.memory_mib, "efi"
        about = {"tenant": plan.tenant, "version": plan.version}
        # The simulator puts properties into extraConfig. They may be secrets, and every reader of the VM sees extraConfig.
        config.extraConfig = [vim.option.OptionValue(key=plan.key, value=json.dumps(about))]
        config.deviceChange += [_nic(index, backing) for index, backing in enumerate(plan.more_nics)]
        if not self._session.is_vcenter:
            config.vAppConfig = None
            config.extraConfig.append(vim.option.OptionValue(key=ENVIRONMENT_KEY, value=encode(plan.values).decode()))
        lease = await self._session.change(
            what, plan.pool.ImportVApp, spec, plan.folder if self._session.is_vcenter else None
        )
        try:
            info = await self._ready(what, lease)
            await self._upload(lease, info, made.fileItem or ())
            await self._session.change(what, lease.HttpNfcLeaseComplete)
        except BaseException:
            # The server removes the VM of an aborted lease.
            with trio.move_on_after(_LEASE_SECONDS, shield=True):
                await self._give_up(lease)
            raise
        return type(info.entity)(info.entity._moId, self._session.stub)

    async def _ready(self, what: str, lease: Any) -> Any:
        with trio.move_on_after(_LEASE_SECONDS):
            while True:
                facts = (await self._session.properties(what, [lease], ["state", "error", "info"])).get(
                    lease._moId, Properties()
                )
                if facts.get("state") == "ready":
                    return facts["info"]
                if facts.get("state") == "error":
                    raise HypervisorError(f"{what}: {words_of(facts['error'])}")
                await trio.sleep(_PAUSE)
        raise HypervisorError(f"{what}: vSphere was not ready for the upload after {_LEASE_SECONDS:.0f} s")

    async def _give_up(self, lease: Any) -> None:
        plan = self._plan
        try:
            await self._session.change("give up", lease.HttpNfcLeaseAbort, None)
        except HypervisorError as error:
            log.debug("%s", error)
        try:
            children = await self._session.look("give up", plan.folder, "childEntity") or ()
            machines = [one for one in children if isinstance(one, vim.VirtualMachine)]
            found = await self._session.properties("give up", machines, ["name", "config.extraConfig"])
            for machine in machines:
                facts = found.get(machine._moId, Properties())
                if facts.get("name") == plan.name and plan.key in extra_of(facts):
                    await self._carry_out(f"remove {plan.name}", machine.Destroy_Task)
        except HypervisorError as error:
            log.warning("the incomplete VM of %s could not be removed: %s", plan.name, error)

    async def _upload(self, lease: Any, info: Any, items: Sequence[Any]) -> None:
        package = self._package
        total = sum(package.length(item.path) for item in items)
        sent = 0

        async def counted(name: str) -> AsyncIterator[bytes]:
            nonlocal sent
            async for piece in package.pieces(name, _PIECE):
                yield piece
                sent += len(piece)
                self._on_progress(sent, total)

        async def keep() -> None:
            while True:
                await trio.sleep(_PROGRESS_SECONDS)
                await self._session.change("upload", lease.HttpNfcLeaseProgress, min(99, sent * 100 // max(1, total)))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(keep)
            for item in items:
                (device,) = [one for one in info.deviceUrl if one.importKey == item.deviceId]
                await self._send(device, bool(item.create), item.path, package.length(item.path), counted(item.path))
            nursery.cancel_scope.cancel()

    async def _send(self, device: Any, create: bool, name: str, length: int, pieces: AsyncIterator[bytes]) -> None:
        server = self._session.server
        split = urlsplit(device.url)
        if split.hostname == "*" or split.netloc.startswith("*"):
            split = split._replace(netloc=f"{bracketed(server.host)}:{server.port}")
        # vCenter names the thumbprint of an ESXi host.
        verify = PinnedContext.of(device.sslThumbprint) if device.sslThumbprint else server.context()
        headers = {
            "Content-Type": "application/x-vnd.vmware-streamVmdk",
            "Content-Length": str(length),
            "Overwrite": "t",
            "Cookie": self._session.cookie.partition(";")[0],
        }
        async with httpx.AsyncClient(verify=verify, timeout=_TIMEOUT, trust_env=False) as client:
            try:
                response = await client.request(
                    "PUT" if create else "POST", urlunsplit(split), content=pieces, headers=headers
                )
            except httpx.HTTPError as error:
                raise HypervisorError(
                    f"upload of {name} to {split.hostname}: {str(error) or type(error).__name__}"
                ) from error
        if not response.is_success:
            raise HypervisorError(
                f"upload of {name} to {split.hostname}: {response.status_code} {response.reason_phrase}"
            )


def extra_of(properties: Properties) -> dict[str, str]:
    """A VM's extraConfig, by key."""
    return {one.key: str(one.value) for one in properties.get("config.extraConfig") or ()}


def _nic(index: int, backing: Any) -> Any:
    connected = vim.vm.device.VirtualDevice.ConnectInfo(startConnected=True, allowGuestControl=True, connected=True)
    nic = vim.vm.device.VirtualVmxnet3(
        key=-300 - index, backing=backing, connectable=connected, addressType="generated"
    )
    return vim.vm.device.VirtualDeviceSpec(operation=vim.vm.device.VirtualDeviceSpec.Operation.add, device=nic)

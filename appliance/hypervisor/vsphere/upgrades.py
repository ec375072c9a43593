"""Upgrades of an appliance: its system disk is replaced, its data disk stays, and a snapshot makes a rollback possible."""

import json
import logging
from dataclasses import dataclass
from typing import Any

from pyVmomi import vim

from appliance.errors import HypervisorError
from appliance.hypervisor.vsphere.appliances import Appliances, Deployed
from appliance.hypervisor.vsphere.deployment import KEY, UPGRADE_KEY, Package, Plan, Progress

log = logging.getLogger(__name__)

_SNAPSHOT = "vch upgrade"
# Key in an appliance's extraConfig: version and system disk before the upgrade.
_PREVIOUS_KEY = "vch.previous"
_Change = vim.vm.device.VirtualDeviceSpec


@dataclass(frozen=True, slots=True)
class Previous:
    """Version and system disk of an appliance before its last upgrade."""

    version: str
    disk: str


class Upgrades:
    """Upgrades of one appliance. The appliance must be off for every method but `previous`."""

    def __init__(self, appliances: Appliances, appliance: Deployed) -> None:
        self._appliances = appliances
        self._appliance = appliance
        self._session = appliances.session

    async def previous(self) -> Previous | None:
        """The state before the last upgrade; None when there was none, or it was committed."""
        extra = await self._session.look("upgrade", self._appliance.reference, "config.extraConfig") or ()
        text = next((str(one.value) for one in extra if one.key == _PREVIOUS_KEY), "")
        try:
            kept = json.loads(text)
            return Previous(str(kept["version"]), str(kept["disk"]))
        except (ValueError, KeyError, TypeError):
            return None

    async def begin(self) -> None:
        """Commit an earlier upgrade, and take the snapshot for a rollback."""
        await self.commit()
        arguments = _SNAPSHOT, f"before the upgrade from {self._appliance.version}", False, False
        await self._appliances.carry_out("snapshot", self._appliance.reference.CreateSnapshot_Task, *arguments)

    async def swap(self, package: Package, version: str, on_progress: Progress) -> None:
        """Replace the system disk by the package's."""
        one, appliances = self._appliance, self._appliances
        old = await self._system_disk(one.reference)
        place = str(old.backing.fileName)
        folder = place.rpartition("/")[0] if "/" in place else place
        _, datacenter = await self._appliances.datacenter_of(self._appliance)
        # vSphere turns an uploaded stream into a disk only as part of a VM, so a temporary VM is deployed for its disk.
        plan = await self._lender(old.backing.datastore)
        lender = await appliances.deploy(plan, package, on_progress)
        try:
            new = await self._system_disk(lender)
            source, target = str(new.backing.fileName), f"{folder}/system-{version}-{lender._moId}.vmdk"
            await appliances.carry_out(
                "lend",
                lender.ReconfigVM_Task,
                vim.vm.ConfigSpec(deviceChange=[_Change(operation="remove", device=new)]),
            )
            manager = self._session.content.virtualDiskManager
            await appliances.carry_out(
                f"move {source}", manager.MoveVirtualDisk_Task, source, datacenter, target, datacenter, False, None
            )
        finally:
            await appliances.destroy(lender)
        await self._put(old, target, version, Previous(one.version, place))

    async def _lender(self, datastore: Any) -> Plan:
        one = self._appliance
        store = type(datastore)(datastore._moId, self._session.stub)
        networks = await self._session.look("networks", one.reference, "network") or ()
        if not networks:
            raise HypervisorError(f"{one.name} is on no network")
        either = {"Public": networks[0], "Bridge": networks[0]}
        return Plan(
            f"{one.name}-upgrade", one.tenant, "", one.pool, one.folder, store, either, (), {}, 1, 512, UPGRADE_KEY
        )

    async def _system_disk(self, machine: Any) -> Any:
        """The first disk of the first SCSI controller."""
        devices = await self._session.look("disks", machine, "config.hardware.device") or ()
        first = next(
            (one for one in devices if isinstance(one, vim.vm.device.VirtualSCSIController) and one.busNumber == 0),
            None,
        )
        for device in devices:
            if (
                isinstance(device, vim.vm.device.VirtualDisk)
                and first is not None
                and device.controllerKey == first.key
                and not device.unitNumber
            ):
                return device
        raise HypervisorError("the machine has no system disk")

    async def _put(self, old: Any, path: str, version: str, previous: Previous | None) -> None:
        backing = vim.vm.device.VirtualDisk.FlatVer2BackingInfo(
            fileName=path, diskMode="persistent", thinProvisioned=True
        )
        disk = vim.vm.device.VirtualDisk(
            key=-1, controllerKey=old.controllerKey, unitNumber=old.unitNumber, backing=backing
        )
        kept = json.dumps({"version": previous.version, "disk": previous.disk}) if previous is not None else ""
        about = {KEY: json.dumps({"tenant": self._appliance.tenant, "version": version}), _PREVIOUS_KEY: kept}
        change = vim.vm.ConfigSpec(
            # The old disk's file stays, because the snapshot needs it.
            deviceChange=[_Change(operation="remove", device=old), _Change(operation="add", device=disk)],
            extraConfig=[vim.option.OptionValue(key=key, value=value) for key, value in about.items()],
        )
        await self._appliances.carry_out("swap the system disk", self._appliance.reference.ReconfigVM_Task, change)

    async def _snapshot(self) -> Any:
        tree = await self._session.look("snapshot", self._appliance.reference, "snapshot")
        for one in tree.rootSnapshotList if tree is not None else ():
            if one.name == _SNAPSHOT:
                return type(one.snapshot)(one.snapshot._moId, self._session.stub)
        return None

    async def roll_back(self) -> Previous:
        """Revert to the snapshot, with the data of that time. HypervisorError when there is no snapshot."""
        previous = await self.previous()
        snapshot = await self._snapshot()
        if snapshot is None:
            raise HypervisorError(
                f"{self._appliance.name} cannot be rolled back: it was not upgraded, or the upgrade was committed"
            )
        await self._appliances.carry_out("roll back", snapshot.RevertToSnapshot_Task, None, True)
        if previous is not None:
            # Read from the VM, because the revert may leave the newer disk.
            now = await self._system_disk(self._appliance.reference)
            newer = str(now.backing.fileName)
            if newer != previous.disk:
                await self._put(now, previous.disk, previous.version, None)
            await self._delete_disk(newer, previous.disk)
        await self._appliances.carry_out("remove the snapshot", snapshot.RemoveSnapshot_Task, False, True)
        return previous or Previous(self._appliance.version, "")

    async def commit(self) -> None:
        """Remove the snapshot and the old system disk. No rollback is possible afterwards."""
        previous = await self.previous()
        snapshot = await self._snapshot()
        if snapshot is not None:
            await self._appliances.carry_out("remove the snapshot", snapshot.RemoveSnapshot_Task, False, True)
        if previous is not None:
            now = str((await self._system_disk(self._appliance.reference)).backing.fileName)
            change = vim.vm.ConfigSpec(extraConfig=[vim.option.OptionValue(key=_PREVIOUS_KEY, value="")])
            await self._appliances.carry_out("commit", self._appliance.reference.ReconfigVM_Task, change)
            await self._delete_disk(previous.disk, now)

    async def _delete_disk(self, path: str, used: str) -> None:
        """Delete an unused system disk. A failure is only logged."""
        if not path or path == used:
            return
        _, datacenter = await self._appliances.datacenter_of(self._appliance)
        manager = self._session.content.virtualDiskManager
        try:
            await self._appliances.carry_out(f"delete {path}", manager.DeleteVirtualDisk_Task, path, datacenter)
        except HypervisorError as error:
            log.warning("the unused disk %s could not be deleted: %s", path, error)

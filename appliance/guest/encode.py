"""From the values of `setup.py` to protobuf messages."""

import os
import time

from appliance.guest.setup import (
    DiskMount,
    GuestAddition,
    GuestMount,
    GuestSetup,
    GuestVolume,
    Interface,
    NetworkConfig,
    OverlayMount,
    PlainMount,
    ProcessSetup,
    Resumption,
    ShareMount,
    StateFile,
)
from appliance.hypervisor import DiskAddress, ScsiAddress, VirtioBlkPci, VirtioBlkSerial
from protos.tether.v1 import filesystem_pb2, network_pb2, process_pb2, sandbox_pb2
from protos.tether.v1.filesystem_pb2 import Mount

_ENTROPY_BYTES = 64


def encode_setup(setup: GuestSetup) -> sandbox_pb2.ConfigureRequest:
    """With the present time and fresh entropy."""
    return sandbox_pb2.ConfigureRequest(
        machine_id=setup.machine_id,
        wall_clock_ns=time.time_ns(),
        entropy=os.urandom(_ENTROPY_BYTES),
        hostname=setup.hostname,
        domainname=setup.domainname,
        mounts=[_mount(mount) for mount in setup.mounts],
        volumes=[_volume(volume) for volume in setup.volumes],
        network=encode_network(setup.network) if setup.network is not None else None,
        modules=setup.modules,
        files=[_file(file) for file in setup.files],
    )


def encode_addition(addition: GuestAddition) -> sandbox_pb2.AddRequest:
    return sandbox_pb2.AddRequest(
        id=addition.id,
        modules=addition.modules,
        mounts=[_mount(mount) for mount in addition.mounts],
        files=[_file(file) for file in addition.files],
        volumes=[_volume(volume) for volume in addition.volumes],
        network=encode_network(addition.network) if addition.network is not None else None,
        own_network=addition.own_network,
        hostname=addition.hostname,
    )


def encode_resumption(resumption: Resumption) -> sandbox_pb2.AwakenRequest:
    """Without time and entropy: a guest that was not paused needs neither."""
    return sandbox_pb2.AwakenRequest(
        network=encode_network(resumption.network) if resumption.network is not None else None,
        files=[_file(file) for file in resumption.files],
        close_connections=resumption.close_connections,
        id=resumption.container,
    )


def renew_clock(request: sandbox_pb2.AwakenRequest) -> None:
    """Add the present time and fresh entropy."""
    request.wall_clock_ns = time.time_ns()
    request.entropy = os.urandom(_ENTROPY_BYTES)


def encode_process(process: ProcessSetup) -> process_pb2.CreateRequest:
    return process_pb2.CreateRequest(
        id=process.id,
        spec=process.spec,
        join=process.join,
        stdin=process.stdin,
        spool_bytes=process.spool_bytes,
        drop_oldest=process.drop_oldest,
        rows=process.rows,
        columns=process.columns,
        network_of=process.network_of,
        pid_of=process.pid_of,
        ipc_of=process.ipc_of,
    )


def encode_network(config: NetworkConfig) -> network_pb2.NetworkConfig:
    interfaces = [_interface(interface) for interface in config.interfaces]
    return network_pb2.NetworkConfig(interfaces=interfaces, filter=config.filter)


def _interface(interface: Interface) -> network_pb2.Interface:
    return network_pb2.Interface(
        mac=interface.mac,
        name=interface.name,
        addresses=interface.addresses,
        routes=[network_pb2.Route(gateway=gateway) for gateway in interface.gateways],
        mtu=interface.mtu,
        index=interface.index,
        set_mac=interface.set_mac,
        dhcp=interface.dhcp,
        dhcp_route=interface.dhcp_route,
    )


def _mount(mount: GuestMount) -> Mount:
    match mount:
        case PlainMount(target, type_, options, source):
            return Mount(kind=Mount.PLAIN, target=target, type=type_, options=options, source=source)
        case DiskMount(target, type_, disk, options, format_options):
            address, blank = encode_disk(disk.address), format_options if disk.blank else ()
            return Mount(kind=Mount.DISK, target=target, type=type_, options=options, disk=address, blank=blank)
        case OverlayMount(target, lower, upper):
            return Mount(kind=Mount.OVERLAY, target=target, lower=lower, upper=upper)
        case ShareMount(target, tag):
            return Mount(kind=Mount.SHARE, target=target, source=tag)


def encode_disk(address: DiskAddress) -> filesystem_pb2.Disk:
    match address:
        case ScsiAddress(adapter, target, lun, partition):
            return filesystem_pb2.Disk(adapter=adapter, target=target, lun=lun, partition=partition)
        case VirtioBlkSerial(serial, partition):
            return filesystem_pb2.Disk(serial=serial, partition=partition)
        case VirtioBlkPci(pci, partition):
            return filesystem_pb2.Disk(pci=pci, partition=partition)


def _volume(volume: GuestVolume) -> filesystem_pb2.Volume:
    return filesystem_pb2.Volume(
        source=volume.source,
        destination=volume.destination,
        read_only=volume.read_only,
        copy_up=volume.copy_up,
        make=volume.make,
        type=volume.type,
        device=volume.device,
        options=volume.options,
    )


def _file(file: StateFile) -> sandbox_pb2.StateFile:
    return sandbox_pb2.StateFile(name=file.name, content=file.content, mode=file.mode)

"""vSphere's faults as errors by meaning."""

import pytest
from pyVmomi import vim, vmodl

from appliance.errors import HypervisorError
from appliance.hypervisor.vsphere import faults


@pytest.mark.parametrize(
    ("fault", "meaning"),
    [
        (vmodl.fault.ManagedObjectNotFound(), faults.Gone),
        (vim.fault.FileNotFound(), faults.NoFile),
        (vim.fault.TaskInProgress(), faults.Busy),
        (vmodl.fault.HostNotConnected(), faults.Busy),
        (vim.fault.InvalidPowerState(), faults.WrongState),
        (vim.fault.DuplicateName(), faults.AlreadyThere),
        (vim.fault.FileAlreadyExists(), faults.AlreadyThere),
        (vim.fault.NoDiskSpace(), faults.StorageFull),
        (vim.fault.NoPermission(privilegeId="VirtualMachine.Config.Rename"), faults.NotAllowed),
        (vim.fault.InvalidLogin(), faults.LoginRefused),
        (vim.fault.InvalidName(), HypervisorError),
    ],
)
def test_meanings(fault: Exception, meaning: type[HypervisorError]) -> None:
    error = faults.translate(fault, "power on m1")
    assert type(error) is meaning
    assert str(error).startswith("power on m1: ")
    assert type(fault).__name__.rpartition(".")[2] in str(error)


def test_the_text_has_vspheres_words_once() -> None:
    message = vmodl.LocalizableMessage(key="k", message="The pool is full.")
    fault = vim.fault.InsufficientResourcesFault(msg="No room.", faultMessage=[message, message])
    assert faults.words_of(fault) == "No room.; The pool is full. (InsufficientResourcesFault)"


def test_a_missing_privilege_is_named() -> None:
    fault = vim.fault.NoPermission(privilegeId="Folder.Create", object=vim.Folder("group-v1"))
    assert "privilege Folder.Create on 'vim.Folder:group-v1'" in faults.words_of(fault)

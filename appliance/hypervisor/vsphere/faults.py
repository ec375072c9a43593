"""What vSphere's faults mean to us. Its own words stay in the text."""

from typing import Any

from pyVmomi import vim, vmodl

from appliance.errors import HypervisorError


class AnswerLost(HypervisorError):
    """A change was asked for and no answer came: whether it was made has to be looked at."""


class Gone(HypervisorError):
    """What it was about is not there any more (ManagedObjectNotFound)."""


class NoFile(HypervisorError):
    """A file or folder of a datastore is not there."""


class Busy(HypervisorError):
    """Another operation is under way on the same object, or a host does not answer now: the same again may do."""


class WrongState(HypervisorError):
    """The machine is not in the state that the change needs: perhaps somebody was quicker."""


class AlreadyThere(HypervisorError):
    """Something of that name is there."""


class StorageFull(HypervisorError):
    """The datastore has no room."""


class NotAllowed(HypervisorError):
    """The account lacks a privilege; the text names it."""


class LoginRefused(HypervisorError):
    """Name, password or token are wrong."""


_MEANINGS: tuple[tuple[tuple[type[Exception], ...], type[HypervisorError]], ...] = (
    ((vmodl.fault.ManagedObjectNotFound,), Gone),
    ((vim.fault.FileNotFound,), NoFile),
    (
        (
            vim.fault.TaskInProgress,
            vim.fault.ConcurrentAccess,
            vim.fault.ResourceInUse,
            vmodl.fault.HostNotConnected,
            vmodl.fault.HostNotReachable,
            vmodl.fault.HostCommunication,
        ),
        Busy,
    ),
    ((vim.fault.InvalidPowerState, vim.fault.InvalidState), WrongState),
    ((vim.fault.DuplicateName, vim.fault.AlreadyExists, vim.fault.FileAlreadyExists), AlreadyThere),
    ((vim.fault.NoDiskSpace, vim.fault.InsufficientStorageSpace), StorageFull),
    ((vim.fault.NoPermission, vim.fault.RestrictedVersion), NotAllowed),
    ((vim.fault.InvalidLogin, vim.fault.NoSubjectName), LoginRefused),
)


def translate(fault: Exception, what: str) -> HypervisorError:
    """Our error for a fault of a call or a task; `what` says what was being done."""
    text = f"{what}: {words_of(fault)}"
    for kinds, meaning in _MEANINGS:
        if isinstance(fault, kinds):
            return meaning(text)
    return HypervisorError(text)


def words_of(fault: Any) -> str:
    """vSphere's own text, else the name of the fault and what it holds."""
    words = [str(getattr(fault, "msg", "") or "")]
    words += [message.message for message in getattr(fault, "faultMessage", None) or () if message.message]
    if isinstance(fault, vim.fault.NoPermission):
        missing = fault.privilegeId or ", ".join(
            privilege for entry in getattr(fault, "missingPrivileges", None) or () for privilege in entry.privilegeIds
        )
        words.append(f"privilege {missing} on {fault.object}" if missing else "")
    said = "; ".join(dict.fromkeys(word for word in words if word))
    name = type(fault).__name__.rpartition(".")[2]
    return f"{said} ({name})" if said else name

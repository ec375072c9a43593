"""vSphere's faults as errors of this project, by meaning. vSphere's own text stays in the error text."""

from pyVmomi import vim, vmodl

from appliance.errors import HypervisorError


class AnswerLost(HypervisorError):
    """No answer came to a change. Whether the change was made is unknown, and the caller must look."""


class Gone(HypervisorError):
    """The object does not exist any more (ManagedObjectNotFound)."""


class NoFile(HypervisorError):
    """A file or folder on a datastore does not exist."""


class Busy(HypervisorError):
    """Another operation is in progress on the object, or a host does not answer. A later attempt may succeed."""


class WrongState(HypervisorError):
    """The VM is not in the state that the change needs. Perhaps the change was made already."""


class AlreadyThere(HypervisorError):
    """An object of that name exists."""


class StorageFull(HypervisorError):
    """The datastore is full."""


class NotAllowed(HypervisorError):
    """The account lacks a privilege, which the text names."""


class LoginRefused(HypervisorError):
    """User name, password or token is wrong."""


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
    """The HypervisorError for a fault of a call or a task. `what` says what the call was for."""
    text = f"{what}: {words_of(fault)}"
    for kinds, meaning in _MEANINGS:
        if isinstance(fault, kinds):
            return meaning(text)
    return HypervisorError(text)


def words_of(fault: Exception) -> str:
    """vSphere's own text and the fault's name; the name alone when vSphere gives no text."""
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

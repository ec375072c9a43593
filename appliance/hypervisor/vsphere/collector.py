"""Changes that vSphere reports: one PropertyCollector follows the states of all machines and of all tasks in progress."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import trio
from pyVmomi import vim, vmodl
from pyVmomi.VmomiSupport import ManagedObject

from appliance.errors import HypervisorError
from appliance.hypervisor.vsphere.faults import AnswerLost, translate
from appliance.hypervisor.vsphere.session import Properties, Session
from appliance.hypervisor.vsphere.stub import LOST, Stub

log = logging.getLogger(__name__)

_Query = vmodl.query.PropertyCollector
_TASK_PATHS = ["info.state", "info.error", "info.result"]
_MACHINE_PATHS = ["runtime.powerState", "runtime.host", "name"]
_WAIT_SECONDS = 60
# The stub's timeout is longer than the server's answer may take.
_STUB_SECONDS = _WAIT_SECONDS + 30.0
# Seconds without a report after which a task's state is read.
_SILENT_TASK_SECONDS = 60.0
_PAUSE = (0.2, 1.0, 5.0)


@dataclass(slots=True)
class MachineSnapshot:
    """A VM as vSphere last reported it. A field that was not reported yet is empty. `host` is the id of its HostSystem."""

    reference: vim.VirtualMachine
    power_state: str = ""
    host: str = ""
    name: str = ""

    @property
    def on(self) -> bool:
        return self.power_state in ("poweredOn", "suspended")

    @property
    def suspended(self) -> bool:
        return self.power_state == "suspended"

    def update(self, changed: Properties) -> None:
        """Take over the properties that vSphere reports as changed."""
        values = changed.values
        if "runtime.powerState" in values:
            self.power_state = str(values["runtime.powerState"] or "")
        if "runtime.host" in values:
            host = changed["runtime.host"]
            self.host = host._moId if host is not None else ""
        if "name" in values:
            self.name = str(values["name"] or "")


@dataclass(slots=True)
class _Task:
    """A task whose end a caller waits for. The entry keeps the task's end, which the server forgets."""

    state: str = ""
    error: Any = None
    result: Any = None
    over: trio.Event = field(default_factory=trio.Event)

    @property
    def ended(self) -> bool:
        return self.state in ("success", "error")

    def update(self, changed: Properties) -> None:
        values = changed.values
        self.state = str(values.get("info.state", self.state))
        self.error = values.get("info.error", self.error)
        self.result = values.get("info.result", self.result)
        if self.ended:
            self.over.set()


class Collector:
    """Follows the machines below `folder`; without a folder, only tasks.

    `on_change` gets the id and the snapshot of each machine that has changed; None for a machine that is gone.
    """

    def __init__(
        self,
        session: Session,
        folder: vim.Folder | None,
        on_change: Callable[[str, MachineSnapshot | None], None],
    ) -> None:
        self._session = session
        self._folder = folder
        self._on_change = on_change
        self.machines: dict[str, MachineSnapshot] = {}
        self._tasks: dict[str, _Task] = {}
        self._joining: list[vim.Task] = []
        self._leaving: list[vim.Task] = []
        self._view_changes = trio.Lock()
        self._stub = Stub(session.server, _STUB_SECONDS)
        self._list: Any = None
        # Set while `machines` is complete.
        self.current = trio.Event()

    async def run(self) -> None:
        """Follow for ever. After a lost connection or an ended session, begin again with all states."""
        failed = 0
        while True:
            try:
                await self._follow()
                failed = 0
            except HypervisorError as error:
                log.warning("vSphere sends no updates for now: %s", error)
            self.current = trio.Event()
            await trio.sleep(_PAUSE[min(failed, len(_PAUSE) - 1)])
            failed += 1

    async def _follow(self) -> None:
        session = self._session
        content = session.content
        collector = await session.change("collector", content.propertyCollector.CreatePropertyCollector)
        views: list[Any] = []
        try:
            tasks = await session.change("view", content.viewManager.CreateListView, [])
            views.append(tasks)
            followed: list[tuple[Any, type, list[str]]] = [(tasks, vim.Task, _TASK_PATHS)]
            if self._folder is not None:
                view = await session.change(
                    "view", content.viewManager.CreateContainerView, self._folder, [vim.VirtualMachine], True
                )
                views.append(view)
                followed.append((view, vim.VirtualMachine, _MACHINE_PATHS))
            await session.change("filter", collector.CreateFilter, _filter(followed), False)
            # From here on `wait` adds tasks to this list. Tasks that were waited for before are added now.
            self._list, self._leaving = tasks, []
            self._joining = [vim.Task(key, session.stub) for key in self._tasks]
            await self._change_view()
            await self._wait_for_updates(collector)
        finally:
            self._list = None
            self._stub.close()
            # The server does not notice that the client has stopped waiting.
            await session.part(
                collector.CancelWaitForUpdates, *(one.DestroyView for one in views), collector.DestroyPropertyCollector
            )

    async def _wait_for_updates(self, collector: ManagedObject) -> None:
        waiter = _Query(collector._moId, self._stub)
        version = ""
        known: set[str] = set()
        while True:
            if self._list is None:
                raise HypervisorError("updates: the list of tasks is out of date")
            self._stub.cookie = self._session.cookie
            options = _Query.WaitOptions(maxWaitSeconds=_WAIT_SECONDS)
            try:
                updates = await self._stub.wait(waiter.WaitForUpdatesEx, version, options)
            except vim.fault.NotAuthenticated as error:
                await self._session.read(
                    "session", vim.ServiceInstance("ServiceInstance", self._session.stub).CurrentTime
                )
                raise translate(error, "updates") from error
            except vmodl.MethodFault as error:
                raise translate(error, "updates") from error
            except LOST as error:
                raise HypervisorError(f"updates: {error}") from error
            if updates is None:
                continue
            version = updates.version
            for change in [change for one in updates.filterSet for change in one.objectSet]:
                self._take(change, known)
            if not updates.truncated and not self.current.is_set():
                # The first complete report: a machine that it does not name is gone.
                for key in set(self.machines) - known:
                    self._forget(key)
                self.current.set()

    def _take(self, change: Any, known: set[str]) -> None:
        key = change.obj._moId
        changed = Properties({one.name: one.val for one in change.changeSet})
        if isinstance(change.obj, vim.Task):
            task = self._tasks.get(key)
            if task is not None:
                task.update(changed)
                if change.kind == "leave":
                    task.over.set()
            return
        if change.kind == "leave":
            known.discard(key)
            self._forget(key)
            return
        known.add(key)
        snapshot = self.machines.get(key)
        if snapshot is None:
            snapshot = self.machines[key] = MachineSnapshot(type(change.obj)(key, self._session.stub))
        snapshot.update(changed)
        self._on_change(key, snapshot)

    def _forget(self, key: str) -> None:
        if self.machines.pop(key, None) is not None:
            self._on_change(key, None)

    # -- tasks ----------------------------------------------------------------------------------------------------

    async def wait(self, what: str, task: vim.Task) -> Any:
        """Return the result of a task. Raises the HypervisorError for its fault; AnswerLost when the task's end is unknown."""
        entry = self._tasks[task._moId] = _Task()
        self._joining.append(task)
        try:
            while not entry.ended:
                entry.over = trio.Event()
                await self._change_view()
                with trio.move_on_after(_SILENT_TASK_SECONDS):
                    await entry.over.wait()
                if not entry.ended:
                    # The task has left the list, which servers do at a time of their choice; or it takes long; or a report was lost.
                    entry.update(await self._read_task(what, task))
                    if not entry.ended:
                        await trio.sleep(_PAUSE[0])
                        self._joining.append(task)
        finally:
            del self._tasks[task._moId]
            self._leaving.append(task)
        if entry.state == "success":
            return self._on_own_stub(entry.result)
        raise translate(entry.error, what)

    def _on_own_stub(self, result: Any) -> Any:
        """A managed object in a report belongs to the waiter's stub. Calls on it must use the session's stub."""
        if isinstance(result, ManagedObject):
            return type(result)(result._moId, self._session.stub)
        return result

    async def _read_task(self, what: str, task: vim.Task) -> Properties:
        found = await self._session.properties(what, [task], _TASK_PATHS)
        if task._moId not in found:
            raise AnswerLost(f"{what}: the server forgot the task before its end was known")
        return found[task._moId]

    async def _change_view(self) -> None:
        """Bring the list of tasks up to date, with one call for all tasks that wait for it meanwhile."""
        async with self._view_changes:
            view = self._list
            if not self._joining or view is None:
                # `_follow` puts all tasks into the next list.
                return
            joining, self._joining = self._joining, []
            leaving, self._leaving = self._leaving, []
            leaving = [task for task in leaving if task not in joining]
            try:
                unknown = await self._session.change("list of tasks", view.ModifyListView, joining, leaving)
            except HypervisorError as error:
                log.debug("list of tasks: %s", error)
                if self._list is view:
                    # Let `run` begin again with a new list.
                    self._list = None
                    self._stub.hang_up()
                return
        for task in unknown or ():
            entry = self._tasks.get(task._moId)
            if entry is not None:
                # The server does not report this task: `wait` reads its state.
                entry.over.set()

    async def carry_out(self, what: str, method: Callable[..., Any], *arguments: Any) -> Any:
        """Make a change that is a task, and return its result. Raises the errors of Session.change and of `wait`."""
        return await self.wait(what, await self._session.change(what, method, *arguments))


def _filter(followed: Sequence[tuple[ManagedObject, type, list[str]]]) -> Any:
    """One filter for the members of all views: each filter costs the server work at every change of any object."""
    starts: list[Any] = []
    properties: list[Any] = []
    for view, kind, paths in followed:
        members = _Query.TraversalSpec(name=f"members{len(starts)}", type=type(view), path="view", skip=False)
        starts.append(_Query.ObjectSpec(obj=view, skip=True, selectSet=[members]))
        properties.append(_Query.PropertySpec(type=kind, all=False, pathSet=paths))
    return _Query.FilterSpec(objectSet=starts, propSet=properties)

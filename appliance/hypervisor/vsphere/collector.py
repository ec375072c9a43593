"""What vSphere tells by itself: one PropertyCollector follows the states of all machines and of all tasks under way."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import trio
from pyVmomi import vim, vmodl
from pyVmomi.VmomiSupport import ManagedObject

from appliance.errors import HypervisorError
from appliance.hypervisor.vsphere.faults import AnswerLost, translate
from appliance.hypervisor.vsphere.session import LOST, Session, Stub

log = logging.getLogger(__name__)

_Query = vmodl.query.PropertyCollector
_TASK_PATHS = ["info.state", "info.error", "info.result"]
_MACHINE_PATHS = ["runtime.powerState", "runtime.host", "name"]
_WAIT_SECONDS = 60
# The waiter's stub has to outwait the server.
_STUB_SECONDS = _WAIT_SECONDS + 30.0
# A task of which nothing is told for so long is looked at.
_UNTOLD_SECONDS = 60.0
_PAUSE = (0.2, 1.0, 5.0)


@dataclass(slots=True)
class Seen:
    """A machine as vSphere last told of it, by its leaf properties."""

    reference: Any
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def on(self) -> bool:
        return self.facts.get("runtime.powerState") in ("poweredOn", "suspended")


@dataclass(slots=True)
class _Task:
    """A task somebody waits for. Its end is kept: the server forgets it."""

    facts: dict[str, Any] = field(default_factory=dict)
    over: trio.Event = field(default_factory=trio.Event)

    @property
    def ended(self) -> bool:
        return self.facts.get("info.state") in ("success", "error")

    def take(self, facts: dict[str, Any]) -> None:
        self.facts |= facts
        if self.ended:
            self.over.set()


class Collector:
    """Follows the machines below `folder`; without one, tasks only.

    `on_change` is told of each change: the id, and what is known now, None for one that is gone.
    """

    def __init__(self, session: Session, folder: Any, on_change: Callable[[str, Seen | None], None]) -> None:
        self._session = session
        self._folder = folder
        self._on_change = on_change
        self.machines: dict[str, Seen] = {}
        self._tasks: dict[str, _Task] = {}
        self._joining: list[Any] = []
        self._leaving: list[Any] = []
        self._view_changes = trio.Lock()
        self._stub = Stub(session.server, _STUB_SECONDS)
        self._list: Any = None
        self.current = trio.Event()

    async def run(self) -> None:
        """Follow for ever: through lost connections, and through sessions that end, after which all is asked anew."""
        failed = 0
        while True:
            try:
                await self._follow()
                failed = 0
            except HypervisorError as error:
                log.warning("vSphere tells nothing for now: %s", error)
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
            # From here on whoever waits for a task joins this list; who waited before joins it now.
            self._list, self._leaving = tasks, []
            self._joining = [vim.Task(key, session.stub) for key in self._tasks]
            await self._change_view()
            await self._wait_for_updates(collector)
        finally:
            self._list = None
            self._stub.close()
            # The server does not notice that nobody waits any more.
            await session.part(
                collector.CancelWaitForUpdates, *(one.DestroyView for one in views), collector.DestroyPropertyCollector
            )

    async def _wait_for_updates(self, collector: Any) -> None:
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
                # All has been told that there is: what was not is gone.
                for key in set(self.machines) - known:
                    self._forget(key)
                self.current.set()

    def _take(self, change: Any, known: set[str]) -> None:
        key = change.obj._moId
        facts = {one.name: one.val for one in change.changeSet}
        if isinstance(change.obj, vim.Task):
            task = self._tasks.get(key)
            if task is not None:
                task.take(facts)
                if change.kind == "leave":
                    task.over.set()
            return
        if change.kind == "leave":
            known.discard(key)
            self._forget(key)
            return
        known.add(key)
        seen = self.machines.get(key)
        if seen is None:
            seen = self.machines[key] = Seen(type(change.obj)(key, self._session.stub))
        seen.facts |= facts
        self._on_change(key, seen)

    def _forget(self, key: str) -> None:
        if self.machines.pop(key, None) is not None:
            self._on_change(key, None)

    # -- tasks ----------------------------------------------------------------------------------------------------

    async def wait(self, what: str, task: Any) -> Any:
        """The result of a task. Our error for its fault; AnswerLost when its end was never heard of."""
        entry = self._tasks[task._moId] = _Task()
        self._joining.append(task)
        try:
            while not entry.ended:
                entry.over = trio.Event()
                await self._change_view()
                with trio.move_on_after(_UNTOLD_SECONDS):
                    await entry.over.wait()
                if not entry.ended:
                    # It has left the list, which servers do at their leisure; or it takes long, or what was told was lost.
                    entry.take(await self._look(what, task))
                    if not entry.ended:
                        await trio.sleep(_PAUSE[0])
                        self._joining.append(task)
        finally:
            del self._tasks[task._moId]
            self._leaving.append(task)
        if entry.facts["info.state"] == "success":
            return self._ours(entry.facts.get("info.result"))
        raise translate(entry.facts["info.error"], what)

    def _ours(self, result: Any) -> Any:
        """What the waiter was told of would be called through the waiter's connection."""
        if isinstance(result, ManagedObject):
            return type(result)(result._moId, self._session.stub)
        return result

    async def _look(self, what: str, task: Any) -> dict[str, Any]:
        found = await self._session.properties(what, [task], _TASK_PATHS)
        if task._moId not in found:
            raise AnswerLost(f"{what}: the task was forgotten before its end was known")
        return found[task._moId]

    async def _change_view(self) -> None:
        """Have the list of tasks be what it should: one call for all who wait for it meanwhile."""
        async with self._view_changes:
            view = self._list
            if not self._joining or view is None:
                # The next list has all who wait.
                return
            joining, self._joining = self._joining, []
            leaving, self._leaving = self._leaving, []
            leaving = [task for task in leaving if task not in joining]
            try:
                unknown = await self._session.change("list of tasks", view.ModifyListView, joining, leaving)
            except HypervisorError as error:
                log.debug("list of tasks: %s", error)
                if self._list is view:
                    # Whoever follows begins again, and the list with it.
                    self._list = None
                    self._stub.hang_up()
                return
        for task in unknown or ():
            entry = self._tasks.get(task._moId)
            if entry is not None:
                # Nothing is told of it; it is looked at.
                entry.over.set()

    async def carry_out(self, what: str, method: Callable[..., Any], *arguments: Any) -> Any:
        """A change that is a task: its result. Errors as those of Session.change, and of the task."""
        return await self.wait(what, await self._session.change(what, method, *arguments))


def _filter(followed: Sequence[tuple[Any, type, list[str]]]) -> Any:
    """One filter for the members of all views: each is work for the server at every change of anything."""
    starts: list[Any] = []
    properties: list[Any] = []
    for view, kind, paths in followed:
        members = _Query.TraversalSpec(name=f"members{len(starts)}", type=type(view), path="view", skip=False)
        starts.append(_Query.ObjectSpec(obj=view, skip=True, selectSet=[members]))
        properties.append(_Query.PropertySpec(type=kind, all=False, pathSet=paths))
    return _Query.FilterSpec(objectSet=starts, propSet=properties)

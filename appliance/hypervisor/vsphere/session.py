"""A session with a vCenter or ESXi: login, keep-alive, calls in threads.

pyVmomi blocks, so each call runs in a thread; the number of threads is limited. A call that only reads is repeated when its answer
is lost. A call that changes something is never repeated here: AnswerLost tells the caller to look for the result.
"""

import logging
import ssl
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

import trio
from pyVmomi import vim, vmodl
from pyVmomi.VmomiSupport import ManagedObject

from appliance import __version__
from appliance.errors import HypervisorError, InvalidParameter
from appliance.hypervisor.vsphere.extension import Extension
from appliance.hypervisor.vsphere.faults import AnswerLost, Gone, LoginRefused, translate
from appliance.hypervisor.vsphere.server import Server
from appliance.hypervisor.vsphere.stub import LOST, MOST_CALLS, Stub
from appliance.hypervisor.vsphere.trust import OtherCertificate

log = logging.getLogger(__name__)

T = TypeVar("T")
_TIMEOUT = 120.0
_KEEP_ALIVE_SECONDS = 300.0
_PARTING_SECONDS = 2.0
_TRIES, _PAUSE = 5, 0.2
# From this API version on a vCenter has InstantClone_Task. The call exists only in a later version of the SOAP namespace.
INSTANT_CLONES, _LATER_VERSION = (6, 7), "vim.version.version12"


@dataclass(frozen=True, slots=True)
class Properties:
    """Properties of one managed object, by path such as "runtime.powerState". A property that is not set is missing.

    The values are pyVmomi's data objects, which have no static types.
    """

    values: Mapping[str, object] = field(default_factory=dict)

    def get(self, path: str, default: object = None) -> Any:
        return self.values.get(path, default)

    def __getitem__(self, path: str) -> Any:
        return self.values[path]


class Session:
    """A logged-in session. `content` is the server's ServiceContent."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.stub = Stub(server, _TIMEOUT)
        self.content: Any = None
        self._limiter = trio.CapacityLimiter(MOST_CALLS)
        self._login = trio.Lock()
        self._logins = 0

    @classmethod
    @asynccontextmanager
    async def open(cls, server: Server) -> AsyncIterator["Session"]:
        """Log in, keep the session alive, log out at the end. HypervisorError says why the login fails."""
        session = cls(server)
        try:
            await session._connect()
        except BaseException:
            session.stub.close()
            raise
        async with trio.open_nursery() as nursery:
            nursery.start_soon(session._keep_alive)
            try:
                yield session
            finally:
                nursery.cancel_scope.cancel()
                await session._log_out()

    @property
    def is_vcenter(self) -> bool:
        return bool(self.content.about.apiType == "VirtualCenter")

    def describe(self) -> str:
        return str(self.content.about.fullName)

    @property
    def api_version(self) -> tuple[int, ...]:
        """The first two numbers of the server's API version, such as (6, 7)."""
        return tuple(int(part) for part in str(self.content.about.apiVersion).split(".")[:2] if part.isdigit())

    # -- login ----------------------------------------------------------------------------------------------------

    async def _connect(self) -> None:
        server = self.server
        where = f"{server.host}:{server.port}"
        instance = vim.ServiceInstance("ServiceInstance", self.stub)
        try:
            self.content = await self._in_thread(instance.RetrieveContent)
            if self.api_version >= INSTANT_CLONES:
                self.stub.ComputeVersionInfo(_LATER_VERSION)
            await self._log_in()
        except ssl.SSLCertVerificationError as error:
            raise HypervisorError(
                f"{where} cannot be trusted: {error.verify_message}; name its CA (--vsphere-ca) or its --thumbprint"
            ) from error
        except OtherCertificate as error:
            raise HypervisorError(f"{where} cannot be trusted: {error}") from error
        except LOST as error:
            raise HypervisorError(f"cannot reach vSphere at {where}: {error}") from error
        except vmodl.MethodFault as error:
            raise translate(error, f"login at {where} as {server.user}") from error

    async def _log_in(self) -> None:
        extension = self.server.extension
        if extension is None:
            await self._log_in_as(None)
            return
        if extension.is_registered:
            try:
                await self._log_in_as(extension)
                return
            except vim.fault.InvalidLogin:
                # An operator has unregistered the extension. A ticket registers the extension again.
                if not extension.has_ticket:
                    raise
        await self._register(extension)
        await self._log_in_as(extension)

    async def _log_in_as(self, extension: Extension | None) -> None:
        # On a stub of its own: a server refuses a second login on a connection whose old session it still knows.
        fresh = Stub(self.server, _TIMEOUT, extension)
        try:
            manager = vim.SessionManager(self.content.sessionManager._moId, fresh)
            if extension is not None:
                await self._in_thread(manager.LoginExtensionByCertificate, extension.key, None)
            elif self.server.token_file is not None:
                fresh.samlToken = self.server.token()
                await self._in_thread(manager.LoginByToken, None)
            else:
                await self._in_thread(manager.Login, self.server.user, self.server.password, None)
            self.stub.cookie = fresh.cookie
        finally:
            fresh.close()
        self._logins += 1

    async def _register(self, extension: Extension) -> None:
        """Register the extension, in the session that the ticket opens. InvalidParameter without a ticket, or on an ESXi."""
        if self.content.extensionManager is None:
            raise InvalidParameter("--vsphere-extension: an ESXi without a vCenter has no extensions")
        ticket = extension.ticket()
        once = Stub(self.server, _TIMEOUT)
        try:
            sessions = vim.SessionManager(self.content.sessionManager._moId, once)
            try:
                await self._in_thread(sessions.CloneSession, ticket)
            except vim.fault.InvalidLogin as error:
                raise LoginRefused(
                    "the ticket was used before, or is too old: get a new one with `vch configure --ops-extension`"
                ) from error
            manager = vim.ExtensionManager(self.content.extensionManager._moId, once)
            await self._in_thread(extension.register, manager, __version__)
            log.info("registered with vCenter as the extension %s", extension.key)
            # No logout: VMware's simulator then also drops the filters of the session that the ticket was cloned from.
        finally:
            once.close()

    async def _log_in_again(self, logins: int) -> None:
        """Log in after the session has ended. The first task that notices logs in for all tasks."""
        async with self._login:
            if self._logins != logins:
                return
            try:
                await self._log_in()
            except vim.fault.InvalidLogin as error:
                raise LoginRefused(f"login as {self.server.user}: {error.msg}") from error
            except vmodl.MethodFault as error:
                raise translate(error, "login") from error
            except LOST as error:
                raise HypervisorError(f"login: {error}") from error
            log.info("logged in again: the session had ended")

    async def _keep_alive(self) -> None:
        while True:
            await trio.sleep(_KEEP_ALIVE_SECONDS)
            try:
                await self.read("keep the session", vim.ServiceInstance("ServiceInstance", self.stub).CurrentTime)
            except HypervisorError as error:
                log.warning("the session with vSphere: %s", error)

    async def _log_out(self) -> None:
        await self.part(self.content.sessionManager.Logout)
        self.stub.hang_up()
        self.stub.close()

    # -- calls ----------------------------------------------------------------------------------------------------

    async def _in_thread(self, method: Callable[..., T], *arguments: Any) -> T:
        # Cancellation does not abandon a call that was sent: its result would be unknown.
        return await trio.to_thread.run_sync(partial(method, *arguments), limiter=self._limiter)

    async def _call(self, what: str, method: Callable[..., T], *arguments: Any) -> T:
        """Make a call. Log in and repeat it when the session had ended: the server says so before it does anything.

        Raises LOST as it comes.
        """
        for _ in range(_TRIES):
            logins = self._logins
            try:
                return await self._in_thread(method, *arguments)
            except vim.fault.NotAuthenticated:
                await self._log_in_again(logins)
            except vmodl.MethodFault as error:
                raise translate(error, what) from error
        raise LoginRefused(f"{what}: login succeeded, but vSphere does not recognise the session")

    async def part(self, *methods: Callable[[], object]) -> None:
        """Release server objects that end with the session anyway. Shielded from cancellation, with a short timeout."""
        with trio.move_on_after(_PARTING_SECONDS, shield=True):
            for method in methods:
                try:
                    await trio.to_thread.run_sync(method, limiter=self._limiter, abandon_on_cancel=True)
                except (vmodl.MethodFault, *LOST) as error:
                    log.debug("parting: %s", error)

    async def read(self, what: str, method: Callable[..., T], *arguments: Any) -> T:
        """Make a call that changes nothing. Repeat it when its answer is lost."""
        tried = 0
        while True:
            try:
                return await self._call(what, method, *arguments)
            except LOST as error:
                tried += 1
                if tried >= _TRIES:
                    raise HypervisorError(f"{what}: vSphere does not answer: {error}") from error
                await trio.sleep(_PAUSE * 2**tried)

    async def change(self, what: str, method: Callable[..., T], *arguments: Any) -> T:
        """Make a call that changes something, once. AnswerLost when it is unknown whether the change was made."""
        try:
            return await self._call(what, method, *arguments)
        except LOST as error:
            raise AnswerLost(f"{what}: the answer was lost: {error}") from error

    async def properties(self, what: str, objects: Sequence[ManagedObject], paths: list[str]) -> dict[str, Properties]:
        """Read properties of objects of one type in one call: by the object's id. Objects that are gone are left out."""
        if not objects:
            return {}
        query = vmodl.query.PropertyCollector
        kind = type(objects[0])
        wanted = query.FilterSpec(
            objectSet=[query.ObjectSpec(obj=one) for one in objects],
            propSet=[query.PropertySpec(type=kind, all=False, pathSet=paths)],
            reportMissingObjectsInResults=True,
        )
        found = await self.read(what, self.content.propertyCollector.RetrieveContents, [wanted])
        return {one.obj._moId: Properties({each.name: each.val for each in one.propSet}) for one in found or ()}

    async def look(self, what: str, reference: ManagedObject, path: str) -> Any:
        """Read one property; None when it is not set. Gone when the object does not exist."""
        found = await self.properties(what, [reference], [path])
        if reference._moId not in found:
            raise Gone(f"{what}: {reference._moId} does not exist any more")
        return found[reference._moId].get(path)

    @property
    def cookie(self) -> str:
        return str(self.stub.cookie)

"""A session with a vCenter or ESXi: who it is, login, calls in threads.

pyVmomi blocks, so each call has a thread, of a limited number. A call that only reads is made again when its answer is lost; one
that changes something never is: AnswerLost says that it has to be looked at what became of it.
"""

import contextlib
import http.client
import logging
import re
import socket
import ssl
import weakref
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar
from xml.etree import ElementTree

import trio
from pyVmomi import SoapAdapter, vim, vmodl

from appliance import __version__
from appliance.errors import HypervisorError, InvalidParameter
from appliance.hypervisor.vsphere.extension import TUNNEL, Extension
from appliance.hypervisor.vsphere.faults import AnswerLost, Gone, LoginRefused, translate
from appliance.hypervisor.vsphere.trust import OtherCertificate, PinnedContext

log = logging.getLogger(__name__)

T = TypeVar("T")
_THREADS = 16
_TIMEOUT = 120.0
# Servers close idle connections after a while: an answer that is lost for that need not be.
_IDLE_SECONDS = 20
_KEEP_ALIVE_SECONDS = 300.0
_PARTING_SECONDS = 2.0
_TRIES, _PAUSE = 5, 0.2
# What a call that was cut off raises.
LOST = (OSError, http.client.HTTPException)
# vSphere 6.5: the oldest that we speak.
_VERSION = "vim.version.version11"
# From this API on a vCenter has InstantClone_Task, which has to be asked for in its terms.
INSTANT_CLONES, _LATER_VERSION = (6, 7), "vim.version.version12"
_ASSERTION = "{urn:oasis:names:tc:SAML:2.0:assertion}Assertion"


@dataclass(frozen=True, slots=True)
class Server:
    """A vCenter or ESXi. It proves itself by the thumbprint of its certificate (SHA-1 or SHA-256), or by the CAs of a file.

    We prove ourselves by a user's password; by a token, a file with a SAML 2.0 bearer assertion of vCenter's single sign-on, read at
    each login, so that whoever gets new ones may put them there; or as an extension, by its certificate.
    """

    host: str
    user: str
    password: str = field(repr=False)
    port: int = 443
    thumbprint: str = ""
    ca_file: Path | None = None
    token_file: Path | None = None
    extension: Extension | None = None

    def token(self) -> str:
        """The assertion, as a SOAP header takes it. InvalidParameter when it is none."""
        assert self.token_file is not None
        try:
            root = ElementTree.fromstring(self.token_file.read_bytes())
        except (OSError, ElementTree.ParseError) as error:
            raise InvalidParameter(f"--vsphere-token-file {self.token_file}: {error}") from error
        if root.tag != _ASSERTION:
            raise InvalidParameter(f"--vsphere-token-file {self.token_file}: no SAML 2.0 assertion")
        # As it came: it is signed.
        text = self.token_file.read_text().strip()
        return re.sub(r"^<\?xml[^>]*\?>\s*", "", text)

    def context(self) -> ssl.SSLContext:
        """For connections to it. InvalidParameter when what it is known by is malformed."""
        if self.thumbprint:
            try:
                return PinnedContext.of(self.thumbprint)
            except ValueError as error:
                raise InvalidParameter(f"--thumbprint: {error}") from error
        try:
            return ssl.create_default_context(cafile=self.ca_file)
        except (OSError, ssl.SSLError) as error:
            raise InvalidParameter(f"--vsphere-ca {self.ca_file}: {error}") from error


@dataclass(slots=True)
class _Line:
    """What a stub's connections have in common. While it is cut, none comes about."""

    live: "weakref.WeakSet[_Connection]" = field(default_factory=weakref.WeakSet)
    cut: bool = False


class _Connection(http.client.HTTPSConnection):
    """A connection that its line knows of while it stands. `tunnel`: a port of the server's through which it goes to TUNNEL."""

    def __init__(self, line: _Line, tunnel: int = 0, **settings: Any) -> None:
        super().__init__(**settings)
        self._line = line
        self._server = self.host
        self._secured: ssl.SSLContext = settings["context"]
        if tunnel:
            self.port = tunnel
            self.set_tunnel(*TUNNEL)
        self._tunnels = bool(tunnel)
        line.live.add(self)

    def connect(self) -> None:
        try:
            if self._tunnels:
                # It has the certificate of the server, and not one of that name.
                http.client.HTTPConnection.connect(self)
                self.sock = self._secured.wrap_socket(self.sock, server_hostname=self._server)
            else:
                super().connect()
            # Looked at when there is what hang_up can end: one of the two finds it.
            if self._line.cut:
                raise ConnectionAbortedError("hung up")
        except BaseException:
            self.close()
            raise

    def hang_up(self) -> None:
        """End a request that waits for its answer in another thread."""
        if self.sock is not None:
            with contextlib.suppress(OSError):
                self.sock.shutdown(socket.SHUT_RDWR)


class Stub(SoapAdapter.SoapStubAdapter):
    """pyVmomi's way to a server. It has a session only if it is given the cookie. `extension`: as whom it is there to log in."""

    def __init__(self, server: Server, timeout: float, extension: Extension | None = None) -> None:
        context = server.context()
        if extension is not None:
            extension.present(context)
        super().__init__(
            host=server.host,
            port=server.port,
            path="/sdk",
            version=_VERSION,
            sslContext=context,
            httpConnectionTimeout=timeout,
            poolSize=_THREADS,
            connectionPoolTimeout=_IDLE_SECONDS,
        )
        self._line = _Line()
        # By name of the method: what a machine's life costs is counted in calls.
        self.calls: Counter[str] = Counter()
        tunnel = extension.tunnel_port if extension is not None else 0
        self.scheme: Any = partial(_Connection, self._line, tunnel)

    def InvokeMethod(self, mo: Any, info: Any, args: Any, outerStub: Any = None) -> Any:
        """See pyVmomi: each call goes through here."""
        self.calls[info.wsdlName] += 1
        try:
            return super().InvokeMethod(mo, info, args, outerStub)
        except (vmodl.MethodFault, *LOST):
            raise
        except Exception as error:
            # pyVmomi holds answers against vSphere's schema, and not all servers do.
            raise http.client.HTTPException(f"an answer that cannot be read: {error!r}") from error

    def hang_up(self) -> None:
        """End what is under way in other threads; what `wait` asks next is asked again."""
        self._line.cut = True
        for connection in list(self._line.live):
            connection.hang_up()

    def close(self) -> None:
        """Close all connections; nothing is under way."""
        self.DropConnections()
        for connection in list(self._line.live):
            connection.close()

    async def wait(self, method: Callable[..., T], *arguments: Any) -> T:
        """A call whose answer may take long, in a thread of its own; cancelled, it is hung up."""
        self._line.cut = False
        answered = False
        result: list[T] = []
        problem: list[Exception] = []
        async with trio.open_nursery() as nursery:

            async def hang_up_when_cancelled() -> None:
                try:
                    await trio.sleep_forever()
                finally:
                    if not answered:
                        self.hang_up()

            nursery.start_soon(hang_up_when_cancelled)
            try:
                with trio.CancelScope(shield=True):
                    result.append(await trio.to_thread.run_sync(partial(method, *arguments)))
            except Exception as error:
                problem.append(error)
            answered = True
            nursery.cancel_scope.cancel()
        if problem:
            raise problem[0]
        return result[0]


class Session:
    """Logged in. `content` is the server's own description of itself."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.stub = Stub(server, _TIMEOUT)
        self.content: Any = None
        self._limiter = trio.CapacityLimiter(_THREADS)
        self._login = trio.Lock()
        self._logins = 0

    @classmethod
    @asynccontextmanager
    async def open(cls, server: Server) -> AsyncIterator["Session"]:
        """Log in, keep the session alive, log out at the end. HypervisorError says why it cannot."""
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
        """The first two numbers of what API the server has: (6, 7)."""
        return tuple(int(part) for part in str(self.content.about.apiVersion).split(".")[:2] if part.isdigit())

    # -- who we are -----------------------------------------------------------------------------------------------

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
                # Somebody has unregistered it: with a ticket it is again what it was.
                if not extension.has_ticket:
                    raise
        await self._register(extension)
        await self._log_in_as(extension)

    async def _log_in_as(self, extension: Extension | None) -> None:
        # On a way of its own: a server that knows the old session still lets nobody log in to it twice.
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
        """Make us an extension, in the session that a ticket is for. InvalidParameter without one, or where there are none."""
        if self.content.extensionManager is None:
            raise InvalidParameter("--vsphere-extension: a lone ESXi has no extensions")
        ticket = extension.ticket()
        once = Stub(self.server, _TIMEOUT)
        try:
            sessions = vim.SessionManager(self.content.sessionManager._moId, once)
            try:
                await self._in_thread(sessions.CloneSession, ticket)
            except vim.fault.InvalidLogin as error:
                raise LoginRefused(
                    "the ticket was used before, or is too old: vch configure --ops-extension"
                ) from error
            manager = vim.ExtensionManager(self.content.extensionManager._moId, once)
            await self._in_thread(extension.register, manager, __version__)
            log.info("registered with vCenter as the extension %s", extension.key)
            # It is not logged out of: what the session that it was cloned from follows could go with it (VMware's simulator).
        finally:
            once.close()

    async def _log_in_again(self, logins: int) -> None:
        """The session has ended; the first who notices logs in for all."""
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
        # A call that was sent is not given up: nobody would know what became of it.
        return await trio.to_thread.run_sync(partial(method, *arguments), limiter=self._limiter)

    async def _call(self, what: str, method: Callable[..., T], *arguments: Any) -> T:
        """A call, made again if the session had ended, which is said before anything is done. Raises LOST as it comes."""
        for _ in range(_TRIES):
            logins = self._logins
            try:
                return await self._in_thread(method, *arguments)
            except vim.fault.NotAuthenticated:
                await self._log_in_again(logins)
            except vmodl.MethodFault as error:
                raise translate(error, what) from error
        raise LoginRefused(f"{what}: vSphere lets us log in and knows nothing of it afterwards")

    async def part(self, *methods: Callable[[], object]) -> None:
        """Calls that let go of what goes with the session anyhow: nobody waits long for them, whatever is cancelled."""
        with trio.move_on_after(_PARTING_SECONDS, shield=True):
            for method in methods:
                try:
                    await trio.to_thread.run_sync(method, limiter=self._limiter, abandon_on_cancel=True)
                except (vmodl.MethodFault, *LOST) as error:
                    log.debug("parting: %s", error)

    async def read(self, what: str, method: Callable[..., T], *arguments: Any) -> T:
        """A call that changes nothing, made again when its answer does not come."""
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
        """A call that changes something, made once. AnswerLost when it cannot be told whether it was."""
        try:
            return await self._call(what, method, *arguments)
        except LOST as error:
            raise AnswerLost(f"{what}: the answer was lost: {error}") from error

    async def properties(self, what: str, objects: Sequence[Any], paths: list[str]) -> dict[str, dict[str, Any]]:
        """Properties by the objects' ids, in one call; what is not there (any more) is left out."""
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
        return {one.obj._moId: {each.name: each.val for each in one.propSet} for one in found or ()}

    async def look(self, what: str, reference: Any, path: str) -> Any:
        """One property, None when it is not set. Gone when the object is not there."""
        found = await self.properties(what, [reference], [path])
        if reference._moId not in found:
            raise Gone(f"{what}: {reference._moId} is not there any more")
        return found[reference._moId].get(path)

    @property
    def cookie(self) -> str:
        return str(self.stub.cookie)

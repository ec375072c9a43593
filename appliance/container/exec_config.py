"""Docker's ExecConfig: a further process in a container, as `POST /containers/{id}/exec` (API 1.51) has it."""

import msgspec

from appliance.container.fields import Int64, go_names


class ExecConfig(msgspec.Struct, kw_only=True, frozen=True, rename=go_names()):
    """`cmd` is never empty once the engine has accepted it. `console_size` is [height, width]. `detach` and `container` have no effect."""

    cmd: list[str] | None = None
    env: list[str] | None = None
    user: str = ""
    working_dir: str = ""
    tty: bool = False
    privileged: bool = False
    attach_stdin: bool = False
    attach_stdout: bool = False
    attach_stderr: bool = False
    detach: bool = False
    detach_keys: str = ""
    console_size: list[Int64] | None = None
    container: str = ""


class ExecRecord(msgspec.Struct, kw_only=True):
    """A stored exec: a later daemon knows the exec by its id. `exit_code` is None until the exec has ended; `began`: it was started."""

    container: str
    config: ExecConfig
    began: bool = False
    exit_code: int | None = None

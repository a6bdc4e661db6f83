"""What a container is, as its host describes it. Untrusted and secret: bounded and typed."""

from __future__ import annotations

import posixpath
import re
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from kis_gateway_deploy.reading import Moment, Text, escaped

Raw = Annotated[str, StringConstraints(max_length=1 << 17, pattern=r"^[^\x00]*$")]
"""Text that is written as it is; it is never shown."""
Several = Field(max_length=1000)


class _Found(BaseModel):
    model_config = ConfigDict(frozen=True, hide_input_in_errors=True)


class Mount(_Found):
    type: Raw
    source: Raw = ""
    name: Raw = ""
    destination: Raw
    rw: bool = True


class TokenFile(_Found):
    """A file that holds tokens. `alone`: its directory has nothing else that a mount would hide."""

    path: Raw
    state: Literal["token", "damaged", "unknown"]
    expiries: Annotated[tuple[Moment, ...], Field(max_length=20)] = ()
    alone: bool = False

    @property
    def directory(self) -> str:
        return posixpath.dirname(self.path)

    @property
    def name(self) -> str:
        return posixpath.basename(self.path)

    def valid(self, clock: int) -> int:
        """The number of its tokens that have not expired."""
        return sum(end > clock for end in self.expiries)


class SecretsFile(_Found):
    """A mounted file with an app key; `content` in base64."""

    path: Raw
    content: Annotated[bytes, Field(max_length=1 << 17, repr=False)]


class Container(_Found):
    """A container: see `kis_gateway_deploy/host/describe.py`. Sizes in bytes, durations in ns.

    `app_dir_in_use`: whether its host has another gateway of this package in the default
    `gateway_app_dir`.
    """

    name: Text
    image: Raw
    image_id: Text = ""
    has_digest: bool = False
    image_is_current: bool = True
    user: Text = ""
    configured_user: Text = ""
    network_mode: Raw = "default"
    networks: Annotated[tuple[Raw, ...], Several] = ()
    entrypoint: Annotated[tuple[Raw, ...], Several] | None = None
    command: Annotated[tuple[Raw, ...], Several] | None = None
    program: Annotated[tuple[Raw, ...], Several] = ()
    working_dir: Raw = "/"
    has_working_dir: bool = False
    environment: Annotated[dict[Raw, Raw], Several, Field(repr=False)] = {}
    image_environment: Annotated[dict[Raw, Raw], Several, Field(repr=False)] = {}
    healthcheck: dict[Raw, tuple[Raw, ...] | int | None] | None = None
    has_healthcheck: bool = False
    mounts: Annotated[tuple[Mount, ...], Several] = ()
    tmpfs: Annotated[dict[Raw, Raw], Several] = {}
    ports: Annotated[tuple[tuple[int, Raw, Raw, Raw], ...], Several] = ()
    exposed: Annotated[tuple[Raw, ...], Several] = ()
    extra_hosts: Annotated[tuple[Raw, ...], Several] = ()
    dns: Annotated[tuple[Raw, ...], Several] = ()
    ulimits: Annotated[dict[Raw, tuple[int, int]], Several] = {}
    labels: Annotated[dict[Raw, Raw], Several, Field(repr=False)] = {}
    auto_remove: bool = False
    memory: Annotated[int, Field(ge=0)] = 0
    cpus: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0
    read_only: bool = False
    cap_drop: Annotated[tuple[Raw, ...], Several] = ()
    cap_add: Annotated[tuple[Raw, ...], Several] = ()
    privileged: bool = False
    sharers: Annotated[tuple[Text, ...], Several] = ()
    app_dir_in_use: bool = False
    tokens: Annotated[tuple[TokenFile, ...], Several] = ()
    secrets: Annotated[tuple[SecretsFile, ...], Several] = ()

    @property
    def variables(self) -> dict[str, str]:
        return self.image_environment | self.environment

    @property
    def compose_file(self) -> str:
        """The first file of its compose project; empty if it is in none."""
        if not self.labels.get("com.docker.compose.project"):
            return ""
        first = self.labels.get("com.docker.compose.project.config_files", "").split(",")[0]
        directory = self.labels.get("com.docker.compose.project.working_dir", "")
        return posixpath.join(directory, first) if first else ""

    @property
    def is_ours(self) -> bool:
        """Whether a deploy of this package has created it."""
        return (
            re.search(r"/releases/[0-9a-f]{12}/docker-compose\.yml$", self.compose_file) is not None
        )


class Description(_Found):
    """A host's answer. `clock`: epoch seconds by the host's clock."""

    uid: int
    clock: Moment
    running: Annotated[tuple[Text, ...], Several] = ()
    engine_error: Text = ""
    container: Container | None = None


class _Answer(_Found):
    result: Description | None = None
    error: Text = ""


def parse_description(text: str) -> Description:
    """The description in a host's JSON answer.

    Raises:
        ValueError: the host says that it failed, or its answer has an unknown form.
    """
    try:
        answer = _Answer.model_validate_json(text)
    except ValidationError as error:
        # Names of variables may be among the places: only the first parts are shown.
        where = {".".join(map(str, each["loc"][:3])) or each["type"] for each in error.errors()}
        shown = escaped(", ".join(sorted(where)))
        raise ValueError(f"the host's answer has an unknown form: {shown}"[:300]) from None
    if answer.result is None:
        raise ValueError(answer.error or "the host's answer is empty")
    return answer.result

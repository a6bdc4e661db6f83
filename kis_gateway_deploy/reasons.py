"""Why what runs on a host is not what is desired. Pure."""

from __future__ import annotations

from kis_gateway_deploy.issuance import WORTH_KEEPING, mounted_token_left
from kis_gateway_deploy.reading import Container, InPlace, Reading
from kis_gateway_deploy.release import Image, Release
from kis_gateway_deploy.settings import Settings


def is_unhealthy_but_answers(settings: Settings, reading: Reading, gateway: Container) -> bool:
    """Whether the image's own health check says unhealthy while a client is answered well."""
    answers = reading.client_sees is not None and reading.client_sees.is_good
    return gateway.health == "unhealthy" and answers and settings.healthcheck is None


def why_switch(settings: Settings, release: Release, reading: Reading) -> str:
    """Why the release is not what runs; empty where it is."""
    if why := why_recreate(settings, release, reading):
        return why
    gateway = reading.gateways[0]
    # The gate has heard the gateway itself by then: the engine's own probe may come later.
    is_fresh = gateway.status == "running" and gateway.health == "starting" and not gateway.restarts
    is_fine = is_fresh or is_unhealthy_but_answers(settings, reading, gateway)
    if not gateway.serves and not is_fine:
        return f"the container is {gateway.status}, its health is {gateway.health}"
    return ""


def why_recreate(settings: Settings, release: Release, reading: Reading) -> str:
    """Why there is no container that was made from the release; empty where there is."""
    if reading.adopted:
        return f"the container {settings.adopt_container} is to be replaced, its token is kept"
    if not reading.gateways:
        return "no gateway container is there"
    if len(reading.gateways) > 1:
        return "more than one gateway container is there"
    gateway = reading.gateways[0]
    if old := old_directory(settings, reading):
        if mounted_token_left(reading, release.key_fingerprint) > WORTH_KEEPING:
            return f"{old}, whose token is brought over"
        lost = ": its token is lost, and" if reading.token_mount == "deleted" else NO_TOKEN_THERE
        return f"{old}{lost} re-creating the container costs an issuance"
    if reading.in_place and (why := _why_in_place(settings, reading.in_place)):
        return why
    if reading.current != release.id:
        return f"release {reading.current or 'none'} runs, not {release.id}"
    if reading.in_place:
        return _cut_off(reading)
    directory = f"{settings.app_dir}/releases/{release.id}"
    desired = ",".join(f"{directory}/{name}" for name in release.compose_files)
    if gateway.compose_file != desired:  # by hand, with another file or none
        return f"the container was made from {gateway.compose_file or 'no file'}, not {desired}"
    if gateway.image != reading.images.get(release.image.reference):
        return f"the container does not run what {release.image.reference} names now"
    if gateway.restart_policy == "no":
        return "the container would not come back after a reboot: a switch of it was cut off"
    if reading.state and reading.state.phase == "begun" and not reading.switching:
        return f"a switch ({reading.state}) was cut off"
    return ""


def _why_in_place(settings: Settings, place: InPlace) -> str:
    if not place.keeps_token:
        return f"the container of {settings.service_name} has no volume or variable for its token"
    if not place.is_written:
        return f"{place.override} is not as this package writes it"
    return ""


def _cut_off(reading: Reading) -> str:
    if reading.state and reading.state.phase == "begun" and not reading.switching:
        return f"a switch ({reading.state}) was cut off"
    return ""


NO_TOKEN_THERE = ", which holds no token that is known to last:"


def old_directory(settings: Settings, reading: Reading) -> str:
    """Which other token directory than today's the container has mounted; empty if none."""
    if reading.token_mount == "other":
        return f"the container still has an older {settings.token_dir} mounted"
    if reading.token_mount == "deleted":
        return f"{settings.token_dir} was removed while the container ran"
    return ""


def runs_image(container: Container | None, image: Image) -> bool:
    return (
        container is not None
        and container.status == "running"
        and container.image_name == image.reference
    )

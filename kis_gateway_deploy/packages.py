"""The distribution's packages that a host lacks. Pure."""

from __future__ import annotations

from kis_gateway_deploy.reading import Reading

DEBIANS = ("debian", "raspbian")  # Raspberry Pi OS of 32 bits is the latter, of 64 bits the former


def missing_packages(reading: Reading) -> tuple[str, ...]:
    """The distribution's packages that the host lacks; none where an engine is there already."""
    packages: tuple[str, ...] = ()
    if reading.engine == "down" and not reading.dockerd:
        packages += ("docker.io",)
    if not reading.docker_cli and reading.os[0] in DEBIANS:
        packages += ("docker-cli",) if _debian_version(reading) >= 13 else ()
    if not reading.compose:
        packages += packages_with_compose(reading)
    return packages


def packages_with_compose(reading: Reading) -> tuple[str, ...]:
    """Where compose v2 is packaged: Debian from 13 on, Ubuntu from 22.04 on."""
    distribution, version = reading.os
    if distribution in DEBIANS and _debian_version(reading) >= 13:
        return ("docker-compose",)
    if distribution == "ubuntu" and version >= "22.04":
        return ("docker-compose-v2",)
    return ()


def _debian_version(reading: Reading) -> int:
    version = reading.os[1].split(".")[0]
    return int(version) if version.isdigit() else 99  # testing and unstable name no version

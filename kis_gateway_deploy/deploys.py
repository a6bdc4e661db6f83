"""The verbs: each reads as its story.

A host that is already as desired gets no command after its one reading; hosts without any
`gateway_…` setting take no part.
"""

from __future__ import annotations

from pyinfra.api.deploy import deploy
from pyinfra.context import host

from kis_gateway_deploy import operations as gateway
from kis_gateway_deploy import showing
from kis_gateway_deploy.runs import begin
from kis_gateway_deploy.session import Refused


@deploy("KIS gateway")
def up() -> None:
    """Brings the gateway up on every host, with a token that outlives the container."""
    session = begin("up")
    if session is None:
        return
    plan = session.read(host).plan
    if plan.has_news:
        gateway.check(name="Check every host before any is touched")
    # Slow and harmless: on all hosts side by side.
    if plan.does("bootstrap"):
        gateway.bootstrap(name="Install python3")
    if plan.may("engine"):
        gateway.install_engine(name="Install what is missing of Docker")
    if plan.may("image"):
        gateway.fetch_images(name="Fetch the image")
    if plan.may("simulator"):
        gateway.start_simulator(name="Start the KIS simulator")
    if plan.may("tokens", "release"):
        gateway.prepare(name="Put the release on the host")
    # Quick and not harmless: batch by batch.
    if plan.may("switch"):
        gateway.roll_out(action="up", name="Roll out", _run_once=True)
    gateway.report(name="Report")


@deploy("KIS gateway: plan")
def plan() -> None:
    """Shows what `up` would change on every host, and why. Touches nothing.

    Fails if something is in the way of a deploy.
    """
    if session := begin("plan"):
        session.read(host, probe=True)
        showing.show_plan(name="Show what a deploy would change", _run_once=True)
        showing.expect(unblocked=True, name="Expect that nothing is in the way")


@deploy("KIS gateway: drift")
def drift() -> None:
    """Fails if a host has drifted from what a deploy left, and shows what differs."""
    if session := begin("drift"):
        session.read(host, probe=True)
        showing.show_plan(name="Show what a deploy would change", _run_once=True)
        showing.expect(unblocked=True, no_changes=True, name="Expect that nothing would change")


@deploy("KIS gateway: status")
def status() -> None:
    """Shows what runs on every host, and how long its token is valid (never the token).

    Host data `json=1`: as one JSON document, with the last switches.
    """
    if session := begin("status"):
        session.read(host, history=5, probe=True)
        as_json = bool(host.data.get("json"))
        showing.show_status(as_json=as_json, name="Show the status of all hosts", _run_once=True)
        showing.expect(name="Expect that the host could be read")


@deploy("KIS gateway: history")
def history() -> None:
    """Shows the switches of all hosts in the order of time, with the image of each release.

    Host data `json=1`: as one JSON document.
    """
    if session := begin("history"):
        session.read(host, history=50)
        as_json = bool(host.data.get("json"))
        showing.show_history(as_json=as_json, name="Show the switches of all hosts", _run_once=True)
        showing.expect(name="Expect that the host could be read")


@deploy("KIS gateway: logs")
def logs() -> None:
    """Shows the gateways' logs side by side, without secrets.

    Host data `since` (default: `10m`): from when on; `follow=1`: until it is interrupted.
    """
    if session := begin("logs"):
        session.connect(host)
        showing.show_logs(name="Show the logs of all hosts")


@deploy("KIS gateway: restart")
def restart() -> None:
    """Restarts the gateways, batch by batch, each behind the health gate."""
    if session := begin("restart"):
        session.plan_to_run(host, release_id=None, restart=True)
        gateway.check(name="Check every host before any is touched")
        gateway.roll_out(action="restart", name="Restart", _run_once=True)
        gateway.report(name="Report")


@deploy("KIS gateway: renew")
def renew() -> None:
    """Gives the gateways a new token, batch by batch: one issuance for each app key.

    For a token that KIS has ended, though it has not expired. The old one is set aside.
    """
    if session := begin("renew"):
        session.plan_to_renew(host)
        gateway.check(name="Check every host before any is touched")
        gateway.roll_out(action="renew", name="Renew the tokens", _run_once=True)
        gateway.report(name="Report")


@deploy("KIS gateway: rollback")
def rollback() -> None:
    """Goes back to the release before, or to host data `release`, batch by batch."""
    if session := begin("rollback"):
        release = host.data.get("release", "")
        if not isinstance(release, str):  # pyinfra reads digits without quotes as a number
            raise Refused("write the release in quotes of its own: --data 'release=\"ID\"'")
        session.plan_to_run(host, release_id=release)
        gateway.check(name="Check every host before any is touched")
        gateway.roll_out(action="rollback", name="Roll back", _run_once=True)
        gateway.report(name="Report")


@deploy("KIS gateway: down")
def down() -> None:
    """Takes the gateway's container and network away. Token directory and releases stay."""
    if session := begin("down"):
        session.plan_to_remove(host)
        gateway.check(name="Check every host before any is touched")
        gateway.down(name="Take the gateway down; its token stays")


@deploy("KIS gateway: adopt")
def adopt() -> None:
    """Writes the inventory whose first deploy replaces a container by a copy, with its token.

    Host data `container`: its name; `write`: the path of the new inventory, or empty to print it.
    Touches nothing on the host, which needs no `gateway_…` setting.
    """
    described = showing.describe()
    showing.write_inventory(described=described, name="Write the inventory of what runs")

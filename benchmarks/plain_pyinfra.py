"""The job as a first pyinfra deploy: built-in operations, one after the other."""

from pyinfra.context import host
from pyinfra.operations import files, server

files.directory(path="/docker_data/bench", user="10001", group="10001", mode="700")
files.directory(path="/opt/bench", mode="700")
files.put(
    src=host.data.bench_secrets,
    dest="/opt/bench/secrets.json",
    user="10001",
    group="10001",
    mode="400",
)
files.put(src=host.data.bench_compose, dest="/opt/bench/docker-compose.yml", mode="600")
if host.data.bench_archive:
    files.put(src=host.data.bench_archive, dest="/opt/bench/image.tar")
    server.shell(commands=["docker load -q -i /opt/bench/image.tar"])
server.shell(
    commands=["cd /opt/bench && docker compose --progress quiet up -d --wait --pull never"]
)

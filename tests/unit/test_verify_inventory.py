"""What `verify` says of an inventory that it cannot read: all of it, and no line of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from kis_gateway_deploy.verify.backend import connect
from kis_gateway_deploy.verify.inventory import InventoryError, _read, load_inventory

SECRET = "canary-5d1f"
HOST = f"web = [('web-1', {{'gateway_app_key_field': '{SECRET}'}})]\n"


@pytest.mark.parametrize(
    ("second", "said"),
    [
        ("other = [5]\n", "its host group other must be a list of hosts"),
        (f"x = {{'{SECRET}': 1}}['y']\n", "inventory.py, line 2: KeyError"),
        (f"x = = '{SECRET}'\n", "inventory.py, line 2: SyntaxError"),
        (f"raise OSError('{SECRET}')\n", "inventory.py, line 2: OSError"),
        (f"import sys; sys.exit('{SECRET}')\n", "cannot read"),
    ],
)
def test_an_inventory_that_cannot_be_read_is_an_error(
    tmp_path: Path, second: str, said: str
) -> None:
    inventory = tmp_path / "inventory.py"
    inventory.write_text(HOST + second)
    with pytest.raises(InventoryError) as error:
        load_inventory(str(inventory), "")
    assert said in str(error.value)
    assert SECRET not in str(error.value)


@pytest.mark.parametrize(
    "prints",
    [
        "print('loading [')",
        "print('[1, 2]', [], end=' ')",
        "import os; os.write(1, b'[{\\xff')",
        "import atexit; atexit.register(print, '[the end]')",
    ],
)
def test_an_inventory_may_print(tmp_path: Path, prints: str) -> None:
    inventory = tmp_path / "inventory.py"
    inventory.write_text(f"{prints}\n{HOST}")
    assert _read(str(inventory)) == {"web-1": {"gateway_app_key_field": SECRET}}


def test_an_inventory_that_prints_may_have_no_hosts(tmp_path: Path) -> None:
    inventory = tmp_path / "inventory.py"
    inventory.write_text("print('[1]')\nweb = []\n")
    assert _read(str(inventory)) == {}


@pytest.mark.parametrize(
    ("key", "said"),
    [
        (None, "No such private key file: "),
        (b"no key\n", "Invalid private key file: "),
        (b"\xd0\xd0", "the SSH key cannot be used: "),
    ],
)
def test_a_host_whose_ssh_key_cannot_be_used_fails_alone(
    tmp_path: Path, key: bytes | None, said: str
) -> None:
    path = tmp_path / "id_ed25519"
    if key is not None:
        path.write_bytes(key)
    data = {"ssh_hostname": "127.0.0.1", "ssh_port": 1}
    found = connect({"web-1": data | {"ssh_key": str(path)}, "web-2": data})
    whys = [str(why) for why in found.values()]
    assert whys[0].startswith(said)
    assert [len(why.splitlines()) for why in whys] == [1, 1]

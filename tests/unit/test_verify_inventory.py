"""What `verify` says of an inventory that it cannot read: all of it, and no line of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from kis_gateway_deploy.verify.inventory import InventoryError, load_inventory

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

from __future__ import annotations

from kis_gateway_deploy.settings import KNOWN_NAMES
from kis_gateway_deploy.settings_table import PAGE, settings_page


def test_the_documented_table_matches_the_model() -> None:
    assert PAGE.read_text("utf-8") == settings_page(), (
        "docs/settings.md is stale: .venv/bin/python -m kis_gateway_deploy.settings_table --write"
    )


def test_every_setting_has_one_row_with_a_meaning_and_a_default() -> None:
    rows = [line for line in settings_page().splitlines() if line.startswith("| `")]
    cells = [row.strip("| ").split(" | ") for row in rows]
    assert sorted(name.strip("`") for name, _, _ in cells) == sorted(KNOWN_NAMES)
    assert all(meaning.endswith(".") for _, meaning, _ in cells)
    required = [name.strip("`") for name, _, default in cells if default == "required"]
    assert required == ["gateway_image", "gateway_app_key_field"]

"""An example of a fleet: copy this file and `group_data/` to a directory of your own.

    make plan   INVENTORY=path/to/fleet.py
    make deploy INVENTORY=path/to/fleet.py

Each list is a group; its settings are in `group_data/GROUP.py` beside this file. The order of the
hosts is the order of the rollout: the first one is the canary.
"""

# Real money. Reached over a jump host: `ssh_config_file` names an ssh configuration, for example:
#   Host 10.20.0.*
#     ProxyJump bastion.example
_behind_the_bastion = {
    "ssh_user": "ops",
    "ssh_key": "~/.ssh/id_ed25519",
    "ssh_config_file": "~/.ssh/config",
    "_sudo": True,  # `ops` may use sudo without a password
}
real = [
    ("10.20.0.11", _behind_the_bastion),
    ("10.20.0.12", _behind_the_bastion),
]

# Paper trading: another app key, on the first machine above. Two gateways on one machine are two
# names with the same address, each with its own project, port and directories.
paper = [
    (
        "paper-on-11",
        _behind_the_bastion
        | {
            "ssh_hostname": "10.20.0.11",
            "gateway_project": "kis-paper",
            "gateway_port": 8081,
            "gateway_app_dir": "/opt/kis-gateway-paper",
            "gateway_token_dir": "/docker_data/kis_tokens_paper",
        },
    ),
]

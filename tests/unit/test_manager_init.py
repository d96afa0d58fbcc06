"""What `init` chooses and writes: subnets that overlap nothing, an inventory that is kept."""

from __future__ import annotations

import ipaddress
import re
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from overlay.errors import UsageError
from overlay.manager import inventory, settings, subnets, tokens
from tests.unit.manager_world import World

NETWORK = st.builds(
    lambda number, prefix: str(ipaddress.ip_network((number, prefix), strict=False)),
    st.integers(0, 2**32 - 1),
    st.integers(1, 32),
)


@given(st.lists(NETWORK, max_size=8), st.integers(16, 24))
def test_a_chosen_subnet_overlaps_nothing(used, prefix):
    try:
        chosen = ipaddress.ip_network(subnets.choose(prefix, used))
    except UsageError:
        free = [n for n in used if ipaddress.ip_network(n).overlaps(subnets._RANGE)]
        assert free
        return
    assert chosen.prefixlen == prefix
    assert chosen.is_private
    assert not any(chosen.overlaps(ipaddress.ip_network(other)) for other in used)
    assert subnets.check("--x", str(chosen), used, 29) == str(chosen)


@pytest.mark.parametrize("given_subnet", ["x", "10.0.0.1/16", "10.0.0.0/30", "192.168.1.0/24"])
def test_a_given_subnet_must_work(given_subnet):
    with pytest.raises(UsageError):
        subnets.check("--wireguard-subnet", given_subnet, ["192.168.0.0/16"], 29)


CONFIG = settings.Settings("central", "u", "e", "10.8.0.0/16", "10.7.0.0/20")


def test_inventory_keeps_what_the_operator_added(tmp_path):
    path = tmp_path / "new" / "inventory.yml"
    wanted = inventory.text(CONFIG, 1, ["hospital-1"])
    inventory.write(path, wanted)
    assert inventory.is_written(path, wanted)
    value = yaml.safe_load(path.read_text())
    value["v6_overlay_stations"]["hosts"]["hospital-1"]["ansible_host"] = "192.0.2.1"
    path.write_text(yaml.safe_dump(value))
    assert inventory.is_written(path, wanted)
    more = inventory.text(CONFIG, 1, ["hospital-1", "hospital-2"])
    assert not inventory.is_written(path, more)
    inventory.write(path, more)
    hosts = yaml.safe_load(path.read_text())["v6_overlay_stations"]["hosts"]
    assert hosts["hospital-1"]["ansible_host"] == "192.0.2.1"
    assert set(hosts) == {"hospital-1", "hospital-2"}


def test_settings_survive_and_absence_is_named(tmp_path):
    with pytest.raises(UsageError, match="not a v6-overlay manager"):
        settings.load(tmp_path)
    settings.save(CONFIG, tmp_path / "manager")
    assert settings.load(tmp_path / "manager") == CONFIG
    assert (CONFIG.wireguard_ip, CONFIG.agent_url) == ("10.8.0.1", "https://10.8.0.1:7603")


def test_a_join_command_is_complete_and_its_token_is_on_stdin(tmp_path):
    world = World(tmp_path)
    settings.save(world.service.settings, tmp_path)
    join = tokens.create("hospital-1", 1, directory=tmp_path)
    assert join.token not in join.command
    assert join.shell_line == f"printf %s {join.token} | {join.command}"
    pin = world.authority.manager_fingerprint()
    assert join.command == (
        f"v6-overlay join https://central:7443 --ca-fingerprint {pin}"
        " --node-config /root/.config/vantage6/node/hospital-1.yaml"
    )
    for station, collaboration in (("Hospital 1", 1), ("hospital-1", 9)):
        with pytest.raises(UsageError):
            tokens.create(station, collaboration, directory=tmp_path)
    with pytest.raises(UsageError, match="2 collaborations"):
        tokens.only_collaboration(tmp_path)
    assert tokens.not_joined(("hospital-1",), 1, tmp_path) == ["hospital-1"]
    world.admit("hospital-1", 1)
    assert tokens.not_joined(("hospital-1",), 1, tmp_path) == []


def test_a_program_learns_how_to_join_but_not_the_token(tmp_path):
    world = World(tmp_path)
    settings.save(world.service.settings, tmp_path)
    join = tokens.create("hospital-1", 1, directory=tmp_path)
    value = join.as_dict(tokens.save(join, tmp_path))
    assert value["url"] == "https://central:7443"
    assert value["ca_fingerprint"] == world.authority.manager_fingerprint()
    assert join.token not in str(value)
    file = Path(str(value["token_file"]))
    assert (file.read_text(), file.stat().st_mode & 0o777) == (join.token, 0o600)


def test_the_playbook_uses_what_init_and_token_write(tmp_path):
    playbook = (Path(__file__).parents[2] / "ansible/join.yml").read_text()
    inventory_value = yaml.safe_load(inventory.text(CONFIG, 1, ["hospital-1"]))
    groups = set(inventory_value) - {"all"}
    given = set(inventory_value["all"]["vars"]) | {"v6_overlay_station"}
    assert yaml.safe_load(playbook)[0]["hosts"] in groups
    assert set(re.findall(r"groups\['(\w+)'\]", playbook)) <= groups
    own = set(re.findall(r"(?:register: |^    )(v6_overlay_\w+)", playbook, re.MULTILINE))
    used = set(re.findall(r"\{\{ \(?(v6_overlay_\w+)", playbook))
    assert used - own - given == {"v6_overlay_node_config"}  # the operator's to give
    world = World(tmp_path)
    settings.save(world.service.settings, tmp_path)
    made = tokens.create("hospital-1", 1, directory=tmp_path).as_dict(tmp_path)
    assert set(re.findall(r"created\.stdout \| from_json\)\.(\w+)", playbook)) <= set(made)

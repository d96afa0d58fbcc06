"""What of the lab can be tested without Docker."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from overlay.errors import HostError, MissingRequirement, UsageError
from overlay.lab import data, network, pythons, shell, vantage6, wheels
from overlay.lab.state import LabState, load_state


def test_a_failing_program_is_a_named_error_with_its_last_words() -> None:
    with pytest.raises(HostError, match=r"code 3.*last words"):
        shell.call(["sh", "-c", "echo last words >&2; exit 3"])
    with pytest.raises(MissingRequirement):
        shell.call(["no-such-program-anywhere"])
    with pytest.raises(HostError, match="did not end"):
        shell.call(["sleep", "5"], timeout=0.1)


def test_in_parallel_waits_for_all_and_raises() -> None:
    done = []

    def fails() -> None:
        raise HostError("no")

    with pytest.raises(HostError):
        shell.in_parallel([fails, lambda: done.append(1)])
    assert done == [1]


def test_missing_python_says_what_to_type() -> None:
    with pytest.raises(MissingRequirement) as caught:
        pythons.find_python("3.1")
    assert "uv python install 3.1" in caught.value.next_step


def test_user_data_must_fit_the_stations(tmp_path: Path) -> None:
    for name in ("b.csv", "a.csv"):
        (tmp_path / name).write_text("x\n1\n")
    assert [path.name for path in data.station_csvs(2, tmp_path)] == ["a.csv", "b.csv"]
    with pytest.raises(UsageError, match="2 CSV files for 3"):
        data.station_csvs(3, tmp_path)


def test_breast_cancer_is_split_whole_into_unequal_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data, "CACHE", tmp_path)
    for stations in (3, 5):
        rows = [len(p.read_text().splitlines()) - 1 for p in data.station_csvs(stations, None)]
        assert sum(rows) == 569
        assert len(set(rows)) == stations


def test_subnet_avoids_what_is_routed(monkeypatch: pytest.MonkeyPatch) -> None:
    routes = '[{"dst": "default"}, {"dst": "172.31.77.0/24"}, {"dst": "172.31.78.5"}]'
    monkeypatch.setattr(network, "call", lambda argv: shell.Completed(argv, 0, routes, ""))
    assert network.free_subnet() == "172.31.79.0/24"
    assert network.host_address("172.31.79.0/24", 0) == "172.31.79.2"


def test_digest_follows_names_and_contents_only(tmp_path: Path) -> None:
    tree = tmp_path / "a" / "tree"
    tree.mkdir(parents=True)
    (tree / "f").write_text("1")
    first = wheels.digest([tree, "x"])
    (tree / "__pycache__").mkdir()
    (tree / "__pycache__" / "f.pyc").write_text("2")
    assert wheels.digest([tree, "x"]) == first
    (tree / "f").write_text("2")
    assert wheels.digest([tree, "x"]) != first


def test_secrets_are_in_private_files_only() -> None:
    entities = vantage6.new_entities(["hospital-1", "hospital-2", "hospital-3"])
    entities.api_keys["hospital-1"] = "a-key"
    files = vantage6.node_files("hospital-1", entities, "10.0.0.1", "image")
    secret = entities.api_keys["hospital-1"].encode()
    for text in files.values():
        assert text.mode == 0o600 or secret not in text.content
    config = yaml.safe_load(files["/root/.config/vantage6/node/hospital-1.yaml"].content)
    assert config["node_extra_env"] == {"DOCKER_HOST": "unix:///run/v6-overlay/proxy/docker.sock"}


def test_state_is_written_privately_and_read_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "lab" / "state.json"
    monkeypatch.setenv("V6_OVERLAY_LAB_STATE", str(path))
    assert load_state() is None
    LabState(hosts={"central": {}, "hospital-1": {}}, ready=True).save()
    state = load_state()
    assert state is not None
    assert state.stations == ["hospital-1"]
    assert path.stat().st_mode & 0o777 == 0o600
    path.write_text("{")
    with pytest.raises(UsageError):
        load_state()


def test_without_openssl_headers_no_server_is_built(monkeypatch, tmp_path) -> None:
    calls = []

    def compiler(argv, **options):
        calls.append(list(argv))
        return shell.Completed(list(argv), 1 if "#include" in str(options.get("input")) else 0)

    monkeypatch.setattr(wheels, "call", compiler)
    with pytest.raises(MissingRequirement, match="OpenSSL") as caught:
        wheels._compile_uwsgi("uWSGI==2.0.31", tmp_path)
    assert "libssl-dev" in caught.value.next_step
    assert len(calls) == 1


def test_the_server_is_compiled_with_tls_and_without_luck(monkeypatch, tmp_path) -> None:
    made = []

    def compiler(argv, **options):
        made.append((list(argv), options.get("env")))
        return shell.Completed(list(argv), 0)

    monkeypatch.setattr(wheels, "call", compiler)
    monkeypatch.setattr(wheels, "_builder", lambda _: Path("python"))
    wheels._compile_uwsgi("uWSGI==2.0.31", tmp_path)
    argv, environment = made[-1]
    assert argv[-1] == "uWSGI==2.0.31"
    assert "ssl=true" in environment["UWSGI_PROFILE_OVERRIDE"]
    assert "pcre=false" in environment["UWSGI_PROFILE_OVERRIDE"]

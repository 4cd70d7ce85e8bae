"""Configuration: sources, their order, messages, masking, and the generated reference."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from mcpd.config import Config, Files
from mcpd.errors import ConfigurationError
from mcpd.secret import Secret, SecretUrl
from mcpd.settings import SETTINGS, SHORT_NAMES, describe, load, reference_table


def write(folder: Path, text: str) -> Path:
    path = folder / "mcpd.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_nothing_given_means_all_defaults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SEC-3: the default is loopback."""
    monkeypatch.chdir(tmp_path)
    config = load(None, {}, {})
    assert config == Config()
    assert config.server.host == "127.0.0.1"
    assert config.keys_file == Path(".mcpd/keys.toml")
    assert {row.origin for row in describe(config)} == {"default"}


def test_flags_win_over_the_environment_and_the_environment_over_the_file(tmp_path: Path) -> None:
    path = write(tmp_path, '[server]\nport = 1\nhost = "10.0.0.1"\nname = "from-file"\n')
    env = {"MCPD_SERVER__PORT": "2", "MCPD_SERVER__HOST": "10.0.0.2"}
    config = load(path, env, {"server.port": 3, "server.host": None})
    assert (config.server.port, config.server.host, config.server.name) == (3, "10.0.0.2", "from-file")
    assert config.origins == {
        "server.port": "command line",
        "server.host": "MCPD_SERVER__HOST",
        "server.name": str(path),
    }


def test_short_variables_are_read_and_long_ones_win(tmp_path: Path) -> None:
    env = {"PORT": "81", "LOG_LEVEL": "debug", "MCPD_DATA": str(tmp_path), "MCPD_API_KEY": "s3cret", "HOST": "0.0.0.0"}
    config = load(write(tmp_path, ""), env, {})
    assert (config.server.port, config.server.log_level, config.data.folder) == (81, "debug", tmp_path)
    assert config.auth.api_key == Secret("s3cret")
    assert config.server.host == "127.0.0.1"
    assert load(write(tmp_path, ""), {**env, "MCPD_SERVER__PORT": "82"}, {}).server.port == 82


def test_variables_of_service_discovery_and_empty_ones_are_not_ours(tmp_path: Path) -> None:
    env = {"MCPD_PORT": "tcp://10.0.0.1:80", "MCPD_SERVICE_HOST": "10.0.0.1", "PORT": "", "MCPD_SERVER__NAME": ""}
    assert load(write(tmp_path, ""), env, {}) == Config()


@pytest.mark.parametrize(
    ("text", "nearest"),
    [
        ("[server]\nprot = 1\n", "server.port"),
        ("[limit]\nmax_calls = 1\n", "limits.max_calls"),
        ("[timeouts]\ncalls_s = 1\n", "timeouts.call_s"),
        ("host = 'x'\n", "server.host"),
    ],
)
def test_an_unknown_key_names_the_nearest_known_one(tmp_path: Path, text: str, nearest: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(ConfigurationError) as caught:
        load(path, {}, {})
    assert str(path) in str(caught.value)
    assert nearest in str(caught.value)


def test_an_unknown_variable_names_the_nearest_variable() -> None:
    with pytest.raises(ConfigurationError, match=r"MCPD_SERVER__PROT: .*MCPD_SERVER__PORT"):
        load(None, {"MCPD_SERVER__PROT": "1"}, {})


NO_HOSTS = ("a..b", "x" * 64, ".")
"""What a resolver raises no OSError about."""


@pytest.mark.parametrize(
    ("env", "says"),
    [
        ({"PORT": "eighty"}, "whole number"),
        ({"PORT": "9" * 5000}, "server.port"),
        ({"PORT": "65536"}, "at most 65535"),
        ({"LOG_LEVEL": "loud"}, "one of debug, info, warning, error"),
        ({"MCPD_FILES__WRITE": "maybe"}, "true or false"),
        ({"MCPD_TIMEOUTS__CALL_S": "nan"}, "finite"),
        ({"MCPD_TIMEOUTS__CALL_S": "0"}, "at least 0.001"),
        ({"MCPD_TIMEOUTS__CALL_S": "601"}, "call_max_s"),
        ({"MCPD_LIMITS__MAX_CALLS": "0"}, "at least 1"),
        ({"MCPD_LIMITS__MAX_CALLS": "1.5"}, "whole number"),
        ({"MCPD_SERVER__TLS_CERT": "c.pem"}, "given together"),
        ({"MCPD_SERVER__BIND": "tcp:1"}, "unix:PATH"),
        ({"MCPD_SERVER__PUBLIC_URL": "example.com"}, "http://"),
        *(({"MCPD_SERVER__HOST": host}, "server.host must be") for host in NO_HOSTS),
        *(({"MCPD_SERVER__PUBLIC_URL": f"http://{host}/"}, "then a host") for host in ("", "[::1", "h:x", *NO_HOSTS)),
        *(
            ({"MCPD_EMBEDDINGS__URL": f"http://{host}/v1", "MCPD_EMBEDDINGS__MODEL": "m"}, "then a host")
            for host in ("", "[::1", "h:99999", *NO_HOSTS)
        ),
        *(
            ({"MCPD_SERVER__METRICS_BIND": place}, "HOST:PORT")
            for place in ("nonsense", ":9", "h:", "h:x", "h:65536", "h:" + "9" * 5000, "h:٣", *NO_HOSTS)
        ),
        *(
            ({"MCPD_SERVER__METRICS_BIND": place}, "an IPv6 address in brackets")
            for place in ("::1:9090", "[::1]", "[::1]:", "[::1:9090", "[zz]:9090", "[]:9090", "[localhost]:9090")
        ),
        ({"MCPD_SERVER__HOST": "[::1]"}, "without brackets"),
        ({"REDIS_URL": "localhost:6379"}, "redis://"),
        ({"ES_URL": "http://a:9200, b:9200"}, "elasticsearch.url"),
        ({"MCPD_ELASTICSEARCH__USER": "u"}, "elasticsearch.password"),
        ({"MCPD_ELASTICSEARCH__INDEX_PREFIX": "A"}, "elasticsearch.index_prefix"),
        ({"MCPD_LIMITS__RATE": "100"}, "limits.rate must be written as calls/time"),
        ({"MCPD_LIMITS__TOOL_RATE": "5/0s"}, "limits.tool_rate must be written as calls/time"),
        ({"MCPD_REDIS__PREFIX": "{tag}"}, "redis.prefix"),
        ({"MCPD_REDIS__PREFIX": "a*"}, "redis.prefix"),
    ],
)
def test_a_wrong_value_is_refused_and_the_message_says_what_would_do(env: dict[str, str], says: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load(None, env, {})
    assert says in str(caught.value)


@pytest.mark.parametrize("text", ["[server]\nport = true\n", "[server]\nname = 1\n", "[files]\nwrite = 1\n"])
def test_a_toml_value_of_another_type_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigurationError, match="must be"):
        load(write(tmp_path, text), {}, {})


def test_an_integer_is_a_number_of_seconds(tmp_path: Path) -> None:
    call_s = load(write(tmp_path, "[timeouts]\ncall_s = 5\n"), {}, {}).timeouts.call_s
    assert (call_s, type(call_s)) == (5.0, float)


@pytest.mark.parametrize("text", ["[server\n", "\xff"])
def test_a_broken_file_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "mcpd.toml"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(ConfigurationError, match="not a TOML file"):
        load(path, {}, {})


def test_a_file_that_was_asked_for_must_exist(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot be read"):
        load(tmp_path / "absent.toml", {}, {})


def test_paths_in_the_file_mean_its_folder_and_modules_stay_names(tmp_path: Path) -> None:
    text = 'tools = ["tools/mine.py", "package.module"]\n[files]\nroot = "work"\n[data]\nfolder = "/abs"\n'
    config = load(write(tmp_path, text), {}, {})
    assert config.tools.modules == (str(tmp_path / "tools/mine.py"), "package.module")
    assert config.files.root == tmp_path / "work"
    assert config.data.folder == Path("/abs")


def test_lists_are_comma_separated_in_the_environment() -> None:
    config = load(None, {"MCPD_SERVER__ALLOWED_HOSTS": "a.example, b.example:81,"}, {})
    assert config.server.allowed_hosts == ("a.example", "b.example:81")


def test_a_secret_shows_nowhere(tmp_path: Path) -> None:
    """SEC-6."""
    config = load(write(tmp_path, ""), {"MCPD_API_KEY": "s3cret"}, {})
    shown = f"{config!r} {config.auth.api_key} {config.auth.api_key!r} {describe(config)}"
    assert "s3cret" not in shown
    assert "***" in shown
    with pytest.raises(ConfigurationError) as caught:
        load(None, {}, {"auth.api_key": 12345})
    assert "12345" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://h:1", "redis://h:1"),
        ("rediss://user:s3cret@h:1/0", "rediss://***@h:1/0"),
        ("redis://:s3cret@h", "redis://***@h"),
        ("redis://:a@s3cret/b@h", "redis://***@h"),
        ("redis://h?password=s3cret", "redis://h"),
        ("redis://h#s3cret", "redis://h"),
        ("unix://:s3cret@/run/redis.sock", "unix://***@/run/redis.sock"),
        ("s3cret", "***"),
    ],
)
def test_a_url_shows_where_it_leads_and_not_its_password(url: str, shown: str) -> None:
    """SEC-6."""
    secret = SecretUrl(url)
    assert f"{secret}" == repr(secret) == shown
    assert secret.reveal() == url


def test_the_password_of_a_url_shows_nowhere() -> None:
    """SEC-6."""
    config = load(None, {"REDIS_URL": "rediss://u:s3cret@h:1"}, {})
    assert "s3cret" not in f"{config!r} {describe(config)}"
    assert "rediss://***@h:1" in {row.value for row in describe(config)}
    with pytest.raises(ConfigurationError) as caught:
        load(None, {"REDIS_URL": "http://u:s3cret@h:1"}, {})
    assert "s3cret" not in str(caught.value)


def test_the_default_folder_of_the_file_tools_is_never_the_root_or_the_home_folder(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    assert Files().folder(working=home, home=home) is None
    assert Files().folder(working=Path("/"), home=home) is None
    assert Files().folder(working=tmp_path, home=home) == tmp_path.resolve()
    assert Files(root=home).folder(working=tmp_path, home=home) == home


MAX_SETTINGS = 110
"""Nobody reads more; two backends and what they share need some thirty besides the eighty of the embedded server."""


def test_every_setting_is_documented_and_there_are_not_too_many() -> None:
    assert len(SETTINGS) < MAX_SETTINGS
    for name, setting in SETTINGS.items():
        assert setting.about.unit, name
        assert setting.about.reason.endswith("."), name
    assert set(SHORT_NAMES.values()) <= set(SETTINGS)


def test_every_default_is_one_that_the_loader_would_accept() -> None:
    flags = {name: setting.default for name, setting in SETTINGS.items()}
    assert dataclasses.replace(load(None, {}, flags)) == Config()


def test_the_reference_table_has_one_row_for_each_setting() -> None:
    lines = reference_table().splitlines()
    assert [line.split("`")[1] for line in lines[2:]] == list(SETTINGS)
    assert "| `limits.max_body_bytes` | `4194304` | bytes |" in reference_table()
    assert {line.replace("\\|", "").count("|") for line in lines} == {5}

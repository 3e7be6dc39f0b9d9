"""Settings: flag over environment over platform variable over file over default, and a bad value never passes."""

from __future__ import annotations

from itertools import groupby
from pathlib import Path

import pytest

from lavatube.errors import InvalidSetting
from lavatube.settings import Settings, environment_of, options, read_settings


def test_defaults() -> None:
    assert read_settings(environ={}) == Settings()


def test_order(tmp_path: Path) -> None:
    file = tmp_path / "lavatube.toml"
    file.write_text('port = 1\nhost = "file"\ndevice = "cpu"\n')
    environ = {"LAVATUBE_PORT": "2", "PORT": "3", "LAVATUBE_DEVICE": "cuda"}
    settings = read_settings({"device": "auto", "model": None}, environ, file)
    assert (settings.device, settings.port, settings.host, settings.model) == ("auto", 2, "file", "tiny")


def test_platform_variables() -> None:
    assert read_settings(environ={"PORT": "8080"}).port == 8080
    assert read_settings(environ={"AIP_HTTP_PORT": "9090", "PORT": "8080"}).port == 9090
    assert read_settings(environ={"HF_TOKEN": "t"}).hf_token == "t"


@pytest.mark.parametrize(
    ("environ", "said"),
    [
        ({"LAVATUBE_PORT": "many"}, "LAVATUBE_PORT: 'many' is not a whole number"),
        ({"LAVATUBE_PORT": "70000"}, "not between 0 and 65,535"),
        ({"LAVATUBE_MAX_QUEUE": "-1"}, "not between 0 and"),
        ({"LAVATUBE_MAX_SEQUENCES": "0"}, "not between 1 and"),
        ({"LAVATUBE_DEVICE": "gpu"}, "auto, cpu, cuda or cuda:N"),
        ({"LAVATUBE_HF_ENDPOINT": "nonsense"}, "LAVATUBE_HF_ENDPOINT"),
        ({"LAVATUBE_HOST": " "}, "LAVATUBE_HOST"),
        ({"LAVATUBE_REQUEST_TIMEOUT_S": "nan"}, "not between 1 and"),
        ({"LAVATUBE_DTYPE": "int3"}, "none of auto, float32"),
        ({"LAVATUBE_ALLOW_UNVERIFIED": "perhaps"}, "not true or false"),
        ({"LAVATUBE_PROT": "1"}, "LAVATUBE_PROT is set, but there is no such setting"),
    ],
)
def test_a_bad_variable_is_named(environ: dict[str, str], said: str) -> None:
    with pytest.raises(InvalidSetting) as caught:
        read_settings(environ=environ)
    assert said in caught.value.sentence


@pytest.mark.parametrize("service", ["LAVATUBE", "LAVATUBE_GPU"])
def test_what_kubernetes_says_of_a_service_of_that_name_is_no_setting(service: str) -> None:
    said = {
        f"{service}_SERVICE_HOST": "10.3.0.1",
        f"{service}_SERVICE_PORT": "80",
        f"{service}_SERVICE_PORT_HTTP": "80",
        f"{service}_PORT": "tcp://10.3.0.1:80",
        f"{service}_PORT_80_TCP": "tcp://10.3.0.1:80",
        f"{service}_PORT_80_TCP_PROTO": "tcp",
        f"{service}_PORT_80_TCP_PORT": "80",
        f"{service}_PORT_80_TCP_ADDR": "10.3.0.1",
    }
    assert read_settings(environ=said | {"PORT": "8080"}).port == 8080


def test_a_bad_keyword_is_named() -> None:
    with pytest.raises(InvalidSetting, match="no setting 'prot'"):
        read_settings({"prot": 1}, {})
    with pytest.raises(InvalidSetting, match="'5000' is not a whole number"):
        read_settings({"port": "5000"}, {})


@pytest.mark.parametrize("text", ["port =", "prot = 1", "port = 'x'"])
def test_a_bad_file_is_named(tmp_path: Path, text: str) -> None:
    file = tmp_path / "lavatube.toml"
    file.write_text(text)
    with pytest.raises(InvalidSetting, match=r"lavatube\.toml"):
        read_settings(environ={}, file=file)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidSetting, match="can't be read"):
        read_settings(environ={}, file=tmp_path / "none.toml")


def test_every_option_says_what_it_is() -> None:
    for option in options():
        assert option.doc, option.name
        option.check(option.default, option.name)


def test_a_section_has_all_of_its_options_together() -> None:
    sections = [section for section, _ in groupby(option.section for option in options())]
    assert sections[0] == "server"
    assert len(sections) == len(set(sections)) > 5


def test_served_name() -> None:
    assert Settings(model="hf://llava-hf/llava-1.5-7b-hf@main").served_name == "llava-1.5-7b-hf"
    assert Settings(model="/models/mine/").served_name == "mine"
    assert Settings(model="x", model_name="llava").served_name == "llava"
    assert Settings(model="https://cdn.example.com/llava/lavatube.lock.json?Signature=SECRET").served_name == "llava"
    assert Settings(model="https://cdn.example.com?Signature=SECRET").served_name == "model"
    assert Settings(model=".").served_name == Path.cwd().name


def test_a_user_without_a_home_is_told_to_name_a_cache() -> None:
    nowhere = Settings(cache=Path("~no-such-user/cache"), hf_cache=Path("~no-such-user/hub"))
    with pytest.raises(InvalidSetting, match="--cache"):
        _ = nowhere.cache_folder
    assert not nowhere.hf_cache_folder.exists()


def test_a_child_gets_the_same_settings() -> None:
    settings = Settings(port=1, cache=Path("/c"), allow_unverified=True, hf_token="t", image_fetch_timeout_s=2.5)
    assert read_settings(environ=environment_of(settings)) == settings

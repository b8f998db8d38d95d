"""The table of settings: names, aliases, bounds, secrets."""

import logging

import pytest

from service.errors import SettingsError
from service.settings import DEMO_KEY, PROJECT, as_markdown, load_settings, setting_names

GOOD_KEYS = {"API_KEYS": "Zk4Qp9Wx7Lm2:lab:50", "ADMIN_API_KEY": "Rt6Yv8Bn3Ks1"}


def test_nothing_is_needed_in_development() -> None:
    settings = load_settings({})
    assert settings.flask_host == "127.0.0.1"
    assert settings.flask_port == 9487
    assert settings.uses_demo_key
    assert [(e.key, e.name, e.limit_per_hour) for e in settings.key_entries] == [(DEMO_KEY, "demo", 50)]
    assert settings.admin_key == settings.admin_key
    assert settings.admin_key != load_settings({}).admin_key
    assert settings.log_format_in_use == "text"


def test_production_with_keys() -> None:
    settings = load_settings({"APP_ENV": "production", "FLASK_HOST": "0.0.0.0", **GOOD_KEYS})
    assert settings.log_format_in_use == "json"
    assert settings.admin_key == "Rt6Yv8Bn3Ks1"


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        ({"FLASK_PORT": "0"}, "FLASK_PORT=0"),
        ({"PORT": "banana"}, "FLASK_PORT=banana"),
        ({"FLASK_PORT": "1000", "PORT": "2000"}, "FLASK_PORT and PORT"),
        ({"WORKERS": "-1"}, "WORKERS=-1"),
        ({"LOG_LEVEL": "chatty"}, "LOG_LEVEL=chatty"),
        ({"SAM_DEVICE": "tpu"}, "SAM_DEVICE=tpu"),
        ({"SAM_PRECISION": "float32", "SAM_FP16": "1"}, "SAM_PRECISION and SAM_FP16"),
        ({"SAM_MODEL_TYP": "vit_t"}, "did you mean SAM_MODEL_TYPE"),
        ({"API_KEY": "x"}, "did you mean API_KEYS"),
        ({"MAX_FILESIZE_MB": "5"}, "did you mean MAX_FILE_SIZE_MB"),
        ({"DATASET_TTL": "5"}, "is not a setting"),
        ({"APP_ENV": "prod"}, "APP_ENV=prod"),
        ({"APP_ENV": "production"}, "needs API_KEYS"),
        ({"APP_ENV": "production", **GOOD_KEYS, "ADMIN_API_KEY": "change-me-please"}, "default or placeholder in ADMIN_API_KEY"),
        ({"HOST": "192.168.0.4"}, "set API_KEYS"),
        ({"API_KEYS": "Zk4Qp9Wx7Lm2:lab:many"}, "limit"),
    ],
)  # fmt: skip
def test_wrong_values_name_themselves(environ: dict[str, str], message: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load_settings(environ)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    "environ",
    [
        {"API_KEYS": "SECRETSECRET:lab:many"},
        {"API_KEYS": "SECRETSECRET:lab:50", "ADMIN_API_KEY": "SECRET", "FLASK_PORT": "x"},
        {"ADMIN_API_KEY": "SECRETSECRET1", "ADMIN_TOKEN": "SECRETSECRET2"},
        {"APP_ENV": "production", "API_KEYS": "SECRET-example:lab:50", "ADMIN_API_KEY": "SECRETSECRET2"},
    ],
)
def test_secrets_are_never_shown(environ: dict[str, str]) -> None:
    with pytest.raises(SettingsError) as caught:
        load_settings(environ)
    assert "SECRET" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert "SECRET" not in repr(
        load_settings({"API_KEYS": "SECRETSECRET:lab:50", "ADMIN_API_KEY": "SECRETSECRET2"})
    )


def test_aliases_are_accepted_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        settings = load_settings(
            {"PORT": "1234", "ADMIN_TOKEN": "Rt6Yv8Bn3Ks1", "SAM_FP16": "1", "MAX_FILE_MB": "7"}
        )
    assert settings.flask_port == 1234
    assert settings.admin_key == "Rt6Yv8Bn3Ks1"
    assert settings.sam_precision == "float16"
    assert settings.max_file_bytes == 7 * 2**20
    assert "PORT is another name of FLASK_PORT" in caplog.text
    assert "Rt6Yv8Bn3Ks1" not in caplog.text


def test_the_same_value_twice_is_no_contradiction() -> None:
    assert load_settings({"PORT": "1234", "FLASK_PORT": "1234"}).flask_port == 1234


def test_empty_means_not_set() -> None:
    assert load_settings({"FLASK_PORT": "", "API_KEYS": " ", "SAM_MODEL_PATH": ""}).flask_port == 9487


def test_a_file_gives_way_to_the_environment(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / ".env"
    file.write_text("FLASK_PORT=1111\nTHREADS=3\n")
    monkeypatch.setenv("FLASK_PORT", "2222")
    settings = load_settings(env_file=file)
    assert (settings.flask_port, settings.threads) == (2222, 3)


def test_every_setting_is_documented() -> None:
    page = (PROJECT / "docs" / "settings.md").read_text()
    assert page == as_markdown(), "run: python -m service.settings > docs/settings.md"
    for name in setting_names():
        assert f"`{name}`" in page


def test_the_example_file_names_real_settings() -> None:
    lines = (PROJECT / ".env.example").read_text().splitlines()
    names = {line.lstrip("# ").split("=")[0] for line in lines if "=" in line}
    assert names
    assert names <= set(setting_names())

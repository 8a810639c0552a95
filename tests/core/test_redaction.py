"""What strangers may see: secrets, prompts and addresses are gone, whatever else stays."""

import base64
import json
import secrets

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.core.redaction import HIDDEN, Redactor

PEM = "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIJ1hsZ3v\n-----END PRIVATE KEY-----"
PEER = "12D3KooWCJDRCShGxdmc2SuYFfRp4ZJ8anPKa9QjTFcHdibm2fD6"


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        (f"key: {PEM} and more", "MC4CAQAwBQYDK2VwBCIEIJ1hsZ3v"),
        (json.dumps({"file": PEM}), "MC4CAQAwBQYDK2VwBCIEIJ1hsZ3v"),
        ("-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2Vw", "MC4CAQAwBQYDK2Vw"),  # cut off
        ("Authorization: Bearer abc.def", "abc.def"),
        ("authorization: basic dXNlcg==", "dXNlcg=="),
        ("https://user:pa55@hub.example.org/x", "pa55"),
        ("vllm serve --api-key hunter2 --port 1", "hunter2"),
        ("--hf-token=hunter2", "hunter2"),
        ('{"api_key": "hunter2"}', "hunter2"),
        ("METAINF_ENGINE_URL_KEY=hunter2", "hunter2"),
        ("password: hunter2", "hunter2"),
        ("psk = 0011", "0011"),
        ("a key sk-abcdefgh12345678 in words", "sk-abcdefgh12345678"),
        ("mi-Zm9vYmFyYmF6cXV4", "Zm9vYmFyYmF6cXV4"),
        ("hf_abcdefghijklmnop", "abcdefghijklmnop"),
        ("invited by MFRGGZDFMZTWQ2LKNNWG23TPOBYXE43UOV3HO6DZPI and", "MFRGGZDFMZTWQ2LKNNWG23TPOBYXE43UOV3HO6DZPI"),
        ("/swarm/psk " + "0123456789abcdef" * 4, "0123456789abcdef"),
    ],
)
def test_what_looks_like_a_secret_is_hidden(text: str, secret: str) -> None:
    shown = Redactor().text(text)
    assert secret not in shown
    assert HIDDEN in shown


@pytest.mark.parametrize(
    "text",
    [
        f"/ip4/127.0.0.1/tcp/47470/p2p/{PEER}",
        "one token in 40 ms, 12 tokens queued; max_tokens: 5, prompt_tokens=7",
        "Qwen/Qwen3-0.6B-Instruct-2507 and SmolLM2-135M-Instruct, strategy budget:1024+ngram:4",
        "missing microseconds; minimum 3; skipped; at 12:34:56.789, vllm 0.32.0, torch 2.13.0+cpu",
        "no greeting within 5 s; the disk is full: 0.0 GB free",
        "http://127.0.0.1:8470/v1 and http://localhost:1/x, 0.0.0.0:47470, [::1]:8",
        "metainf_request_predicted_ttft_seconds, long_prefill_token_threshold_of_the_engine",
    ],
)
def test_what_helps_and_hurts_nobody_stays(text: str) -> None:
    assert Redactor().text(text) == text


def test_addresses_have_numbers_equal_ones_the_same() -> None:
    redactor = Redactor()
    shown = redactor.text("/ip4/198.51.100.7/tcp/1 and 198.51.100.7, 10.0.0.1, /ip6/2001:db8::7/tcp/1, [2001:db8::7]:9")
    assert shown == "/ip4/<ip 2>/tcp/1 and <ip 2>, <ip 3>, /ip6/<ip 1>/tcp/1, [<ip 1>]:9"
    assert redactor.text("198.51.100.7") == "<ip 2>"
    names = redactor.text("/dns4/Home.example.org/tcp/1 /dnsaddr/boot.example.org https://home.example.org/v1")
    assert names == "/dns4/<name 4>/tcp/1 /dnsaddr/<name 5> https://<name 4>/v1"
    assert Redactor(addresses=True).text("/ip4/198.51.100.7/tcp/1") == "/ip4/198.51.100.7/tcp/1"
    assert Redactor().text("::ffff:198.51.100.7 fe80::1%eth0") == "<ip 1> <ip 2>%eth0"


def test_a_host_name_that_was_seen_as_one_is_hidden_where_nothing_tells_it() -> None:
    redactor = Redactor()
    redactor.learn("/dns4/home.example.org/tcp/1 https://127.0.0.1/ http://localhost:1")
    shown = redactor.text("the name Home.example.org stands for no address; xhome.example.org and localhost stay")
    assert shown == "the name <name 1> stands for no address; xhome.example.org and localhost stay"


def test_what_users_say_and_what_is_secret_by_its_name_is_hidden_in_documents() -> None:
    document = {
        "request": {"prompt": "my diary", "messages": [{"content": "my diary"}], "max_tokens": 4},
        "api": {"keys": [{"name": "phone", "sha256": "ab"}], "bind": "127.0.0.1:8470"},
        "engine": {"url_key": "hunter2", "extra_arguments": ["--api-key", "hunter2", "--dtype", "auto"]},
        "counts": {"tokens": 12, "keys": 0, "token": None},
        "peers": [{"peer_id": PEER}],
    }
    shown = Redactor().value(document)
    assert "diary" not in json.dumps(shown)
    assert "hunter2" not in json.dumps(shown)
    assert shown["request"]["max_tokens"] == 4
    assert shown["api"] == {"keys": HIDDEN, "bind": "127.0.0.1:8470"}
    assert shown["engine"]["extra_arguments"] == ["--api-key", HIDDEN, "--dtype", "auto"]
    assert shown["counts"] == {"tokens": 12, "keys": 0, "token": None}
    assert shown["peers"] == [{"peer_id": PEER}]


def test_the_owner_s_folder_and_machine_are_called_otherwise() -> None:
    redactor = Redactor(private={"/home/anne": "~", "anne-pc": "<this machine>"})
    assert redactor.text("anne-pc: /home/anne/.local/x") == "<this machine>: ~/.local/x"


def test_of_a_traceback_the_places_stay_and_the_words_go() -> None:
    raised = (
        'Traceback (most recent call last):\n  File "/opt/metainf/node/app.py", line 7, in run\n'
        '    parse(prompt)  # my diary\nValueError: cannot read "my diary"\n'
    )
    shown = Redactor().traceback(raised)
    assert "diary" not in shown
    assert 'File "/opt/metainf/node/app.py", line 7, in run' in shown
    assert "ValueError" in shown


@given(st.binary(min_size=16, max_size=48), st.text(max_size=30), st.text(max_size=30))
def test_a_known_secret_is_hidden_wherever_it_stands(raw: bytes, before: str, after: str) -> None:
    secret = base64.urlsafe_b64encode(raw).decode()
    shown = Redactor([secret]).text(f"{before}{secret}{after}")
    assert secret not in shown


def test_most_random_keys_are_hidden_without_being_known() -> None:
    missed = sum(
        Redactor().text(f"got {key} here").count(key) for key in (secrets.token_urlsafe(32) for _ in range(500))
    )
    assert missed <= 25  # those that fall into short pieces; known ones are taken out by name
    assert all(key not in Redactor().text(key) for key in (secrets.token_hex(16) for _ in range(100)))

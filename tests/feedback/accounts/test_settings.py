"""The service starts for this machine alone by itself; for others, only with what keeps their passwords theirs."""

from __future__ import annotations

from pathlib import Path

import pytest

from llmops.config import load
from llmops.errors import FileFaults
from llmops.feedback.request_limits import origins
from llmops.feedback.settings import FeedbackService

SECRET = "0123456789abcdef" * 4
PUBLIC = f"""
listen: 0.0.0.0:8400
public_url: https://ratings.example.org
trusted_proxies: [10.0.0.0/8]
secret: {SECRET}
"""


def read(tmp_path: Path, text: str) -> FeedbackService:
    (tmp_path / "feedback.yaml").write_text(text)
    return load(tmp_path / "feedback.yaml", FeedbackService, what="feedback")


def test_without_anything_it_is_of_this_machine_alone(tmp_path: Path) -> None:
    assert read(tmp_path, "") == FeedbackService()
    assert FeedbackService().loopback
    assert FeedbackService().secret is None


def test_a_public_one_needs_all_of_these(tmp_path: Path) -> None:
    service = read(tmp_path, PUBLIC)
    assert service.https
    assert origins(service, 8400) == {"https://ratings.example.org"}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        pytest.param((f"secret: {SECRET}", ""), "listen: others can reach it: give `secret`,", id="no secret"),
        pytest.param((SECRET, "''"), "listen: others can reach it: give `secret`,", id="an empty one"),
        pytest.param((SECRET, "changeme"), "at least 32 random letters", id="a short one"),
        pytest.param((SECRET, "a" * 64), "at least 32 random letters", id="one letter many times"),
        pytest.param(
            ("public_url: https://ratings.example.org\n", ""),
            "listen: others can reach it: give `public_url`,",
            id="no name",
        ),
        pytest.param(("https:", "http:"), "in clear: use https", id="no https"),
        pytest.param(
            ("trusted_proxies: [10.0.0.0/8]", ""), "name it in `trusted_proxies`", id="no proxy that ends https"
        ),
        pytest.param(("10.0.0.0/8", "proxy.example.org"), "no address or network", id="a proxy by name"),
        pytest.param(("example.org", "example.org/rate"), "public_url", id="a path in the public address"),
        pytest.param(("8400", "84000"), "at most 65535", id="no port"),
    ],
)
def test_a_start_is_refused(tmp_path: Path, change: tuple[str, str], said: str) -> None:
    assert change[0] in PUBLIC
    with pytest.raises(FileFaults) as refused:
        read(tmp_path, PUBLIC.replace(*change))
    assert said in str(refused.value)


@pytest.mark.parametrize("listen", ["127.0.0.1:0", "localhost:8400", "[::1]:8400", "127.8.8.8:80"])
def test_this_machine_needs_none_of_them(listen: str) -> None:
    assert FeedbackService(listen=listen).loopback


@pytest.mark.parametrize("listen", ["0.0.0.0:8400", "[::]:8400", "192.168.1.5:8400", "example.org:8400"])
def test_others_do(listen: str) -> None:
    with pytest.raises(ValueError, match="others can reach it"):
        FeedbackService(listen=listen)


def test_behind_a_container_the_public_address_may_be_this_machine(tmp_path: Path) -> None:
    service = read(tmp_path, f"listen: 0.0.0.0:8400\npublic_url: http://localhost:8400\nsecret: {SECRET}\n")
    assert origins(service, 8400) == {"http://localhost:8400"}


def test_a_provider_must_be_https_unless_it_is_here(tmp_path: Path) -> None:
    openid = "openid: {issuer: 'http://sso.example.org', client_id: c, client_secret: s}"
    with pytest.raises(FileFaults, match=r"openid\.issuer: it must be https"):
        read(tmp_path, openid)
    assert read(tmp_path, openid.replace("sso.example.org", "127.0.0.1:8080")).openid is not None

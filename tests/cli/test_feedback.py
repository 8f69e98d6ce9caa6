"""`llmops feedback invite` and `people` work on the workspace's database; a link is shown once."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from argon2 import PasswordHasher

from llmops.database import open_database
from llmops.errors import InputError
from llmops.feedback.accounts import Accounts
from llmops.feedback.invitations import Invitations
from llmops.feedback.passwords import Passwords
from llmops.workspace import Workspace
from tests.cli.feedback_command import run

PASSWORD = "four plain words together"


@pytest.fixture
def invitations(workspace: Path) -> Invitations:
    passwords = Passwords(PasswordHasher(time_cost=1, memory_cost=8, parallelism=1))
    return Invitations(Accounts(open_database(Workspace(workspace)), passwords), hours=72)


def secret_of(link: str) -> str:
    return link.rpartition("/")[2]


def test_an_invitation_holds_what_was_asked_for(invitations: Invitations) -> None:
    said = run(
        "invite", "--role", "owner", "--campaign", "a", "--campaign", "b", "--language", "en", "--qualification", "law"
    )  # fmt: skip
    link = said.splitlines()[0]
    assert link.startswith("http://127.0.0.1:8400/invitation/")
    found = invitations.find(secret_of(link))
    assert (found.role, found.campaigns, found.languages, found.qualifications) == (
        "owner", ("a", "b"), ("en",), ("law",)
    )  # fmt: skip
    assert said.splitlines()[-1] == "next: llmops feedback people"


def test_the_link_is_of_the_address_that_people_know(invitations: Invitations, tmp_path: Path) -> None:
    file = tmp_path / "feedback.yaml"
    file.write_text("{public_url: 'https://r.example.org', trusted_proxies: [127.0.0.1], invitation_hours: 1}")
    said = json.loads(run("invite", "--config", str(file), "--json"))
    assert said["link"].startswith("https://r.example.org/invitation/")
    assert (said["role"], said["hours"]) == ("rater", 1.0)


def test_people_are_listed_with_what_they_may(invitations: Invitations) -> None:
    one = invitations.accept(secret_of(json.loads(run("invite", "--campaign", "a", "--json"))["link"]),
                             login="ann", name="Ann", password=PASSWORD)  # fmt: skip
    assert "$argon2" not in run("people")
    lines = run("people").splitlines()
    assert lines[0].split() == ["login", "name", "role", "campaigns", "skills", "rater", "since", "state"]
    assert lines[1].split()[:6] == ["ann", "Ann", "rater", "a", "–", one]
    (plain,) = json.loads(run("people", "--json"))
    assert (plain["login"], plain["campaigns"], plain["rater"], plain["closed"]) == ("ann", ["a"], one, None)
    assert "password" not in plain


def test_a_forgotten_password_is_set_anew_by_a_link(invitations: Invitations) -> None:
    link = json.loads(run("invite", "--role", "admin", "--json"))["link"]
    rater = invitations.accept(secret_of(link), login="root", name="Root", password=PASSWORD)
    link = json.loads(run("invite", "--reset", "root", "--json"))["link"]
    assert invitations.accept_password(secret_of(link), password="another four words") == rater


def test_what_somebody_reads_and_may_can_be_said_anew(invitations: Invitations) -> None:
    secret = secret_of(json.loads(run("invite", "--language", "en", "--json"))["link"])
    invitations.accept(secret, login="ann", name="Ann", password=PASSWORD)
    said = run("qualify", "ann", "--language", "de-CH", "--language", "en", "--qualification", "law")
    assert said.splitlines()[:2] == ["ann reads de-CH, en", "ann has law"]
    told = json.loads(run("qualify", "ann", "--language", "", "--json"))
    assert told == {"login": "ann", "languages": [], "qualifications": ["law"]}
    (ann,) = json.loads(run("people", "--json"))
    assert (ann["languages"], ann["qualifications"]) == ([], ["law"])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("invite", "--role", "rator"), "did you mean `rater`"),
        (("invite", "--reset", "nobody"), "nobody has the login"),
        (("invite", "--campaign", "two words"), "is no name"),
        (("invite", "--language", "English"), "'English' is no language"),
        (("qualify", "nobody", "--language", "en"), "nobody has the login"),
        (("qualify", "nobody"), "nothing is to be changed"),
        (("serve", "--listen", "0.0.0.0:8400"), "others can reach it"),
        (("serve", "none.yaml"), "there is no file"),
    ],
)
def test_what_cannot_be_is_said(invitations: Invitations, arguments: tuple[str, ...], said: str) -> None:
    with pytest.raises(InputError, match=said):
        run(*arguments)

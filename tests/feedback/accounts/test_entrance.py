"""People come in by invitation alone, and who tries to come in otherwise learns nothing."""

from __future__ import annotations

import re
import statistics
import threading
import time
from pathlib import Path

import pytest
from argon2 import PasswordHasher
from sqlalchemy import Engine, select

from llmops.database import open_database
from llmops.errors import InputError
from llmops.feedback.accounts import Accounts
from llmops.feedback.desk import Desk
from llmops.feedback.events import events
from llmops.feedback.passwords import Passwords
from llmops.feedback.refused import Refused
from llmops.feedback.settings import FeedbackService, Limits
from llmops.feedback.tables import table
from llmops.feedback.tasks import NoTask, Task
from llmops.workspace import Workspace
from tests.feedback.accounts.service import PASSWORD, Browser, Service, link_in, service, token_in
from tests.feedback.small_campaigns import start
from tests.patience import once_in_three

ACCEPTED = {"login": "Ann@Example.org", "name": "Ann", "password": PASSWORD, "again": PASSWORD}


def accepting(house: Service, **changed: str) -> tuple[Browser, str]:
    secret = house.entrance.invitations.make("rater", by="test", campaigns=("fluency",), languages=("en",))
    browser = house.browser()
    answer = browser.submit(f"/invitation/{secret}", {**ACCEPTED, **changed})
    return browser, f"{answer.status_code} {answer.headers.get('location', answer.text)}"


# Invitations.


def test_an_invitation_makes_an_account_and_signs_in(house: Service) -> None:
    browser, said = accepting(house)
    assert said == "303 /"
    (ann,) = house.accounts.people()
    assert (ann.login, ann.name, ann.role, ann.campaigns) == ("ann@example.org", "Ann", "rater", frozenset({"fluency"}))
    assert "ann@example.org" in browser.get("/account").text


def test_the_pseudonym_says_nothing_of_the_person(house: Service) -> None:
    accepting(house)
    accepting(house, login="ann2")
    one, two = house.accounts.people()
    assert re.fullmatch(r"r-[0-9a-f]{16}", one.rater)
    assert one.rater != two.rater
    with house.accounts.engine.connect() as connection:
        rows = connection.execute(select(table("raters"))).all()
        events = connection.execute(select(table("rating_events"))).all()
    assert {row.id for row in rows} == {one.rater, two.rater}
    assert "ann" not in f"{rows} {events}".lower()


def test_an_invitation_works_once(house: Service) -> None:
    secret = house.entrance.invitations.make("rater", by="test")
    assert house.browser().submit(f"/invitation/{secret}", ACCEPTED).status_code == 303
    late = house.browser()
    assert late.get(f"/invitation/{secret}").status_code == 404
    page = house.entrance.invitations.make("rater", by="test")
    token = token_in(late.get(f"/invitation/{page}").text)
    assert late.post(f"/invitation/{secret}", {**ACCEPTED, "login": "eve", "csrf": token}).status_code == 404
    assert [one.login for one in house.accounts.people()] == ["ann@example.org"]


def used_by_eight_at_once(house: Service) -> list[str]:
    """What became of eight people who use one link in the same moment."""
    secret = house.entrance.invitations.make("rater", by="test")
    said: list[str] = []
    together = threading.Barrier(8)

    def accept(number: int) -> None:
        together.wait()
        try:
            house.entrance.invitations.accept(secret, login=f"one-{number}", name="One", password=PASSWORD)
            said.append("in")
        except Refused as refused:
            said.append(str(refused.status))

    threads = [threading.Thread(target=accept, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sorted(said)


def test_of_many_who_use_one_link_at_once_one_comes_in(house: Service) -> None:
    assert used_by_eight_at_once(house) == ["404"] * 7 + ["in"]
    assert len(house.accounts.people()) == 1


def test_all_of_it_holds_on_postgresql(
    postgresql_database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLMOPS_DATABASE_URL", postgresql_database)
    engine = open_database(Workspace(tmp_path))
    house = service(engine)
    assert used_by_eight_at_once(house) == ["404"] * 7 + ["in"]
    root = house.person("admin", login="root")
    other = house.person("admin", login="other")
    browser = house.browser()
    assert log_in(browser, "root", "wrong") == "401"
    assert log_in(browser, "root") == "303 /account"
    assert browser.submit("/people", {"role": "owner"}, to=f"/people/{other}/role").status_code == 303
    assert browser.submit("/people", {"campaigns": "a, b"}, to=f"/people/{other}/campaigns").status_code == 303
    assert house.accounts.person(other).campaigns == frozenset({"a", "b"})
    assert browser.submit("/people", {}, to=f"/people/{root}/close").status_code == 422
    link = link_in(browser.submit("/people", {}, to=f"/people/{other}/password").text)
    assert house.browser().submit(link, {"password": NEW, "again": NEW}).status_code == 303
    house.clock.now += 13 * 3600
    assert browser.get("/account").status_code == 303
    assert log_in(browser, "other", NEW) == "303 /account"
    with pytest.raises(InputError, match="taken"):
        house.person(login="root")
    engine.dispose()


def test_an_invitation_ends(house: Service) -> None:
    secret = house.entrance.invitations.make("rater", by="test")
    house.clock.now += 72 * 3600 - 1
    assert house.browser().get(f"/invitation/{secret}").status_code == 200
    house.clock.now += 1
    assert house.browser().get(f"/invitation/{secret}").status_code == 404


def test_used_ended_and_never_made_invitations_answer_alike(house: Service) -> None:
    used = house.entrance.invitations.make("rater", by="test")
    house.browser().submit(f"/invitation/{used}", ACCEPTED)
    ended = house.entrance.invitations.make("rater", by="test")
    house.clock.now += 73 * 3600
    said = {(answer.status_code, answer.text) for answer in map(house.browser().get, (
        f"/invitation/{used}", f"/invitation/{ended}", "/invitation/never-made"
    ))}  # fmt: skip
    assert len(said) == 1


def test_only_digests_of_secrets_are_kept(house: Service) -> None:
    secret = house.entrance.invitations.make("rater", by="test")
    rater = house.person()
    session = house.entrance.sessions.begin(rater)
    with house.accounts.engine.connect() as connection:
        kept = "".join(
            str(connection.execute(select(table(name))).all())
            for name in ("invitations", "people_sessions", "people", "rating_events")
        )
    assert secret not in kept
    assert session not in kept
    assert PASSWORD not in kept


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        pytest.param({"password": "short", "again": "short"}, "12 are the least", id="a short password"),
        pytest.param({"again": "something else entirely"}, "differ", id="two passwords that differ"),
        pytest.param({"login": "ann b"}, "a login is", id="a login that is none"),
        pytest.param({"name": "Ann\u202eevil"}, "cannot be seen", id="a name that turns text around"),
        pytest.param({"name": " "}, "1 to 100", id="no name"),
    ],
)
def test_what_cannot_be_is_said_and_the_link_stays_usable(house: Service, changed: dict[str, str], said: str) -> None:
    secret = house.entrance.invitations.make("rater", by="test")
    browser = house.browser()
    answer = browser.submit(f"/invitation/{secret}", {**ACCEPTED, **changed})
    assert answer.status_code == 422
    assert said in answer.text
    assert PASSWORD not in answer.text
    assert browser.submit(f"/invitation/{secret}", ACCEPTED).status_code == 303


def test_a_taken_login_leaves_the_link_usable(house: Service) -> None:
    house.person(login="ann")
    secret = house.entrance.invitations.make("rater", by="test")
    assert "taken" in house.browser().submit(f"/invitation/{secret}", {**ACCEPTED, "login": "ann"}).text
    assert house.browser().submit(f"/invitation/{secret}", ACCEPTED).status_code == 303


def test_nobody_registers_themselves(house: Service) -> None:
    browser = house.browser()
    for path in ("/register", "/signup", "/people", "/invitations"):
        answer = browser.submit("/login", ACCEPTED, to=path)
        assert answer.status_code in (401, 404), path
    assert house.accounts.people() == []


def test_the_first_admin_gets_one_link_at_a_time_and_none_once_there_is_an_admin(house: Service) -> None:
    first = house.entrance.invitations.first_admin()
    second = house.entrance.invitations.first_admin()
    assert first is not None
    assert second is not None
    assert house.browser().get(f"/invitation/{first}").status_code == 404
    assert house.browser().submit(f"/invitation/{second}", ACCEPTED).status_code == 303
    assert [one.role for one in house.accounts.people()] == ["admin"]
    assert house.entrance.invitations.first_admin() is None


# Signing in.


def log_in(browser: Browser, login: str = "ann", password: str = PASSWORD, after: str = "/account") -> str:
    answer = browser.submit("/login", {"login": login, "password": password, "next": after})
    return f"{answer.status_code} {answer.headers.get('location', '')}".strip()


def test_login_and_password_let_in_and_lead_back(house: Service) -> None:
    house.person(login="ann")
    browser = house.browser()
    assert browser.get("/account").headers["location"] == "/login?next=/account"
    assert log_in(browser, " ANN ") == "303 /account"
    assert browser.get("/account").status_code == 200


@pytest.mark.parametrize(
    "after",
    ["//evil.example/", "https://evil.example/", "/\\evil.example", "\\\\evil", "/\tx", "javascript:alert(1)", ""],
)
def test_nobody_is_led_to_another_site(house: Service, after: str) -> None:
    house.person(login="ann")
    assert log_in(house.browser(), after=after) == "303 /"


def test_an_unknown_login_and_a_wrong_password_answer_alike(house: Service) -> None:
    closed, openid = house.person(login="closed"), house.person(login="openid")
    house.person(login="ann")
    house.person("admin")
    house.accounts.close(closed, by="test")
    with house.accounts.engine.begin() as connection:
        people = table("people")
        connection.execute(people.update().where(people.c.rater == openid).values(password=None, subject="i s"))
    pages = set()
    for login, password in (("ann", "wrong"), ("nobody", PASSWORD), ("closed", PASSWORD), ("openid", PASSWORD)):
        answer = house.browser().submit("/login", {"login": login, "password": password})
        token = token_in(answer.text)
        pages.add((answer.status_code, answer.text.replace(token, "").replace(f'value="{login}"', "")))
    assert len(pages) == 1
    assert pages.pop()[0] == 401


def test_an_unknown_login_takes_as_long_as_a_known_one(engine: Engine) -> None:
    """Medians of a check that costs some 10 ms: the unknown login is within a third of the known one, not near zero."""
    accounts = Accounts(engine, Passwords(PasswordHasher(time_cost=2, memory_cost=8192, parallelism=1)))
    house = service(engine)
    house.entrance.accounts.passwords = accounts.passwords
    house.person(login="ann")

    def cost_s(login: str) -> float:
        begun = time.process_time()
        assert accounts.check(login, "wrong password it is") is None
        return time.process_time() - begun

    @once_in_three
    def compare() -> None:
        # In turns: a machine that becomes slower does so for both.
        known, unknown = zip(*((cost_s("ann"), cost_s("nobody")) for _ in range(7)), strict=True)
        assert 2 / 3 < statistics.median(unknown) / statistics.median(known) < 3 / 2

    compare()


def test_wrong_passwords_for_a_login_are_limited_from_wherever_they_come(house: Service) -> None:
    house.person(login="ann")
    browsers = [house.browser(address=f"198.51.100.{number}") for number in range(11)]
    said = [log_in(browser, password="wrong") for browser in browsers]
    assert said == ["401"] * 10 + ["429"]
    answer = browsers[0].submit("/login", {"login": "ann", "password": PASSWORD})
    assert answer.status_code == 429
    assert 0 < int(answer.headers["retry-after"]) <= 300


def test_an_unknown_login_is_limited_alike(house: Service) -> None:
    said = [log_in(house.browser(address=f"198.51.100.{number}"), "nobody") for number in range(11)]
    assert said == ["401"] * 10 + ["429"]


def test_wrong_passwords_from_an_address_are_limited_for_whatever_login(engine: Engine) -> None:
    house = service(engine, FeedbackService(limits=Limits(attempts=2)))
    browser = house.browser(address="2001:db8::1")
    said = [log_in(browser, f"nobody-{number}") for number in range(11)]
    assert said == ["401"] * 10 + ["429"]
    assert log_in(house.browser(address="2001:db8::ffff"), "other") == "429", "one /64 is one household"
    assert log_in(house.browser(address="2001:db8:0:1::1"), "other") == "401"


def test_right_passwords_are_not_counted(house: Service) -> None:
    house.person(login="ann")
    assert [log_in(house.browser()) for _ in range(12)] == ["303 /account"] * 12


def test_wrong_invitations_from_an_address_are_limited(engine: Engine) -> None:
    house = service(engine, FeedbackService(limits=Limits(attempts=2)))
    browser = house.browser()
    assert [browser.get(f"/invitation/wrong-{n}").status_code for n in range(11)] == [404] * 10 + [429]


def test_a_password_kept_with_older_parameters_is_kept_anew(house: Service, engine: Engine) -> None:
    house.person(login="ann")
    dearer = Passwords(PasswordHasher(time_cost=2, memory_cost=16, parallelism=1))
    accounts = Accounts(engine, dearer)

    def kept() -> str:
        with engine.connect() as connection:
            return str(connection.execute(select(table("people").c.password)).scalar_one())

    before = kept()
    assert dearer.stale(before)
    assert accounts.check("ann", PASSWORD) is not None
    assert kept() != before
    assert not dearer.stale(kept())
    assert accounts.check("ann", PASSWORD) is not None


# Sessions.


def cookie(house: Service, browser: Browser) -> str:
    return str(browser.cookies.get(house.entrance.cookies.session) or "")


def test_signing_in_begins_a_session_of_a_new_secret_and_ends_the_one_before(house: Service) -> None:
    house.person(login="ann")
    browser = house.browser()
    browser.cookies.set(house.entrance.cookies.session, "planted-by-somebody-else", domain="127.0.0.1", path="/")
    log_in(browser)
    first = cookie(house, browser)
    assert first != "planted-by-somebody-else"
    again = house.browser()
    again.get("/login")
    again.cookies.set(house.entrance.cookies.session, first, domain="127.0.0.1", path="/")
    csrf = house.token(again)
    answer = again.post("/login", {"login": "ann", "password": PASSWORD, "csrf": csrf})
    assert answer.status_code == 303
    assert house.entrance.sessions.visitor(first) is None
    assert len(first) >= 43, "256 bits"


def test_the_cookie_is_out_of_reach_of_scripts_and_other_sites(house: Service) -> None:
    house.person(login="ann")
    said = house.browser().submit("/login", {"login": "ann", "password": PASSWORD}).headers.get_list("set-cookie")
    (session,) = [line for line in said if line.startswith("llmops-session=")]
    assert {"HttpOnly", "Path=/", "SameSite=lax", "Max-Age=1209600"} <= set(session.split("; "))


def test_through_https_the_cookie_is_of_this_host_alone(engine: Engine) -> None:
    settings = FeedbackService(
        public_url="https://ratings.example.org", trusted_proxies=("192.0.2.1",), secret="0123456789abcdef" * 4
    )
    house = service(engine, settings)
    house.person(login="ann")
    browser = house.browser(origin="https://ratings.example.org")
    answer = browser.submit("/login", {"login": "ann", "password": PASSWORD})
    (session,) = [
        line for line in answer.headers.get_list("set-cookie") if "session=" in line and "Max-Age=0" not in line
    ]
    assert session.startswith("__Host-llmops-session=")
    assert {"Secure", "HttpOnly", "Path=/"} <= set(session.split("; "))
    assert "Domain" not in session
    assert answer.headers["strict-transport-security"]
    assert browser.get("/account").status_code == 200


def test_a_session_ends_when_idle(house: Service) -> None:
    browser = house.signed_in(house.person())
    for _ in range(3):
        house.clock.now += 12 * 3600 - 61
        assert browser.get("/account").status_code == 200
    house.clock.now += 12 * 3600
    assert browser.get("/account").status_code == 303


def test_a_session_ends_at_last_however_busy(house: Service) -> None:
    browser = house.signed_in(house.person())
    for _ in range(33):
        house.clock.now += 10 * 3600
        assert browser.get("/account").status_code == 200
    house.clock.now += 6 * 3600
    assert browser.get("/account").status_code == 303


def test_signing_out_ends_the_session(house: Service) -> None:
    browser = house.signed_in(house.person())
    secret = cookie(house, browser)
    assert browser.submit("/account", {}, to="/logout").headers["location"] == "/login"
    assert house.entrance.sessions.visitor(secret) is None


def test_a_session_knows_the_campaigns_of_its_person_and_of_nobody_else(house: Service) -> None:
    rater, _ = house.person("rater", "a"), house.person("rater", "c")
    for campaigns in (["a", "b"], [], ["d"]):
        house.accounts.set_campaigns(rater, campaigns, by="test")
        visitor = house.entrance.sessions.visitor(house.entrance.sessions.begin(rater))
        assert visitor is not None
        assert (visitor.rater, visitor.campaigns) == (rater, frozenset(campaigns))


def test_one_can_end_all_other_sessions(house: Service) -> None:
    rater = house.person()
    here, there, other = house.signed_in(rater), house.signed_in(rater), house.signed_in(house.person())
    assert here.submit("/account", {}, to="/account/sessions").status_code == 200
    assert [one.get("/account").status_code for one in (here, there, other)] == [200, 303, 200]


NEW = "another four words entirely"


def test_another_password_ends_all_sessions_and_begins_one_of_a_new_secret(house: Service) -> None:
    rater = house.person(login="ann")
    here, there = house.signed_in(rater), house.signed_in(rater)
    before = cookie(house, here)
    answer = here.submit("/account", {"current": PASSWORD, "password": NEW, "again": NEW}, to="/account/password")
    assert answer.status_code == 303
    assert cookie(house, here) != before
    assert here.get("/account").status_code == 200
    assert there.get("/account").status_code == 303
    assert log_in(house.browser()) == "401"
    assert log_in(house.browser(), password=NEW) == "303 /account"


@pytest.mark.parametrize(
    "sent",
    [
        pytest.param({"current": "wrong", "password": NEW, "again": NEW}, id="without the present one"),
        pytest.param({"current": PASSWORD, "password": NEW, "again": "x" + NEW}, id="two that differ"),
        pytest.param({"current": PASSWORD, "password": "short", "again": "short"}, id="a short one"),
    ],
)
def test_a_password_is_not_changed(house: Service, sent: dict[str, str]) -> None:
    browser = house.signed_in(house.person(login="ann"))
    assert browser.submit("/account", sent, to="/account/password").status_code == 422
    assert log_in(house.browser()) == "303 /account"


# What admins do ends what went on before.


@pytest.fixture
def admin(house: Service) -> Browser:
    return house.signed_in(house.person("admin", login="root"))


@pytest.mark.parametrize(
    ("what", "form"), [("role", {"role": "owner"}), ("campaigns", {"campaigns": "other"}), ("close", {})]
)
def test_a_change_of_what_one_may_ends_all_sessions(
    house: Service, admin: Browser, what: str, form: dict[str, str]
) -> None:
    rater = house.person("rater", "fluency")
    browser = house.signed_in(rater)
    assert admin.submit("/people", form, to=f"/people/{rater}/{what}").status_code == 303
    assert browser.get("/account").status_code == 303


def test_a_closed_account_can_be_opened_again(house: Service, admin: Browser) -> None:
    rater = house.person(login="ann")
    admin.submit("/people", {}, to=f"/people/{rater}/close")
    assert log_in(house.browser()) == "401"
    admin.submit("/people", {}, to=f"/people/{rater}/open")
    assert log_in(house.browser()) == "303 /account"


def test_what_one_reads_and_may_can_be_added_and_opens_campaigns_that_ask_for_it(
    house: Service, admin: Browser
) -> None:
    start(house.accounts.engine, 1, languages=["de"], requires=["law"])
    rater = house.person("rater", "c")
    desk = Desk(house.accounts.engine, clock=house.clock)
    assert desk.next("c", rater) == NoTask("nothing")
    path = f"/people/{rater}/skills"
    refused = admin.submit("/people", {"languages": "German"}, to=path)
    assert (refused.status_code, "&#39;German&#39; is no language" in refused.text) == (422, True)
    assert admin.submit("/people", {"languages": "en, de"}, to=path).status_code == 303
    assert desk.next("c", rater) == NoTask("training")
    house.clock.now += 1
    assert admin.submit("/people", {"languages": "de", "qualifications": "law"}, to=path).status_code == 303
    assert isinstance(desk.next("c", rater), Task)
    assert 'value="law"' in admin.get("/people").text
    (one, other) = events(house.accounts.engine, kind="changed", subject=rater)
    assert (one.actor, other.detail["to"]) == (other.actor, {"languages": ["de"], "qualifications": ["law"]})


@pytest.mark.parametrize(("what", "form"), [("role", {"role": "rater"}), ("close", {})])
def test_the_last_admin_stays(house: Service, admin: Browser, what: str, form: dict[str, str]) -> None:
    (root,) = house.accounts.people()
    answer = admin.submit("/people", form, to=f"/people/{root.rater}/{what}")
    assert answer.status_code == 422
    assert "no admin would be left" in answer.text
    assert house.accounts.admins() == 1
    assert admin.get("/people").status_code == 200, "the sessions of a change that was not made go on"


def test_an_admins_link_sets_a_password_anew_once(house: Service, admin: Browser) -> None:
    rater = house.person(login="ann")
    old = house.signed_in(rater)
    path = link_in(admin.submit("/people", {}, to=f"/people/{rater}/password").text)
    forgetful = house.browser()
    assert forgetful.submit(path, {"password": NEW, "again": NEW}).status_code == 303
    assert "ann" in forgetful.get("/account").text
    assert old.get("/account").status_code == 303
    assert house.browser().get(path).status_code == 404
    assert len(house.accounts.people()) == 2
    assert log_in(house.browser(), password=NEW) == "303 /account"


def test_an_owner_invites_raters_to_their_own_campaigns(house: Service) -> None:
    owner = house.signed_in(house.person("owner", "mine"))
    page = owner.submit("/invitations", {"role": "rater", "campaigns": "mine", "languages": "en, de"})
    found = house.entrance.invitations.find(link_in(page.text).removeprefix("/invitation/"))
    assert (found.role, found.campaigns, found.languages) == ("rater", ("mine",), ("de", "en"))


@pytest.mark.parametrize(
    ("form", "status"),
    [
        pytest.param({"role": "owner", "campaigns": "mine"}, 403, id="no owner"),
        pytest.param({"role": "admin", "campaigns": "mine"}, 403, id="no admin"),
        pytest.param({"role": "rater", "campaigns": "mine, other"}, 404, id="nobody to another's campaign"),
        pytest.param({"role": "rater", "campaigns": "*"}, 404, id="nobody to all campaigns"),
        pytest.param({"role": "rater", "campaigns": ""}, 422, id="nobody to none"),
        pytest.param({"role": "king", "campaigns": "mine"}, 422, id="no role there is not"),
    ],
)
def test_an_owner_invites_nobody_else(house: Service, form: dict[str, str], status: int) -> None:
    owner = house.signed_in(house.person("owner", "mine"))
    assert owner.submit("/invitations", form).status_code == status
    assert house.entrance.invitations.open() == []


def test_an_owner_withdraws_only_what_they_made(house: Service) -> None:
    mine, other = (house.signed_in(house.person("owner", "mine")) for _ in range(2))
    path = link_in(mine.submit("/invitations", {"role": "rater", "campaigns": "mine"}).text)
    (made,) = house.entrance.invitations.open()
    assert made.digest not in other.get("/invitations").text
    assert other.submit("/invitations", {}, to=f"/invitations/{made.digest}/withdraw").status_code == 404
    assert house.browser().get(path).status_code == 200
    assert mine.submit("/invitations", {}, to=f"/invitations/{made.digest}/withdraw").status_code == 303
    assert house.browser().get(path).status_code == 404

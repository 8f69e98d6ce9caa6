"""Whom an OpenID provider vouches for comes in if invited, or of an allowed domain; a token that is off lets nobody in.

Against a provider with its own keys that answers over HTTP on loopback.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from sqlalchemy import Engine

from llmops.feedback.openid import Provider
from llmops.feedback.settings import FeedbackService, OpenId
from tests.feedback.accounts.openid_provider import CLIENT, SECRET, OpenIdProvider, openid_provider
from tests.feedback.accounts.service import PASSWORD, Browser, Service, service

Site = tuple[Service, OpenIdProvider]


@pytest.fixture(scope="module")
def running() -> Iterator[OpenIdProvider]:
    with openid_provider() as provider:
        yield provider


@pytest.fixture
def site(engine: Engine, running: OpenIdProvider) -> Site:
    """A service that lets example.org in, and its provider, which tells the truth."""
    fresh = OpenIdProvider(issuer=running.issuer, key=running.key)
    for name in ("user", "lies", "about", "key", "key_name", "algorithm", "codes", "asked"):
        setattr(running, name, getattr(fresh, name))
    running.publish()
    return of(engine, running), running


def of(engine: Engine, provider: OpenIdProvider, **more: Any) -> Service:
    settings = OpenId(
        issuer=provider.issuer, client_id=CLIENT, client_secret=SECRET, allowed_domains=("example.org",), **more
    )
    return service(engine, FeedbackService(openid=settings), openid=Provider(settings))


def invited(house: Service) -> str:
    secret = house.entrance.invitations.make("owner", by="test", campaigns=("whales",))
    return f"/invitation/{secret}/openid"


def comes(browser: Browser, provider: OpenIdProvider, start: str = "/openid?next=/account") -> httpx.Response:
    """The whole way: to the provider and back."""
    gone = browser.get(start)
    assert gone.status_code == 303, gone.text
    return browser.get(provider.authorize(gone.headers["location"]))


# Who comes in.


def test_who_was_invited_comes_in_and_comes_back(site: Site) -> None:
    house, provider = site
    browser = house.browser()
    assert comes(browser, provider, invited(house)).headers["location"] == "/"
    (ann,) = house.accounts.people()
    assert (ann.name, ann.role, ann.campaigns, ann.vouched) == ("Ann", "owner", frozenset({"whales"}), True)
    again = house.browser()
    answer = comes(again, provider)
    assert (answer.status_code, answer.headers["location"]) == (303, "/account")
    assert ann.rater in again.get("/account").text
    assert len(house.accounts.people()) == 1


def test_who_was_not_invited_stays_out(site: Site) -> None:
    house, provider = site
    provider.user |= {"email": "ann@elsewhere.org", "email_verified": True}
    browser = house.browser()
    assert comes(browser, provider).status_code == 403
    assert house.accounts.people() == []
    assert browser.get("/account").status_code == 303


def test_an_invitation_lets_one_person_in(site: Site) -> None:
    house, provider = site
    way = invited(house)
    comes(house.browser(), provider, way)
    provider.user = {"sub": "u-2"}
    assert house.browser().get(way).status_code == 404
    assert len(house.accounts.people()) == 1


def test_two_on_their_way_with_one_invitation(site: Site) -> None:
    house, provider = site
    way, one, two = invited(house), house.browser(), house.browser()
    gone = [browser.get(way).headers["location"] for browser in (one, two)]
    assert one.get(provider.authorize(gone[0])).status_code == 303
    provider.user = {"sub": "u-2"}
    assert two.get(provider.authorize(gone[1])).status_code == 404
    assert len(house.accounts.people()) == 1


def test_an_allowed_domain_comes_in_as_rater(site: Site) -> None:
    house, provider = site
    provider.user |= {"email": "Ann@Example.org", "email_verified": True}
    assert comes(house.browser(), provider).status_code == 303
    (ann,) = house.accounts.people()
    assert (ann.login, ann.role) == ("ann@example.org", "rater")
    assert ann.knows("any")


@pytest.mark.parametrize(
    "claims",
    [
        pytest.param({"email": "ann@example.org"}, id="not verified"),
        pytest.param({"email": "ann@example.org", "email_verified": False}, id="not verified, said"),
        pytest.param({"email": "ann@example.org", "email_verified": "true"}, id="a text instead of a truth"),
        pytest.param({"email": "ann@notexample.org", "email_verified": True}, id="a domain that ends alike"),
        pytest.param({"email": "ann@example.org.evil.net", "email_verified": True}, id="a domain that begins alike"),
        pytest.param({"email": "example.org", "email_verified": True}, id="no address"),
        pytest.param({"email": ["ann@example.org"], "email_verified": True}, id="a list"),
    ],
)
def test_only_verified_addresses_of_the_domain_count(site: Site, claims: dict[str, Any]) -> None:
    house, provider = site
    provider.user |= claims
    assert comes(house.browser(), provider).status_code in (403, 303)
    assert [one for one in house.accounts.people() if one.login == "ann@example.org" or one.campaigns] == []


def test_an_account_with_a_password_is_not_taken_over(site: Site) -> None:
    house, provider = site
    mine = house.person("admin", login="ann@example.org")
    provider.user |= {"email": "ann@example.org", "email_verified": True}
    browser = house.browser()
    comes(browser, provider)
    assert mine not in browser.get("/account").text
    assert {one.role for one in house.accounts.people() if one.rater != mine} == {"rater"}


def test_a_closed_account_stays_closed(site: Site) -> None:
    house, provider = site
    house.person("admin")
    provider.user |= {"email": "ann@example.org", "email_verified": True}
    comes(house.browser(), provider)
    (ann,) = [one for one in house.accounts.people() if one.vouched]
    house.accounts.close(ann.rater, by="test")
    assert comes(house.browser(), provider).status_code == 403
    assert comes(house.browser(), provider, invited(house)).status_code == 403
    assert len(house.accounts.people()) == 2


def test_the_session_is_a_new_one(site: Site) -> None:
    house, provider = site
    browser = house.browser()
    name = house.entrance.cookies.session
    browser.cookies.set(name, "planted", domain="127.0.0.1", path="/")
    comes(browser, provider, invited(house))
    assert browser.cookies[name] != "planted"


# What lets nobody in.

NOW = int(time.time())


@pytest.mark.parametrize(
    "lies",
    [
        pytest.param({"nonce": "another"}, id="another nonce"),
        pytest.param({"nonce": None}, id="no nonce"),
        pytest.param({"aud": "another client"}, id="another audience"),
        pytest.param({"aud": [CLIENT, "another"]}, id="two audiences and no authorized party"),
        pytest.param({"aud": [CLIENT, "another"], "azp": "another"}, id="another authorized party"),
        pytest.param({"azp": "another"}, id="one audience, another authorized party"),
        pytest.param({"iss": "https://evil.example"}, id="another issuer"),
        pytest.param({"exp": NOW - 120}, id="expired"),
        pytest.param({"exp": None}, id="without an end"),
        pytest.param({"iat": NOW + 3600}, id="of tomorrow"),
        pytest.param({"nbf": NOW + 3600}, id="not yet"),
        pytest.param({"sub": None}, id="of nobody"),
        pytest.param({"sub": ""}, id="of an empty name"),
        pytest.param({"sub": "x" * 256}, id="of too long a name"),
    ],
)
def test_a_token_that_is_off_lets_nobody_in(site: Site, lies: dict[str, Any]) -> None:
    house, provider = site
    provider.lies = lies
    refuses(house, provider)


def test_two_audiences_with_us_as_the_authorized_party_are_right(site: Site) -> None:
    house, provider = site
    provider.lies = {"aud": [CLIENT, "another"], "azp": CLIENT}
    assert comes(house.browser(), provider, invited(house)).status_code == 303


def unsigned(provider: OpenIdProvider) -> None:
    provider.algorithm = "none"


def signed_with_the_client_secret(provider: OpenIdProvider) -> None:
    provider.algorithm = "HS256"
    provider.about = {"id_token_signing_alg_values_supported": ["RS256", "HS256", "none"]}


def signed_by_another_key(provider: OpenIdProvider) -> None:
    provider.key = rsa.generate_private_key(65537, 2048)


def signed_by_a_key_it_does_not_have(provider: OpenIdProvider) -> None:
    provider.key_name = "k9"


def without_keys(provider: OpenIdProvider) -> None:
    provider.published = []


@pytest.mark.parametrize(
    "forged",
    [unsigned, signed_with_the_client_secret, signed_by_another_key, signed_by_a_key_it_does_not_have, without_keys],
)
def test_a_signature_that_is_not_the_providers_lets_nobody_in(
    site: Site, forged: Callable[[OpenIdProvider], None]
) -> None:
    house, provider = site
    forged(provider)
    refuses(house, provider)


def refuses(house: Service, provider: OpenIdProvider) -> None:
    browser = house.browser()
    answer = comes(browser, provider, invited(house))
    assert answer.status_code == 401
    assert house.accounts.people() == []
    assert browser.get("/account").status_code == 303
    assert house.told == []


def test_a_new_key_of_the_provider_is_found_but_not_looked_for_at_every_forgery(site: Site) -> None:
    house, provider = site
    settings = house.entrance.service.openid
    assert settings is not None
    now = [1000.0]
    house = service(
        house.accounts.engine, FeedbackService(openid=settings), openid=Provider(settings, clock=lambda: now[0])
    )
    comes(house.browser(), provider, invited(house))
    provider.key, provider.key_name = rsa.generate_private_key(65537, 2048), "k2"
    provider.asked.clear()
    for _ in range(3):
        assert comes(house.browser(), provider).status_code == 401
    assert provider.asked.count("/jwks_uri") == 0, "its keys were looked at a moment ago"
    provider.publish()
    now[0] += 61
    assert comes(house.browser(), provider).status_code == 303
    assert provider.asked.count("/jwks_uri") == 1


# The way.


def test_an_answer_to_another_question_lets_nobody_in(site: Site) -> None:
    house, provider = site
    mine, theirs = house.browser(), house.browser()
    back = provider.authorize(mine.get(invited(house)).headers["location"])
    other = provider.authorize(theirs.get(invited(house)).headers["location"])
    assert mine.get(other).status_code == 400, "login CSRF: the attacker's answer in the victim's browser"
    assert house.browser().get(back).status_code == 400, "the victim's answer in the attacker's browser"
    assert house.accounts.people() == []
    assert mine.get(back).status_code == 303


def test_a_changed_cookie_is_no_beginning(site: Site) -> None:
    house, provider = site
    browser = house.browser()
    back = provider.authorize(browser.get("/openid").headers["location"])
    name = house.entrance.cookies.trip
    kept = browser.cookies[name].strip('"')
    for changed in (kept[:-1] + ("0" if kept[-1] != "0" else "1"), "x" + kept, kept.partition(".")[0] + ".", ".", ""):
        browser.cookies.set(name, changed, domain="127.0.0.1", path="/")
        assert browser.get(back).status_code == 400


def test_a_beginning_lasts_ten_minutes(site: Site) -> None:
    house, provider = site
    browser = house.browser()
    back = provider.authorize(browser.get(invited(house)).headers["location"])
    house.clock.now += 601
    assert browser.get(back).status_code == 400


def test_a_code_is_used_once(site: Site) -> None:
    house, provider = site
    browser = house.browser()
    gone = browser.get(invited(house)).headers["location"]
    back = provider.authorize(gone)
    trip = browser.cookies[house.entrance.cookies.trip]
    assert browser.get(back).status_code == 303
    assert house.entrance.cookies.trip not in browser.cookies
    browser.cookies.set(house.entrance.cookies.trip, trip.strip('"'), domain="127.0.0.1", path="/")
    assert browser.get(back).status_code == 401


def test_the_provider_says_no(site: Site) -> None:
    house, _ = site
    browser = house.browser()
    state = dict(httpx.URL(browser.get("/openid").headers["location"]).params)["state"]
    answer = browser.get(f"/openid/callback?error=access_denied&error_description=<b>x</b>&state={state}")
    assert answer.status_code == 401
    assert "<b>x" not in answer.text


def test_an_answer_that_names_another_provider_is_refused(site: Site) -> None:
    """RFC 9207."""
    house, provider = site
    browser = house.browser()
    back = provider.authorize(browser.get("/openid").headers["location"])
    assert browser.get(f"{back}&iss=https://evil.example").status_code == 400


@pytest.mark.parametrize(
    "about",
    [
        pytest.param({"issuer": "https://evil.example"}, id="it says it is another"),
        pytest.param({"token_endpoint": "http://evil.example/token"}, id="it takes the secret in clear"),
        pytest.param({"jwks_uri": "file:///etc/passwd"}, id="its keys are a file"),
        pytest.param({"authorization_endpoint": "javascript:alert(1)"}, id="it sends browsers to a script"),
        pytest.param({"token_endpoint": None}, id="it lacks an address"),
    ],
)
def test_a_provider_that_is_off_is_not_used(site: Site, about: dict[str, Any]) -> None:
    house, provider = site
    provider.about = about
    answer = house.browser().get("/openid")
    assert answer.status_code == 503
    assert answer.headers["retry-after"]


def test_a_provider_that_is_away_is_said_to_be_and_passwords_go_on(engine: Engine) -> None:
    house = of(engine, OpenIdProvider(issuer="http://127.0.0.1:9"))
    assert house.browser().get("/openid").status_code == 503
    house.person(login="ann")
    answer = house.browser().submit("/login", {"login": "ann", "password": PASSWORD})
    assert answer.status_code == 303


def test_a_provider_in_this_network_must_be_allowed() -> None:
    """The addresses behind a public issuer's name are checked as all that others wrote, unless the file says so."""
    import asyncio

    from llmops.feedback.refused import Refused
    from llmops.public_web import Answer

    asked = []

    async def fetch(url: str, **how: Any) -> Answer:
        asked.append(how["private"])
        return Answer(url, 404, {}, b"")

    for allowed in (False, True):
        settings = OpenId(issuer="https://sso.example.org", client_id="c", client_secret="s", private_network=allowed)
        with pytest.raises(Refused):
            asyncio.run(Provider(settings, fetch=fetch).begin("https://r.example.org/openid/callback"))
    assert asked == [False, True]


def test_the_sign_in_page_offers_it(site: Site) -> None:
    house, _ = site
    assert "Sign in with single sign-on" in house.browser().get("/login").text

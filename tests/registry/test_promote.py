"""Nothing becomes champion without a PASS and two people, and the aliases are what the decisions say."""

from __future__ import annotations

import json
import signal
from dataclasses import replace
from multiprocessing import Pipe
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import text
from sqlalchemy.exc import DatabaseError

from llmops.database import open_database
from llmops.errors import EnvironmentFault, InputError, LlmopsError
from llmops.registry import store
from llmops.registry.connection import connect
from llmops.registry.decisions import Decision, Overtaken, append, chain, check_chain
from llmops.registry.promote import approve, promote, reject, rollback, standing, this_person, verify
from llmops.registry.store import ModelVersion
from llmops.registry.verdicts import attach, verdict_from, verdicts_of
from llmops.workspace import Workspace
from tests.killable import KILLABLE, killable
from tests.registry.artifacts import LICENCES
from tests.registry.deciding import killed_once_decided, racing
from tests.registry.registrations import Registrar, champion, verdict


@pytest.fixture
def workspace(workspace: Workspace, each_database: str) -> Workspace:
    """A workspace with its database in a file, and one with it on a server."""
    return workspace


def aliases(workspace: Workspace) -> dict[str, int]:
    found = connect(workspace.tracking_uri).get_registered_model("m").aliases
    return {alias: int(number) for alias, number in found.items()}


class TestTwoKeys:
    def test_a_pass_and_another_person_make_a_champion(self, workspace: Workspace, make: Registrar) -> None:
        one = make()
        made = approve(one, "ann", workspace=workspace)
        assert made.verdict == verdict(str(one.digest)).digest
        assert aliases(workspace) == {"challenger": 1}
        promote(one, "bob", workspace=workspace)
        assert aliases(workspace) == {"champion": 1}
        assert [link.kind for link in chain(open_database(workspace), "m")] == ["register", "approve", "promote"]

    def test_ones_own_run_cannot_be_approved(self, workspace: Workspace, make: Registrar) -> None:
        with pytest.raises(InputError, match=f"was trained by {this_person()}, who cannot approve it too"):
            approve(make(), this_person(), workspace=workspace)
        with pytest.raises(InputError, match="cannot approve it too"):
            approve(make(), this_person(), override="I know best", workspace=workspace)

    @pytest.mark.parametrize(
        ("result", "said"),
        [(None, "was never judged"), ("FAIL", "is FAIL, by g.yaml"), ("INCONCLUSIVE", "is INCONCLUSIVE")],
    )
    def test_nothing_but_a_pass_is_approved(
        self, workspace: Workspace, make: Registrar, result: str | None, said: str
    ) -> None:
        one = make(result)
        with pytest.raises(InputError, match=said):
            approve(one, "ann", workspace=workspace)
        made = approve(one, "ann", override="the suite is broken", workspace=workspace)
        assert (made.override, made.reason, made.verdict) == (True, "the suite is broken", "")
        assert promote(one, "bob", workspace=workspace).override

    def test_a_later_failure_ends_an_earlier_pass(self, workspace: Workspace, make: Registrar) -> None:
        one = make()
        attach(open_database(workspace), verdict(str(one.digest), "FAIL"))
        with pytest.raises(InputError, match="newest verdict on models:/m/1 is FAIL"):
            approve(one, "ann", workspace=workspace)

    def test_what_was_not_approved_or_was_rejected_since_is_not_promoted(
        self, workspace: Workspace, make: Registrar
    ) -> None:
        one = make()
        with pytest.raises(InputError, match="models:/m/1 is not approved"):
            promote(one, "ann", workspace=workspace)
        approve(one, "ann", workspace=workspace)
        reject(one, "bob", reason="rude", workspace=workspace)
        assert aliases(workspace) == {}
        with pytest.raises(InputError, match="is not approved"):
            promote(one, "ann", workspace=workspace)

    def test_a_version_of_another_tool_has_no_author(self, workspace: Workspace, make: Registrar) -> None:
        one = replace(make(), version=9)
        with pytest.raises(InputError, match="was not registered by llmops"):
            approve(one, "ann", workspace=workspace)

    def test_changed_bytes_are_not_promoted(self, workspace: Workspace, make: Registrar) -> None:
        one = make()
        approve(one, "ann", workspace=workspace)
        (store.fetch(one, workspace=workspace) / "config.json").write_text('{"changed": 1}')
        with pytest.raises(EnvironmentFault, match="are not those that were registered"):
            promote(one, "ann", workspace=workspace)
        assert aliases(workspace) == {"challenger": 1}


class TestRollback:
    def test_goes_back_in_one_step_and_not_further(self, workspace: Workspace, make: Registrar) -> None:
        for one in (make(), make(), make()):
            champion(one, workspace)
        assert aliases(workspace) == {"champion": 3, "previous": 2}
        rollback("m", "ann", reason="rude", workspace=workspace)
        assert aliases(workspace) == {"champion": 2}
        with pytest.raises(InputError, match="models:/m/3 is not approved"):
            promote(store.find("m", "3", workspace=workspace), "ann", workspace=workspace)
        with pytest.raises(InputError, match="no previous champion"):
            rollback("m", "ann", workspace=workspace)

    def test_the_champion_is_not_rejected(self, workspace: Workspace, make: Registrar) -> None:
        one = make()
        champion(one, workspace)
        with pytest.raises(InputError, match="roll back first"):
            reject(one, "bob", reason="x", workspace=workspace)


class TestVerify:
    def test_an_alias_moved_behind_our_back_is_named_and_put_back(self, workspace: Workspace, make: Registrar) -> None:
        champion(make(), workspace)
        make()
        connect(workspace.tracking_uri).set_registered_model_alias("m", "champion", "2")
        (said,) = verify("m", workspace=workspace)
        assert said == "champion was at models:/m/2, by the decisions it is at models:/m/1"
        assert aliases(workspace) == {"champion": 1}
        assert verify("m", workspace=workspace) == []

    def test_aliases_of_other_names_are_left_alone(self, workspace: Workspace, make: Registrar) -> None:
        make()
        connect(workspace.tracking_uri).set_registered_model_alias("m", "canary", "1")
        assert verify("m", workspace=workspace) == []
        assert aliases(workspace) == {"canary": 1}

    def test_changed_bytes_of_the_champion_are_found(self, workspace: Workspace, make: Registrar) -> None:
        one = make()
        champion(one, workspace)
        (store.fetch(one, workspace=workspace) / "config.json").write_text('{"changed": 1}')
        with pytest.raises(EnvironmentFault, match="are not those that were registered"):
            verify("m", workspace=workspace)

    @pytest.mark.parametrize(
        "change",
        [
            "UPDATE decisions SET actor = 'eve' WHERE sequence = 2",
            "UPDATE decisions SET kind = 'approve', version = 2 WHERE sequence = 3",
            "DELETE FROM decisions WHERE sequence = 2",
            "UPDATE decisions SET previous = '' WHERE sequence = 2",
            "DELETE FROM decisions WHERE sequence = 3",
        ],
    )
    def test_the_database_refuses_changes_and_those_made_all_the_same_are_found(
        self, workspace: Workspace, make: Registrar, change: str
    ) -> None:
        champion(make(), workspace)
        engine = open_database(workspace)
        with pytest.raises(DatabaseError, match="can only be added"), engine.begin() as connection:
            connection.execute(text(change))
        with engine.begin() as connection:
            if engine.dialect.name == "postgresql":
                connection.execute(text("DROP TRIGGER decisions_added_only ON decisions"))
            else:
                for name in ("update", "delete"):
                    connection.execute(text(f"DROP TRIGGER decisions_no_{name}"))
            connection.execute(text(change))
        with pytest.raises(EnvironmentFault, match=r"tampered with: number [23] (does not follow|was seen before)"):
            verify("m", workspace=workspace)
        with pytest.raises(EnvironmentFault, match="tampered with"):
            rollback("m", "ann", workspace=workspace)
        assert aliases(workspace) == {"champion": 1}, "no alias is moved by a chain that is not whole"


@KILLABLE
def test_killed_between_decision_and_alias_a_promotion_is_finished_by_the_next_command(
    workspace: Workspace, make: Registrar
) -> None:
    champion(make(), workspace)
    approve(make(), "ann", workspace=workspace)
    child = killable(killed_once_decided, workspace.home)
    child.join(60)
    assert child.exitcode == -signal.SIGKILL
    assert aliases(workspace) == {"champion": 1, "challenger": 2}, "the alias had not moved"
    assert standing(chain(open_database(workspace), "m")).champion == 2, "but it was decided"
    assert len(verify("m", workspace=workspace)) == 3
    assert aliases(workspace) == {"champion": 2, "previous": 1}


@KILLABLE
def test_of_two_promotions_at_once_each_is_whole_or_told(workspace: Workspace, make: Registrar) -> None:
    for one in (make(), make()):
        approve(one, "ann", workspace=workspace)
    pairs = [Pipe() for _ in "12"]
    children = [killable(racing, workspace.home, number, there) for number, (_, there) in zip("12", pairs, strict=True)]
    for here, _ in pairs:
        assert here.recv() == "ready"
    for here, _ in pairs:
        here.send("go")
    said = [here.recv() for here, _ in pairs]
    for child, one in zip(children, said, strict=True):
        child.join(60)
        assert child.exitcode == (2 if one else 0)
    others = [one for one in said if one and "another decision on m was made at the same moment" not in one]
    assert not others
    links = chain(open_database(workspace), "m")
    check_chain(links)
    won = [link for link in links if link.kind == "promote"]
    assert len(won) == sum(not one for one in said) >= 1
    verify("m", workspace=workspace)
    assert aliases(workspace)["champion"] == won[-1].version


@pytest.mark.parametrize("refused", [2, 3])
def test_a_store_that_refuses_one_of_two_at_a_moment_is_asked_again(
    workspace: Workspace, make: Registrar, monkeypatch: pytest.MonkeyPatch, refused: int
) -> None:
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    one, real, asked = make(), MlflowClient.set_registered_model_alias, list[str]()
    approve(one, "ann", workspace=workspace)

    def busy(self: MlflowClient, name: str, alias: str, version: str) -> None:
        asked.append(alias)
        if len(asked) <= refused:
            raise MlflowException("UNIQUE constraint failed")
        real(self, name, alias, version)

    monkeypatch.setattr(MlflowClient, "set_registered_model_alias", busy)
    if refused == 2:
        promote(one, "bob", workspace=workspace)
    else:
        with pytest.raises(EnvironmentFault, match="UNIQUE constraint failed"):
            promote(one, "bob", workspace=workspace)
        verify("m", workspace=workspace)
    assert aliases(workspace)["champion"] == 1


def test_who_decides_on_an_old_chain_is_told(workspace: Workspace, make: Registrar) -> None:
    one = make()
    engine = open_database(workspace)
    links = chain(engine, "m")
    decision = {"model": "m", "version": 1, "artifact": str(one.digest), "actor": "ann"}
    append(engine, links, "approve", **decision)  # type: ignore[arg-type]
    with pytest.raises(Overtaken, match="another decision on m"):
        append(engine, links, "reject", **decision)  # type: ignore[arg-type]


class TestVerdicts:
    def test_are_kept_beside_the_artifact_once(self, workspace: Workspace) -> None:
        engine = open_database(workspace)
        first, second = verdict("a", "INCONCLUSIVE"), verdict("a")
        for one in (first, second, first):
            attach(engine, one)
        assert verdicts_of(engine, "a") == [first, second]
        assert verdicts_of(engine, "b") == []

    def test_changed_by_hand_are_refused(self, workspace: Workspace) -> None:
        good = verdict("a", "FAIL")
        with pytest.raises(InputError, match="was changed after it was written"):
            attach(open_database(workspace), replace(good, result="PASS"))
        written = json.loads(json.dumps({**{name: getattr(good, name) for name in good.__slots__}, "result": "PASS"}))
        with pytest.raises(InputError, match="was changed after it was written"):
            verdict_from(written)
        with pytest.raises(InputError, match="this is no verdict"):
            verdict_from({"result": "PASS"})


def test_a_database_of_a_newer_version_is_not_touched(workspace: Workspace) -> None:
    with open_database(workspace).begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(EnvironmentFault, match="schema 9999, this version of llmops knows up to"):
        open_database(workspace)


# Any order of decisions

STEPS = st.lists(
    st.tuples(
        st.sampled_from(["register", "approve", "reject", "promote", "rollback"]),
        st.integers(1, 4),
        st.sampled_from(["ann", "bob", "eve"]),
        st.booleans(),
    ),
    max_size=30,
)


@given(STEPS)
@settings(deadline=None)
def test_whatever_is_tried_the_champion_was_passed_or_overridden_and_approved_by_another(
    steps: list[tuple[Any, int, str, bool]],
) -> None:
    from llmops.registry.promote import may_approve, may_promote

    links: list[Decision] = []
    for kind, number, actor, passed in steps:
        now = standing(links)
        version = a_version(number)
        try:
            if kind == "register" and number in now.authors:
                continue
            if kind == "approve":
                may_approve(version, links, [verdict("d", "PASS" if passed else "FAIL")], actor, override="")
            if kind == "promote":
                may_promote(version, links, LICENCES)
            if kind == "rollback":
                if now.previous is None:
                    continue
                number = now.previous
            if kind == "reject" and now.champion == number:
                continue
        except LlmopsError:
            continue
        links.append(Decision("m", len(links) + 1, kind, number, "d", actor, "t"))
        after = standing(links)
        if after.champion is not None:
            approvals = [link for link in links if link.kind == "approve" and link.version == after.champion]
            assert approvals
            assert all(link.actor != after.authors[after.champion] for link in approvals)
        assert after.previous is None or after.previous != after.champion
        assert set(after.aliases()) <= {"champion", "previous", "challenger"}


def a_version(number: int) -> ModelVersion:
    from datetime import UTC, datetime

    return ModelVersion("m", number, "d", "full", (), None, datetime.now(UTC), "", "", {}, {})

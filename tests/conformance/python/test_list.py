"""Listing: filters, order, paging."""

import contextlib
import datetime
import uuid

import pytest
from e2b import Sandbox, SandboxQuery, SandboxState
from e2b.exceptions import SandboxException


@pytest.fixture
def three(server):
    """Three sandboxes with a mark of their own, oldest first."""
    mark = uuid.uuid4().hex
    with contextlib.ExitStack() as stack:
        made = []
        for number in range(3):
            one = Sandbox.create(timeout=120, metadata={"mark": mark, "n": str(number)})
            stack.callback(one.kill)
            made.append(one)
        yield mark, [one.sandbox_id for one in made]


def ids(paginator):
    found = []
    while paginator.has_next:
        found += [info.sandbox_id for info in paginator.next_items()]
    return found


def test_newest_first(three):
    mark, made = three
    query = SandboxQuery(metadata={"mark": mark})
    assert ids(Sandbox.list(query)) == made[::-1]
    assert ids(Sandbox.list(query, order="asc")) == made
    assert ids(Sandbox.list(query, order="desc")) == made[::-1]


def test_pages(three):
    mark, made = three
    for order, expected in (("desc", made[::-1]), ("asc", made)):
        query = SandboxQuery(metadata={"mark": mark})
        pages = Sandbox.list(query, limit=2, order=order)
        assert [info.sandbox_id for info in pages.next_items()] == expected[:2]
        assert pages.has_next
        rest = Sandbox.list(query, limit=2, order=order, next_token=pages.next_token)
        assert [info.sandbox_id for info in rest.next_items()] == expected[2:]
        assert not rest.has_next


def test_a_full_last_page_has_no_next(three):
    mark, made = three
    pages = Sandbox.list(SandboxQuery(metadata={"mark": mark}), limit=3)
    assert len(pages.next_items()) == 3 and not pages.has_next


def test_every_pair_of_the_metadata_must_match(three):
    mark, made = three
    both = {"mark": mark, "n": "1"}
    assert ids(Sandbox.list(SandboxQuery(metadata=both))) == [made[1]]
    neither = {"mark": mark, "n": "9"}
    assert ids(Sandbox.list(SandboxQuery(metadata=neither))) == []


def test_metadata_with_signs(server):
    odd = {"k &=": "v=&% +ж", "mark": uuid.uuid4().hex}
    made = Sandbox.create(timeout=60, metadata=odd)
    try:
        assert ids(Sandbox.list(SandboxQuery(metadata=odd))) == [made.sandbox_id]
    finally:
        made.kill()


def test_state(three):
    mark, made = three
    running = SandboxQuery(metadata={"mark": mark}, state=[SandboxState.RUNNING])
    assert set(ids(Sandbox.list(running))) == set(made)
    paused = SandboxQuery(metadata={"mark": mark}, state=[SandboxState.PAUSED])
    assert ids(Sandbox.list(paused)) == []


def test_started_after_is_inclusive_to_the_microsecond(three):
    mark, made = three
    when = Sandbox.get_info(made[1]).started_at
    query = SandboxQuery(metadata={"mark": mark}, started_after=when)
    assert ids(Sandbox.list(query)) == [made[2], made[1]]
    query.started_after = when + datetime.timedelta(microseconds=1)
    assert ids(Sandbox.list(query)) == [made[2]]


def test_template(three):
    mark, made = three
    metadata = {"mark": mark}
    by_name = SandboxQuery(metadata=metadata, template="base")
    assert set(ids(Sandbox.list(by_name))) == set(made)
    template_id = Sandbox.get_info(made[0]).template_id
    by_id = SandboxQuery(metadata=metadata, template=template_id)
    assert set(ids(Sandbox.list(by_id))) == set(made)
    unknown = SandboxQuery(metadata=metadata, template="no-such-template")
    assert ids(Sandbox.list(unknown)) == []


def test_killed_ones_leave_the_list_at_once(three):
    mark, made = three
    Sandbox.kill(made[1])
    query = SandboxQuery(metadata={"mark": mark})
    assert ids(Sandbox.list(query)) == [made[2], made[0]]


def test_the_list_and_the_detail_agree(three):
    mark, made = three
    (info,) = Sandbox.list(SandboxQuery(metadata={"mark": mark, "n": "0"})).next_items()
    detail = Sandbox.get_info(made[0])
    assert (info.started_at, info.end_at) == (detail.started_at, detail.end_at)
    assert (info.cpu_count, info.memory_mb) == (detail.cpu_count, detail.memory_mb)
    assert (info.name, info.template_id) == (detail.name, detail.template_id)


def test_the_older_list(server, three):
    mark, made = three
    answer = server.request("GET", f"/sandboxes?metadata=mark%3D{mark}")
    assert answer.status == 200, answer
    assert {row["sandboxID"] for row in answer.json()} == set(made)


def test_a_bad_token_or_limit_is_refused(server):
    with pytest.raises(SandboxException):
        Sandbox.list(next_token="not-a-token").next_items()
    for limit in ("0", "101", "-1", "many"):
        answer = server.request("GET", f"/v2/sandboxes?limit={limit}")
        assert answer.status == 400 and answer.json()["code"] == 400, answer

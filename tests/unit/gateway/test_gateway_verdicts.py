"""Verdicts of several services become one per invariant."""

from spell_gateway.health import DETAILS_MAX, merged
from spell_proto.views import Check, Verdict


def verdict(name, ok=True, checked=1, detail=""):
    return Verdict(checks=(Check(id=name, title=f"title of {name}", ok=ok, checked=checked, detail=detail),))


def test_an_invariant_holds_where_it_holds_everywhere():
    found = merged([("", verdict("I1", checked=3)), ("run 1: ", verdict("I13")), ("run 2: ", verdict("I13"))])

    assert [(check.id, check.ok, check.checked) for check in found.checks] == [
        ("I1", True, 3),
        ("I13", True, 2),
    ]


def test_offenders_are_named_but_not_endlessly():
    bad = [(f"run {number}: ", verdict("I13", ok=False, detail="short")) for number in range(1, 20)]

    check = merged([("run 99: ", verdict("I13")), *bad]).checks[0]

    assert not check.ok
    assert check.detail.startswith("run 1: short; run 2: short")
    assert check.detail.endswith(f"(and {19 - DETAILS_MAX} more)")

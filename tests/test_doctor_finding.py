"""Findings: their texts, and what is kept out of them."""

from __future__ import annotations

from relay.doctor.finding import LONGEST_DETAIL, Kind, Severity

KIND = Kind("a.kind", Severity.PROBLEM, "{who} is ill", "{who} must not be.", "Cure {who} with {what}.")


def test_the_particulars_stand_in_its_texts() -> None:
    finding = KIND.found(who="the disk", what=7)
    assert (finding.what, finding.why) == ("the disk is ill", "the disk must not be.")
    assert (finding.remedy, finding.severity) == ("Cure the disk with 7.", Severity.PROBLEM)


def test_what_no_mail_depends_on_is_an_information() -> None:
    assert KIND.found(matters=False, who="", what="").severity is Severity.INFO
    assert Kind("fine", Severity.OK, "fine").found(matters=False).severity is Severity.OK


def test_nothing_that_others_said_disturbs_a_terminal_or_a_template() -> None:
    finding = KIND.found(who="\x1b[2J\u202e{what}\n\x9b", what="x")
    assert finding.what == "?[2J?{what} ? is ill"


def test_long_particulars_are_cut() -> None:
    assert KIND.found(who="x" * 1000, what="").what == "x" * (LONGEST_DETAIL - 4) + " ... is ill"

"""Address headers. What Postfix 3.7 makes of them was recorded, unless a test says otherwise."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.mail.fields import find_addresses, is_complete, rewrite_addresses
from relay.mail.mime import HEADER_SIZE_LIMIT

TABLE = {"a@old.test": "a@new.test", "c@old.test": "c@new.test"}
PIECES = (*'"\\()<>[]@,;:.% !', "\r\n\t", "a", "old.test", "a@old.test", "é", '"q q"', "(c)", "<a@old.test>")
HEADERS = st.one_of(
    st.binary(max_size=60),
    st.lists(st.sampled_from(PIECES), max_size=25).map(lambda pieces: "".join(pieces).encode()),
).map(lambda value: b"To:" + value + b"\r\n")


def keep(address: str) -> tuple[str, str]:
    return address, ""


def exchange(address: str) -> tuple[str, str]:
    return TABLE.get(address.lower(), address), ""


def rewrite(value: str) -> str:
    header = rewrite_addresses(f"To:{value}\r\n".encode(), exchange, "gw.test").decode()
    assert header.startswith("To:")
    assert header.endswith("\r\n")
    return header[3:-2]


@pytest.mark.parametrize(
    "value",
    [
        "",
        " ",
        " <>",
        ' "", <"">',
        " x@dest.test",
        "   X   <x@y.test> ,\r\n\t\tB <b@y.test>",
        " c (foo) @ (bar) dest.test",
        ' "joe"@dest.test',
        " x@dest.test..",
        " x@, @dest.test",
        ' "unclosed <a@old.test>"@dest.test',
        " (just a comment)",
        " Undisclosed recipients:;",
        " joe@[127.0.0.1]",
        " .x.@dest.test",
        " (unclosed <a@old.test>",
        ' "a@old.test" <x@dest.test>',
        ' \\"a@old.test',
        " =?utf-8?q?J=C3=B6rg?= <x@dest.test>",
    ],
)
def test_a_header_in_which_no_address_changes_keeps_its_bytes(value: str) -> None:
    assert rewrite(value) == value


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("joe", "joe@gw.test"),
        ("John Doe", "John@gw.test, Doe@gw.test"),
        ("<John Doe>", "<JohnDoe@gw.test>"),
        ('"John Doe"', '"John Doe"@gw.test'),
        ('"x@y.test"', '"x@y.test"@gw.test'),
        ("Doe, John <x@dest.test>", "Doe@gw.test, John <x@dest.test>"),
        ("x: a, b;, c", "x: a@gw.test, b@gw.test;, c@gw.test"),
        ("user%dest.test", "user@dest.test"),
        ('dest.test!user, "a b"@dest.test', 'user@dest.test, "a b"@dest.test'),
        ("x@dest.test.", "x@dest.test"),
        (".x.@dest.test.", '".x."@dest.test'),
        ("@", '""'),
        ("[127.0.0.1]", '"[127.0.0.1]"@gw.test'),
        ('"unclosed <a@old.test>', '"unclosed <a@old.test>"@gw.test'),
        ("[unclosed a@old.test", '"[unclosed a@old.test]"@gw.test'),
        ("x: A <x@dest.test>", "x@gw.test:A <x@dest.test>"),
    ],
)
def test_incomplete_addresses_are_completed(before: str, after: str) -> None:
    assert rewrite(f" {before}") == f" {after}"
    assert not is_complete(f"To: {before}\r\n".encode())


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("a@old.test", "a@new.test"),
        ("A@OLD.test", "a@new.test"),
        ("<a@old.test>", "<a@new.test>"),
        ("  A   Name   <a @ old . test>  ", "A Name <a@new.test>"),
        ("a@old.test (A Name)", "a@new.test (A Name)"),
        ("a (foo) @ (bar) old.test (baz)", "a@new.test (foo) (bar) (baz)"),
        ("(x@old.test, y) a@old.test (t (n) c@old.test)", "a@new.test (x@old.test, y) (t (n) c@old.test)"),
        ("(c1) A (c2) B <(c3) a@old.test (c4)> (c5)", "(c1) A (c2) B <a@new.test (c3) (c4)>(c5)"),
        ("(foo) <a@old.test> (bar), (x)", "(foo) <a@new.test>(bar), (x)"),
        ("a@old.test (x", "a@new.test (x"),
        ('"Doe, John" <a@old.test>', '"Doe, John" <a@new.test>'),
        ('"J. \\"R\\" \\\\ x" <a@old.test>', '"J. \\"R\\" \\\\ x" <a@new.test>'),
        ("J. R. Bob <a@old.test>", "J.R.Bob <a@new.test>"),
        ("a\\ b <a@old.test>", '"a b" <a@new.test>'),
        ("[x\\\\y] <a@old.test>", "[x\\\\y] <a@new.test>"),
        ("=?utf-8?q?J=C3?= =?utf-8?q?=B6?= <a@old.test>", "=?utf-8?q?J=C3?= =?utf-8?q?=B6?= <a@new.test>"),
        ("é <a@old.test>", "é <a@new.test>"),
        ("Team: a@old.test, B <c@old.test>;", "Team: a@new.test, B <c@new.test>;"),
        ("A: x@dest.test, a@old.test;, B: c@old.test;", "A: x@dest.test, a@new.test;, B: c@new.test;"),
        ("A: B: a@old.test;;", "A:B: a@new.test;;"),
        ("a@old.test; x@dest.test; c@old.test", "a@new.test;, x@dest.test;, c@new.test"),
        (",, a@old.test ,, c@old.test,", ", , a@new.test, , c@new.test, "),
        ("a@old.test x@dest.test", "a@new.test, x@dest.test"),
        ("A <a@old.test> B <x@dest.test>", "A <a@new.test>B <x@dest.test>"),
        ("<a@old.test> <x@dest.test>", "<a@new.test> <x@dest.test>"),
        ("A <a@old.test> trailing", "A <a@new.test>, trailing@gw.test"),
        ("a@old.test>", "a@new.test>"),
        ("a@old.test\\", "a@new.test"),
        ("<@x.test:a@old.test>", "<a@new.test>"),
        ("@x.test:a@old.test", "a@new.test"),
        ("A <@x.test,@y.test:a@old.test>", "A <a@new.test>"),
        ("a@old.test, mailto:x@dest.test", 'a@new.test, "mailto:x"@dest.test'),
        ("<>, a@old.test", "<>, a@new.test"),
        ('"", a@old.test, "big bob"@dest.test', '""@gw.test, a@new.test, "big bob"@dest.test'),
    ],
)  # fmt: skip
def test_a_header_with_a_changed_address_is_laid_out_anew(before: str, after: str) -> None:
    if before.startswith('""'):  # the null address is not completed
        after = after.replace('""@gw.test', '""')
    assert rewrite(before) == f" {after}"


def test_a_long_list_is_folded_at_commas() -> None:
    people = [f"Person Number {n} <p{n}@somewhere-far-away.test>" for n in range(3)]
    before = f"To: a@old.test, {', '.join(people)}\r\nCc: x\r\n".encode()[:-7]
    after = f"To: a@new.test, {people[0]},\r\n\t{people[1]},\r\n\t{people[2]}\r\n".encode()
    assert rewrite_addresses(before, exchange) == after


def test_a_line_is_filled_up_to_69_bytes() -> None:
    for width, separator in ((52, b", "), (53, b",\r\n\t")):
        first = b"x" * (width - 4) + b"@y.z"
        after = b"To: " + first + separator + b"aa@new.test\r\n"
        assert (
            rewrite_addresses(
                b"To: " + first + b", bb@old.test\r\n", lambda a: (a.replace("bb@old", "aa@new"), "")
            )
            == after
        )


def test_a_folded_comment_keeps_its_fold() -> None:
    header = b"To: a@old.test (" + b"x" * 60 + b"\r\n " + b"y" * 20 + b")\r\n"
    assert rewrite_addresses(header, exchange) == header.replace(b"old", b"new")


def test_a_quoted_string_is_put_on_one_line() -> None:
    assert rewrite_addresses(b'To: "x\r\n y" <a@old.test>\r\n', exchange) == b'To: "x  y" <a@new.test>\r\n'


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        (b'a@"b, c"', b'a@"b, c"'),
        (b'"a%b c"', b'"a%b c"@home.test'),
        (b'"h, q!u"', b'"h, q!u"@home.test'),
        (b'"a%b"%c', b"a%b@c"),
    ],
)
def test_what_is_quoted_divides_no_address_and_makes_no_second_one(given: bytes, kept: bytes) -> None:
    header = b"To: joe, " + given + b"\r\n"
    laid_out = b"To: joe@home.test, " + kept + b"\r\n"
    assert rewrite_addresses(header, keep, "home.test") == laid_out
    assert rewrite_addresses(laid_out, keep, "home.test") == laid_out
    assert len(find_addresses(laid_out)) == 2


def test_the_name_of_the_header_keeps_its_spelling() -> None:
    assert rewrite_addresses(b"tO :a@old.test\r\n", exchange) == b"tO: a@new.test\r\n"


def test_bytes_beyond_utf8_survive() -> None:
    assert rewrite_addresses(b"To: \xe9 <a@old.test>\r\n", exchange) == b"To: \xe9 <a@new.test>\r\n"


def test_without_a_domain_nothing_is_completed() -> None:
    header = b'To: joe, "x@y", a@old.test\r\n'
    assert rewrite_addresses(header, keep) == header
    assert rewrite_addresses(header, exchange) == b'To: joe, "x@y", a@new.test\r\n'


def test_a_header_too_long_to_work_on_stays_as_it_is() -> None:
    header = b"To: " + b"a@old.test," * (HEADER_SIZE_LIMIT // 10) + b"\r\n"
    assert rewrite_addresses(header, exchange) is header


@pytest.mark.parametrize(
    ("before", "name", "after"),
    [
        ("a@old.test", "Chris C", "Chris C <a@new.test>"),
        ("Old Name <a@old.test>", "Chris", "Chris <a@new.test>"),
        ("<a@old.test>", "Chris (gw1)", '"Chris (gw1)" <a@new.test>'),
        ("a@old.test (Old)", "Chris", "Chris <a@new.test>(Old)"),
        ("(one) Old (two) <a@old.test>", "Chris", "Chris (one) (two) <a@new.test>"),
        ("x@dest.test, Old <a@old.test>", "Chris", "Chris <x@dest.test>, Chris <a@new.test>"),
        ("G: Old <a@old.test>;", 'C "X"', 'G: "C \\"X\\"" <a@new.test>;'),
        ("Old <a@old.test>", "Jörg", "=?utf-8?b?SsO2cmc=?= <a@new.test>"),
        ("a@old.test", "Jörg Überlänge", "=?utf-8?b?SsO2cmcgw5xiZXJs?= =?utf-8?b?w6RuZ2U=?= <a@new.test>"),
    ],
)  # fmt: skip
def test_a_table_may_set_the_display_name(before: str, name: str, after: str) -> None:
    def rename(address: str) -> tuple[str, str]:
        return exchange(address)[0], name

    assert rewrite_addresses(f"To: {before}\r\n".encode(), rename).decode() == f"To: {after}\r\n"


def test_a_display_name_that_is_there_already_changes_nothing() -> None:
    header = b'To: "Chris (gw1)"   <x@dest.test>\r\n'
    assert rewrite_addresses(header, lambda address: (address, "Chris (gw1)")) == header


@pytest.mark.parametrize(
    "value",
    [
        "",
        " x@dest.test",
        " X Y <x@dest.test> , <y@dest.test>",
        ' "Doe, J." <x@dest.test>,\r\n\ty@dest.test,',
        " é <x@dest>",
        " user%a@b!c",
    ],
)
def test_whole_addresses_are_seen_at_once(value: str) -> None:
    if "%" not in value:
        assert is_complete(f"To:{value}\r\n".encode())
    assert rewrite(value) == value


@given(HEADERS)
def test_what_is_seen_as_whole_needs_no_completion(header: bytes) -> None:
    if is_complete(header):
        assert rewrite_addresses(header, keep, "gw.test") is header


@given(HEADERS)
def test_rewriting_nothing_changes_no_byte(header: bytes) -> None:
    changes = rewrite_addresses(header, keep) != header
    assert not changes or re.search(rb"@.*:", header, re.DOTALL)  # a source route goes


@given(HEADERS)
def test_any_header_stays_one_header_and_comes_to_rest(header: bytes) -> None:
    once = rewrite_addresses(header, exchange, "gw.test")
    assert once.startswith(b"To:")
    assert once.endswith(b"\r\n")
    if b"\n" not in re.sub(rb"\r\n(?=[ \t])", b"", header)[:-1]:
        assert b"\n" not in re.sub(rb"\r\n(?=[ \t])", b"", once)[:-1]


@given(st.sampled_from([*PIECES, "a\t", "a@b ", "<a@b> ", "a:b;", "<>", '"a" ', "(\\"]))
def test_repeated_syntax_is_read_without_recursion(unit: str) -> None:
    header = f"To: {unit * 3000}\r\n".encode()
    rewrite_addresses(header, lambda address: (address + "x", "N"), "gw.test")

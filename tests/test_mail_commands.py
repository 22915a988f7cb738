"""The arguments of SMTP commands. What passes and what does not was compared with Postfix 3.7."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.mail.address import quote_address
from relay.mail.commands import (
    LARGEST_SIZE,
    Chunk,
    Mail,
    answer_etrn,
    is_foreign,
    parse_bdat,
    parse_mail,
    parse_rcpt,
    parse_vrfy,
    split_command,
)
from relay.mail.envelope import Recipient
from relay.mail.path import LONGEST_ADDRESS, is_domain, parse_path
from relay.mail.reply import Reply

ADDRESSES = {
    "<a@b.test>": "a@b.test",
    "a@b.test": "a@b.test",
    "a@b.test>": "a@b.test",
    "<<a@b.test>>": "a@b.test",
    "<a@b.test>>": "a@b.test",
    "< a@b.test >": "a@b.test",
    "<a @ b.test>": "a@b.test",
    "<a>": "a",
    "<postmaster>": "postmaster",
    "<@b.test>": "@b.test",
    "<a@b@c.test>": "a@b@c.test",
    "<.a@b.test>": ".a@b.test",
    "<a..b@c.test>": "a..b@c.test",
    "<a@b.test.>": "a@b.test.",
    "<a@b>": "a@b",
    "<a@b_c.test>": "a@b_c.test",
    "<a@1b.test>": "a@1b.test",
    "<a%b@c.test>": "a%b@c.test",
    "<b!a@c.test>": "b!a@c.test",
    "<a'b`{|}~#$&*+-/=?^_@c.test>": "a'b`{|}~#$&*+-/=?^_@c.test",
    # quotes and escapes
    '<"a b"@c.test>': "a b@c.test",
    '"a b"@c.test': "a b@c.test",
    '<"a@b"@c.test>': "a@b@c.test",
    '<"a>b"@c.test>': "a>b@c.test",
    '<"a\\"b"@c.test>': 'a"b@c.test',
    '<"a"."b"@c.test>': "a.b@c.test",
    '<""@b.test>': "@b.test",
    '<a@"b.test">': "a@b.test",
    "<a\\ b@c.test>": "a b@c.test",
    "<a\\@b@c.test>": "a@b@c.test",
    # comments, names, groups and routes
    "<a(c)@b.test>": "a@b.test",
    "<((n)\\)a)b@c.test>": "b@c.test",
    "(c)<a@b.test>": "a@b.test",
    "<a@b.test>(c)": "a@b.test",
    "Joe<a@b.test>": "a@b.test",
    '"Joe"<a@b.test>': "a@b.test",
    "x@y<a@b.test>": "a@b.test",
    ",<a@b.test>,": "a@b.test",
    "grp:a@b.test;": "a@b.test",
    "<grp:a@b.test;>": "a@b.test",
    "<@r.test:a@b.test>": "a@b.test",
    "<@r.test,@s.test:a@b.test>": "a@b.test",
    "<@r.test:@s.test:a@b.test>": "a@b.test",
    "<a:b@c.test>": "a:b@c.test",
    "<mailto:a@b.test>": "mailto:a@b.test",
    # address literals
    "<a@[1.2.3.4]>": "a@[1.2.3.4]",
    "<a@[01.2.3.4]>": "a@[01.2.3.4]",
    "<a@[IPv6:::1]>": "a@[IPv6:::1]",
    "<a@[ipv6:fe80::1]>": "a@[ipv6:fe80::1]",
    # lengths
    f"<a@{'b' * 63}.test>": f"a@{'b' * 63}.test",
    f"<{'a' * 2000}@b.test>": f"{'a' * 2000}@b.test",
}
NONSENSE = (
    "<a@b.test",
    "<",
    ">a@b.test<",
    "<a@b.test>x",
    "<a>b@c.test>",
    "<<a>@b.test>",
    "<a@b.test><c@d.test>",
    "<a@b.test>@c",
    "<a@b.test>:",
    "a@b.test,c@d.test",
    "<a,b@c.test>",
    "<a;b@c.test>",
    "x,<a@b.test>",
    "x:<a@b.test>",
    "x;<a@b.test>",
    "<a b@c.test>",
    '<a"b"@c.test>',
    '<"a"b@c.test>',
    "<a[b]@c.test>",
    '<"a@b.test>',
    "<a(b@c.test>",
    "<a@b.test\\>",
    "<a@>",
    "<@>",
    "<a@.>",
    "<a@b..test>",
    "<a@b.test..>",
    "<a@.b.test>",
    "<a@-b.test>",
    "<a@b-.test>",
    "<a@b$c>",
    "<a@b.test:25>",
    "<a@b c>",
    '<a@"b c">',
    "<a@1.2.3.4>",
    "<a@123>",
    "<a@::1>",
    "<a@[1.2.3]>",
    "<a@[300.1.1.1]>",
    "<a@[::1]>",
    "<a@[IPv6:1]>",
    "<a@[IPv6:fe80::1%eth0]>",
    "<a@[foo]>",
    "<a@[]>",
    "<-a@b.test>",
    "<!a>",
    "<a%>",
    "<a\x01b@c.test>",
    '<"a\rb"@c.test>',
    '<"a\N{NEXT LINE}b"@c.test>',
    "<a\N{LINE SEPARATOR}b@c.test>",
    "<a\N{NO-BREAK SPACE}b@c.test>",
    "<a@\N{LATIN SMALL LETTER E WITH ACUTE}.test>",
    f"<a@{'b' * 64}.test>",
    f"<a@{'.'.join(['b' * 60] * 5)}>",
    f"<{'a' * LONGEST_ADDRESS}@b.test>",
)


def reply_to(result: object) -> tuple[int, str]:
    assert isinstance(result, Reply)
    assert result.text
    return result.code, result.enhanced


@pytest.mark.parametrize(("path", "address"), ADDRESSES.items())
def test_lax_forms_of_an_address_pass(path: str, address: str) -> None:
    assert parse_mail(f"FROM:{path}".encode()) == Mail(address)
    assert parse_rcpt(f"TO: {path}".encode()) == Recipient(address)


@pytest.mark.parametrize("path", NONSENSE)
def test_what_is_no_single_usable_address_is_refused(path: str) -> None:
    assert reply_to(parse_mail(f"FROM:{path}".encode())) == (501, "5.1.7")
    assert reply_to(parse_rcpt(f"TO:{path}".encode())) == (501, "5.1.3")


@pytest.mark.parametrize("path", ["<>", "< >", "<<>>", '<"">', ">", '""', "(c)", "Joe<>", "<@r.test:>"])
def test_only_the_sender_may_be_null(path: str) -> None:
    assert parse_mail(f"FROM:{path}".encode()) == Mail("")
    assert reply_to(parse_rcpt(f"TO:{path}".encode())) == (501, "5.1.3")


@pytest.mark.parametrize(
    "argument", ["", "FROM", "FROM:", "FROM: ", "FROM :<a@b>", "TO:<a@b>", "<a@b>", '"FROM:" <a@b>']
)
def test_mail_without_sender_is_explained(argument: str) -> None:
    assert reply_to(parse_mail(argument.encode())) == (501, "5.5.4")


@pytest.mark.parametrize("argument", ["", "TO:", "TO: ", "TO :<a@b>", "<a@b>"])
def test_rcpt_without_recipient_is_explained(argument: str) -> None:
    assert reply_to(parse_rcpt(argument.encode())) == (501, "5.5.4")


def test_case_and_blanks_do_not_count() -> None:
    assert parse_mail(b"from:\t<a@b.test>  size=7\tbody=8bitmime ") == Mail("a@b.test", 7, is_8bitmime=True)
    assert parse_rcpt(b"To:  a@b.test notify=never") == Recipient("a@b.test", notify="NEVER")


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        ("SIZE=1000", Mail("a@b", 1000)),
        ("SIZE=0", Mail("a@b")),
        ("SIZE=00000000000000000000001", Mail("a@b", 1)),
        ("SIZE=99999999999999999999", Mail("a@b", LARGEST_SIZE)),
        ("SIZE=10 SIZE=20", Mail("a@b", 20)),
        ("BODY=7BIT", Mail("a@b")),
        ("BODY=8BITMIME SMTPUTF8", Mail("a@b", is_8bitmime=True, is_smtputf8=True)),
        ("smtputf8", Mail("a@b", is_smtputf8=True)),
        ("RET=full", Mail("a@b", ret="FULL")),
        ("RET=HDRS ENVID=Abc+2Bd", Mail("a@b", ret="HDRS", envid="Abc+2Bd")),
        ("ENVID=a=b", Mail("a@b", envid="a=b")),
        ("ENVID=a<b>", Mail("a@b", envid="a<b>")),
        ('ENVID=a"b', Mail("a@b", envid='a"b')),
        ("AUTH=<>", Mail("a@b")),
        ("AUTH=a+3Db AUTH=", Mail("a@b")),
    ],
)
def test_parameters_of_mail(parameters: str, expected: Mail) -> None:
    assert parse_mail(f"FROM:<a@b> {parameters}".encode()) == expected


@pytest.mark.parametrize(
    "parameters",
    [
        *("SIZE=", "SIZE=abc", "SIZE=-1", "SIZE=+1", "SIZE=1x", "SIZE=\N{SUPERSCRIPT TWO}", "SIZE=x FOO"),
        *("BODY=BINARYMIME", "RET=", "RET=x", "RET=FULL RET=HDRS"),
        *(
            "ENVID=",
            "ENVID=a+",
            "ENVID=a+2",
            "ENVID=a+GG",
            "ENVID=a+01",
            "ENVID=a ENVID=b",
            "ENVID=\x01",
            "ENVID=é",
        ),
    ],
)
def test_wrong_values_for_mail_are_501(parameters: str) -> None:
    assert reply_to(parse_mail(f"FROM:<a@b> {parameters}".encode())) == (501, "5.5.4")


@pytest.mark.parametrize(
    "parameters",
    [
        *("FOO=bar", "FOO", "=x", "SIZE", "BODY", "BODY=", "BODY=x", "SMTPUTF8=", "RET", "ENVID", "AUTH"),
        *("NOTIFY=NEVER", "(comment)", "<c@d>", '"x', "FOO SIZE=x"),
    ],
)
def test_unknown_parameters_of_mail_are_555(parameters: str) -> None:
    assert reply_to(parse_mail(f"FROM:<a@b> {parameters}".encode())) == (555, "5.5.4")


def test_a_refusal_quotes_what_was_sent_without_odd_characters() -> None:
    reply = parse_mail("FROM:<a@b> FOO=\x01é".encode() + b"x" * 500)
    assert isinstance(reply, Reply)
    assert "FOO=??xxx" in reply.text
    assert len(reply.encode()) < 200


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        ("NOTIFY=SUCCESS,failure,Delay", Recipient("a@b", notify="SUCCESS,FAILURE,DELAY")),
        ("NOTIFY=,DELAY,,DELAY,", Recipient("a@b", notify="DELAY")),
        ("NOTIFY=NEVER,NEVER", Recipient("a@b", notify="NEVER")),
        ("ORCPT=rfc822;Orig+2Btag@Dest.test", Recipient("a@b", orcpt="rfc822;Orig+2Btag@Dest.test")),
        ("ORCPT=x400;C=us", Recipient("a@b", orcpt="x400;C=us")),
        ("ORCPT=rfc822;", Recipient("a@b", orcpt="rfc822;")),
        ("ORCPT=rfc822;a;b", Recipient("a@b", orcpt="rfc822;a;b")),
        ("ORCPT=utf-8;a\\x{E9}@c", Recipient("a@b", orcpt="utf-8;a\\x{E9}@c")),
        ("ORCPT=utf-8;é@c NOTIFY=DELAY", Recipient("a@b", orcpt="utf-8;é@c", notify="DELAY")),
    ],
)
def test_parameters_of_rcpt_keep_their_case(parameters: str, expected: Recipient) -> None:
    assert parse_rcpt(f"TO:<a@b> {parameters}".encode()) == expected


@pytest.mark.parametrize(
    "parameters",
    [
        *("NOTIFY=", "NOTIFY=,", "NOTIFY=x", "NOTIFY=SUCCESS,NEVER", "NOTIFY=DELAY NOTIFY=DELAY"),
        *("ORCPT=", "ORCPT=a@b", "ORCPT=;a", "ORCPT=rfc822;a+", "ORCPT=rfc822;a+2G", "ORCPT=utf-8;\\x{zz}"),
        *("ORCPT=rfc822;a ORCPT=rfc822;b", "ORCPT=rfc822;\x01", "NOTIFY=x FOO"),
    ],
)
def test_wrong_values_for_rcpt_are_501(parameters: str) -> None:
    assert reply_to(parse_rcpt(f"TO:<a@b> {parameters}".encode())) == (501, "5.5.4")


@pytest.mark.parametrize(
    "parameters", ["FOO=bar", "NOTIFY", "ORCPT", "SIZE=10", "RET=FULL", "SMTPUTF8", "FOO NOTIFY=x"]
)
def test_unknown_parameters_of_rcpt_are_555(parameters: str) -> None:
    assert reply_to(parse_rcpt(f"TO:<a@b> {parameters}".encode())) == (555, "5.5.4")


def test_a_parameter_needs_a_blank_before_it() -> None:
    assert reply_to(parse_rcpt(b"TO:<a@b.test>NOTIFY=NEVER")) == (501, "5.1.3")


def test_a_domain_beyond_ascii_needs_smtputf8_and_a_local_part_does_not() -> None:
    assert parse_mail("FROM:<é@b.test>".encode()) == Mail("é@b.test")
    assert parse_mail("FROM:<é@é.test> SMTPUTF8".encode()) == Mail("é@é.test", is_smtputf8=True)
    assert parse_rcpt("TO:<é@é.test>".encode(), is_smtputf8=True) == Recipient("é@é.test")
    assert reply_to(parse_rcpt("TO:<é@é.test>".encode())) == (501, "5.1.3")


@pytest.mark.parametrize("argument", ["a@b.test", "<a@b.test>", '"a"@b.test', "a@b.test SMTPUTF8"])
def test_vrfy_takes_one_address(argument: str) -> None:
    assert parse_vrfy(argument.encode()) == Recipient("a@b.test")


@pytest.mark.parametrize(
    ("argument", "enhanced"),
    [
        ("", "5.5.4"),
        ("a@", "5.1.3"),
        ("a b", "5.1.3"),
        ("a@b.test x", "5.1.3"),
        ("<>", "5.1.3"),
        ("a@é.test", "5.1.3"),
    ],
)
def test_vrfy_without_one_address_is_explained(argument: str, enhanced: str) -> None:
    assert reply_to(parse_vrfy(argument.encode())) == (501, enhanced)


@pytest.mark.parametrize(
    ("argument", "chunk"),
    [("0", Chunk(0, False)), ("86 LAST", Chunk(86, True)), ("1000  last", Chunk(1000, True))],
)
def test_bdat_announces_a_chunk(argument: str, chunk: Chunk) -> None:
    assert parse_bdat(argument.encode()) == chunk


@pytest.mark.parametrize("argument", ["", "x", "-1", "5 FOO", "5LAST", "0 LAST x", "9" * 19, "LAST"])
def test_a_malformed_bdat_closes_the_connection(argument: str) -> None:
    assert reply_to(parse_bdat(argument.encode())) == (521, "5.5.4")


@pytest.mark.parametrize(
    ("argument", "code"),
    [("", 500), ("a b", 500), ("a.test", 459), ("@a.test", 459), ("#[1.2.3.4]", 459), ("a..b", 501)],
)
def test_etrn_is_refused(argument: str, code: int) -> None:
    assert reply_to(answer_etrn(argument.encode()))[0] == code


@pytest.mark.parametrize(
    ("line", "verb", "argument"),
    [
        (b"MAIL FROM:<a@b>\r", "MAIL", b"FROM:<a@b>"),
        (b" mail\tFROM: <a@b>  ", "MAIL", b"FROM: <a@b>"),
        (b"QUIT", "QUIT", b""),
        (b"", "", b""),
        (b" \r", "", b""),
        (b"\0NOOP", "", b""),
        (b"NO\0OP", "NO", b""),
        ("été x".encode(), "ÉTÉ", b"x"),
        (b"\xff", "\udcff", b""),
    ],
)
def test_a_line_is_split_into_verb_and_argument(line: bytes, verb: str, argument: bytes) -> None:
    assert split_command(line) == (verb, argument)


@pytest.mark.parametrize(
    "verb", ["GET", "POST", "CONNECT", "SUBJECT:", "FROM:<A@B>", "123", "<NOOP>", "É", ":"]
)
def test_what_no_mail_program_sends_is_foreign(verb: str) -> None:
    assert is_foreign(verb)


@pytest.mark.parametrize("verb", ["FOO", "XCLIENT", "Z"])
def test_an_unknown_verb_alone_is_not_foreign(verb: str) -> None:
    assert not is_foreign(verb)


def test_a_domain_has_at_most_255_characters() -> None:
    labels = ".".join(["b" * 63] * 4)
    assert is_domain(labels)
    assert not is_domain(labels + ".c")


@given(st.text(alphabet='ab@.<>()[]\\",;: !%-1é\r\n\x00', max_size=30), st.booleans())
def test_whatever_comes_the_result_is_none_or_safe_to_pass_on(text: str, is_smtputf8: bool) -> None:
    address = parse_path(text, is_smtputf8=is_smtputf8)
    assert address is None or not set(address) & set("\r\n\0")


@given(st.text(alphabet="ab.@\\\"<>(),:; é'", min_size=1, max_size=20))
def test_an_address_survives_being_written_and_read(local: str) -> None:
    address = f"{local}@b.test"
    assert parse_path(f"<{quote_address(address)}>", is_smtputf8=False) == address


@given(st.binary(max_size=60))
def test_no_argument_makes_the_parsers_fail(argument: bytes) -> None:
    for parse in (parse_mail, parse_rcpt, parse_vrfy, parse_bdat, answer_etrn):
        parse(argument)
        parse(b"FROM:" + argument)
    split_command(argument)

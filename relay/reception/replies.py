"""What clients are told. Mail programs show their users nothing but the text: each makes sense alone."""

from __future__ import annotations

from relay.mail.reply import Reply

OK = Reply(250, "2.0.0", "Ok")
SENDER_OK = Reply(250, "2.1.0", "Ok")
RECIPIENT_OK = Reply(250, "2.1.5", "Ok")
START_CONTENT = Reply(354, "", "End data with <CR><LF>.<CR><LF>")
GOODBYE = Reply(221, "2.0.0", "Bye")
NOT_VERIFIED = Reply(252, "2.0.0", "Send a message to find out whether this address exists.")

FOREIGN = Reply(221, "2.7.0", "This is a mail server (SMTP), and what came is not a mail command. Goodbye.")
UNKNOWN_COMMAND = Reply(500, "5.5.2", "The mail program sent a command that this server does not know.")
EMPTY_LINE = Reply(500, "5.5.2", "The mail program sent an empty line where a command was expected.")
LINE_TOO_LONG = Reply(500, "5.5.2", "The mail program sent a line that is far too long to be a command.")
NOT_UTF8 = Reply(500, "5.5.2", "A command holds characters that are not written in UTF-8: use plain letters.")
NO_HOST_NAME = Reply(501, "5.5.4", "The mail program must give the name of its computer with HELO or EHLO.")
NO_ARGUMENT = Reply(501, "5.5.4", "This command takes nothing behind it.")
NO_TLS = Reply(
    502, "5.5.1", "This server offers no encryption: turn TLS or STARTTLS off in the mail program."
)
START_TLS = Reply(220, "2.0.0", "Ready to start TLS")
HAS_TLS = Reply(
    554, "5.5.1", "The mail program asked for encryption, and the connection is encrypted already."
)

LOGGED_IN = Reply(235, "2.7.0", "Authentication successful")
NO_LOGIN = Reply(503, "5.5.1", "This server takes no passwords: turn authentication off in the mail program.")
NO_CLEAR_LOGIN = Reply(
    503,
    "5.5.1",
    "This server takes passwords only over an encrypted connection: turn on STARTTLS in the mail program.",
)
LOGIN_NEEDED = Reply(
    530,
    "5.7.0",
    "This server takes mail only after a login: turn on authentication and encryption in the mail program.",
)
LOGIN_IN_MAIL = Reply(503, "5.5.1", "The mail program sent a password in the middle of a message.")
HAS_LOGIN = Reply(503, "5.5.1", "The mail program sent a password though it had logged in already.")
NO_MECHANISM = Reply(501, "5.5.4", "AUTH must be followed by PLAIN or LOGIN.")
UNKNOWN_MECHANISM = Reply(
    535,
    "5.7.8",
    "This server does not know this way of sending a password: choose a normal password (PLAIN or LOGIN) in "
    "the mail program, not an encrypted one.",
)
LOGIN_CANCELLED = Reply(501, "5.7.0", "The mail program broke the login off.")
NOT_BASE64 = Reply(535, "5.7.8", "The mail program sent name or password in a form that is not base64.")
NOT_PLAIN = Reply(
    535, "5.7.8", "The mail program sent name and password in a form that is not that of PLAIN."
)
LOGIN_FAILED = Reply(
    535, "5.7.8", "User name or password is wrong: please correct them in the account settings."
)
LOGIN_BARRED = Reply(
    454,
    "4.7.0",
    "This user name failed too often from your address: correct the password, and try again in ten minutes.",
)

NESTED_MAIL = Reply(503, "5.5.1", "The mail program began a second message before the first was sent.")
MAIL_AFTER_CHUNK = Reply(503, "5.5.1", "The mail program began a message before an earlier one was finished.")
RECIPIENT_AFTER_CHUNK = Reply(503, "5.5.1", "The mail program added a recipient after the message had begun.")
NO_SENDER = Reply(503, "5.5.1", "The mail program named a recipient before the sender: MAIL comes first.")
NO_RECIPIENT = Reply(503, "5.5.1", "The mail program sent a message before its recipients: RCPT comes first.")
NO_VALID_RECIPIENT = Reply(554, "5.5.1", "None of the recipients was accepted, so the message was not sent.")
DATA_AFTER_CHUNK = Reply(503, "5.5.1", "The mail program mixed two ways of sending a message: BDAT and DATA.")
NULL_CHUNK = Reply(551, "5.7.1", "The mail program announced a part of a message that has no bytes.")
CHUNK_DROPPED = Reply(551, "5.0.0", "The message was not sent: an earlier part of it had been refused.")
TOO_MANY_RECIPIENTS = Reply(452, "4.5.3", "The message has too many recipients: send it again to the others.")

FAILED = Reply(451, "4.3.0", "Something went wrong in this server, and its log says what: try again later.")
TIMED_OUT = Reply(421, "4.4.2", "The mail program was silent for too long, so the connection is closed.")
TOO_MANY_ERRORS = Reply(421, "4.7.0", "The mail program made too many errors, so the connection is closed.")
SHUTTING_DOWN = Reply(421, "4.3.2", "This server is being stopped or restarted: try again in a few minutes.")


def too_big(limit: int) -> Reply:
    """Return the refusal of a message that is bigger than ``limit`` bytes."""
    words = f"{limit / 1_000_000:.3g} MB" if limit >= 1_000_000 else f"{limit} bytes"
    return Reply(
        552,
        "5.3.4",
        f"The message is too big: this server takes up to {words}, and attachments need a third more than "
        "their size. Send less at once, or share large files in another way.",
    )

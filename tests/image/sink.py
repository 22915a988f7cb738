"""A mail server on port 2526 that takes everything; runs in the image, and prints a line for each message."""

import json
import signal
import sys
from email import message_from_bytes

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, Envelope, Session


class Sink:
    """Prints what comes, but for the content."""

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802 - aiosmtpd's name
        """Take a message."""
        assert isinstance(envelope.content, bytes)
        message = message_from_bytes(envelope.content)
        told = {
            "sender": envelope.mail_from,
            "recipients": envelope.rcpt_tos,
            "from": message["From"],
            "subject": message["Subject"],
            "size": len(envelope.content),
        }
        print(json.dumps(told), flush=True)
        return "250 2.0.0 taken"


controller = Controller(Sink(), hostname="127.0.0.1", port=2526, data_size_limit=0)
controller.start()
signal.signal(signal.SIGTERM, lambda *_: sys.exit())
signal.pause()

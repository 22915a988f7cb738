"""What is known of mail providers: where their smarthosts are, how one logs in, and what they refuse.

One row for each provider. Facts that no source tells are left at their defaults. In the column ``source``,
"ISPDB" is Thunderbird's table of mail providers (github.com/thunderbird/autoconfig, as of 2026-03) and
"nodemailer" is lib/well-known/services.json of github.com/nodemailer/nodemailer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from relay.mail.route import Rate, Tls

ADDRESS = "address"
LOCAL = "local"
UNKNOWN = ""


@dataclass(frozen=True, slots=True)
class OAuth:
    """Where a provider's OAuth 2.0 tokens come from; "{tenant}" in an address stands for the directory."""

    authorize: str
    token: str
    scope: str
    device: str = ""
    """The device authorization endpoint (RFC 8628); "" where the mail scope can't be had there."""


@dataclass(frozen=True, slots=True)
class Provider:
    """One mail provider."""

    name: str
    host: str
    """The name of its smarthost; "" where each account has another one."""
    source: str
    port: int = 465
    tls: Tls = "implicit"
    username: str = ADDRESS
    """ADDRESS: the full address; LOCAL: what stands before its "@"; UNKNOWN; else that word itself."""
    auth: Literal["auto", "plain", "login", "cram-md5", "xoauth2"] = "auto"
    """``xoauth2`` where passwords do not work at all."""
    needs_app_password: bool = False
    """Whether the only password that works is one made for a single program."""
    from_policy: Literal["unknown", "rewrites", "must_match"] = "unknown"
    """What becomes of a sender other than the account: replaced, or refused."""
    takes_null_sender: bool = True
    message_size: int | None = None
    """The largest message in bytes."""
    connections: int = 4
    """Connections at once, at most."""
    rate: Rate | None = None
    oauth: OAuth | None = None
    other_names: tuple[str, ...] = ()
    note: str = ""
    """What an owner must know before the first login."""

    @property
    def fixed_username(self) -> str:
        """The user name that every account has; "" where each has its own."""
        return "" if self.username in (ADDRESS, LOCAL, UNKNOWN) else self.username


_GOOGLE = OAuth(
    "https://accounts.google.com/o/oauth2/auth",
    "https://oauth2.googleapis.com/token",
    "https://mail.google.com/",
)
_MICROSOFT = OAuth(
    "https://login.microsoftonline.com/{tenant}/oauth2/v2.0/authorize",
    "https://login.microsoftonline.com/{tenant}/oauth2/v2.0/token",
    "https://outlook.office.com/SMTP.Send offline_access",
    device="https://login.microsoftonline.com/{tenant}/oauth2/v2.0/devicecode",
)
_YAHOO = OAuth(
    "https://api.login.yahoo.com/oauth2/request_auth",
    "https://api.login.yahoo.com/oauth2/get_token",
    "mail-w",
)
_AOL = OAuth(
    "https://api.login.aol.com/oauth2/request_auth",
    "https://api.login.aol.com/oauth2/get_token",
    "mail-w",
)

_ROWS = (
    # French households.
    Provider("orange", "smtp.orange.fr", "ISPDB", other_names=("wanadoo",)),
    Provider("free", "smtp.free.fr", "ISPDB", username=LOCAL),
    Provider("sfr", "smtp.sfr.fr", "ISPDB", other_names=("neuf", "club-internet")),
    Provider(
        "bouygues",
        "smtp.bbox.fr",
        "public configuration files, which disagree about the port",
        other_names=("bbox",),
        note='if port 465 does not answer, set tls = "starttls" for port 587',
    ),
    Provider("laposte", "smtp.laposte.net", "ISPDB", username=LOCAL),
    # The large ones.
    Provider(
        "gmail",
        "smtp.gmail.com",
        "ISPDB; size: its EHLO reply; From: github.com/decke/smtprelay/issues/147",
        needs_app_password=True,
        from_policy="rewrites",
        message_size=35_882_577,
        oauth=_GOOGLE,
        other_names=("google", "googlemail"),
        note="turn on two-step verification in the Google account and make an app password there",
    ),
    Provider(
        "outlook",
        "smtp-mail.outlook.com",
        "ISPDB; From: github.com/gophish/gophish/issues/2900 (SendAsDenied)",
        port=587,
        tls="starttls",
        auth="xoauth2",
        from_policy="must_match",
        oauth=_MICROSOFT,
        other_names=("hotmail", "live", "msn"),
        note='only OAuth works: set auth = "xoauth2" and a client_id, then run `relay login`',
    ),
    Provider(
        "office365",
        "smtp.office365.com",
        "ISPDB; limits: learn.microsoft.com/exchange/troubleshoot/send-emails/smtp-submission-improvements;"
        " From: github.com/FusionAuth/fusionauth-issues/issues/220 (SendAsDenied)",
        port=587,
        tls="starttls",
        from_policy="must_match",
        connections=3,
        rate=Rate(30, 60),
        oauth=_MICROSOFT,
        other_names=("microsoft365", "m365"),
        note="the administrator must allow authenticated SMTP for the mailbox",
    ),
    Provider(
        "yahoo",
        "smtp.mail.yahoo.com",
        "ISPDB",
        needs_app_password=True,
        oauth=_YAHOO,
        note="make an app password in the security settings of the account",
    ),
    Provider(
        "aol",
        "smtp.aol.com",
        "ISPDB",
        needs_app_password=True,
        oauth=_AOL,
        other_names=("verizon",),
        note="make an app password in the security settings of the account",
    ),
    Provider(
        "icloud",
        "smtp.mail.me.com",
        "ISPDB; size: support.apple.com/kb/HT4863",
        port=587,
        tls="starttls",
        needs_app_password=True,
        message_size=20_000_000,
        other_names=("apple", "me", "mac"),
        note="make an app-specific password in the settings of the Apple account",
    ),
    # Elsewhere in Europe and America.
    Provider("gmx", "mail.gmx.com", "ISPDB (gmx.com, gmx.fr, gmx.it ...)", other_names=("gmx.com", "gmx.fr")),
    Provider("gmx.net", "mail.gmx.net", "ISPDB (gmx.de, gmx.net ...)", other_names=("gmx.de",)),
    Provider("web.de", "smtp.web.de", "ISPDB", username=LOCAL),
    Provider("t-online", "securesmtp.t-online.de", "ISPDB"),
    Provider("1und1", "smtp.1und1.de", "ISPDB"),
    Provider("proximus", "relay.proximus.be", "ISPDB", port=587, tls="starttls"),
    Provider("bluewin", "smtpauths.bluewin.ch", "ISPDB, nodemailer"),
    Provider("bt", "mail.btinternet.com", "ISPDB"),
    Provider("comcast", "smtp.comcast.net", "ISPDB"),
    # Mailboxes for one's own domain.
    Provider("ovh", "ssl0.ovh.net", "ISPDB"),
    Provider("gandi", "mail.gandi.net", "ISPDB"),
    Provider("infomaniak", "mail.infomaniak.com", "nodemailer", port=587, tls="starttls"),
    Provider(
        "fastmail",
        "smtp.fastmail.com",
        "ISPDB (messagingengine.com)",
        needs_app_password=True,
        note="make an app password in the settings of the account",
    ),
    Provider("zoho", "smtp.zoho.com", "nodemailer", auth="login"),
    # Services that only send.
    Provider(
        "mailgun",
        "smtp.mailgun.org",
        "nodemailer",
        note="each sending domain has user names and passwords of its own",
    ),
    Provider(
        "ses",
        "",
        "nodemailer; null sender: github.com/docker-mailserver/docker-mailserver/issues/2403",
        username=UNKNOWN,
        takes_null_sender=False,
        note="email-smtp.REGION.amazonaws.com, with the region of your account such as eu-west-3",
    ),
    Provider(
        "sendgrid",
        "smtp.sendgrid.net",
        "twilio.com/docs/sendgrid",
        username="apikey",
        note="the password is an API key",
    ),
    Provider(
        "brevo",
        "smtp-relay.brevo.com",
        "nodemailer",
        port=587,
        tls="starttls",
        username=UNKNOWN,
        other_names=("sendinblue",),
        note="the SMTP settings of the account show the user name and the SMTP key, which is the password",
    ),
    Provider("smtp2go", "mail.smtp2go.com", "nodemailer", port=2525, tls="starttls", username=UNKNOWN),
    Provider(
        "mailjet",
        "in-v3.mailjet.com",
        "smtprelay.ini of github.com/decke/smtprelay",
        port=587,
        tls="starttls",
        username=UNKNOWN,
    ),
    Provider("postmark", "smtp.postmarkapp.com", "nodemailer", port=2525, tls="starttls", username=UNKNOWN),
    Provider("resend", "smtp.resend.com", "nodemailer", username=UNKNOWN),
)

PROVIDERS = {row.name: row for row in _ROWS}
NAMES = PROVIDERS | {name: row for row in _ROWS for name in row.other_names}
"""Every name that ``provider`` may have."""

_DOMAINS = {
    "orange": "orange.fr wanadoo.fr",
    "free": "free.fr",
    "sfr": "sfr.fr neuf.fr club-internet.fr",
    "bouygues": "bbox.fr",
    "laposte": "laposte.net",
    "gmail": "gmail.com googlemail.com",
    "outlook": (
        "outlook.com outlook.be outlook.de outlook.es outlook.fr outlook.it"
        " hotmail.com hotmail.be hotmail.ca hotmail.co.uk hotmail.de hotmail.es hotmail.fr hotmail.it"
        " hotmail.nl live.com live.be live.ca live.co.uk live.de live.fr live.it live.nl"
        " msn.com windowslive.com"
    ),
    "yahoo": "yahoo.com yahoo.co.uk yahoo.de yahoo.es yahoo.fr yahoo.it ymail.com rocketmail.com",
    "aol": "aol.com aol.co.uk aol.de aol.fr aim.com verizon.net",
    "icloud": "icloud.com me.com mac.com",
    "gmx": "gmx.com gmx.co.uk gmx.es gmx.fr gmx.it gmx.us",
    "gmx.net": "gmx.net gmx.at gmx.ch gmx.de gmx.eu",
    "web.de": "web.de",
    "t-online": "t-online.de",
    "1und1": "online.de onlinehome.de",
    "proximus": "proximus.be skynet.be",
    "bluewin": "bluewin.ch",
    "bt": "btinternet.com",
    "comcast": "comcast.net",
    "fastmail": "fastmail.com fastmail.fm",
    "zoho": "zoho.com",
}
"""Most are from ISPDB."""

DOMAINS = {domain: PROVIDERS[name] for name, domains in _DOMAINS.items() for domain in domains.split()}
"""Who gives out the addresses of a domain, where that is well known."""

NO_PROVIDER = Provider("", "", "", username=UNKNOWN)
"""What is taken for granted where the owner names no provider."""

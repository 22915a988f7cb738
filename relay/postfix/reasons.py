"""Why settings of Postfix have no equivalent."""

from __future__ import annotations

from fnmatch import fnmatchcase

from relay.postfix.main_cf import read_defaults

RULES_FOR_CLIENTS = "the relay judges clients by its own rules: networks, logins, and whether it can deliver"

_REASONS = {
    "Postfix's own programs, files and upkeep; the relay has no need of it": """
        *_directory sendmail_path newaliases_path mailq_path mail_owner setgid_group default_privs
        alias_database default_database_type compatibility_level biff mail_name mail_version debug*
        import_environment export_environment *_cache_database *_cache_map *_cache_timeout *_loglevel
        maillog_* syslog_*
        multi_instance* tls_random* address_verify_* *process_limit ipc_* max_idle max_use postscreen_*
        proxy_* smtputf8_enable *_service_name enable_long_queue_ids fast_flush*
        """,
    "the relay greets with its hostname": "smtpd_banner",
    "the relay has no milters: no other program looks at mail. For DKIM see docs/dkim.md": "*milter*",
    "the relay hands mail to no filter": "content_filter receive_override_options smtpd_proxy_*",
    'copies are made by header checks only: action = "BCC you@example.org"': "always_bcc *_bcc_maps",
    "the relay does not look into bodies": "*body_checks",
    "the relay keeps no such limit": """
        mailbox_size_limit virtual_mailbox_limit bounce_size_limit queue_minfree header_size_limit
        body_checks_size_limit
        """,
    "mailboxes are Maildirs or an LMTP server, see [local]": """
        mailbox_* fallback_transport* local_transport virtual_transport forward_path local_command_shell
        mail_spool_directory home_mailbox virtual_mailbox_* virtual_uid_maps virtual_gid_maps
        virtual_minimum_uid
        """,
    'sender_canonical does so domain by domain: "@host.example.org" = "@example.org"': "masquerade_*",
    "the relay takes mail for other domains from access.networks only; it is no backup for them": (
        "relay_domains relay_recipient_maps permit_mx_backup_networks"
    ),
    "fallback is one host, for mail that goes to the recipients' own servers, not to a relayhost": (
        "smtp_fallback_relay fallback_relay"
    ),
    "where no smarthost says otherwise, the relay encrypts whenever the other server can": (
        "smtp_enforce_tls smtp_use_tls smtp_tls_security_level smtp_tls_wrappermode"
    ),
    "tls is set for each smarthost": "smtp_tls_policy_maps smtp_tls_per_site",
    "the relay trusts whom the system trusts": "smtp_tls_CA* smtpd_tls_CA* tls_append_default_CA",
    "the relay shows no certificate of its own to other servers": (
        "smtp_tls_cert* smtp_tls_key* smtp_tls_chain*"
    ),
    "the relay chooses ciphers and details of TLS by itself": "smtp_tls_* smtpd_tls_* lmtp_tls_* tls_*",
    "who may log in stands under [users], with passwords made by `relay passwd`": (
        "smtpd_sasl_* cyrus_sasl_* broken_sasl_auth_clients"
    ),
    "each smarthost has its account, and the login is the safest that the server offers": (
        "smtp_sasl_* smtp_sender_dependent_authentication"
    ),
    '"+" always divides a user from an extension': "recipient_delimiter propagate_unmatched_extensions",
    "the relay completes and rewrites addresses of all who may send, in the envelope and in the headers": """
        append_* remote_header_rewrite_domain local_header_rewrite_clients *canonical_classes
        always_add_missing_headers allow_percent_hack swap_bangpath
        """,
    "the relay paces itself; connections and rate are set for each smarthost": """
        *_destination_* initial_destination_concurrency *_initial_* *_transport_rate_delay qmgr_*
        default_*_limit
        """,
    "reports and the queue follow rules of their own; see [queue]": """
        bounce_queue_lifetime queue_run_delay bounce_template_file soft_bounce *_notice_recipient
        notify_classes double_bounce_sender hopcount_limit duplicate_filter_limit
        """,
    RULES_FOR_CLIENTS: """
        smtpd_* disable_vrfy_command strict_* unverified_* unknown_* *_reject_code invalid_* rbl_reply_maps
        show_user* anvil_*
        """,
    "the relay's tables have no such thing": """
        alias_* virtual_* canonical_* transport_* allow_mail_to_* local_recipient_maps luser_relay
        expand_owner_alias owner_request_special sender_dependent_default_transport_maps
        """,
    "the relay speaks to other servers by its own rules": """
        smtp_* lmtp_* inet_* ignore_mx* disable_dns_lookups best_mx_transport proxy_interfaces
        """,
}


def reason_for(name: str) -> str:
    """Return why a parameter has no equivalent; the first that fits."""
    for reason, names in _REASONS.items():
        if any(fnmatchcase(name, pattern) for pattern in names.split()):
            return reason
    return (
        "the relay has no such setting"
        if name in read_defaults()
        else "Postfix has no parameter of that name"
    )

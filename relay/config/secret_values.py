"""Secrets as relay.toml writes them: ``X``, ``X_file`` or ``X_env``; what is shown of them."""

from __future__ import annotations

from relay.config.secrets import Secret
from relay.config.sections import Section
from relay.config.values import parse_text

HIDDEN = "(hidden)"
"""Stands for a secret wherever the configuration is shown; refused where a secret is read."""


def read_secret(section: Section, key: str) -> Secret | None:
    """Return the secret that ``key``, ``key_file`` or ``key_env`` gives; None where none is given."""
    secrets = {
        key: section.read(key, _parse_value, Secret()),
        f"{key}_file": Secret(file=section.read_path(f"{key}_file", None)),
        f"{key}_env": section.read(f"{key}_env", _parse_variable, Secret()),
    }
    given = [name for name in secrets if section.has(name)]
    for name in given[1:]:
        section.reject(f"is given as {given[0]} already; keep one of them", name)
    return secrets[given[0]] if given else None


def refuse_hidden(text: str) -> str:
    """Return a secret as it is, unless it is what stands for one where the configuration is shown."""
    if text == HIDDEN:
        raise ValueError(f'"{HIDDEN}" is what `relay check` shows in place of a secret; put the secret here')
    return text


def render_secret(key: str, secret: Secret | None) -> dict[str, object]:
    """Return the key and value that tell where a secret is, without the secret itself."""
    if secret is None:
        return {}
    if secret.file is not None:
        return {f"{key}_file": str(secret.file)}
    return {f"{key}_env": secret.variable} if secret.variable else {key: HIDDEN}


def _parse_value(value: object) -> Secret:
    return Secret(value=refuse_hidden(parse_text(value)))


def _parse_variable(value: object) -> Secret:
    return Secret(variable=parse_text(value))

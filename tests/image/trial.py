"""The image at work: what docs/container.md promises, tried in containers that have no network but their own.

Its clients, and the server that takes the mail, are in another container of the same image.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import relay
from tests.image.engine import ENVIRONMENT, LIMITS, ROOT, Container, Engine, EngineError, find_engine

TAG = "localhost/relay:trial"
HARDENED = (
    *("--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges", "--memory", "128m"),
    *("--network", "none"),
    *("--sysctl", "net.ipv4.ip_unprivileged_port_start=0"),  # Docker does it by itself, podman does not
)
SETTINGS = """
hostname = "gw1.maison.mrs"
relayhost = "[127.0.0.1]:2526"

[[listen]]
address = "0.0.0.0:25"

[aliases]
root = "chris@example.org"
"""
UID = "10001"
MOST_BYTES = 45_000_000
"""What the relay and all that it needs may take over the base image."""
MOST_MEMORY = 100_000
"""Kilobytes that the relay may take while mail flows."""


@pytest.fixture(scope="module")
def engine() -> Engine:
    return find_engine()


@pytest.fixture(scope="module")
def image(engine: Engine) -> str:
    """The image as it is built now."""
    engine.build(TAG, "--build-arg", f"VERSION={relay.__version__}")
    return TAG


@dataclass(frozen=True)
class House:
    """A relay in its container, the folder with its settings, and the server that takes its mail."""

    relay: Container
    sink: Container
    settings: Path

    def received(self, count: int) -> list[dict[str, Any]]:
        """Wait for so many messages, and return them."""
        try:
            return [json.loads(line) for line in self.sink.logged(r"(?m)^\{.*\}$", count)]
        except AssertionError:
            print(self.relay.log)  # it says why
            raise

    def ask(self, script: str) -> str:
        """Run a Python script that sees the relay on 127.0.0.1; not in the relay's own container."""
        return self.sink.execute("python", "-", given=textwrap.dedent(script))


@contextmanager
def running(engine: Engine, folder: Path, *options: str) -> Iterator[House]:
    """Run a relay with a folder of settings, hardened as the docs say, and wait until it answers."""
    folder.chmod(0o755)
    settings = folder / "relay.toml"
    settings.write_text(SETTINGS)
    name = f"relay-trial-{os.getpid()}"
    volume = ("--volume", f"{folder}:/etc/relay:ro")
    sink = ("--volume", f"{Path(__file__).with_name('sink.py')}:/sink.py:ro", "--entrypoint", "python")
    with engine.container(name, *HARDENED, *volume, *options, TAG) as server:
        server.logged(r"listening on 0\.0\.0\.0:25;")
        with engine.container(
            f"{name}-sink", "--network", f"container:{name}", *sink, TAG, "/sink.py"
        ) as other:
            yield House(server, other, settings)


@pytest.mark.usefixtures("image")
class TestTheImage:
    def test_says_what_it_is_and_how_it_wants_to_be_run(self, engine: Engine) -> None:
        about = json.loads(engine.run("image", "inspect", TAG))[0]
        config = about["Config"]
        assert config["User"] == f"{UID}:{UID}"
        assert (config["Entrypoint"], config["Cmd"]) == (["relay"], ["serve"])
        assert set(config["ExposedPorts"]) == {"25/tcp", "465/tcp", "587/tcp", "8025/tcp"}
        assert [*config["Volumes"]] == ["/var/lib/relay"]
        assert config["StopSignal"] == "SIGTERM"
        assert "container=oci" in config["Env"]
        check = about.get("Healthcheck") or config["Healthcheck"]  # podman's place, Docker's place
        assert check["Test"] == ["CMD", "relay", "healthcheck"]
        labels = config["Labels"]
        assert labels["org.opencontainers.image.version"] == relay.__version__
        assert labels["org.opencontainers.image.licenses"] == "MIT"

    def test_is_small(self, engine: Engine) -> None:
        print(f"{int(engine.inspect(TAG, '.Size')) / 1e6:.0f} MB, with its base")
        options = ("--rm", "--network", "none", *LIMITS, "--entrypoint", "du")
        ours = int(engine.run("run", *options, TAG, "--summarize", "--bytes", "/opt/relay").split()[0])
        print(f"{ours / 1e6:.0f} MB without it")
        assert ours < MOST_BYTES

    def test_takes_only_what_was_written_down(self, engine: Engine) -> None:
        script = "import importlib.metadata as m; print(*sorted(d.name.lower() for d in m.distributions()))"
        options = ("--rm", "--network", "none", *LIMITS, "--entrypoint", "python")
        installed = engine.run("run", *options, TAG, "-c", script).split()
        written = re.findall(r"(?m)^([\w-]+)==", (ROOT / "requirements" / "relay.txt").read_text())
        assert {re.sub("[-_.]+", "-", name) for name in installed} <= {*written, "relay"}


@pytest.mark.usefixtures("image")
class TestTheRelayInIt:
    def test_takes_mail_follows_its_settings_and_ends(self, engine: Engine, tmp_path: Path) -> None:
        with running(engine, tmp_path) as house:
            server = house.relay
            status = server.execute("cat", "/proc/1/status")
            assert re.search(rf"(?m)^Uid:\s+{UID}\s", status)
            assert re.search(r"(?m)^CapEff:\s+0+$", status)
            assert re.search(r"(?m)^NoNewPrivs:\s+1$", status)
            server.execute("relay", "healthcheck")
            assert house.ask(
                """
                import smtplib, urllib.request
                with smtplib.SMTP("127.0.0.1") as client:
                    client.sendmail("chris@maison.mrs", ["friend@example.org"], "Subject: hello\\n")
                with urllib.request.urlopen("http://127.0.0.1:8025/healthz") as answer:
                    print(answer.status, answer.read().decode())
                """
            ).startswith('200 {"status": "ok"')
            assert house.received(1)[0]["subject"] == "hello"

            # Saved as most editors do it: a new file takes the place of the old one.
            draft = house.settings.with_suffix(".new")
            draft.write_text(SETTINGS.replace("gw1.", "gw2."))
            draft.rename(house.settings)
            server.logged("relay.toml is applied")
            greeting = 'import socket; print(socket.create_connection(("127.0.0.1", 25)).recv(100))'
            assert "220 gw2.maison.mrs" in house.ask(greeting)

            assert server.stop() == 0
            assert "stopped" in server.log.splitlines()[-1]

    def test_keeps_its_files_to_itself_and_takes_anybodys_mail(self, engine: Engine, tmp_path: Path) -> None:
        with running(engine, tmp_path) as house:
            server = house.relay
            mail = "Subject: backup\n\ndone\n"
            server.execute(
                "sendmail", "-f", "nas@maison.mrs", "root@gw1.maison.mrs", given=mail, user="1234:1234"
            )
            assert house.received(1)[0]["recipients"] == ["chris@example.org"]
            assert server.execute("mailq") == "the queue is empty\n"
            found = server.execute("find", "/var/lib/relay", "-printf", "%m %f\\n").splitlines()
            modes = {line.split()[1]: line.split()[0] for line in found}
            assert modes.pop("relay") == "711"
            assert modes.pop("maildrop") == "1733"
            assert {modes.pop("queue.db.content"), modes.pop(".wake", "600")} <= {"700", "600", "622"}
            assert set(modes.values()) == {"600"}, modes

    def test_stays_within_its_memory_while_mail_flows(self, engine: Engine, tmp_path: Path) -> None:
        with running(engine, tmp_path) as house:
            house.ask(
                """
                import smtplib
                from concurrent.futures import ThreadPoolExecutor

                def send(size):
                    with smtplib.SMTP("127.0.0.1") as client:
                        content = b"Subject: x\\r\\n\\r\\n" + (b"x" * 74 + b"\\r\\n") * size
                        client.sendmail("a@maison.mrs", ["b@example.org"], content)

                with ThreadPoolExecutor(20) as pool:
                    list(pool.map(send, [10] * 100 + [130_000] * 10))
                """
            )
            messages = house.received(110)
            assert sum(message["size"] > 9_000_000 for message in messages) == 10
            peak = int(re.findall(r"VmHWM:\s+(\d+) kB", house.relay.execute("cat", "/proc/1/status"))[0])
            print(f"{peak / 1000:.0f} MB at most")
            assert peak < MOST_MEMORY
            assert engine.inspect(house.relay.name, ".State.OOMKilled") == "false"

    def test_gets_the_hosts_mail_of_the_time_it_was_down(self, engine: Engine, tmp_path: Path) -> None:
        name = f"relay-trial-{os.getpid()}-queue"
        volume = ("--volume", f"{name}:/var/lib/relay")
        try:
            with running(engine, tmp_path, *volume) as house:
                assert house.relay.stop() == 0
                sendmail = (ROOT / "examples" / "sendmail").read_text()
                for theirs, ours in (
                    ("docker run", f"{shlex.join(engine.command)} run {shlex.join(LIMITS)}"),
                    ("relay-queue:", f"{name}:"),
                    ("sendmail relay", f"sendmail {TAG}"),
                ):
                    assert theirs in sendmail
                    sendmail = sendmail.replace(theirs, ours)
                script = [
                    "sh",
                    "-c",
                    sendmail,
                    "sendmail",
                    "-i",
                    "-FCronDaemon",
                    "-B8BITMIME",
                    "-oem",
                    "root",
                ]
                subprocess.run(script, input=b"Subject: from cron\n\nhello\n", env=ENVIRONMENT, check=True)
            with running(engine, tmp_path, *volume) as house:
                house.relay.logged(r"client=root\[uid 0\]")
                house.relay.execute("relay", "queue", "retry", "--all")  # it came before its next hop
                assert house.received(1)[0]["subject"] == "from cron"
        finally:
            engine.run("volume", "rm", name)

    def test_says_what_is_wrong_with_a_folder_that_it_may_not_write(
        self, engine: Engine, tmp_path: Path
    ) -> None:
        options = ("--rm", *HARDENED, *LIMITS, "--volume", f"{tmp_path}:/var/lib/relay")
        with pytest.raises(EngineError) as failed:
            engine.run("run", *options, TAG)
        assert failed.value.status == 1
        assert failed.value.output == (
            "relay: the queue /var/lib/relay/queue.db can't be opened (Permission denied): "
            f"see that this user may write its folder (this user: {UID})\n"
        )


@pytest.mark.parametrize("names", ["relay", "build"])
def test_builds_for_arm64_need_no_compiler(names: str, tmp_path: Path) -> None:
    """Each dependency has a wheel; the build itself can't be tried here."""
    machines = ["manylinux2014_aarch64", "manylinux_2_17_aarch64", "manylinux_2_28_aarch64"]
    options = ["--quiet", "--no-deps", "--require-hashes", "--only-binary=:all:", "--python-version=3.13"]
    options += [f"--platform={machine}" for machine in machines]
    places = [f"--dest={tmp_path}", f"--requirement={ROOT / 'requirements' / names}.txt"]
    subprocess.run([sys.executable, "-m", "pip", "download", *options, *places], check=True)

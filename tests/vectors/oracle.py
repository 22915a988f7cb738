#!/usr/bin/env python3
"""oracle.py - run mail-relay test cases against a real Postfix (the oracle).

Usage (as root):
  oracle.py record CASE.json ...     run on Postfix, write "expected" (and postfix.main_cf_text) in place
                                     (--missing: only cases without "expected")
  oracle.py check  CASE.json ...     run on Postfix again, compare with the recorded "expected"
  oracle.py run    CASE.json ...     run, print outcomes as one JSON list on stdout
  oracle.py run --driver PROG CASE.json ...   run another MTA instead of Postfix (see README)
  oracle.py check --driver PROG [--loose] CASE.json ...

Options: -j N (parallel workers, default 2), --raw DIR (keep the raw mail log and raw messages),
         --out FILE (write outcomes there), --loose (compare only what README calls "strict" fields)

Every worker runs inside its own mount/network/uts/pid namespace: a private loopback (nothing can
leave the machine), a private tmpfs on /tmp/oracle (config in /tmp/oracle/etc, queue in
/tmp/oracle/queue, data in /tmp/oracle/data), a private /etc/hosts and /etc/resolv.conf.
All processes die with the namespace.  Nothing outside is touched.
"""
import base64, copy, email, email.policy, glob, hashlib, json, os, re, shutil, socket, ssl, struct
import subprocess, sys, threading, time, tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = "/tmp/oracle"
ETC, QUEUE, DATA, LOG = ROOT + "/etc", ROOT + "/queue", ROOT + "/data", ROOT + "/log/maillog"
HOSTNAME = "relay.oracle.test"

# ----------------------------------------------------------------- base main.cf
BASE_MAIN_CF = {
    "compatibility_level": "3.6",
    "queue_directory": QUEUE, "data_directory": DATA,
    "command_directory": "/usr/sbin", "daemon_directory": "/usr/lib/postfix/sbin",
    "mail_owner": "postfix", "setgid_group": "postdrop",
    "maillog_file": LOG, "maillog_file_prefixes": ROOT,
    "myhostname": HOSTNAME, "mydomain": "oracle.test", "myorigin": "$myhostname",
    "mydestination": "", "local_recipient_maps": "",
    "inet_interfaces": "127.0.0.1", "inet_protocols": "ipv4",
    "mynetworks": "127.0.0.1/32",
    "smtpd_relay_restrictions": "permit_mynetworks, reject_unauth_destination",
    "alias_maps": "", "alias_database": "",
    "relayhost": "", "relay_domains": "", "biff": "no",
    "smtp_tls_security_level": "",
    "smtp_connection_cache_on_demand": "no",
    "mailbox_transport": "lmtp:inet:[127.0.0.24]:24",
    "in_flow_delay": "0s",
}
MASTER_CF = """\
smtp      inet  n       -       n       -       -       smtpd
pickup    unix  n       -       n       60      1       pickup
cleanup   unix  n       -       n       -       0       cleanup
qmgr      unix  n       -       n       1       1       qmgr
tlsmgr    unix  -       -       n       1000?   1       tlsmgr
rewrite   unix  -       -       n       -       -       trivial-rewrite
bounce    unix  -       -       n       -       0       bounce
defer     unix  -       -       n       -       0       bounce
trace     unix  -       -       n       -       0       bounce
verify    unix  -       -       n       -       1       verify
flush     unix  n       -       n       1000?   0       flush
proxymap  unix  -       -       n       -       -       proxymap
smtp      unix  -       -       n       -       -       smtp
relay     unix  -       -       n       -       -       smtp
showq     unix  n       -       n       -       -       showq
error     unix  -       -       n       -       -       error
retry     unix  -       -       n       -       -       error
discard   unix  -       -       n       -       -       discard
local     unix  -       n       n       -       -       local
virtual   unix  -       n       n       -       -       virtual
lmtp      unix  -       -       n       -       -       lmtp
anvil     unix  -       -       n       -       1       anvil
scache    unix  -       -       n       -       1       scache
postlog   unix-dgram n  -       n       -       1       postlogd
"""
# ----------------------------------------------------------------- next hops and DNS
SINKS = {  # name: (ip, port, protocol)
    "default-mx": ("127.0.0.99", 25, "smtp"),   # MX of every domain not listed in DNS below
    "a":          ("127.0.0.11", 25, "smtp"),   # a.sink.test
    "a-2525":     ("127.0.0.11", 2525, "smtp"),
    "b":          ("127.0.0.12", 25, "smtp"),   # b.sink.test
    "c":          ("127.0.0.13", 25, "smtp"),   # c.sink.test
    "hub-host":   ("127.0.0.20", 25, "smtp"),   # A record of hub.test
    "hub-mx":     ("127.0.0.21", 25, "smtp"),   # MX of hub.test
    "hub-host-2525": ("127.0.0.20", 2525, "smtp"),
    "hub-mx-2525": ("127.0.0.21", 2525, "smtp"),
    "nomx":       ("127.0.0.30", 25, "smtp"),   # nomx.test: A only, no MX
    "backup-mx":  ("127.0.0.41", 25, "smtp"),   # second MX of backup.test, first one (127.0.0.40) refuses connections
    "mailbox":    ("127.0.0.24", 24, "lmtp"),   # final local delivery (mailbox_transport)
}
DNS_A = {"a.sink.test": "127.0.0.11", "b.sink.test": "127.0.0.12", "c.sink.test": "127.0.0.13",
         "hub.test": "127.0.0.20", "mx.hub.test": "127.0.0.21", "nomx.test": "127.0.0.30",
         "dead.backup.test": "127.0.0.40", "alive.backup.test": "127.0.0.41", "mailbox.sink.test": "127.0.0.24",
         "default-mx.sink.test": "127.0.0.99", "outside.test": "127.0.0.66",
         "dead.sink.test": "127.0.0.40", HOSTNAME: "127.0.0.1"}
DNS_MX = {"hub.test": [(10, "mx.hub.test")], "nomx.test": [],
          "backup.test": [(10, "dead.backup.test"), (20, "alive.backup.test")],
          "dead.test": [(10, "dead.backup.test")],
          "nullmx.test": [(0, "")]}
DNS_NX = {"nxdomain.test"}
DNS_PTR = {"127.0.0.66": "outside.test"}
for _h, _ip in DNS_A.items():
    if _h not in (HOSTNAME, "dead.sink.test"):
        DNS_PTR.setdefault(_ip, _h)

HOSTS = "127.0.0.1 localhost\n"
PASSWORDS = {"alice": "secret", "bob@login.test": "hunter2"}   # SMTP AUTH users (fake Dovecot auth server)


def log(*a):
    print(*a, file=sys.stderr, flush=True)


# ----------------------------------------------------------------- DNS server
class DNS(threading.Thread):
    def __init__(self, extra=None):
        super().__init__(daemon=True)
        self.s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.s.bind(("127.0.0.53", 53))
        self.extra = extra or {}

    @staticmethod
    def name(n):
        out = b""
        for lab in n.split("."):
            if lab:
                out += bytes([len(lab)]) + lab.encode()
        return out + b"\0"

    def run(self):
        while True:
            try:
                q, peer = self.s.recvfrom(4096)
                self.s.sendto(self.answer(q), peer)
            except OSError:
                return
            except Exception as e:
                log("dns", e)

    def answer(self, q):
        i, labels = 12, []
        while q[i]:
            labels.append(q[i + 1:i + 1 + q[i]].decode("latin1"))
            i += 1 + q[i]
        qtype = struct.unpack(">H", q[i + 1:i + 3])[0]
        n = ".".join(labels).lower()
        a_recs = dict(DNS_A, **self.extra.get("A", {}))
        mx_recs = dict(DNS_MX, **{k: [tuple(x) for x in v] for k, v in self.extra.get("MX", {}).items()})
        nx = DNS_NX | set(self.extra.get("NX", []))
        rr, rcode = [], 0
        if n in nx:
            rcode = 3
        elif n.endswith("in-addr.arpa"):
            ip = ".".join(reversed(n.split(".")[:4]))
            if qtype == 12 and ip in DNS_PTR:
                rr.append(self.name(DNS_PTR[ip]))
            elif ip not in DNS_PTR:
                rcode = 3
        elif qtype == 1 and n in a_recs:
            rr.append(socket.inet_aton(a_recs[n]))
        elif qtype == 15:
            if n in mx_recs:
                rr = [struct.pack(">H", p) + self.name(h) for p, h in mx_recs[n]]
            elif n not in a_recs and "." in n:
                rr.append(struct.pack(">H", 10) + self.name("default-mx.sink.test"))
            elif n not in a_recs:
                rcode = 3
        elif n not in a_recs and "." not in n:
            rcode = 3
        ans = b"".join(b"\xc0\x0c" + struct.pack(">HHIH", qtype, 1, 60, len(d)) + d for d in rr)
        return q[:2] + struct.pack(">HHHHH", 0x8580 | rcode, 1, len(rr), 0, 0) + q[12:i + 5] + ans


# ----------------------------------------------------------------- SMTP/LMTP sinks
class Sink(threading.Thread):
    """behaviour: {"ehlo": [...], "banner": "...", "mail": "550 ..", "rcpt": [["regex", "550 ..."], ...],
                   "data": "354 ..", "dot": "550 ..."}"""
    def __init__(self, name, ip, port, proto, behaviour, store):
        super().__init__(daemon=True)
        self.name_, self.proto, self.b, self.store = name, proto, behaviour or {}, store
        self.s = socket.socket()
        self.s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.s.bind((ip, port))
        self.s.listen(50)

    def run(self):
        while True:
            try:
                c, _ = self.s.accept()
            except OSError:
                return
            threading.Thread(target=self.session, args=(c,), daemon=True).start()

    def session(self, c):
        f = c.makefile("rb")
        def say(t):
            c.sendall(t.encode("latin1") + b"\r\n")
        try:
            say(self.b.get("banner", "220 %s.sink ready" % self.name_))
            tr = None
            helo = ""
            while True:
                line = f.readline()
                if not line:
                    return
                raw = line.rstrip(b"\r\n").decode("latin1")
                verb = raw.split(" ")[0].upper()
                if verb in ("EHLO", "LHLO"):
                    helo = raw
                    if self.b.get("no_ehlo"):
                        say("502 5.5.1 EHLO not implemented")
                        continue
                    caps = self.b.get("ehlo", ["PIPELINING", "SIZE 20480000", "8BITMIME", "ENHANCEDSTATUSCODES", "DSN"])
                    lines = ["%s.sink" % self.name_] + caps
                    say("\r\n".join("250%s%s" % ("-" if i < len(lines) - 1 else " ", l) for i, l in enumerate(lines)))
                elif verb == "HELO":
                    helo = raw
                    say("250 %s.sink" % self.name_)
                elif verb == "MAIL":
                    m = re.match(r"(?i)MAIL FROM:\s*<(.*?)>(?: (.*))?$", raw)
                    tr = {"sink": self.name_, "helo": helo, "mail_from": m.group(1), "mail_params": (m.group(2) or "").split(), "rcpt": []}
                    r = self.b.get("mail", "250 2.1.0 Ok")
                    if not r.startswith("2"):
                        tr = None
                    say(r)
                elif verb == "RCPT":
                    m = re.match(r"(?i)RCPT TO:\s*<(.*)>(?: (.*))?$", raw)
                    r = "250 2.1.5 Ok"
                    for rx, rep in self.b.get("rcpt", []):
                        if re.search(rx, m.group(1)):
                            r = rep
                            break
                    if tr is None:
                        r = "503 5.5.1 need MAIL"
                    if r.startswith("2"):
                        tr["rcpt"].append({"to": m.group(1), "params": (m.group(2) or "").split()})
                    else:
                        self.store["refused"].append({"sink": self.name_, "mail_from": tr and tr["mail_from"], "to": m.group(1), "reply": r})
                    say(r)
                elif verb == "DATA":
                    if not tr or not tr["rcpt"]:
                        say("503 5.5.1 no valid recipients")
                        continue
                    r = self.b.get("data", "354 go ahead")
                    say(r)
                    if not r.startswith("3"):
                        tr = None
                        continue
                    data = b""
                    while True:
                        l = f.readline()
                        if not l:
                            return
                        if l == b".\r\n":
                            break
                        data += l[1:] if l.startswith(b".") else l
                    r = self.b.get("dot", "250 2.0.0 Ok: queued as SINK")
                    if r.startswith("2"):
                        self.store["messages"].append((tr, data))
                    else:
                        self.store["refused"].append({"sink": self.name_, "mail_from": tr["mail_from"],
                                                      "to": [x["to"] for x in tr["rcpt"]], "stage": "dot", "reply": r})
                    n = len(tr["rcpt"]) if self.proto == "lmtp" else 1
                    for _ in range(n):
                        say(r)
                    tr = None
                elif verb == "RSET":
                    tr = None
                    say("250 2.0.0 Ok")
                elif verb == "QUIT":
                    say("221 2.0.0 Bye")
                    return
                else:
                    say("250 2.0.0 Ok")
        except OSError:
            pass
        finally:
            c.close()


class DovecotAuth(threading.Thread):
    """Enough of the Dovecot auth protocol for Postfix smtpd_sasl_type=dovecot."""
    def __init__(self):
        super().__init__(daemon=True)
        self.s = socket.socket()
        self.s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.s.bind(("127.0.0.1", 12399))
        self.s.listen(20)

    def run(self):
        while True:
            c, _ = self.s.accept()
            threading.Thread(target=self.serve, args=(c,), daemon=True).start()

    def serve(self, c):
        f = c.makefile("rb")
        c.sendall(b"VERSION\t1\t1\nMECH\tPLAIN\tplaintext\nMECH\tLOGIN\tplaintext\nSPID\t1\nCUID\t1\n"
                  b"COOKIE\t00112233445566778899aabbccddeeff\nDONE\n")
        login = {}
        for line in f:
            p = line.rstrip(b"\n").decode("latin1").split("\t")
            if p[0] not in ("AUTH", "CONT"):
                continue
            rid = p[1]
            try:
                if p[0] == "AUTH":
                    resp = [x[5:] for x in p if x.startswith("resp=")]
                    if p[2] == "LOGIN":
                        login[rid] = [] if not resp else [base64.b64decode(resp[0]).decode()]
                        c.sendall(("CONT\t%s\t%s\n" % (rid, base64.b64encode(b"Username:" if not resp else b"Password:").decode())).encode())
                        continue
                    if not resp:
                        login[rid] = None
                        c.sendall(("CONT\t%s\t\n" % rid).encode())
                        continue
                    user, pw = base64.b64decode(resp[0]).decode().split("\0")[1:3]
                else:
                    data = base64.b64decode(p[2]).decode()
                    if login.get(rid) is None:
                        user, pw = data.split("\0")[1:3]
                    else:
                        login[rid].append(data)
                        if len(login[rid]) < 2:
                            c.sendall(("CONT\t%s\t%s\n" % (rid, base64.b64encode(b"Password:").decode())).encode())
                            continue
                        user, pw = login[rid]
                ok = PASSWORDS.get(user) == pw
            except Exception:
                user, ok = "?", False
            c.sendall((("OK\t%s\tuser=%s\n" if ok else "FAIL\t%s\tuser=%s\n") % (rid, user)).encode())


# ----------------------------------------------------------------- normalising
QID = r"(?:[0-9A-F]{5,14}|[0-9B-DF-HJ-NP-TV-Zb-df-hj-np-tv-z]{10,20})"
DATE = r"(?:(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun), )?\d{1,2} (?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec) (?:20[2-9]\d) \d\d:\d\d:\d\d [-+]\d{4}(?: \([A-Z]+\))?"
THIS_YEAR = time.strftime("%Y")


def norm(t):
    """replace volatile parts by <DATE>, <QID>, <MSGID>, <BOUNDARY>"""
    t = re.sub(DATE, lambda m: "<DATE>" if (" %s " % THIS_YEAR in m.group(0) or re.search(r" 20(2[4-9]|[3-9]\d) ", m.group(0))) else m.group(0), t)
    t = re.sub(r"<\d{14}\.%s@([^>]*)>" % QID, r"<GENERATED-MSGID@\1>", t)
    t = re.sub(r"\b%s\.\d{9,10}/([\w.-]+)" % QID, r"BOUNDARY/\1", t)
    t = re.sub(r"\bid (%s)\b" % QID, "id <QID>", t)
    t = re.sub(r"(X-Postfix-Queue-ID: )%s" % QID, r"\1<QID>", t)
    t = re.sub(r"(queued as )%s\b" % QID, r"\1<QID>", t)
    t = re.sub(r"with cipher \S+ \(", "with cipher <CIPHER> (", t)
    t = re.sub(r"key-exchange \S+ server-signature \S+ \(\d+ bits\) server-digest \w+", "key-exchange <X> server-signature <X> (<N> bits) server-digest <X>", t)
    return t


def split_message(raw):
    """-> ([(name, value)], body) ; value keeps folding as \\n + whitespace; a bogus header line -> (None, line)"""
    head, sep, body = raw.partition(b"\r\n\r\n")
    if raw.startswith(b"\r\n"):
        return [], raw[2:]
    hs = []
    for line in head.split(b"\r\n"):
        s = line.decode("utf-8", "surrogateescape") if False else line.decode("latin1")
        if s[:1] in (" ", "\t") and hs:
            hs[-1][1] += "\n" + s
        else:
            n, c, v = s.partition(":")
            if not c:
                hs.append([None, s])
            else:
                hs.append([n, v[1:] if v.startswith(" ") else v])
    return hs, body


def parse_fields(text):
    out = []
    for block in re.split(r"\n\s*\n", text.strip("\n")):
        fs = []
        for line in block.split("\n"):
            if line[:1] in (" ", "\t") and fs:
                fs[-1][1] += "\n" + line
            elif ":" in line:
                n, _, v = line.partition(":")
                fs.append([n, v.strip()])
            elif line:
                fs.append([None, line])
        if fs:
            out.append(fs)
    return out


def parse_dsn(raw):
    m = email.message_from_bytes(raw, policy=email.policy.compat32)
    if m.get_content_type() != "multipart/report":
        return None
    d = {"report_type": m.get_param("report-type"), "parts": []}
    parts = m.get_payload()
    for p in parts:
        d["parts"].append({"content_type": p.get_content_type(), "description": p.get("Content-Description"),
                           "charset": p.get_param("charset")})
    def text(p):
        hdrs, _, body = p.as_bytes().partition(b"\n\n")
        return norm(body.decode("latin1").replace("\r\n", "\n"))
    d["notification"] = text(parts[0]).rstrip("\n").split("\n")
    if len(parts) > 1 and parts[1].get_content_type().endswith("delivery-status"):
        blocks = parse_fields(text(parts[1]))
        d["per_message"] = blocks[0] if blocks else []
        d["per_recipient"] = blocks[1:]
    if len(parts) > 2:
        t = text(parts[2])
        h, sep, b = t.partition("\n\n")
        d["returned"] = {"content_type": parts[2].get_content_type(),
                         "headers": [x for blk in parse_fields(h) for x in blk],
                         "has_body": bool(b.strip())}
    return d


def canon_sort(l):
    return sorted(l, key=lambda x: json.dumps(x, sort_keys=True))


def outcome_messages(store):
    out = []
    for tr, data in store["messages"]:
        hs, body = split_message(data)
        hs = [[n, norm(v)] for n, v in hs]
        m = {"sink": tr["sink"], "helo": tr["helo"], "mail_from": tr["mail_from"], "mail_params": [re.sub(r"^SIZE=\d+$", "SIZE=<N>", p) for p in tr["mail_params"]],
             "rcpt": tr["rcpt"], "headers": hs}
        ctype = next((v for n, v in hs if n and n.lower() == "content-type"), "")
        dsn = parse_dsn(data) if "multipart/report" in ctype else None
        nb = norm(body.decode("latin1"))
        volatile = dsn is not None or nb != body.decode("latin1")
        m["body_sha256"] = hashlib.sha256(nb.encode("latin1")).hexdigest()
        m["body_bytes"] = len(nb)
        if dsn:
            m["dsn"] = dsn
        elif len(body) < 3000:
            m["body"] = nb
        if volatile:
            m["body_is_normalised"] = True
        out.append(m)
    return canon_sort(out)


# ----------------------------------------------------------------- client
class Client:
    def __init__(self, src, dst):
        self.s = socket.socket()
        self.s.settimeout(10)
        self.s.bind((src, 0))
        self.s.connect(dst)
        self.buf = b""

    def reply(self, timeout):
        self.s.settimeout(timeout)
        lines = []
        while True:
            while b"\n" not in self.buf:
                try:
                    d = self.s.recv(65536)
                except (socket.timeout, TimeoutError):
                    return {"code": None, "lines": lines, "note": "no reply"}
                except OSError:
                    d = b""
                if not d:
                    return {"code": None, "lines": lines, "note": "connection closed"}
                self.buf += d
            l, _, self.buf = self.buf.partition(b"\n")
            t = l.rstrip(b"\r").decode("latin1")
            lines.append(norm(t))
            if t[3:4] != "-":
                code = int(t[:3]) if t[:3].isdigit() else None
                m = re.match(r"\d\d\d[ -](\d\.\d{1,3}\.\d{1,3}) ", t)
                return {"code": code, "enhanced": m.group(1) if m else None, "lines": lines}

    def close(self):
        try:
            self.s.close()
        except OSError:
            pass


def run_session(sess, port=25):
    c = Client(sess.get("client_ip", "127.0.0.1"), ("127.0.0.1", sess.get("port", port)))
    out, last = [], None
    try:
        for st in sess["steps"]:
            if "sleep" in st:
                time.sleep(st["sleep"])
                out.append({"sleep": st["sleep"]})
                continue
            if st.get("starttls"):
                ctx = ssl.create_default_context()
                ctx.check_hostname = False
                ctx.verify_mode = ssl.CERT_NONE
                c.s.settimeout(10)
                c.s = ctx.wrap_socket(c.s)
                out.append({"starttls": True})
                continue
            if st.get("close"):
                c.close()
                out.append({"closed": True})
                break
            if "if_prev" in st and last != st["if_prev"]:
                out.append({"step": len(out), "skipped": "previous reply was not %d" % st["if_prev"]})
                continue
            data = st.get("send", "").encode("latin1") * st.get("times", 1)
            if data:
                try:
                    for chunk in st.get("chunks") or [data]:
                        c.s.sendall(chunk.encode("latin1") if isinstance(chunk, str) else chunk)
                except OSError:
                    pass
            reps = []
            for _ in range(st.get("replies", 1)):
                r = c.reply(st.get("timeout", 30))
                reps.append(r)
                last = r["code"]
                if r["code"] is None:
                    break
            out.append({"step": len(out), "replies": reps})
    finally:
        c.close()
    return out


# ----------------------------------------------------------------- Postfix driver
def write(p, t):
    os.makedirs(os.path.dirname(p), exist_ok=True)
    with open(p, "w", encoding="utf-8", errors="surrogateescape") as f:
        f.write(t)


def case_main_cf(case):
    d = dict(BASE_MAIN_CF)
    d.update(case.get("postfix", {}).get("main_cf", {}))
    return d


class PostfixDriver:
    name = "postfix"

    def prepare(self):
        for d in (ETC, QUEUE, DATA, os.path.dirname(LOG), ROOT + "/tables", ROOT + "/spool"):
            os.makedirs(d, exist_ok=True)
        shutil.chown(DATA, "postfix")
        shutil.chown(ROOT + "/spool", "nobody")
        os.chmod(ROOT, 0o755)
        for f in ("dynamicmaps.cf", "postfix-files"):
            if os.path.exists("/etc/postfix/" + f):
                shutil.copy("/etc/postfix/" + f, ETC)
        if not os.path.exists(ETC + "/dynamicmaps.cf.d"):
            os.makedirs(ETC + "/dynamicmaps.cf.d")
        subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", ETC + "/key.pem", "-out", ETC + "/cert.pem",
                        "-days", "30", "-subj", "/CN=" + HOSTNAME], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)
        write(ETC + "/master.cf", MASTER_CF)
        self.write_main(BASE_MAIN_CF)
        # `postfix -c ... check` creates the queue directories with the right owners
        subprocess.run(["postfix", "-c", ETC, "check"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def write_main(self, d):
        self.text = "".join("%s = %s\n" % (k, v) for k, v in d.items())
        write(ETC + "/main.cf", self.text)

    def start(self, case):
        pf = case.get("postfix", {})
        for f in glob.glob(ROOT + "/tables/*") + glob.glob(DATA + "/*"):
            os.unlink(f)
        for q in ("maildrop", "incoming", "active", "deferred", "hold", "bounce", "defer", "trace", "corrupt", "flush", "saved"):
            for dp, dn, fn in os.walk(QUEUE + "/" + q):
                for f in fn:
                    os.unlink(dp + "/" + f)
        for f in glob.glob(ROOT + "/spool/**", recursive=True):
            if os.path.isfile(f):
                os.unlink(f)
        open(LOG, "w").close()
        self.write_main(case_main_cf(case))
        write(ETC + "/master.cf", MASTER_CF + pf.get("master_cf_extra", ""))
        for t in pf.get("tables", []):
            p = ROOT + "/tables/" + t["file"]
            write(p, t["text"])
            if t["type"] in ("hash", "btree"):
                subprocess.run(["postmap", "-c", ETC, t["type"] + ":" + p], check=True)
            elif t["type"] == "aliases":
                subprocess.run(["postalias", "-c", ETC, "hash:" + p], check=True)
        self.p = subprocess.Popen(["/usr/lib/postfix/sbin/master", "-c", ETC, "-d"], start_new_session=True, stdin=subprocess.DEVNULL,
                                  stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                                  env={"MAIL_CONFIG": ETC, "PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C", "MAIL_LOGTAG": "postfix"})
        for _ in range(100):
            try:
                s = socket.create_connection(("127.0.0.1", 25), 5)
                banner = s.recv(4096)
                s.sendall(b"QUIT\r\n")
                s.recv(4096)
                s.close()
                if banner:
                    break
            except OSError:
                pass
            time.sleep(0.05)

    def busy(self):
        n = 0
        for q in ("maildrop", "incoming", "active"):
            for dp, dn, fn in os.walk(QUEUE + "/" + q):
                n += len(fn)
        return n

    def stop(self):
        self.p.terminate()
        try:
            self.p.wait(10)
        except subprocess.TimeoutExpired:
            self.p.kill()
            self.p.wait()
        try:                       # our own process group only: daemons that outlive their master
            os.killpg(self.p.pid, 9)
        except ProcessLookupError:
            pass
        for _ in range(100):       # a dying smtpd may still hold the listening socket
            try:
                socket.create_connection(("127.0.0.1", 25), 1).close()
                time.sleep(0.02)
            except OSError:
                break

    def queue(self):
        r = subprocess.run(["postqueue", "-c", ETC, "-j"], capture_output=True, text=True,
                           env={"MAIL_CONFIG": ETC, "PATH": "/usr/sbin:/usr/bin"})
        out = []
        for l in r.stdout.splitlines():
            j = json.loads(l)
            e = {"queue": j["queue_name"], "sender": j["sender"],
                 "recipients": [{"to": x["address"], **({"reason": self.nlog(x["delay_reason"])} if x.get("delay_reason") else {})} for x in j["recipients"]]}
            if j["queue_name"] == "hold":
                t = subprocess.run(["postcat", "-c", ETC, "-bhq", j["queue_id"]], capture_output=True).stdout
                hs, body = split_message(t.replace(b"\n", b"\r\n"))
                e["headers"] = [[n, norm(v)] for n, v in hs]
            out.append(e)
        return canon_sort(out)

    @staticmethod
    def nlog(t):
        t = norm(t)
        t = re.sub(r"\b%s: " % QID, "<QID>: ", t)
        t = re.sub(r"reply queue id %s" % QID, "reply queue id <QID>", t)
        t = re.sub(r"forwarded as %s" % QID, "forwarded as <QID>", t)
        t = re.sub(r"(dead\.backup\.test|default-mx\.sink\.test)?\[127\.0\.0\.(\d+)\]:(\d+)", lambda m: m.group(0), t)
        return t

    def extras(self):
        """what the mail log says: final status per delivery attempt, header/body check actions, warnings"""
        txt = open(LOG, errors="replace").read()
        disp, checks, warn = [], [], []
        for l in txt.splitlines():
            m = re.search(r"postfix(?:/alt)?/(\w+)\[\d+\]: (?:(%s): )?(.*)" % QID, l)
            if not m:
                continue
            prog, qid, rest = m.groups()
            if re.match(r"to=<", rest):
                f = re.match(r"to=<(.*?)>, (?:orig_to=<(.*?)>, )?relay=(.*?), (?:conn_use=\d+, )?delay=[\d.e+-]+, delays=[\d./e+-]+, dsn=([\d.]+), status=(\w+) \((.*)\)$", rest)
                if f:
                    e = {"to": f.group(1), "relay": re.sub(r"\[127[^\]]*\]", lambda m: m.group(0), f.group(3)), "dsn": f.group(4), "status": f.group(5), "text": self.nlog(f.group(6))}
                    if f.group(2):
                        e["orig_to"] = f.group(2)
                    disp.append(e)
            elif prog == "cleanup" and re.match(r"(warning|reject|info|discard|hold|prepend|replace|redirect|bcc|filter|delay|strip|milter-\w+|pass|\w+): (header|body|mime|nested) ", rest):
                f = re.match(r"([\w-]+): (\w+) (.*?) from (\S+\[\S+\]|local|unknown|\S+)(?:;| )(.*)$", rest)
                checks.append(self.nlog(re.sub(r" from=<.*", "", rest) + ("" if not re.search(r"helo=<[^>]*>: ", rest) else " :: " + re.sub(r".*helo=<[^>]*>: ", "", rest))))
            elif prog == "cleanup" and "header_checks" in rest:
                checks.append(self.nlog(rest))
            elif re.match(r"(warning|error|fatal|panic): ", rest):
                warn.append(prog + ": " + re.sub(r"\bpid \d+", "pid <PID>", self.nlog(re.sub(r"%s" % ROOT, "", rest))))
        r = {"dispositions": canon_sort(disp)}
        checks = [x for i, x in enumerate(checks) if not (" map " + ROOT in x and x in checks[:i])]   # table warnings: once
        if checks:
            r["check_log"] = checks
        if warn:
            r["warnings"] = sorted(set(warn))
        boxes = {}
        for f in glob.glob(ROOT + "/spool/**", recursive=True):
            if os.path.isfile(f):
                boxes[os.path.relpath(f, ROOT + "/spool")] = re.sub(r"(?m)^From (\S+)  .*$", r"From \1  <DATE>", norm(open(f, errors="replace").read()))
        if boxes:
            r["mailbox_files"] = {re.sub(r"\d{10}\.V\S+", "<FILE>", k): v for k, v in boxes.items()}
        return r

    def rawlog(self):
        return open(LOG, errors="replace").read()


class ExternalDriver:
    """PROG start CASEFILE  -> must return once an MTA listens on 127.0.0.1:25 (it may leave it in the background)
       PROG busy            -> exit 0 while work is pending, 1 when idle
       PROG stop            -> stop it; may print JSON {"queue": [...], "dispositions": [...]} on stdout"""
    name = "external"

    def __init__(self, prog):
        self.prog = prog

    def prepare(self):
        os.makedirs(ROOT + "/tables", exist_ok=True)

    def start(self, case):
        slim = {k: v for k, v in case.items() if k not in ("expected",)}
        write(ROOT + "/case.json", json.dumps(slim))
        subprocess.run([self.prog, "start", ROOT + "/case.json"], check=True, stdout=sys.stderr, timeout=60)
        for _ in range(100):
            try:
                socket.create_connection(("127.0.0.1", 25), 1).close()
                break
            except OSError:
                time.sleep(0.05)

    def busy(self):
        return subprocess.run([self.prog, "busy"], stdout=subprocess.DEVNULL).returncode == 0

    def stop(self):
        r = subprocess.run([self.prog, "stop"], capture_output=True, text=True, timeout=60)
        try:
            self.info = json.loads(r.stdout)
        except ValueError:
            self.info = {}

    def queue(self):
        return []

    def extras(self):
        return {}

    def rawlog(self):
        return ""


# ----------------------------------------------------------------- one case
def run_case(case, driver, servers, rawdir=None):
    store = {"messages": [], "refused": []}
    sinks = []
    servers["dns"].extra = case.get("dns") or {}
    beh = case.get("next_hops") or {}
    for n, (ip, port, proto) in SINKS.items():
        s = Sink(n, ip, port, proto, beh.get(n, beh.get("*")), store)
        s.start()
        sinks.append(s)
    try:
        return run_with_sinks(case, driver, store, rawdir)
    finally:
        for s in sinks:
            try:
                s.s.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
            s.s.close()
        for s in sinks:
            s.join(2)


def run_with_sinks(case, driver, store, rawdir):
    driver.start(case)
    try:
        sessions = [run_session(s) for s in case["input"]["sessions"]]
        t0, quiet = time.time(), 0
        limit = case.get("run", {}).get("max_wait", 20)
        while time.time() - t0 < limit:
            quiet = 0 if driver.busy() else quiet + 1
            if quiet >= 4:
                break
            time.sleep(0.06)
        if case.get("run", {}).get("settle_seconds"):
            time.sleep(case["run"]["settle_seconds"])
        res = {"sessions": sessions}
        q = driver.queue()
        res["relayed"] = outcome_messages(store)
        if store["refused"]:
            seen = []
            for r in canon_sort(store["refused"]):
                if r not in seen:
                    seen.append(r)
            res["refused_by_next_hop"] = seen
        res["queue"] = q
    finally:
        driver.stop()
    res.update(driver.extras())
    if driver.name == "external":
        res.update(getattr(driver, "info", {}))
    if case.get("run", {}).get("settle_seconds"):     # number of retries depends on timing
        res["dispositions"] = [x for i, x in enumerate(res.get("dispositions", [])) if x not in res["dispositions"][:i]]
        for e in res.get("queue", []):
            e["queue"] = "deferred" if e["queue"] == "active" else e["queue"]
            for r in e["recipients"]:
                r.pop("reason", None)
        res["queue"] = [x for i, x in enumerate(res["queue"]) if x not in res["queue"][:i]]   # listed twice while it moves
    if rawdir:
        os.makedirs(rawdir, exist_ok=True)
        write(rawdir + "/" + case["id"] + ".log", driver.rawlog())
        for i, (tr, data) in enumerate(store["messages"]):
            with open("%s/%s.%d.eml" % (rawdir, case["id"], i), "wb") as f:
                f.write(json.dumps(tr).encode() + b"\n" + data)
    return res


# ----------------------------------------------------------------- comparing
def strict_view(o, ignore_text=True):
    """the part of an outcome that a reimplementation has to match (see README)"""
    v = {"codes": [[r.get("code") for st in s if "replies" in st for r in st["replies"]] for s in o["sessions"]],
         "relayed": []}
    for m in o["relayed"]:
        e = {"sink": m["sink"], "mail_from": m["mail_from"], "rcpt": sorted((r["to"] for r in m["rcpt"]))}
        if "dsn" in m:
            d = m["dsn"]
            e["dsn"] = {"parts": [p["content_type"] for p in d["parts"]],
                        "recipients": canon_sort([{n: x.split(";", 1)[-1].strip() for n, x in blk if n in ("Final-Recipient", "Original-Recipient", "Action", "Status")}
                                                  for blk in d.get("per_recipient", [])]),
                        "has_body": d.get("returned", {}).get("has_body")}
            e["hdr_to"] = [x for n, x in m["headers"] if n and n.lower() == "to"]
        else:
            e["headers"] = [[n and n.lower(), re.sub(r"\s+", " ", x).strip()] for n, x in m["headers"]]
            for h in e["headers"]:
                own = h[0] == "received" and re.search(r"\bby (relay\.oracle\.test|other\.name\.test)\b", h[1])
                if own:      # position and protocol keyword count, the rest does not
                    w = re.search(r"\bwith (\w+)", h[1])
                    h[1] = "OWN-RECEIVED" + (" with " + w.group(1) if w else "")
                elif h[0] in ("message-id", "resent-message-id"):
                    h[1] = re.sub(r"^<GENERATED-MSGID@.*>$", "<GENERATED>", h[1])
            e["body_sha256"] = m["body_sha256"]
        v["relayed"].append(e)
    v["relayed"] = canon_sort(v["relayed"])
    v["queue"] = canon_sort([{"queue": q["queue"], "to": sorted(r["to"] for r in q["recipients"])} for q in o.get("queue", [])])
    return v


def relax(exp, act):
    """a Message-ID that the oracle generated may be any well-formed one"""
    for me, ma in zip(exp["relayed"], act["relayed"]):
        for he, ha in zip(me.get("headers", []), ma.get("headers", [])):
            if he[1] == "<GENERATED>" and he[0] == ha[0] and re.match(r"<[^<>@\s]+@[^<>@\s]+>$", ha[1]):
                ha[1] = "<GENERATED>"
    return exp, act


def diff(a, b, path=""):
    if type(a) != type(b):
        return ["%s: %r != %r" % (path, a, b)]
    if isinstance(a, dict):
        out = []
        for k in sorted(set(a) | set(b)):
            if k not in a or k not in b:
                out.append("%s.%s: only in %s: %r" % (path, k, "expected" if k in a else "actual", a.get(k, b.get(k))))
            else:
                out += diff(a[k], b[k], path + "." + k)
        return out
    if isinstance(a, list):
        if len(a) != len(b):
            return ["%s: length %d != %d: %s != %s" % (path, len(a), len(b), json.dumps(a)[:600], json.dumps(b)[:600])]
        return [x for i in range(len(a)) for x in diff(a[i], b[i], "%s[%d]" % (path, i))]
    return [] if a == b else ["%s: %r != %r" % (path, a, b)]


# ----------------------------------------------------------------- main
def worker(cfg):
    cases = json.load(open(cfg["in"]))
    subprocess.run(["mount", "--make-rprivate", "/"], check=True)
    subprocess.run(["hostname", HOSTNAME], check=True)
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    os.makedirs(ROOT, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", ROOT], check=True)
    write(ROOT + "/hosts", HOSTS)
    write(ROOT + "/resolv.conf", "nameserver 127.0.0.53\noptions timeout:2 attempts:1\n")
    write(ROOT + "/aliases", "")
    for f in ("hosts", "resolv.conf"):
        subprocess.run(["mount", "--bind", ROOT + "/" + f, os.path.realpath("/etc/" + f)], check=True)
    servers = {"dns": DNS(), "auth": DovecotAuth()}
    for s in servers.values():
        s.start()
    drv = ExternalDriver(cfg["driver"]) if cfg["driver"] else PostfixDriver()
    drv.prepare()
    results = []
    for case in cases:
        t = time.time()
        try:
            r = run_case(case, drv, servers, cfg["raw"])
        except Exception as e:
            import traceback
            traceback.print_exc()
            r = {"error": repr(e), "sessions": [], "relayed": []}
        r_main = "".join("%s = %s\n" % kv for kv in case_main_cf(case).items())
        results.append({"id": case["id"], "outcome": r, "main_cf_text": r_main})
        log("%-22s %.1fs" % (case["id"], time.time() - t))
        json.dump(results, open(cfg["result"], "w"))


def main():
    a = sys.argv[1:]
    if not a or a[0] in ("-h", "--help"):
        print(__doc__)
        return 2
    cmd, a = a[0], a[1:]
    if cmd == "_worker":
        worker(json.load(open(a[0])))
        os._exit(0)
    jobs, raw, driver, out, loose, files, missing = 2, None, None, None, False, [], False
    while a:
        x = a.pop(0)
        if x == "-j":
            jobs = int(a.pop(0))
        elif x == "--raw":
            raw = os.path.abspath(a.pop(0))
        elif x == "--driver":
            driver = os.path.abspath(a.pop(0))
        elif x == "--out":
            out = a.pop(0)
        elif x == "--loose":
            loose = True
        elif x == "--missing":
            missing = True
        else:
            files.append(x)
    cases = []
    for f in files:
        for c in (lambda d: d if isinstance(d, list) else [d])(json.load(open(f))):
            c["_file"] = os.path.abspath(f)
            cases.append(c)
    todo = [c for c in cases if not (missing and cmd == "record" and "expected" in c)]
    os.makedirs(ROOT, exist_ok=True)
    procs, tmp = [], tempfile.mkdtemp(prefix="oracle-run-")
    cases_by_cost = sorted(todo, key=lambda c: -c.get("run", {}).get("settle_seconds", 0))
    for w in range(jobs):
        mine = cases_by_cost[w::jobs]
        if not mine:
            continue
        json.dump(mine, open("%s/in%d" % (tmp, w), "w"))
        json.dump({"in": "%s/in%d" % (tmp, w), "result": "%s/out%d" % (tmp, w), "raw": raw, "driver": driver}, open("%s/cfg%d" % (tmp, w), "w"))
        procs.append(subprocess.Popen(["unshare", "--mount", "--net", "--uts", "--pid", "--fork", "--kill-child", "--mount-proc",
                                       sys.executable, os.path.abspath(__file__), "_worker", "%s/cfg%d" % (tmp, w)]))
    rc = [p.wait() for p in procs]
    res = {}
    for w in range(jobs):
        if os.path.exists("%s/out%d" % (tmp, w)):
            for r in json.load(open("%s/out%d" % (tmp, w))):
                res[r["id"]] = r
    shutil.rmtree(tmp)
    bad = 0
    if cmd == "record":
        byfile = {}
        for c in cases:
            byfile.setdefault(c["_file"], []).append(c)
        for f, cs in byfile.items():
            for c in cs:
                if c not in todo:
                    continue
                r = res.get(c["id"])
                if not r or "error" in r["outcome"]:
                    log("FAILED to record", c["id"], r and r["outcome"].get("error"))
                    bad += 1
                    continue
                c["postfix"]["main_cf_text"] = r["main_cf_text"]
                c["expected"] = r["outcome"]
            for c in cs:
                c.pop("_file")
            single = not isinstance(json.load(open(f)), list)
            with open(f, "w") as fh:
                json.dump(cs[0] if single else cs, fh, indent=1, ensure_ascii=True)
                fh.write("\n")
    elif cmd == "check":
        for c in cases:
            r = res.get(c["id"])
            e, g = c["expected"], r["outcome"] if r else {"sessions": [], "relayed": []}
            d = diff(*relax(strict_view(e), strict_view(g))) if loose or driver else diff(e, g)
            print("%s %s" % ("ok  " if not d else "DIFF", c["id"]))
            for x in d[:12]:
                print("     ", x)
            bad += bool(d)
        print("%d passed, %d failed" % (len(cases) - bad, bad))
    else:
        txt = json.dumps([res.get(c["id"]) for c in cases], indent=1)
        if out:
            open(out, "w").write(txt)
        else:
            print(txt)
    if out and cmd != "run":
        open(out, "w").write(json.dumps(res, indent=1))
    return 1 if bad or any(rc) else 0


if __name__ == "__main__":
    sys.exit(main())

# syntax=docker/dockerfile:1
ARG PYTHON_VERSION=3.13

FROM python:${PYTHON_VERSION}-slim AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
# 32-bit ARM finds no wheel for some dependencies and compiles them; any compiler will do.
# hadolint ignore=DL3008
RUN if [ "$(uname -m)" = armv7l ]; then \
        apt-get update && apt-get install --yes --no-install-recommends gcc libc6-dev; \
    fi
RUN python -m venv --without-pip /opt/relay
WORKDIR /src
COPY LICENSE README.md pyproject.toml ./
COPY relay ./relay
RUN pip --python /opt/relay/bin/python install .

FROM python:${PYTHON_VERSION}-slim
# Others may pass through the folder to the maildrop, and see nothing else: the files in it are the relay's alone.
RUN install --directory --owner=10001 --group=10001 --mode=0711 /var/lib/relay \
 && install --directory --mode=0755 /etc/relay \
 && ln -s /opt/relay/bin/relay /usr/sbin/sendmail \
 && ln -s /opt/relay/bin/relay /usr/bin/mailq \
 && ln -s /opt/relay/bin/relay /usr/bin/newaliases
COPY --from=build /opt/relay /opt/relay
ENV PATH=/opt/relay/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
# Port 25 needs no root: Docker sets net.ipv4.ip_unprivileged_port_start=0 in containers since 20.10.
USER 10001:10001
# The queue; all else may be read-only (docker run --read-only). Settings go to /etc/relay/relay.toml.
VOLUME /var/lib/relay
EXPOSE 25
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=5s --start-period=10s CMD ["relay", "healthcheck"]
ENTRYPOINT ["relay"]
CMD ["serve"]

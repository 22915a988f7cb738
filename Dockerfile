ARG PYTHON_VERSION=3.13

FROM python:${PYTHON_VERSION}-slim AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
# strip; and compilers for 32-bit ARM, where some dependencies have no wheel.
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install --yes --no-install-recommends binutils \
 && if [ "$(dpkg --print-architecture)" = armhf ]; then \
        apt-get install --yes --no-install-recommends gcc libc6-dev libffi-dev; \
    fi
WORKDIR /src
# What is installed is exactly what `make lock` wrote down, by its hashes.
COPY requirements ./requirements
RUN set -e; \
    [ "$(dpkg --print-architecture)" = armhf ] || export PIP_ONLY_BINARY=:all:; \
    python -m venv --without-pip /opt/relay; \
    pip install --require-hashes --requirement requirements/build.txt; \
    pip --python /opt/relay/bin/python install --no-compile --require-hashes --requirement requirements/relay.txt; \
    find /opt/relay -name '*.so' -exec strip --strip-unneeded {} +; \
    find /opt/relay -type d -name tests -prune -exec rm -r {} +
COPY LICENSE README.md pyproject.toml ./
COPY relay ./relay
RUN pip wheel --no-deps --no-build-isolation --wheel-dir dist . \
 && pip --python /opt/relay/bin/python install --no-compile --no-deps --no-index dist/*.whl

FROM python:${PYTHON_VERSION}-slim
COPY --from=build /opt/relay /opt/relay
# All that the relay imports is compiled here, Python's own modules too: it can't be later, and each health check would
# do it again. Others may pass through /var/lib/relay to the maildrop, and see nothing else: the files in it are the
# relay's alone.
RUN /opt/relay/bin/python -c "import pkgutil, uvloop, relay; [__import__(module.name) for module in pkgutil.walk_packages(relay.__path__, 'relay.') if module.name != 'relay.__main__']" \
 && install --directory --owner=10001 --group=10001 --mode=0711 /var/lib/relay \
 && install --directory --mode=0755 /etc/relay \
 && ln -s /opt/relay/bin/relay /usr/sbin/sendmail \
 && ln -s /opt/relay/bin/relay /usr/bin/mailq \
 && ln -s /opt/relay/bin/relay /usr/bin/newaliases
# "container" tells programs that they run in one: the relay then looks out for Docker's gateway (docs/container.md).
ENV PATH=/opt/relay/bin:$PATH PYTHONUNBUFFERED=1 container=oci
# Port 25 needs no root: Docker sets net.ipv4.ip_unprivileged_port_start=0 in containers since 20.10.
USER 10001:10001
# The queue; all else may be read-only (docker run --read-only). Settings go to /etc/relay/relay.toml.
VOLUME /var/lib/relay
# The status page, 8025, answers others than the container itself only where [web] says so.
EXPOSE 25 465 587 8025
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=5s --start-period=10s CMD ["relay", "healthcheck"]
ENTRYPOINT ["relay"]
CMD ["serve"]
ARG VERSION=unknown
LABEL org.opencontainers.image.title="relay" \
      org.opencontainers.image.description="The mail relay for a home gateway" \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.version="${VERSION}"

# flowstate-daemon in a container: docs/container.md tells how to run it.
#   docker build -t flowstate-daemon .

FROM python:3.12-slim AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /src
# The tools first, then what the daemon stands on, then the daemon: an edit of ours rebuilds the last layer only.
# Each step installs exactly the versions in constraints.txt, and the environment itself gets no pip. Of the thousand
# languages that Babel knows it keeps those of the mails: 30 MB less.
COPY constraints.txt pyproject.toml ./
RUN pip install --constraint constraints.txt hatchling \
    && python -m venv --without-pip /opt/flowstate-daemon \
    && python -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["dependencies"], sep="\n")' > needs.txt \
    && pip --python /opt/flowstate-daemon install --no-compile --only-binary :all: --constraint constraints.txt --requirement needs.txt \
    && find /opt/flowstate-daemon -path '*/babel/locale-data/*.dat' ! -name root.dat ! -name en.dat ! -name fr.dat -delete
COPY README.md LICENSE ./
COPY flowstate_daemon flowstate_daemon
# Compiled here, because nothing can be written where it runs; unchecked, because builders do not agree on file times.
RUN pip wheel --no-deps --no-build-isolation --wheel-dir wheels . \
    && pip --python /opt/flowstate-daemon install --no-compile --no-deps wheels/*.whl \
    && /opt/flowstate-daemon/bin/python -m compileall -q -j 0 --invalidation-mode unchecked-hash /opt/flowstate-daemon/lib

FROM python:3.12-slim
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="flowstate-daemon" \
      org.opencontainers.image.description="Sends FlowState's e-mail from a Bull 4 queue" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.licenses="MIT"
# A fixed number, so that a supervisor can see that it is not root and an operator can give it files.
# Nothing is ever installed in here again.
RUN groupadd --gid 10001 flowstate \
    && useradd --uid 10001 --gid 10001 --home-dir /var/lib/flowstate-daemon --no-create-home --shell /usr/sbin/nologin flowstate \
    && install --directory --owner 10001 --group 10001 --mode 0750 /var/lib/flowstate-daemon/outbox \
    && python -m pip uninstall --yes --quiet --root-user-action ignore pip
COPY --from=build /opt/flowstate-daemon /opt/flowstate-daemon
# All addresses: the container's own network is around it, and what is published is decided outside.
ENV PATH=/opt/flowstate-daemon/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    FLOWSTATE_HTTP_HOST=0.0.0.0 \
    FLOWSTATE_LOG_FORMAT=json \
    FLOWSTATE_OUTBOX_FOLDER=/var/lib/flowstate-daemon/outbox
WORKDIR /var/lib/flowstate-daemon
# Without RESEND_API_KEY mails are written here; all else may be read-only.
VOLUME /var/lib/flowstate-daemon/outbox
USER 10001:10001
EXPOSE 8080
STOPSIGNAL SIGTERM
# Alive, not ready: starting the daemon again cures no outage of Redis or of the provider.
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 CMD ["flowstate-daemon", "health"]
# The daemon itself is PID 1: it gets SIGTERM, drains, and buries what others leave behind.
ENTRYPOINT ["flowstate-daemon"]
CMD ["run"]

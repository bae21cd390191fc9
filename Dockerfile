# The image of flowstate-daemon: see docs/container.md.
#   docker build -t flowstate-daemon .

# Tag and digest: the tag says what it is, the digest is what is used. To update both see docs/container.md.
ARG PYTHON_IMAGE=python:3.12.14-slim-trixie@sha256:78387bc3881b8273120a12ebe6c1ab22b018ccc2c9adf565ae1ac9b536e184ea

FROM ${PYTHON_IMAGE} AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /src
# Build tools first, then dependencies, then the daemon: a change of our code rebuilds only the last layer.
# Only wheels whose hash is listed are installed, so no code of a package runs here, and the environment itself has no pip.
# Of Babel's locale data only the languages of the emails are kept, which saves 30 MB: add those of your own
# mail.kinds_dir, LOCALES="root|en|fr|pl".
ARG LOCALES="root|en|fr"
# EXTRA=otel: also the packages for OpenTelemetry traces.
ARG EXTRA=""
COPY requirements.txt requirements-otel.txt requirements-build.txt ./
RUN pip install --require-hashes --only-binary :all: --requirement requirements-build.txt \
    && python -m venv --without-pip /opt/flowstate-daemon \
    && pip --python /opt/flowstate-daemon install --no-compile --no-deps --require-hashes --only-binary :all: --requirement "requirements${EXTRA:+-$EXTRA}.txt" \
    && find /opt/flowstate-daemon -path '*/babel/locale-data/*.dat' -regextype posix-extended ! -regex ".*/($LOCALES)[.]dat" -delete
COPY pyproject.toml README.md LICENSE ./
COPY flowstate_daemon flowstate_daemon
# Compiled here, because the container's file system is read-only; unchecked, because file times differ between builders.
RUN pip wheel --no-index --no-deps --no-build-isolation --wheel-dir wheels . \
    && pip --python /opt/flowstate-daemon install --no-compile --no-index --no-deps wheels/*.whl \
    && /opt/flowstate-daemon/bin/python -m compileall -q -j 0 --invalidation-mode unchecked-hash /opt/flowstate-daemon/lib

FROM ${PYTHON_IMAGE}
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="flowstate-daemon" \
      org.opencontainers.image.description="Sends FlowState's emails from a Bull 4 queue" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.licenses="MIT"
# A fixed numeric user, so that an orchestrator can verify that it is not root and operators can set file ownership.
# pip is removed: nothing is installed at run time.
RUN groupadd --gid 10001 flowstate \
    && useradd --uid 10001 --gid 10001 --home-dir /var/lib/flowstate-daemon --no-create-home --shell /usr/sbin/nologin flowstate \
    && install --directory --owner 10001 --group 10001 --mode 0750 /var/lib/flowstate-daemon/outbox \
    && python -m pip uninstall --yes --quiet --root-user-action ignore pip
COPY --from=build /opt/flowstate-daemon /opt/flowstate-daemon
# The documentation, in the layout of the repository, so that the links between the pages work.
COPY README.md CHANGELOG.md CONTRIBUTING.md SECURITY.md LICENSE /opt/flowstate-daemon/share/doc/flowstate-daemon/
COPY docs /opt/flowstate-daemon/share/doc/flowstate-daemon/docs
# Listens on all addresses of the container's network; the operator decides which ports are published.
ENV PATH=/opt/flowstate-daemon/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    FLOWSTATE_HTTP_HOST=0.0.0.0 \
    FLOWSTATE_LOG_FORMAT=json \
    FLOWSTATE_OUTBOX_FOLDER=/var/lib/flowstate-daemon/outbox
WORKDIR /var/lib/flowstate-daemon
# With FLOWSTATE_DELIVERY=outbox emails are written here; everything else can be read-only.
VOLUME /var/lib/flowstate-daemon/outbox
USER 10001:10001
EXPOSE 8080
STOPSIGNAL SIGTERM
# Liveness, not readiness: a restart does not help when Redis or the provider is down.
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 CMD ["flowstate-daemon", "health"]
# The daemon is PID 1: it receives SIGTERM, drains, and reaps orphaned processes.
ENTRYPOINT ["flowstate-daemon"]
CMD ["run"]

# syntax=docker/dockerfile:1
# The gateway. No torch.
# Build from the repository root: docker build -f infra/images/gateway.Dockerfile --build-arg BASE_DIGEST=@sha256:... .
ARG BASE=docker.io/library/python:3.11.14-slim-bookworm
ARG BASE_DIGEST=

FROM ${BASE}${BASE_DIGEST} AS build
WORKDIR /src
ENV UV_NO_CACHE=1 UV_COMPILE_BYTECODE=1 UV_LINK_MODE=copy PIP_NO_CACHE_DIR=1
COPY infra/uv.lock infra/uv.lock
RUN python -m venv /opt/uv && /opt/uv/bin/pip install --quiet --require-hashes -r infra/uv.lock
# The packages before the code, so that a change of the code builds nothing but its wheel.
COPY infra/locks/build.lock infra/locks/gateway.lock infra/locks/
RUN python -m venv --without-pip /opt/build \
    && /opt/uv/bin/uv pip sync --quiet --python /opt/build/bin/python --require-hashes infra/locks/build.lock
RUN python -m venv --without-pip /opt/streamo \
    && /opt/uv/bin/uv pip sync --quiet --python /opt/streamo/bin/python --require-hashes infra/locks/gateway.lock
COPY pyproject.toml README.md LICENSE ./
COPY protos protos
COPY models models
COPY services services
RUN /opt/build/bin/python -m hatchling build -t wheel -d /opt/build/dist \
    && /opt/uv/bin/uv pip install --quiet --offline --no-deps --python /opt/streamo/bin/python /opt/build/dist/*.whl

FROM ${BASE}${BASE_DIGEST}
COPY --from=build /opt/streamo /opt/streamo
# /tmp is the one place that is written to; the rest may be mounted read-only.
ENV PATH=/opt/streamo/bin:$PATH HOME=/tmp PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 OMP_NUM_THREADS=1
WORKDIR /tmp
USER 10001:10001
# The check asks where there is never TLS.
ENV STREAMO_GATEWAY__HOST=0.0.0.0 STREAMO_GATEWAY__HEALTH_PORT=50052
EXPOSE 50051
HEALTHCHECK --interval=10s --timeout=10s --start-period=60s --retries=3 \
    CMD ["python", "-c", "import sys; from services.local.gateway_health import gateway_serves; sys.exit(not gateway_serves('127.0.0.1:50052', 5))"]
CMD ["python", "-m", "services.gateway"]

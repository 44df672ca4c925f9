# syntax=docker/dockerfile:1
# Encoder and LLM on Ray: the whole of it on one machine, or the head and workers of a RayService.
# Build from the repository root: docker build -f infra/images/model.Dockerfile --build-arg BASE_DIGEST=@sha256:... .
ARG BASE=docker.io/library/python:3.11.14-slim-bookworm
ARG BASE_DIGEST=

FROM ${BASE}${BASE_DIGEST} AS build
WORKDIR /src
ENV UV_NO_CACHE=1 UV_COMPILE_BYTECODE=1 UV_LINK_MODE=copy PIP_NO_CACHE_DIR=1
COPY infra/uv.lock infra/uv.lock
RUN python -m venv /opt/uv && /opt/uv/bin/pip install --quiet --require-hashes -r infra/uv.lock
# The packages before the code, so that a change of the code builds nothing but its wheel.
COPY infra/locks/build.lock infra/locks/model.lock infra/locks/
RUN python -m venv --without-pip /opt/build \
    && /opt/uv/bin/uv pip sync --quiet --python /opt/build/bin/python --require-hashes infra/locks/build.lock
RUN python -m venv --without-pip /opt/streamo \
    && /opt/uv/bin/uv pip sync --quiet --python /opt/streamo/bin/python --require-hashes infra/locks/model.lock
COPY pyproject.toml README.md LICENSE ./
COPY protos protos
COPY models models
COPY services services
RUN /opt/build/bin/python -m hatchling build -t wheel -d /opt/build/dist \
    && /opt/uv/bin/uv pip install --quiet --offline --no-deps --python /opt/streamo/bin/python /opt/build/dist/*.whl

FROM ${BASE}${BASE_DIGEST}
# Triton compiles the launchers of the paged attention's kernels on the GPU machine itself.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/*
COPY --from=build /opt/streamo /opt/streamo
# /tmp is the one place that is written to; the rest may be mounted read-only.
ENV PATH=/opt/streamo/bin:$PATH HOME=/tmp PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 OMP_NUM_THREADS=1
WORKDIR /tmp
USER 10001:10001
ENV RAY_USAGE_STATS_ENABLED=0 RAY_DEDUP_LOGS=0
# Of the host below; a RayService has probes of its own.
HEALTHCHECK --interval=10s --timeout=5s --start-period=300s --retries=3 CMD ["test", "-f", "/tmp/model-ready.json"]
CMD ["python", "-m", "services.local.ray_host", "--ready", "/tmp/model-ready.json", "--temp-dir", "/tmp/ray"]

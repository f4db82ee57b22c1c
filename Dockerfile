# The base is an argument, so that a deployment can pin it by digest.
ARG PYTHON_IMAGE=python:3.11-slim

FROM ${PYTHON_IMAGE} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
WORKDIR /build
COPY requirements-build.lock requirements.lock ./
# Nothing that builds goes into the environment that serves.
RUN python -m venv tools && tools/bin/pip install --require-hashes -r requirements-build.lock
RUN python -m venv /opt/keelmark && /opt/keelmark/bin/pip install --require-hashes -r requirements.lock
COPY . .
RUN tools/bin/hatchling build -t wheel \
    && /opt/keelmark/bin/pip install --no-deps dist/*.whl \
    && /opt/keelmark/bin/pip uninstall --yes pip setuptools

FROM ${PYTHON_IMAGE}
# onnxruntime must not report or write anywhere; the variable counts only when set before its import.
ENV ORT_DISABLE_TELEMETRY=1 \
    PATH=/opt/keelmark/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    KEELMARK_STATE_DIR=/var/lib/keelmark
RUN groupadd --gid 10001 keelmark \
    && useradd --uid 10001 --gid keelmark --no-create-home --home-dir /var/lib/keelmark keelmark \
    && install --directory --owner keelmark --group keelmark --mode 0700 /var/lib/keelmark
COPY --from=build /opt/keelmark /opt/keelmark
USER 10001:10001
WORKDIR /var/lib/keelmark
VOLUME /var/lib/keelmark
# 8080 answers predictions; 8081 has health and metrics open, the rest of it asks for a token.
EXPOSE 8080 8081
ENTRYPOINT ["keelmark"]
CMD ["serve", "--host", "0.0.0.0", "--ops-host", "0.0.0.0"]

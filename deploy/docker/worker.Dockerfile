# A worker, `moodq worker`. From the repository's root:
#   docker build -f deploy/docker/worker.Dockerfile -t moodq-worker .
#   docker build -f deploy/docker/worker.Dockerfile --build-arg BAKE_MODEL=1 -t moodq-worker:with-model .
# Runs with a read-only root file system; /var/lib/moodq (the model, unless baked in) and /tmp are written to.
ARG PYTHON=3.12.12-slim-bookworm

FROM python:${PYTHON} AS wheel
WORKDIR /src
RUN python -m venv /build && /build/bin/python -m pip install --no-cache-dir build==1.3.0 hatchling==1.27.0
COPY pyproject.toml README.md LICENSE ./
COPY config config
COPY producer producer
COPY worker worker
RUN /build/bin/python -m build --wheel --no-isolation --outdir /wheel

FROM python:${PYTHON} AS packages
# The index of torch's CPU builds; the usual one brings CUDA. For GPUs: one that has them.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
ARG TORCH=2.13.0
COPY deploy/constraints.txt /constraints.txt
RUN python -m venv /opt/moodq \
    && /opt/moodq/bin/python -m pip install --no-cache-dir --index-url "${TORCH_INDEX}" "torch==${TORCH}" \
    && /opt/moodq/bin/python -m pip install --no-cache-dir --require-hashes -r /constraints.txt
COPY --from=wheel /wheel /wheel
RUN /opt/moodq/bin/python -m pip install --no-cache-dir --no-deps /wheel/*.whl
ARG BAKE_MODEL=
RUN mkdir -p /var/lib/moodq \
    && if [ -n "${BAKE_MODEL}" ]; then MOODQ_DATA_DIR=/var/lib/moodq /opt/moodq/bin/moodq model pull; fi \
    && chown -R 10001:10001 /var/lib/moodq

FROM python:${PYTHON}
RUN useradd --uid 10001 --user-group --no-create-home --shell /usr/sbin/nologin moodq
COPY --from=packages /opt/moodq /opt/moodq
COPY --from=packages --chown=10001:10001 /var/lib/moodq /var/lib/moodq
ENV PATH=/opt/moodq/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    HOME=/tmp \
    MOODQ_DATA_DIR=/var/lib/moodq \
    MOODQ_METRICS_HOST=0.0.0.0
WORKDIR /var/lib/moodq
USER 10001:10001
EXPOSE 9464
STOPSIGNAL SIGTERM
# The first start fetches and converts the model.
HEALTHCHECK --interval=15s --timeout=5s --start-period=10m --retries=3 \
    CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:9464/healthz', timeout=4)"]
ENTRYPOINT ["moodq"]
CMD ["worker"]

# The HTTP gateway, `moodq gateway`, and what else needs no model: `moodq exporter`, `moodq send`, `moodq failed`.
#   docker build -f deploy/docker/gateway.Dockerfile -t moodq-gateway .
# Runs with a read-only root file system.
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
COPY deploy/constraints-gateway.txt /constraints.txt
RUN python -m venv /opt/moodq \
    && /opt/moodq/bin/python -m pip install --no-cache-dir --require-hashes -r /constraints.txt
COPY --from=wheel /wheel /wheel
RUN /opt/moodq/bin/python -m pip install --no-cache-dir --no-deps /wheel/*.whl

FROM python:${PYTHON}
RUN useradd --uid 10001 --user-group --no-create-home --shell /usr/sbin/nologin moodq
COPY --from=packages /opt/moodq /opt/moodq
ENV PATH=/opt/moodq/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    HOME=/tmp \
    MOODQ_DATA_DIR=/tmp \
    MOODQ_GATEWAY_HOST=0.0.0.0
WORKDIR /tmp
USER 10001:10001
EXPOSE 8080
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=15s --timeout=5s --start-period=30s --retries=3 \
    CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8080/healthz', timeout=4)"]
ENTRYPOINT ["moodq"]
CMD ["gateway"]

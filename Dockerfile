# The image of GPU jobs: docker build -t registry.example.com/dare-torchrec:0.1.0 .
# torch's wheels bring CUDA and NCCL; the driver comes from the host (NVIDIA container toolkit).
FROM python:3.12-slim-bookworm

SHELL ["/bin/bash", "-o", "pipefail", "-c"]

# What NCCL opens at run time where hosts have InfiniBand or RoCE. Security updates change versions.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ibverbs-providers libibverbs1 librdmacm1 \
    && rm -rf /var/lib/apt/lists/*

# Jobs run as this user; they write below these folders, or where something is mounted.
RUN useradd --create-home --uid 1000 trainer \
    && install --directory --owner=trainer --group=trainer /opt/dare /opt/dare/data /opt/dare/runs

WORKDIR /opt/dare

# Dependencies change seldom: a layer of their own, before the code.
COPY requirements.txt ./
RUN pip install --no-cache-dir -r requirements.txt

# Editable, so that files which `torchx run` lays over this folder are the ones that run.
COPY pyproject.toml README.md LICENSE ./
COPY trainer trainer
COPY modules modules
COPY pipelines pipelines
COPY launch launch
RUN pip install --no-cache-dir --no-deps --editable .

ENV NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1

# By number: Kubernetes checks runAsNonRoot by it.
USER 1000:1000

# No ENTRYPOINT: TorchX gives the whole command.
CMD ["dare", "doctor"]

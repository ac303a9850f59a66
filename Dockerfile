# The command jaxrl-prefs in a container. From a clone:
#
#     docker build -t jaxrl-prefs .
#     docker run --rm -v "$PWD/runs:/runs" --user "$(id -u)" jaxrl-prefs run --algo=bdpo --seeds=5
#
# With CUDA (any base image that has Python 3.11 or newer, or apt, will do):
#
#     docker build -t jaxrl-prefs:cuda --build-arg EXTRAS=[cuda] \
#         --build-arg BASE=nvidia/cuda:12.8.1-base-ubuntu24.04 .
#     docker run --rm --gpus=all -v "$PWD/runs:/runs" --user "$(id -u)" jaxrl-prefs:cuda run
#
# A run is kept in /runs/<algo>-<dataset>, datasets in /runs/datasets: mount a folder of yours there.

ARG BASE=python:3.12-slim-bookworm
FROM ${BASE}

# [cuda], [tensorboard,wandb], ...: the extras of pyproject.toml, with their brackets.
ARG EXTRAS=""

RUN command -v python3 || { \
        apt-get update \
        && apt-get install --yes --no-install-recommends python3 python3-venv \
        && rm -rf /var/lib/apt/lists/*; \
    }
RUN python3 -m venv /venv
ENV PATH="/venv/bin:$PATH"

COPY pyproject.toml constraints.txt README.md LICENSE /source/
COPY jaxrl_prefs /source/jaxrl_prefs
RUN pip install --no-cache-dir -c /source/constraints.txt "/source${EXTRAS}"

# Caches of JAX, Matplotlib and Hugging Face go below HOME, whatever user the container runs as.
RUN useradd --system --no-create-home trainer \
    && mkdir -p /runs /cache \
    && chmod -R 0777 /runs /cache
ENV HOME=/cache \
    MPLBACKEND=Agg \
    MINARI_DATASETS_PATH=/runs/datasets \
    PYTHONUNBUFFERED=1
USER trainer
WORKDIR /

ENTRYPOINT ["jaxrl-prefs"]
CMD ["--help"]

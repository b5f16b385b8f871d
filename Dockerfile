# A CUDA host with the versions of constraints.txt.
#   docker build -t genesis_ds .
#   docker run --rm --gpus all --shm-size 8g --ulimit memlock=-1 -v "$PWD":/work -v genesis_ds_cache:/root/.cache \
#       genesis_ds genesis-ds train --config mine.yaml
# torch 2.13.0 comes with CUDA 13.0, and DeepSpeed compiles its operations by an nvcc of the same release, on first use:
# the volume keeps them. NCCL takes shared memory, and NVMe offload locks its buffers in memory.
FROM nvidia/cuda:13.0.1-devel-ubuntu24.04

RUN apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
        ca-certificates g++ git libaio-dev openssh-client pdsh python3-dev python3-venv \
    && rm -rf /var/lib/apt/lists/*

ENV LC_ALL=C.UTF-8 PIP_NO_CACHE_DIR=1
COPY . /opt/genesis_ds
RUN bash -euo pipefail -c "source /opt/genesis_ds/launch/setup.sh"
ENV VIRTUAL_ENV=/opt/genesis_ds/.venv PATH=/opt/genesis_ds/.venv/bin:$PATH

WORKDIR /work
CMD ["genesis-ds"]

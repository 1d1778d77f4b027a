#!/usr/bin/env bash
# Builds the image, tries it out as the manifests will run it, pushes it, and prints the
# name with the digest, for the head of a manifest or for launch --image.
#
#   docker/build.sh REGISTRY/seamline:TAG [gpu|cpu] [ENCODER …]
#
# ENCODER: names from docs/models.md; their ImageNet weights come into the image.
set -euo pipefail
cd "$(dirname "$0")/.."

image="${1:?use: docker/build.sh REGISTRY/seamline:TAG [gpu|cpu] [ENCODER …]}"
variant="${2:-gpu}"
encoders="${*:3}"

if [[ "$variant" != gpu && "$variant" != cpu ]]; then
  echo "error: $variant: choose gpu or cpu" >&2
  exit 2
fi

DOCKER_BUILDKIT=1 docker build --file docker/Dockerfile --tag "$image" \
  --build-arg "VARIANT=$variant" --build-arg "ENCODERS=$encoders" . >&2

# As in a pod: no root, nothing to write but /scratch, no capabilities; and no network.
restricted=(--read-only --tmpfs "/scratch:uid=10001,gid=10001" --workdir /scratch
  --user 10001:10001 --cap-drop ALL --security-opt no-new-privileges --network none
  --env HOME=/scratch --env TMPDIR=/scratch --env KERAS_HOME=/scratch/keras)
small=(--dataset=sample --encoder=mobilenetv2 --encoder_weights=none --image_size=32
  --batch_size=4 --steps_per_epoch=2)

echo "Trying out: a training of two steps" >&2
docker run --rm "${restricted[@]}" "$image" trainer.task "${small[@]}" --epochs=1 >&2

echo "Trying out: SIGTERM saves and ends with 143" >&2
container="$(docker run --detach "${restricted[@]}" "$image" \
  trainer.task "${small[@]}" --epochs=1000000)"
trap 'docker rm --force "$container" >/dev/null' EXIT
if ! grep --quiet "training step" < <(docker logs --follow "$container" 2>&1); then
  echo "error: $image ended before it trained" >&2
  exit 1
fi
docker stop --time 120 "$container" >/dev/null
code="$(docker wait "$container")"
if [[ "$code" != 143 ]]; then
  echo "error: $image ended with $code at SIGTERM, not with 143" >&2
  exit 1
fi

docker push --quiet "$image" >&2
# The same image may have been pushed to other places too.
name="${image%:"${image##*[:/]}"}"
# All of it first: grep ends at its first match, and a pipe would break behind it.
names="$(docker inspect --format '{{join .RepoDigests "\n"}}' "$image")"
grep --extended-regexp --max-count=1 "^(docker\.io/)?${name#docker.io/}@" <<<"$names"

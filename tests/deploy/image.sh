#!/bin/bash
# Builds the image of the Dockerfile without a container engine and without an image registry: the images that FROM
# and the compose file name are made here, out of Debian packages and this machine's CPython. Prints nothing when well.
#   image.sh TAG
. "$(dirname "$(readlink -f "$0")")/debian.sh"
HERE=$(dirname "$(readlink -f "$0")")
TOP=$(readlink -f "$HERE/../..")
CONTEXT=$LAB/context
PYTHON=${STAND_IN_PYTHON:-3.12}
CAS=/etc/ssl/certs/ca-certificates.crt
build() { # build NAME TAG OPTION…: quietly, with this machine's CAs during RUN only: they are in no image
  printf '[global]\ncert = %s\n' "$CAS" >"$LAB/pip.conf"
  quietly "build-$1" nice "$HERE/podman.sh" buildah bud --pull-never --layers --format docker -t "$2" \
    -v "$CAS:$CAS:ro" -v "$LAB/pip.conf:/etc/pip.conf:ro" "${@:3}"
}
made() { "$HERE/podman.sh" image exists "$1"; }
stand_in() { # stand_in NAME FOR: one image of stand_ins/, under the name of what it stands in for
  made "$2" && return
  say "making a stand-in for $2"
  cp "$HERE"/stand_ins/* "$CONTEXT/"
  build "$1" "$2" -f "$CONTEXT/$1.Dockerfile" "$CONTEXT"
}
cpython() { # this machine's CPython as a tar, with first lines that are right in /usr/local
  local found copy=$LAB/cpython
  found=$(ls -d "${PYENV_ROOT:-$HOME/.pyenv}/versions/$PYTHON".* 2>/dev/null | sort -V | tail -1) || true
  [ -n "$found" ] || { say "no pyenv with Python $PYTHON to make a stand-in of: pyenv install $PYTHON"; exit 69; }
  rm -rf "$copy"; mkdir "$copy"
  tar -C "$found" --exclude=test --exclude=tests --exclude=__pycache__ --exclude='*.a' -cf - . | tar -C "$copy" --no-same-owner -xf -
  rm -rf "$copy"/lib/python*/site-packages/*
  quietly ensurepip env -i "$copy/bin/python$PYTHON" -m ensurepip
  grep -lIr '^#!.*python' "$copy/bin" | xargs sed -i "1s|^#!.*|#!/usr/local/bin/python$PYTHON|"
  tar -C "$copy" -cf "$CONTEXT/python.tar" .
}

need tar
mkdir -p "$CONTEXT"
if ! made localhost/stand-in/debian; then
  debian root "netbase,tzdata,libssl3,libffi8,libsqlite3-0,libbz2-1.0,liblzma5,zlib1g,libreadline8,libncursesw6,libuuid1,libexpat1,libgdbm6"
  tar -C "$LAB/root" --exclude='./proc/*' --exclude='./sys/*' --exclude='./dev/*' --exclude='./var/cache/apt/archives/*.deb' -cf "$CONTEXT/root.tar" .
  stand_in debian localhost/stand-in/debian
  rm "$CONTEXT/root.tar"
fi
made docker.io/library/python:3.12-slim || cpython
stand_in python docker.io/library/python:3.12-slim
stand_in redis docker.io/library/redis:7-alpine
stand_in postgres docker.io/library/postgres:16-alpine
stand_in prometheus docker.io/prom/prometheus:v3.7.3
# A digest names the published image only.
build daemon "$1" --build-arg PYTHON_IMAGE=python:3.12-slim -f "$TOP/Dockerfile" "$TOP"

#!/bin/sh
# install.sh PREFIX ARGUMENT...: installs what pip's arguments say below PREFIX, as the virtual environment /opt/offshelf has
# it; what is in that environment already is not installed again. Removes what never runs and compiles the rest.
#
# pip's configuration and its certificates may come as secrets of the build.
set -eu
prefix=$1
shift
if [ -s /run/secrets/pip ]; then export PIP_CONFIG_FILE=/run/secrets/pip; fi
if [ -s /run/secrets/ca ]; then export PIP_CERT=/run/secrets/ca; fi
mkdir -p "$prefix/bin"
python -m pip --python /opt/offshelf/bin/python --disable-pip-version-check --no-input --cache-dir /var/cache/pip \
  install --quiet --no-compile --no-warn-script-location --root-user-action ignore --prefix "$prefix" "$@"
python /containers/shrink.py "$prefix"
# Unchecked: the file system is read-only, and copying into an image may change what a check would compare.
python -m compileall -q -j 0 --invalidation-mode unchecked-hash -s "$prefix" -p /opt/offshelf "$prefix"

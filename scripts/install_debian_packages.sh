#!/usr/bin/env bash
# Debian packages that are not needed for training: bubblewrap, which model-written code runs under.
set -euo pipefail
[ "$(id -u)" = 0 ] || { echo "run this as root, for example with sudo" >&2; exit 1; }
apt-get update -qq
apt-get install -y --no-install-recommends bubblewrap

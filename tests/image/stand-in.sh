#!/bin/sh
# Write a root file system that can take the place of the image python:3.13-slim, made of Debian's packages; for machines
# that reach no registry. It is for trials only: in it are this machine's Debian mirrors.
# usage: stand-in.sh FILE.tar; needs root, mmdebstrap, and a Debian that apt-get can install from
set -eu

suite=trixie # the Debian of Python 3.13
here=$(. /etc/os-release && echo "$VERSION_CODENAME")
hook='set -eu; cd "$1"
for name in python python3; do ln -s "../../bin/$(readlink usr/bin/python3)" usr/local/bin/$name; done
rm -f usr/lib/python3*/EXTERNALLY-MANAGED
wheel=$(echo usr/share/python-wheels/pip-*.whl)
chroot . python3 $wheel/pip install --quiet --root-user-action ignore --no-index --no-deps --no-compile $wheel
find . -xdev -name __pycache__ -prune -exec rm -r {} +' # the real image has none either

apt-get indextargets --format 'deb $(REPO_URI) $(RELEASE) main' 'Created-By: Packages' | sort -u |
    sed "s/ $here/ $suite/" |
    mmdebstrap --quiet --variant=apt --include=ca-certificates,netbase,tzdata,python3,python3-venv,python3-pip-whl \
        --aptopt='Acquire::Languages "none"' --dpkgopt='path-exclude=/usr/share/man/*' \
        --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/locale/*' \
        --customize-hook="$hook" "$suite" "$1" -
